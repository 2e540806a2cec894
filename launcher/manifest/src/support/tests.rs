//! KubeVirt's schema, walked field by field.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::page::{FIELDS, fields, tables, verdict};
use super::*;
use crate::document::check;
use crate::document::report::Report;
use crate::v1::template::Kind;

/// A CustomResourceDefinition of KubeVirt's, or the schema in one; YAML or JSON.
const SCHEMA: &str = "KUBEVIRT_SCHEMA";

/// The schema of the field at `path` of an object of `kind`, as the structural check has it; `true` for one that is
/// accepted by name.
pub(super) fn schema_at(kind: &str, path: &str) -> Option<&'static Value> {
    let root = root(kind);
    path.split('.').try_fold(resolve(root, root), |schema, name| {
        Some(resolve(root, schema.get("properties")?.get(name)?))
    })
}

fn root(kind: &str) -> &'static Value {
    static ROOTS: LazyLock<Vec<(&str, Value)>> = LazyLock::new(|| {
        let schema = |kind| (kind, crate::schema_of(Kind::of(&json!({"kind": kind})).unwrap()));
        KINDS.into_iter().map(schema).collect()
    });
    let mut roots = ROOTS.iter();
    &roots.find(|(name, _)| *name == kind).unwrap().1
}

const KINDS: [&str; 4] = [
    "VirtualMachineInstance",
    "VirtualMachine",
    "VirtualMachineInstanceReplicaSet",
    "VirtualMachinePool",
];

/// Follows what stands for another schema: a reference, a list's items, and an `Option`'s branch that is not null.
fn resolve<'a>(root: &'a Value, mut schema: &'a Value) -> &'a Value {
    loop {
        let reference = schema.get("$ref").and_then(Value::as_str);
        let branches = schema.get("anyOf").and_then(Value::as_array);
        let next = match (reference, branches) {
            (Some(reference), _) => root.pointer(&reference[1..]),
            (None, Some(branches)) => branches.iter().find(|branch| branch["type"] != "null"),
            (None, None) => schema.get("items"),
        };
        match next {
            Some(next) => schema = next,
            None => return schema,
        }
    }
}

#[test]
fn every_field_of_kubevirts_schema_has_a_verdict() {
    let unknown: Vec<_> = fields()
        .filter(|(kind, path, _)| verdict(kind, path).is_none())
        .map(|(kind, path, _)| format!("{kind} {path}"))
        .collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
    assert!(fields().count() > 400);
    // And the reader of the list would miss a field that is new.
    assert_eq!(
        verdict("VirtualMachineInstance", "spec.domain.devices.teleporter"),
        None
    );
    assert_eq!(verdict("VirtualMachineInstance", "spec.teleporter"), None);
}

/// The walk over the real thing, in whatever version it is there.
#[test]
fn every_field_of_the_schema_that_is_given_has_a_verdict() {
    let Some(path) = std::env::var_os(SCHEMA) else {
        eprintln!("skipped: {SCHEMA} names no CustomResourceDefinition of KubeVirt's");
        return;
    };
    let text = std::fs::read_to_string(Path::new(&path)).unwrap();
    let document: Value = serde_saphyr::from_str(&text).unwrap();
    let schema = document
        .pointer("/spec/versions/0/schema/openAPIV3Schema")
        .or_else(|| document.get("openAPIV3Schema"))
        .unwrap_or(&document);
    let spec = &schema["properties"]["spec"];
    let has = |field: &str| spec["properties"].get(field).is_some();
    let kind = match (has("virtualMachineTemplate"), has("template"), has("replicas")) {
        (true, _, _) => "VirtualMachinePool",
        (_, true, true) => "VirtualMachineInstanceReplicaSet",
        (_, true, _) => "VirtualMachine",
        _ => "VirtualMachineInstance",
    };
    let mut found = Vec::new();
    walk(spec, "spec", &mut found);
    assert!(found.len() > 300, "{}", found.len());
    let unknown: Vec<_> = found
        .iter()
        .filter(|path| verdict(kind, path).is_none())
        .collect();
    eprintln!("{kind}: {} fields", found.len());
    assert!(unknown.is_empty(), "{unknown:#?}");
}

fn walk(schema: &Value, path: &str, found: &mut Vec<String>) {
    let schema = schema.get("items").unwrap_or(schema);
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        walk(inner, &path, found);
        found.push(path);
    }
}

/// The other way round: what is accepted by name alone has a rule, and every rule is about a field that there is.
#[test]
fn nothing_is_accepted_without_being_read_or_having_a_rule() {
    let mut silent = Vec::new();
    for kind in KINDS {
        let root = root(kind);
        let mut accepted = Vec::new();
        by_name_alone(root, resolve(root, root), "", &mut accepted);
        assert!(!accepted.is_empty());
        silent.extend(
            accepted
                .into_iter()
                .filter(|path| rule(canonical(path)).is_none()),
        );
    }
    assert!(silent.is_empty(), "{silent:#?}");
}

fn by_name_alone(root: &Value, schema: &Value, path: &str, found: &mut Vec<String>) {
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = match path {
            "" => name.clone(),
            path => format!("{path}.{name}"),
        };
        match resolve(root, inner) {
            Value::Bool(true) => found.push(path),
            inner => by_name_alone(root, inner, &path, found),
        }
    }
}

