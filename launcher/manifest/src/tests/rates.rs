use serde_json::{Value, json};

use super::*;
use crate::Rate;

fn with_annotations(annotations: Value, more: &[(&str, Value)]) -> String {
    let mut changes = vec![("/metadata/annotations", annotations)];
    changes.extend(more.iter().cloned());
    with(&changes)
}

#[test]
fn limits_by_annotation() {
    let text = with_annotations(
        json!({"hawser.dev/interface-rates": "default: 10Mi 20000ops;"}),
        &[],
    );
    let rates = load(&text).unwrap().spec.rates;
    let wanted = Rate {
        bytes: Some(10 << 20),
        operations: Some(20_000),
    };
    assert_eq!(rates.interfaces["default"], wanted);
    assert!(rates.disks.is_empty());
}

#[test]
fn what_cannot_be_limited_is_refused_by_the_annotation() {
    for (annotation, text, wanted) in [
        ("interface-rates", "default", "expected NAME: BYTES"),
        ("interface-rates", "default:", "found no limit"),
        ("interface-rates", "default: 0", "found \"0\""),
        ("interface-rates", "default: 1Mi 2Mi", "found \"2Mi\""),
        ("interface-rates", "default: fast", "found \"fast\""),
        ("interface-rates", "default: 1Mi; default: 2Mi", "limited twice"),
        ("interface-rates", "other: 1Mi", "there is no interface \"other\""),
        ("disk-rates", "other: 1Mi", "there is no disk \"other\""),
    ] {
        let name = format!("hawser.dev/{annotation}");
        let refusals = refusals(&with_annotations(json!({name.clone(): text}), &[]));
        assert_eq!(refusals.len(), 1, "{refusals:?}");
        let refusal = &refusals[0];
        assert!(
            refusal.contains(&name) && refusal.contains(wanted),
            "{text}: {refusal}"
        );
    }
    let passt = [(
        "/spec/domain/devices/interfaces",
        json!([{"name": "default", "passt": {}}]),
    )];
    let text = with_annotations(json!({"hawser.dev/interface-rates": "default: 1Mi"}), &passt);
    let refusals = refusals(&text);
    assert!(
        refusals.iter().any(|refusal| refusal.contains("passt serves")),
        "{refusals:?}"
    );
}
