//! Hostile and malformed texts: one clear error each, in bounded time and memory.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::json;

use super::{MINIMAL, load, parse, refusals, with};
use crate::MAX_BYTES;

fn error(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn malformed_texts_are_one_error() {
    let cases = [
        ("", "empty"),
        ("# nothing\n", "empty"),
        ("a: 1\na: 2", "line 2, column 1: duplicate mapping key: a"),
        (r#"{"a":1,"a":2}"#, "line 1, column 8: duplicate mapping key: a"),
        ("---\na: 1\n---\nb: 2", "line 4, column 1: more than one document"),
        ("a: &a [*a]", "line 1, column 8: an alias inside its own anchor"),
        (
            "a: &a {b: *a}",
            "line 1, column 11: an alias inside its own anchor",
        ),
        ("a: [", "line 1, column 4: unclosed bracket '['"),
        ("? [a]\n: b", "line 1, column 3: expected string scalar"),
    ];
    for (text, expected) in cases {
        assert_eq!(error(text), expected, "{text:?}");
    }
}

#[test]
fn depth_is_bounded_in_every_notation() {
    let brackets = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(error(&brackets).ends_with("nested too deeply"));
    let json = format!("{{\"a\":{}{}}}", "[".repeat(100), "]".repeat(100));
    assert_eq!(error(&json), "nested deeper than 64 levels");
    let block: String = (0..300)
        .map(|level| format!("{}a:\n", " ".repeat(level)))
        .collect();
    assert!(error(&block).ends_with("nested too deeply"));
}

#[test]
fn aliases_cannot_multiply() {
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..20 {
        let previous = vec![format!("*a{}", level - 1); 10].join(",");
        bomb.push_str(&format!("a{level}: &a{level} [{previous}]\n"));
    }
    assert!(
        error(&bomb).ends_with("aliases expand to too much"),
        "{}",
        error(&bomb)
    );
    let long = |bytes, times| {
        format!(
            "a: &a {}\nb: [{}]",
            "x".repeat(bytes),
            vec!["*a"; times].join(",")
        )
    };
    assert!(parse(&long(10_000, 20)).is_ok());
    assert!(error(&long(500_000, 20)).ends_with("aliases expand to too much"));
}

#[test]
fn size_is_bounded_before_anything_is_read() {
    let started = Instant::now();
    assert_eq!(
        refusals(&"a".repeat(10 << 20)),
        ["manifest: larger than 1048576 bytes"]
    );
    assert!(started.elapsed() < Duration::from_secs(1));
    let padded = format!("{MINIMAL}#{}", "x".repeat(MAX_BYTES - MINIMAL.len() - 1));
    assert_eq!(padded.len(), MAX_BYTES);
    load(&padded).unwrap();
}

#[test]
fn a_manifest_full_of_errors_is_reported_in_part() {
    let interfaces: Vec<_> = (0..20_000).map(|n| json!({ format!("x{n}"): n })).collect();
    let refusals = refusals(&with(&[("/spec/domain/devices/interfaces", json!(interfaces))]));
    assert_eq!(refusals.len(), 101);
    assert_eq!(refusals[0], "spec.domain.devices.interfaces[0].x0: unknown field");
    assert!(refusals[100].starts_with("and ") && refusals[100].ends_with(" more"));
}

#[test]
fn a_megabyte_of_unknown_fields_is_answered_soon() {
    let mut text = with(&[]);
    text.truncate(text.len() - 1);
    for n in 0.. {
        let field = format!(r#","metadatx{n}":0"#);
        if text.len() + field.len() >= MAX_BYTES {
            break;
        }
        text.push_str(&field);
    }
    text.push('}');
    let started = Instant::now();
    let refusals = load(&text).unwrap_err();
    // Without bounds on what is kept this takes minutes in a debug build.
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
    assert!(
        refusals.count() > 40_000 && refusals.as_slice().len() == 1000,
        "{}",
        refusals.count()
    );
}

#[test]
fn yaml_is_read_as_kubernetes_reads_it() {
    let value = parse("a: yes\nb: off\nc: 'yes'\nd: 0123\ne: 1_0\nf: 12\n1: x\ng: ~\nh: 1.5\n").unwrap();
    let expected = json!({
        "a": true, "b": false, "c": "yes", "d": "0123", "e": "1_0", "f": 12, "1": "x", "g": null, "h": 1.5,
    });
    assert_eq!(value, expected);
    assert_eq!(
        parse("a: &x {b: 1}\nc: {<<: *x, d: 2}").unwrap(),
        json!({"a": {"b": 1}, "c": {"b": 1, "d": 2}})
    );
    assert_eq!(parse("{a: [b]}").unwrap(), json!({"a": ["b"]}));
    // A JSON escape for a character beyond 16 bits.
    assert_eq!(
        parse(r#" {"a": "\ud83d\ude00\/"}"#).unwrap(),
        json!({"a": "\u{1f600}/"})
    );
}

#[test]
fn json_and_yaml_of_one_manifest_are_the_same_guest() {
    assert_eq!(load(MINIMAL).unwrap(), load(&with(&[])).unwrap());
}

/// A value of any shape, to be put where something else is expected.
fn any_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|b| json!(b)),
        any::<i64>().prop_map(|n| json!(n)),
        any::<f64>().prop_map(|n| json!(n)),
        "\\PC{0,12}".prop_map(|s| json!(s)),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| json!(items)),
            prop::collection::btree_map("[a-zA-Z]{1,9}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

const POINTERS: &[&str] = &[
    "/apiVersion",
    "/metadata",
    "/metadata/name",
    "/metadata/annotations",
    "/spec",
    "/spec/domain",
    "/spec/domain/cpu",
    "/spec/domain/memory",
    "/spec/domain/memory/guest",
    "/spec/domain/resources",
    "/spec/domain/devices",
    "/spec/domain/devices/interfaces",
    "/spec/domain/devices/interfaces/0",
    "/spec/domain/devices/interfaces/0/name",
    "/spec/domain/devices/interfaces/0/masquerade",
    "/spec/domain/devices/interfaces/0/ports",
    "/spec/domain/devices/interfaces/0/ports/0",
    "/spec/domain/devices/interfaces/0/ports/0/port",
    "/spec/domain/devices/interfaces/0/macAddress",
    "/spec/domain/devices/interfaces/0/dhcpOptions",
    "/spec/domain/firmware",
    "/spec/domain/firmware/kernelBoot",
    "/spec/domain/firmware/kernelBoot/container",
    "/spec/networks",
    "/spec/networks/0",
    "/spec/networks/0/pod",
    "/spec/networks/0/name",
    "/spec/terminationGracePeriodSeconds",
];

#[test]
fn a_number_without_a_fraction_is_an_integer() {
    for (written, seconds) in [("30.0", 30), ("3e1", 30), ("0.0", 0), ("-0.0", 0), ("30", 30)] {
        for text in [
            MINIMAL.replace("Seconds: 0", &format!("Seconds: {written}")),
            with(&[("/spec/terminationGracePeriodSeconds", json!(-1))]).replace("-1", written),
        ] {
            let loaded = load(&text).unwrap_or_else(|refusals| panic!("{written}: {refusals}"));
            assert_eq!(
                loaded.manifest["spec"]["terminationGracePeriodSeconds"],
                json!(seconds),
                "{text}"
            );
        }
    }
    for written in ["30.5", "1e40", "-1e300"] {
        let text = MINIMAL.replace("Seconds: 0", &format!("Seconds: {written}"));
        let refusals = load(&text).expect_err(written);
        assert!(
            refusals
                .to_string()
                .contains("spec.terminationGracePeriodSeconds"),
            "{written}: {refusals}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}") {
        let _ = load(&text);
    }

    /// Also shows that the check and the types agree: whatever the check leaves can be read.
    #[test]
    fn any_value_anywhere_is_answered(pointer in prop::sample::select(POINTERS), value in any_value()) {
        if let Err(refusals) = load(&with(&[(pointer, value)])) {
            prop_assert!(refusals.count() > 0);
            for note in refusals.as_slice() {
                prop_assert!(note.path != "manifest" || pointer == "/spec", "{}", note);
            }
        }
    }
}
