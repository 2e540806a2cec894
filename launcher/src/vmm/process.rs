//! The cloud-hypervisor process: as the unprivileged user, without a capability, under landlock and seccomp.
//!
//! Its API socket is bound here and handed over listening, so that a request can be sent at once and waits in the
//! socket's queue until the VMM comes to it: nobody has to poll for readiness.

use std::fs;
use std::io::{self, PipeReader};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use super::api::Api;
use super::events::Events;

/// glibc lets a process have eight heaps for its threads before it asks how many processors there are, by reading a file
/// of /sys in whichever thread happens to want the ninth. Where that is the one that writes events, cloud-hypervisor 53
/// ends by SIGSYS and the guest with it: its filter does not let this thread open files. With a limit nobody asks. musl
/// has one heap and does not know the variable.
const ARENAS: (&str, &str) = ("MALLOC_ARENA_MAX", "8");

/// A started VMM and the ends of its channels.
#[derive(Debug)]
pub(crate) struct Vmm {
    pub(crate) child: Child,
    pub(crate) api: Api,
    pub(crate) events: Events,
    /// What the guest writes to its serial port.
    pub(crate) console: PipeReader,
    /// What it writes to standard error.
    pub(crate) log: PipeReader,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    #[error("API socket {path}")]
    Socket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
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
pub(crate) fn id(child: &Option<Child>) -> Option<Pid> {
    let id = child.as_ref().and_then(Child::id)?;
    i32::try_from(id).ok().map(Pid::from_raw)
}

/// Starts `program`; nothing from a manifest is among its arguments.
pub(crate) fn start(program: &Path, directory: &Path) -> Result<Vmm, SpawnError> {
    let path = directory.join("api.sock");
    let listener = listen(&path).map_err(|source| SpawnError::Socket {
        path: path.clone(),
        source,
    })?;
    let (console, console_end) = io::pipe().map_err(SpawnError::Pipe)?;
    let (log, log_end) = io::pipe().map_err(SpawnError::Pipe)?;
    let (events, events_end) = io::pipe().map_err(SpawnError::Pipe)?;
    let events = pipe::Receiver::from_owned_fd(OwnedFd::from(events)).map_err(SpawnError::Pipe)?;
    let inherited = [listener.as_raw_fd(), events_end.as_raw_fd()];
    let mut command = Command::new(program);
    command
        .arg("--api-socket")
        .arg(format!("fd={}", listener.as_raw_fd()))
        .arg("--event-monitor")
        .arg(format!("fd={}", events_end.as_raw_fd()))
        .env_clear()
        .env(ARENAS.0, ARENAS.1)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(OwnedFd::from(console_end))
        .stderr(OwnedFd::from(log_end))
        .kill_on_drop(true);
    // SAFETY: between fork and exec only async-signal-safe calls are made: prctl and fcntl.
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            inherited.iter().try_for_each(|descriptor| keep_open(*descriptor))
        });
    }
    let child = command.spawn().map_err(|source| SpawnError::Start {
        program: program.to_owned(),
        source,
    })?;
    Ok(Vmm {
        child,
        api: Api::new(&path),
        events: Events::new(events),
        console,
        log,
    })
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

/// Everything is opened close-on-exec; these are for the child.
pub(crate) fn keep_open(descriptor: RawFd) -> io::Result<()> {
    // SAFETY: the parent holds the descriptor open across the fork.
    let descriptor = unsafe { std::os::fd::BorrowedFd::borrow_raw(descriptor) };
    fcntl(descriptor.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}
