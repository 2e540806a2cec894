//! The `nft` tool: one call, one transaction.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::error::StepFailure;
use crate::ruleset;

/// Makes the rule set be what `document` says.
///
/// First as if there were none, as in a fresh pod. To delete a table, even one that is not there, nft waits until the
/// kernel has cleaned up after it, and that takes longer than the whole rest.
pub(super) fn replace(document: &serde_json::Value) -> Result<(), StepFailure> {
    match run(document) {
        Err(StepFailure::Nft(_)) => run(&ruleset::replacing(document)),
        other => other,
    }
}

pub(super) fn run(document: &serde_json::Value) -> Result<(), StepFailure> {
    let failed = |source| StepFailure::system("run nft", source);
    // The tool needs CAP_NET_ADMIN too: by its uid, or ambient from the caller.
    let mut nft = Command::new("nft")
        .args(["-j", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut stdin = nft.stdin.take();
    let written = stdin
        .as_mut()
        .map_or(Ok(()), |stdin| stdin.write_all(document.to_string().as_bytes()));
    drop(stdin);
    let output = nft.wait_with_output().map_err(failed)?;
    // What a dying nft says is worth more than that its pipe broke.
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(StepFailure::Nft(match said.trim() {
            "" => output.status.to_string(),
            said => said.to_owned(),
        }));
    }
    written.map_err(failed)
}
