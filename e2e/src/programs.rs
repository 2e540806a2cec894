//! The programs that the scenarios in namespaces run, built and found.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::packages;
use crate::process::output;

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

/// Writes a script that is to be executed.
///
/// Another process does so. Whatever this one has open for writing, a child that another thread forks at that moment has open too, until it
/// executes its own program; and a program that anybody has open for writing cannot be executed ("Text file busy").
pub(crate) fn write_script(path: &Path, text: &str) -> Result<()> {
    let mut shell = Command::new("sh")
        .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot start sh")?;
    if let Some(mut stdin) = shell.stdin.take() {
        stdin.write_all(text.as_bytes())?;
    }
    let status = shell.wait()?;
    ensure!(status.success(), "cannot write {}: {status}", path.display());
    Ok(())
}

/// Copies a program that is to be executed; by another process, as [`write_script`] does.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    output(Command::new("cp").arg(from).arg(to)).map(drop)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    /// Writes and executes many programs while other threads fork all the time.
    fn executed_while_others_fork(write: impl Fn(&Path)) {
        let dir = tempfile::tempdir().unwrap();
        let enough = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !enough.load(Ordering::Relaxed) {
                        Command::new("true").status().unwrap();
                    }
                });
            }
            let outcomes: Vec<_> = (0..150)
                .map(|number| {
                    let program = dir.path().join(number.to_string());
                    write(&program);
                    Command::new(&program).status()
                })
                .collect();
            enough.store(true, Ordering::Relaxed);
            for outcome in outcomes {
                assert!(outcome.unwrap().success());
            }
        });
    }

    #[test]
    fn a_script_can_be_executed_once_it_is_written() {
        executed_while_others_fork(|path| write_script(path, "#!/bin/sh\nexit 0\n").unwrap());
    }

    #[test]
    fn a_copy_can_be_executed_once_it_is_made() {
        executed_while_others_fork(|path| copy(Path::new("/bin/true"), path).unwrap());
    }
}
