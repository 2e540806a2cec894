//! The programs that the scenarios in namespaces run, built and found.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::packages;

#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) hawser: PathBuf,
    pub(crate) standin: PathBuf,
    pub(crate) sidecar: PathBuf,
    pub(crate) enter: PathBuf,
}

impl Programs {
    /// With this launcher, and this package's other binaries built from the working copy.
    ///
    /// # Errors
    /// A build that fails, a machine without root or the tools.
    pub(crate) fn with(hawser: PathBuf) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "namespaces need root");
        packages::install()?;
        Ok(Self {
            hawser,
            standin: build("hawser-e2e", "--bin", "standin-vmm")?,
            sidecar: build("hawser-e2e", "--bin", "standin-sidecar")?,
            enter: build("hawser-e2e", "--bin", "enter")?,
        })
    }
}

/// Builds a program of the workspace; `kind` is `--bin` or `--example`.
pub(crate) fn build(package: &str, kind: &str, name: &str) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["build", "--quiet", "--package", package, kind, name];
    let output = Command::new(cargo)
        .args(arguments)
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo build of {name}: {}", output.status);
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut executables = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message.get("executable")?.as_str().map(PathBuf::from));
    executables
        .next_back()
        .with_context(|| format!("cargo built no {name}"))
}
