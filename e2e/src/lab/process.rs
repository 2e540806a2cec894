//! Running other programs, with errors that show what they said.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A headline of the work under way, on stderr: stdout is for results.
pub(crate) fn progress(line: impl AsRef<str>) {
    eprintln!("==> {}", line.as_ref());
}

/// Runs to the end and returns stdout; a non-zero exit is an error that carries stderr.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {shown}"))?;
    if !output.status.success() {
        bail!(
            "{shown}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs to the end, showing each line of stdout as it comes: for steps that take minutes.
pub(crate) fn shown(command: &mut Command) -> Result<()> {
    let name = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            eprintln!("    {line}");
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{name}: {status}");
    }
    Ok(())
}
