//! Containers of a pod beside the launcher: sidecars of binding plugins, which share a directory with it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::console::Console;
use super::context::RESULTS;
use super::pace;
use super::pod::{Extra, Pod, UNPRIVILEGED};
use super::prepare::{LAUNCHER, SIDECARS, podman};
use crate::lab::process::output;

/// What a sidecar does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Program<'a> {
    /// The example of the crate `hooks`.
    Passt,
    /// The double, with its fault.
    Standin(&'a str),
}

/// A sidecar container; gone when dropped.
#[derive(Debug)]
pub(crate) struct Sidecar {
    container: String,
    child: Child,
    pub(crate) console: Console,
}

/// What a launcher of this pod is started with, so that `plugin` has its sidecar in a container of the pod.
pub(crate) fn with_plugin(pod: &Pod<'_>, plugin: &str) -> Result<Extra> {
    let bindings = pod.write(
        "bindings.json",
        &serde_json::json!({ plugin: {"sidecarImage": LAUNCHER} }),
    )?;
    let shared = shared(pod)?;
    Ok(Extra {
        podman: vec![
            "--volume".to_owned(),
            format!("{}:/bindings.json:ro", bindings.display()),
            "--volume".to_owned(),
            format!("{}:/run/hooks", shared.display()),
        ],
        hawser: ["--bindings", "/bindings.json", "--hooks-dir", "/run/hooks"]
            .map(str::to_owned)
            .to_vec(),
    })
}

/// The directory, open to every user as an emptyDir is.
fn shared(pod: &Pod<'_>) -> Result<PathBuf> {
    let shared = pod.dir().join("hooks");
    fs::create_dir_all(&shared)?;
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777))?;
    Ok(shared)
}

impl Sidecar {
    /// As KubeVirt's user without a capability; the image is the launcher's, which has passt and the libraries.
    pub(crate) fn start(pod: &Pod<'_>, plugin: &str, program: Program<'_>) -> Result<Self> {
        let container = format!("{}-{plugin}", pod.name());
        // Called otherwise than in the launcher's container, as nothing says that they agree on it.
        let directory = "/shared";
        let (binary, arguments): (&str, Vec<&str>) = match program {
            Program::Passt => ("passt_sidecar", vec!["--name", plugin, "--directory", directory]),
            Program::Standin(fault) => ("standin-sidecar", vec![plugin, directory, fault]),
        };
        let mut run = podman();
        run.args(["run", "--rm", "--name", &container])
            .args(["--network", &format!("container:{}", pod.name())])
            .args(["--user", UNPRIVILEGED.user, "--cap-drop", "all"])
            .args(["--read-only", "--tmpfs", "/tmp"])
            .args(["--volume", &format!("{}:{directory}", shared(pod)?.display())])
            .args(["--volume", &format!("{SIDECARS}/{binary}:/sidecar:ro")])
            .args(["--entrypoint", "/sidecar", LAUNCHER])
            .args(arguments);
        let mut child = run
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start podman")?;
        let console = Console::default();
        let log = Path::new(RESULTS).join(format!("{container}.log"));
        if let Some(stdout) = child.stdout.take() {
            console.follow(stdout, &log, |_| {})?;
        }
        if let Some(stderr) = child.stderr.take() {
            console.follow(stderr, &log, |_| {})?;
        }
        Ok(Self {
            container,
            child,
            console,
        })
    }

    pub(crate) fn kill(&self) -> Result<()> {
        output(podman().args(["kill", "--signal", "KILL", &self.container])).map(drop)
    }

    /// It must end by itself, with 0.
    pub(crate) fn expect_end(&mut self, deadline: Duration) -> Result<()> {
        let end = pace::deadline(deadline);
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!(
                    "the sidecar {} ended with {status}: {}",
                    self.container,
                    self.console.last(6)
                ),
                None if Instant::now() > end => bail!("the sidecar {} still runs", self.container),
                None => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // Where it has ended there is nothing left to remove, and the pod takes the rest along.
        let _ = output(podman().args(["rm", "--force", "--ignore", "--time=0", &self.container]));
        let _ = self.child.wait();
    }
}