#[test]
fn every_rule_is_about_one_field_that_there_is() {
    let mut seen = BTreeSet::new();
    let known: BTreeSet<&str> = fields().map(|(_, path, _)| canonical(path)).collect();
    for rule in rules() {
        assert!(seen.insert(rule.path), "{} has two rules", rule.path);
        let ours = [
            "metadata.",
            "status",
            "spec.virtualMachineTemplate.metadata",
            "spec.networks.genie",
        ];
        let below = "spec.volumes.ephemeral.persistentVolumeClaim.readOnly";
        let is_known = known.contains(rule.path)
            || rule.path == below
            || ours.iter().any(|place| rule.path.starts_with(place));
        assert!(is_known, "KubeVirt has no {}", rule.path);
        assert!(
            !rule.why.is_empty() || !matches!(rule.fate, Fate::Noted(_) | Fate::Reduced | Fate::Anyway),
            "{} says nothing",
            rule.path
        );
    }
}

/// A value of the type that KubeVirt's schema has at `path`, below `spec`, in lists of one item.
fn written(path: &str) -> Value {
    let of = |path: &str| {
        fields()
            .find(|(_, field, _)| canonical(field) == path)
            .map(|(_, _, kind)| kind)
    };
    let mut value = match of(path) {
        Some("boolean") => json!(true),
        Some("integer") => json!(1),
        Some("string" | "Quantity") => json!("1"),
        Some(list) if list.ends_with("[]") => json!([{"name": "x"}]),
        _ => json!({"x": "y"}),
    };
    let mut rest = path;
    while let Some((parent, name)) = rest.rsplit_once('.') {
        value = json!({name: value});
        if of(parent).is_some_and(|kind| kind.ends_with("[]")) {
            value = json!([value]);
        }
        rest = parent;
    }
    json!({rest: value})
}

fn kinds_of(lines: &[String]) -> Vec<String> {
    let path = |line: &String| line.split(": ").next().unwrap().to_owned();
    let without = |path: String| {
        let parts: Vec<&str> = path.split(['[', ']']).step_by(2).collect();
        parts.concat()
    };
    lines.iter().map(path).map(without).collect()
}

#[test]
fn what_the_table_refuses_is_refused_by_its_path() {
    for rule in rules().filter(|rule| rule.fate == Fate::Refused) {
        let mut manifest = written(rule.path);
        manifest["apiVersion"] = json!("kubevirt.io/v1");
        let owners = ["spec.instancetype", "spec.preference"];
        manifest["kind"] = match owners.contains(&rule.path) {
            true => json!("VirtualMachine"),
            false => json!("VirtualMachineInstance"),
        };
        let refused = crate::load(&manifest.to_string()).unwrap_err().to_string();
        let lines: Vec<String> = refused.lines().map(str::to_owned).collect();
        assert!(
            kinds_of(&lines).iter().any(|path| path == rule.path),
            "{}: {refused}",
            rule.path
        );
    }
}

#[test]
fn what_the_table_notes_is_noted_by_its_path() {
    for rule in rules() {
        let (Fate::Noted(when) | Fate::Pod(when)) = rule.fate else {
            continue;
        };
        if when == When::Code {
            continue;
        }
        let manifest = written(rule.path);
        let mut report = Report::default();
        instance(&manifest, &mut report);
        owner(&manifest, &mut Report::default());
        let of_the_pod = report.take_notes_for_the_pod(&manifest);
        let notes = report.finish(&manifest).unwrap();
        let is_pods = matches!(rule.fate, Fate::Pod(_));
        let lines: Vec<String> = match is_pods {
            true => of_the_pod.iter().map(ToString::to_string).collect(),
            false => notes.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(kinds_of(&lines), [rule.path], "{lines:?}");
        // And it fits the types, so that nothing else stands between the wish and its note.
        let kind = ["VirtualMachine", "VirtualMachineInstance"]
            .into_iter()
            .find(|kind| schema_at(kind, rule.path).is_some());
        if let Some(kind) = kind {
            let mut refused = Report::default();
            check::check(root(kind), &mut manifest.clone(), &mut refused);
            let lines = match refused.finish(&manifest) {
                Ok(_) => Vec::new(),
                Err(refused) => refused.to_string().lines().map(str::to_owned).collect(),
            };
            assert!(
                !kinds_of(&lines).iter().any(|path| path == rule.path),
                "{lines:?}"
            );
        }
    }
}

#[test]
fn docs_manifest_md_is_made_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/manifest.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (own, found) = page
        .split_once("\n## VirtualMachineInstance\n")
        .expect("the first table");
    let expected = tables();
    let found = format!("\n## VirtualMachineInstance\n{found}");
    if found != expected && std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{own}{expected}")).unwrap();
    } else {
        assert!(
            found == expected,
            "run this test with UPDATE_DOCS=1, and read the difference"
        );
    }
    let version = FIELDS
        .split("KubeVirt ")
        .nth(1)
        .and_then(|rest| rest.split(':').next())
        .unwrap();
    assert!(own.contains(&format!("KubeVirt {version}")), "{version}");
}
