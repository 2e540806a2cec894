//! passt-repair(1), run by the half that keeps CAP_NET_ADMIN: a process with that capability and a seccomp filter of its
//! own, which waits until a socket appears in a directory, connects to it, and does nothing but switch repair mode on and
//! off for the sockets that come by it ([`super::repair`] is who shows it one, and when).

use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use hawser_linux::child::BeforeExec;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Its name on PATH.
const PROGRAM: &str = "passt-repair";

/// What to run, and where it waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RepairProgram {
    program: PathBuf,
    directory: PathBuf,
}

impl RepairProgram {
    /// None where there is no such program on PATH, or no capability that it could use.
    pub(crate) fn find(directory: PathBuf) -> Option<Self> {
        if !crate::privileges::has(caps::Capability::CAP_NET_ADMIN) {
            return None;
        }
        let program = Self::program()?;
        Some(Self { program, directory })
    }

    /// Whether the unprivileged half has left its mark that connections are put aside.
    pub(crate) fn has_put_aside(&self) -> bool {
        self.directory
            .join(super::repair::MARK)
            .symlink_metadata()
            .is_ok()
    }

    pub(crate) fn program() -> Option<PathBuf> {
        hawser_linux::programs::find(PROGRAM.as_ref())
    }

    pub(crate) fn directory(&self) -> &PathBuf {
        &self.directory
    }

    /// With the capabilities of this process. It exits with this process, and when a connection to it ends, by which the
    /// unprivileged half signals.
    pub(crate) fn start(&self) -> io::Result<RunningRepair> {
        let mut command = Command::new(&self.program);
        command
            .arg(&self.directory)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        BeforeExec::new().new_session().apply(&mut command);
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        Ok(RunningRepair(Pid::from_raw(pid)))
    }
}

/// To be reaped by the process that reaps all.
#[derive(Debug)]
pub(crate) struct RunningRepair(Pid);

impl RunningRepair {
    pub(crate) fn pid(&self) -> Pid {
        self.0
    }

    pub(crate) fn end(&self) {
        // It may have ended by itself.
        let _ = kill(self.0, Signal::SIGKILL);
    }
}
