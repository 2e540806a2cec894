//! The cloud-hypervisor process: as the unprivileged user, without a capability, under a landlock ruleset of the launcher's
//! that holds for all of its threads. It adds seccomp filters of its own, thread by thread.
//!
//! Its API socket is bound here and handed over listening, so that a request can be sent at once and waits in the
//! socket's queue until the VMM comes to it: nobody has to poll for readiness.

use std::io::{self, PipeReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use hawser_linux::child::BeforeExec;
use hawser_linux::landlock::Allowed;
use hawser_linux::pty::{self, Pty};
use hawser_linux::unix_socket;
use nix::unistd::Pid;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use crate::api::Api;
use crate::assumptions::MALLOC_ARENAS;
use crate::events::Events;

/// A started VMM and the ends of its channels.
#[derive(Debug)]
pub struct Vmm {
    pub child: Child,
    pub api: Api,
    pub events: Events,
    /// What the guest writes to its serial port.
    pub console: PipeReader,
    /// What is written here the guest reads from its serial port. None where the pod has no pseudoterminals.
    pub keyboard: Option<OwnedFd>,
    /// What it writes to standard error.
    pub log: PipeReader,
}

#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("API socket {path}")]
    Socket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("make a landlock ruleset")]
    Landlock(#[source] io::Error),
    #[error("make a pipe")]
    Pipe(#[source] io::Error),
    #[error("start {program}")]
    Start {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Absent once it has ended.
pub fn id(child: &Option<Child>) -> Option<Pid> {
    let id = child.as_ref().and_then(Child::id)?;
    i32::try_from(id).ok().map(Pid::from_raw)
}

/// Starts `program`, which may reach what is `allowed`; nothing from a manifest is among its arguments.
pub fn start(program: &Path, allowed: &Allowed, directory: &Path) -> Result<Vmm, SpawnError> {
    let ruleset = allowed.ruleset().map_err(SpawnError::Landlock)?;
    let path = directory.join("api.sock");
    let listener = unix_socket::bind(&path)
        .map(OwnedFd::from)
        .map_err(|source| SpawnError::Socket {
            path: path.clone(),
            source,
        })?;
    // cloud-hypervisor reads what the guest is to read from its standard input, and only from a terminal.
    let (stdin, keyboard) = match pty::raw() {
        Ok(Pty { terminal, other }) => (Stdio::from(terminal), Some(other)),
        Err(error) => {
            tracing::warn!(
                event = "console-input-lacking",
                "nothing can be typed at the guest's console: no pseudoterminal: {error}"
            );
            (Stdio::null(), None)
        }
    };
    let (console, console_end) = io::pipe().map_err(SpawnError::Pipe)?;
    let (log, log_end) = io::pipe().map_err(SpawnError::Pipe)?;
    let (events, events_end) = io::pipe().map_err(SpawnError::Pipe)?;
    let events = pipe::Receiver::from_owned_fd(OwnedFd::from(events)).map_err(SpawnError::Pipe)?;
    let events_end = OwnedFd::from(events_end);
    let mut command = Command::new(program);
    command
        .arg("--api-socket")
        .arg(format!("fd={}", listener.as_raw_fd()))
        .arg("--event-monitor")
        .arg(format!("fd={}", events_end.as_raw_fd()))
        .env_clear()
        .env(MALLOC_ARENAS.0, MALLOC_ARENAS.1)
        .current_dir("/")
        .stdin(stdin)
        .stdout(OwnedFd::from(console_end))
        .stderr(OwnedFd::from(log_end))
        .kill_on_drop(true);
    BeforeExec::new()
        .inherit(listener)
        .inherit(events_end)
        .landlock(ruleset)
        .apply(command.as_std_mut());
    let child = command.spawn().map_err(|source| SpawnError::Start {
        program: program.to_owned(),
        source,
    })?;
    Ok(Vmm {
        child,
        api: Api::new(&path),
        events: Events::new(events),
        console,
        keyboard,
        log,
    })
}
