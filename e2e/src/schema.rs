//! `hawser schema` held against the manifests that the scenarios use: what hawser accepts, an editor that goes by the schema
//! accepts too, by somebody else's reading of it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};
use jsonschema::Validator;
use serde_json::Value;

use crate::process::output;

/// Fails where `hawser` accepts the manifest and its schema does not. `bindings` is the file of its plugins.
pub(crate) fn hold(hawser: &Path, manifest: &Value, bindings: Option<&str>) -> Result<()> {
    static SCHEMA: OnceLock<Validator> = OnceLock::new();
    let validator = match SCHEMA.get() {
        Some(validator) => validator,
        None => {
            let schema: Value = serde_json::from_str(&output(Command::new(hawser).arg("schema"))?)?;
            let made = jsonschema::validator_for(&schema).map_err(|error| anyhow::anyhow!("{error}"))?;
            SCHEMA.get_or_init(|| made)
        }
    };
    let problems: Vec<_> = validator
        .iter_errors(manifest)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    // The other way round there are rules that no schema can say.
    ensure!(
        problems.is_empty() || !is_accepted(hawser, manifest, bindings)?,
        "the schema refuses what hawser accepts:\n{}",
        problems.join("\n")
    );
    Ok(())
}

fn is_accepted(hawser: &Path, manifest: &Value, bindings: Option<&str>) -> Result<bool> {
    let mut command = Command::new(hawser);
    command.args(["explain", "--vmi", "/dev/stdin"]);
    command.args(bindings.map(|file| ["--bindings", file]).into_iter().flatten());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| hawser.display().to_string())?;
    if let Some(stdin) = child.stdin.take() {
        // Where it has ended already, its status says so.
        let _ = serde_json::to_writer(stdin, manifest);
    }
    Ok(child.wait()?.success())
}
