//! `kubectl`, and waiting for what it says.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::pace::allowed;
use crate::process::until_every;

/// Asks the cluster until the answer is yes, for as long as the limit comes to here. Not all the time: the emulated node shares the machine with `kubectl`.
pub(crate) fn until<T>(what: &str, limit: Duration, ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until_every(Duration::from_millis(500), what, allowed(limit), ask)
}

/// `kubectl` with what leads it to its cluster.
#[derive(Clone, Debug)]
pub(crate) struct Kubectl {
    words: Vec<OsString>,
}

impl Kubectl {
    /// A command line that verbs can be added to.
    pub(super) fn new(words: Vec<OsString>) -> Self {
        Self { words }
    }

    pub(super) fn command(&self) -> Command {
        let mut words = self.words.iter();
        let mut command = Command::new(words.next().map_or("kubectl".as_ref(), OsString::as_os_str));
        command.args(words);
        command
    }

    /// The same as a program, for those that start kubectl themselves: a shell script at this path.
    pub(super) fn script(&self, path: &Path) -> Result<()> {
        let quoted = |word: &OsString| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"));
        let words: Vec<String> = self.words.iter().map(quoted).collect();
        fs::write(path, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" ")))?;
        fs::set_permissions(path, Permissions::from_mode(0o755))?;
        Ok(())
    }

    pub(super) fn run(&self, arguments: &[&str]) -> Result<String> {
        self.feed(arguments, "")
    }

    pub(super) fn feed(&self, arguments: &[&str], text: &str) -> Result<String> {
        fed(self.command().args(arguments), text).with_context(|| format!("kubectl {}", arguments.join(" ")))
    }
}

/// What a program prints with `text` as its standard input.
pub(crate) fn fed(command: &mut Command, text: &str) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // Where it has ended already, its status says so.
        let _ = stdin.write_all(text.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
