//! One virtiofsd after the other behind a socket, for as long as the guest lives.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use hawser_linux::child::BeforeExec;
use hawser_linux::landlock::Allowed;
use hawser_linux::unix_socket;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use super::{Export, socket};
use crate::daemons::output::{Output, quote};
use crate::daemons::restarts::Restarts;
use crate::error::{ExitCode, Failure};
use hawser_vhost_relay::{Channel, greet};

/// For it to start, and to end once its connection has.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A directory with the socket by which the VMM has it.
#[derive(Debug)]
pub(crate) struct Share {
    export: Export,
    listener: UnixListener,
    path: PathBuf,
}

/// Binds the sockets, before the VMM has a configuration with them.
pub(crate) fn listen(directory: &Path, exports: Vec<Export>) -> io::Result<Vec<Share>> {
    let share = |export: Export| {
        let path = socket(directory, &export.name);
        let listener = unix_socket::bind(&path)?;
        Ok(Share {
            export,
            listener,
            path,
        })
    };
    exports.into_iter().map(share).collect()
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("start {0}")]
    Spawn(PathBuf, #[source] io::Error),
    #[error("{0}")]
    Ended(String),
    #[error("it does not serve: {0}")]
    Silent(String),
}

/// Serves one file system, for as long as it is polled. `ready` receives whether a first one answers, which means that it
/// is confined, has the directory and speaks vhost-user.
pub(crate) async fn supervise(program: PathBuf, share: Share, ready: oneshot::Sender<Result<(), Failure>>) {
    let name = share.export.name.clone();
    let first = attempt(&program, &share).await.map_err(|problem| {
        Failure::new(
            ExitCode::PodUnfit,
            format!("virtiofsd cannot serve the file system {name}"),
        )
        .because(problem)
        .remedy("run hawser check in this pod; virtiofsd 1.10 or newer is needed, and a kernel that lets it be started")
    });
    let serves = first.is_ok();
    let _ = ready.send(first);
    if !serves {
        return;
    }
    let mut restarts = Restarts::default();
    loop {
        let end = match start(&program, &share) {
            Ok(daemon) => daemon.end().await,
            Err(problem) => Err(problem),
        };
        // It exits with success when the VMM closes its connection: the guest reboots, or has ended.
        let Err(problem) = end else { continue };
        let why = crate::error::chain(&problem);
        let Some(pause) = restarts.next(Instant::now()) else {
            tracing::error!(
                event = "virtiofsd-given-up",
                "file system {name}: virtiofsd is not restarted any more, and every access of the guest fails: {why}"
            );
            return;
        };
        tracing::warn!(
            event = "virtiofsd-exited",
            filesystem = %name,
            "file system {name}: virtiofsd exited; hawser restarts it when the guest reboots, and until then every access fails: \
             {why}"
        );
        tokio::time::sleep(pause).await;
    }
}

/// One that we are the client of.
async fn attempt(program: &Path, share: &Share) -> Result<(), Problem> {
    let mut daemon = start(program, share)?;
    let silent = |error: io::Error| Problem::Silent(error.to_string());
    let mut channel = Channel::new(UnixStream::connect(&share.path).await.map_err(silent)?);
    // A connection that is never accepted waits as long as the socket is there, so the process is watched too.
    let answered = tokio::select! {
        answered = tokio::time::timeout(TIMEOUT, greet(&mut channel)) => answered,
        ended = daemon.child.wait() => {
            let how = ended.map_or_else(|error| error.to_string(), |status| format!("it ended with {status}"));
            return Err(Problem::Ended(format!("{how}{}", daemon.last_lines().await)));
        }
    };
    match answered {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(Problem::Silent(error.to_string())),
        Err(_) => return Err(Problem::Silent("no answer".into())),
    }
    drop(channel);
    match tokio::time::timeout(TIMEOUT, daemon.end()).await {
        Ok(end) => end,
        Err(_) => Err(Problem::Silent("it does not end with its connection".into())),
    }
}

struct Daemon {
    child: Child,
    output: Output,
}

fn start(program: &Path, share: &Share) -> Result<Daemon, Problem> {
    let Export {
        name,
        directory,
        readonly,
    } = &share.export;
    let spawn = |error: io::Error| Problem::Spawn(program.to_owned(), error);
    let ruleset = may(program, directory, *readonly).ruleset().map_err(spawn)?;
    let listener = share.listener.as_fd().try_clone_to_owned().map_err(spawn)?;
    let descriptor = listener.as_raw_fd();
    let mut command = Command::new(program);
    command
        .arg(format!("--fd={descriptor}"))
        .arg(shared_dir(directory))
        .args(["--sandbox=none", "--log-level=error"])
        .args(readonly.then_some("--readonly"))
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    BeforeExec::new()
        .new_session()
        .inherit(listener)
        .landlock(ruleset)
        .apply(command.as_std_mut());
    let mut child = command.spawn().map_err(spawn)?;
    let name = name.clone();
    let output = Output::follow(child.stderr.take(), move |line| {
        tracing::warn!(event = "virtiofsd-output", "{name}: virtiofsd: {line}")
    });
    Ok(Daemon { child, output })
}

/// What one for `directory` may reach. Besides the volume it reads the kernel's limits for files.
fn may(program: &Path, directory: &Path, readonly: bool) -> Allowed {
    let allowed = Allowed::program(program).read("/proc/sys/fs");
    match readonly {
        true => allowed.read(directory),
        false => allowed.all(directory),
    }
}

fn shared_dir(directory: &Path) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from("--shared-dir=");
    argument.push(directory);
    argument
}

impl Daemon {
    /// Until it ends; an error unless it did so of its own accord.
    async fn end(mut self) -> Result<(), Problem> {
        let how = match self.child.wait().await {
            Ok(status) if ExitStatus::success(&status) => return Ok(()),
            Ok(status) => format!("it ended with {status}"),
            Err(error) => error.to_string(),
        };
        Err(Problem::Ended(format!("{how}{}", self.last_lines().await)))
    }

    async fn last_lines(&mut self) -> String {
        quote(&self.output.last_lines().await)
    }
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
