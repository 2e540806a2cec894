//! The `nft` tool: one call, one transaction.

use nftables::helper::{NftablesError, apply_ruleset_raw};

use crate::error::StepFailure;

pub(super) fn run(document: &serde_json::Value) -> Result<(), StepFailure> {
    // The tool needs the capability too; the caller has made it ambient, or nft has it by its uid.
    match apply_ruleset_raw(&document.to_string(), None::<&str>, &[] as &[&str]) {
        Ok(_) => Ok(()),
        Err(NftablesError::NftExecution { inner, .. }) => Err(StepFailure::system("run nft", inner)),
        Err(NftablesError::NftFailed { stderr, stdout, .. }) => {
            let said = if stderr.trim().is_empty() { stdout } else { stderr };
            Err(StepFailure::Nft(said.trim().to_owned()))
        }
        Err(other) => Err(StepFailure::Nft(other.to_string())),
    }
}
