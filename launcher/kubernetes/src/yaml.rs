//! Objects as YAML that Kubernetes' own reader understands, which is one of YAML 1.1: `yes` is true there, and 1:30 is 90.

use serde_json::Value;
use thiserror::Error;

/// A text that YAML cannot have.
#[derive(Debug, Error)]
#[error("cannot be written as YAML: {0}")]
pub struct NotYaml(#[from] serde_saphyr::ser_error::Error);

/// One document.
pub(crate) fn document(value: &Value) -> Result<String, NotYaml> {
    let options = serde_saphyr::ser_options! {
        // No text is folded: only what has line breaks is a block, and its lines are as they were.
        folded_wrap_chars: usize::MAX,
    };
    Ok(serde_saphyr::to_string_with_options(value, options)?)
}

/// All of them, for `kubectl apply -f -`.
///
/// # Errors
/// An object that YAML cannot express.
pub fn stream(objects: &[Value]) -> Result<String, NotYaml> {
    let documents = objects.iter().map(document).collect::<Result<Vec<_>, _>>()?;
    Ok(documents.join("---\n"))
}
