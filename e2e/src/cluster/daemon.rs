//! Programs of the cluster that run until it ends, in its network namespace, each with a log of its own.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::netns::Netns;

/// Lines of its log in an error.
const LAST: usize = 15;

/// A program that is killed when it is dropped. It is killed, too, when this process ends without a chance to drop it.
#[derive(Debug)]
pub(super) struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Its output goes to `log`.
    pub(super) fn start(netns: &Netns, name: &str, command: &Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| log.display().to_string())?;
        let mut inside = inside(netns, command.get_program(), command.get_args());
        for (key, value) in command.get_envs() {
            if let Some(value) = value {
                inside.env(key, value);
            }
        }
        let child = inside
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    /// An error where it has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended ({status}):\n{}", self.name, last_lines(&self.log, LAST)),
            None => Ok(()),
        }
    }

    /// The end of what it has said.
    pub(super) fn last(&self) -> String {
        format!("{}:\n{}", self.name, last_lines(&self.log, LAST))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command in the namespace that ends with this process.
pub(super) fn inside(
    netns: &Netns,
    program: &OsStr,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--", "nsenter"])
        .arg(format!("--net={}", netns.path().display()))
        .arg(program)
        .args(arguments);
    command
}

pub(super) fn last_lines(path: &Path, count: usize) -> String {
    let text = fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let skip = lines.len().saturating_sub(count);
    let last: Vec<String> = lines
        .iter()
        .skip(skip)
        .map(|line| format!("    {line}"))
        .collect();
    last.join("\n")
}
