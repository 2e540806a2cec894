//! Objects of KubeVirt's API that are a choice: one of several fields, each of which stands for a kind.

use serde_json::Value;

use crate::document::report::{FieldPath, Report};

/// Refuses the entry `index` of the list at the JSON pointer `list` unless it has exactly one of `fields`. `expected` says
/// in the refusal what there has to be one of.
///
/// The fields are counted as they are written in `raw`: one that is malformed has been refused for that already.
pub(crate) fn exactly_one(
    raw: &Value,
    (list, index): (&str, usize),
    fields: &[&str],
    expected: &str,
    path: &FieldPath,
    report: &mut Report,
) {
    let entry = raw.pointer(&format!("{list}/{index}"));
    let is_written = |name: &&&str| {
        entry
            .and_then(|entry| entry.get(**name))
            .is_some_and(|value| !value.is_null())
    };
    let named: Vec<&str> = fields.iter().filter(is_written).copied().collect();
    let found = match named.as_slice() {
        [_] => return,
        [] => "none".to_owned(),
        several => several.join(" and "),
    };
    report.refuse(
        path.clone(),
        format!("expected exactly one {expected}, found {found}"),
    );
}
