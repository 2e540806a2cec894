//! docs/manifest.md, made of KubeVirt's schema, the types and the table.

use std::fmt::Write as _;

use serde_json::Value;

use super::{Fate, Rule, rule, tests::schema_at};

/// KubeVirt's fields, as `kind path type`.
pub(super) const FIELDS: &str = include_str!("kubevirt.txt");

pub(super) fn fields() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    FIELDS.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let mut words = line.split(' ');
        let mut word = || words.next().expect("three words");
        (word(), word(), word())
    })
}

/// What is said of a field: a word, and a remark. Nothing, if neither a type nor a rule knows it.
pub(super) fn verdict(kind: &str, path: &str) -> Option<(&'static str, String)> {
    let found = rule(super::canonical(path));
    let schema = schema_at(kind, path);
    let read = schema.is_some_and(|schema| *schema != Value::Bool(true));
    let exact = found.filter(|rule| rule.path == super::canonical(path));
    let values = schema.and_then(values);
    match (exact, found) {
        (Some(rule), _) => Some(of_rule(rule, values)),
        (None, _) if read => Some(("honored", values.unwrap_or_default())),
        (None, Some(rule)) => Some((of_rule(rule, None).0, String::new())),
        (None, None) => None,
    }
}

fn of_rule(rule: &Rule, values: Option<String>) -> (&'static str, String) {
    let word = match rule.fate {
        Fate::Refused => "refused",
        Fate::Noted(_) => "noted",
        Fate::Reduced => "reduced",
        Fate::Pod(_) => "the pod's",
        Fate::Anyway => "honored",
        Fate::Object => "the object's",
    };
    let parts = [Some(rule.why.to_owned()).filter(|why| !why.is_empty()), values];
    (word, parts.into_iter().flatten().collect::<Vec<_>>().join("; "))
}

/// The only values that are accepted, where there are such.
fn values(schema: &Value) -> Option<String> {
    let list: Vec<String> = match (schema.get("enum").and_then(Value::as_array), schema.get("const")) {
        (Some(list), _) => list.iter().filter(|value| !value.is_null()).map(code).collect(),
        (None, Some(one)) => vec![code(one)],
        (None, None) => return None,
    };
    Some(format!("any other value than {} is refused", list.join(", ")))
}

fn code(value: &Value) -> String {
    match value {
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    }
}

/// The tables of the page, between its own words.
pub(super) fn tables() -> String {
    let mut text = String::new();
    let mut last = "";
    for (kind, path, _) in fields() {
        if kind != last {
            let _ = write!(
                text,
                "\n## {kind}\n\n| field | what becomes of it | |\n|---|---|---|\n"
            );
            last = kind;
        }
        let (word, remark) = verdict(kind, path).unwrap_or(("unknown", String::new()));
        let _ = writeln!(text, "| `{path}` | {word} | {} |", remark.replace('|', "\\|"));
    }
    let _ = write!(
        text,
        "\n## Annotations\n\nOf the instance. Any other annotation of KubeVirt's is noted; those of others are the pod's.\n\n\
         | annotation | what becomes of it | |\n|---|---|---|\n"
    );
    for rule in super::owners::ANNOTATIONS {
        let (word, remark) = of_rule(rule, None);
        let _ = writeln!(text, "| `{}` | {word} | {remark} |", rule.path);
    }
    text
}
