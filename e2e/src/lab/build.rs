//! Building the launcher for the lab.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::process::progress;

/// Which launcher is put to the test.
#[derive(Clone, Debug)]
pub(crate) enum LauncherBinary {
    /// Built from this working copy, as it is shipped.
    Build,
    Given(PathBuf),
}

/// The launcher's binary, built if need be.
pub(crate) fn launcher(which: &LauncherBinary) -> Result<PathBuf> {
    if let LauncherBinary::Given(path) = which {
        return path
            .canonicalize()
            .with_context(|| format!("no launcher at {}", path.display()));
    }
    progress("building hawser (release)");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "build",
            "--release",
            "--package",
            "hawser",
            "--bin",
            "hawser",
            "--message-format=json-render-diagnostics",
        ])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo build: {}", output.status);
    }
    executable(&String::from_utf8_lossy(&output.stdout)).context("cargo built no binary hawser")
}

/// The path that cargo reports for the binary, wherever its target directory is.
fn executable(messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
        .next_back()
}
