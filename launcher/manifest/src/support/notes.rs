//! Notes about fields that are accepted and not obeyed, made from the table.

use serde_json::{Map, Value};

use super::owners::{ANNOTATIONS, KUBEVIRTS};
use super::{Fate, When, rule, rules};
use crate::document::report::{FieldPath, Report, quoted};

/// What the pod's own fields are told with.
const BY_THE_POD: &str = "the pod has to have it, as the pod that hawser pod prints does";

impl When {
    fn asks(self, value: &Value) -> bool {
        let is_off = |field: &str| value.get(field) == Some(&Value::Bool(false));
        match self {
            Self::Given => match value {
                Value::Null => false,
                Value::String(text) => !text.is_empty(),
                Value::Array(items) => !items.is_empty(),
                _ => true,
            },
            Self::True => *value == Value::Bool(true),
            Self::On => value.is_object() && !is_off("enabled") && !is_off("present"),
            Self::Code => false,
        }
    }
}

/// Notes of the fields of an instance, as it is written.
pub(crate) fn instance(vmi: &Value, report: &mut Report) {
    let spec = vmi.get("spec").unwrap_or(&Value::Null);
    walk(spec, &FieldPath::of("spec"), &mut |path, note| match note {
        Said::Note(text) => report.note(path, text),
        Said::Pod(text) => report.note_for_the_pod(path, text),
    });
}

/// Notes of the fields of what has an instance as its template. They are written in `spec` of `manifest`.
pub(crate) fn owner(manifest: &Value, report: &mut Report) {
    let machine = manifest.pointer("/spec/virtualMachineTemplate/spec");
    let places = [
        (manifest.get("spec"), "spec"),
        (machine, "spec.virtualMachineTemplate.spec"),
    ];
    for (object, place) in places {
        for (name, value) in object.and_then(Value::as_object).into_iter().flatten() {
            if name != "template" && name != "virtualMachineTemplate" {
                let mut say = |path: FieldPath, said| {
                    if let Said::Note(text) = said {
                        report.note_owner(path, text);
                    }
                };
                walk(value, &FieldPath::of(place).key(name), &mut say);
            }
        }
    }
}

enum Said {
    Note(String),
    Pod(String),
}

fn walk(value: &Value, path: &FieldPath, say: &mut impl FnMut(FieldPath, Said)) {
    let kind = path.kind();
    let kind = super::canonical(&kind);
    if let Value::Array(items) = value {
        for (index, item) in items.iter().enumerate() {
            walk(item, &path.index(index), say);
        }
        return;
    }
    if let Some(rule) = rule(kind).filter(|rule| rule.path == kind) {
        match rule.fate {
            Fate::Noted(when) if when.asks(value) => say(path.clone(), Said::Note(rule.why.to_owned())),
            Fate::Pod(when) if when.asks(value) => {
                let text = match rule.why {
                    "" => BY_THE_POD.to_owned(),
                    why => format!("{why}: {BY_THE_POD}"),
                };
                say(path.clone(), Said::Pod(text));
            }
            _ => {}
        }
    }
    // A hostile manifest has many fields: those that no rule is about are not walked.
    let is_above = |name: &str| {
        rules().any(|rule| {
            let rest = rule.path.strip_prefix(kind);
            let rest = rest.and_then(|rest| rest.strip_prefix('.'));
            rest.and_then(|rest| rest.strip_prefix(name))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    };
    for (name, value) in value.as_object().into_iter().flatten() {
        if is_above(name) {
            walk(value, &path.key(name), say);
        }
    }
}

/// Annotations of an instance: those that ask for what hawser does not do are refused or noted, and any other of KubeVirt's
/// that the table does not have is noted.
pub(crate) fn annotations(vmi: &Value, report: &mut Report) {
    let written = vmi.pointer("/metadata/annotations").and_then(Value::as_object);
    for (name, value) in written.into_iter().flat_map(Map::iter) {
        let path = FieldPath::of("metadata.annotations").key(name);
        let known = ANNOTATIONS.iter().find(|rule| rule.path == name);
        match known.map(|rule| (rule.fate, rule.why)) {
            Some((Fate::Refused, why)) => report.refuse(path, format!("not supported: {why}")),
            Some((Fate::Noted(When::True), _)) if value != "true" => {}
            Some((Fate::Noted(_), why)) => report.note(path, why),
            Some(_) => {}
            None if KUBEVIRTS.iter().any(|domain| name.starts_with(domain)) => {
                report.note(
                    path,
                    format!("ignored: hawser does nothing for the annotation {}", quoted(name)),
                );
            }
            None => {}
        }
    }
}

/// The instance without the fields that the pod around it has in its own form, for the copy that goes into such a pod.
pub fn without_fields_of_the_pod(vmi: &mut Value) {
    for rule in rules().filter(|rule| matches!(rule.fate, Fate::Pod(_))) {
        let names: Vec<&str> = rule.path.split('.').collect();
        take_out(vmi, &names);
    }
}

fn take_out(value: &mut Value, names: &[&str]) {
    match (value, names) {
        (Value::Array(items), names) => items.iter_mut().for_each(|item| take_out(item, names)),
        (Value::Object(map), [name]) => {
            map.shift_remove(*name);
        }
        (Value::Object(map), [name, rest @ ..]) => {
            if let Some(inner) = map.get_mut(*name) {
                take_out(inner, rest);
            }
        }
        _ => {}
    }
}
