//! What happens in a child process between fork and exec.
//!
//! Every child gets SIGKILL when the thread that started it ends (PR_SET_PDEATHSIG, prctl(2)), so none outlives the
//! launcher. A parent that has died before that call would not be noticed: the child compares its parent afterwards, and
//! does not execute if it has another one by then.
//!
//! Descriptors that a child inherits are owned here until the `Command` is dropped, so their numbers are valid when the
//! child is started. A caller that needs its own copy closed drops the `Command` after it has started the child.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid, setsid};

/// Steps between fork and exec. The death signal is always among them.
#[derive(Debug, Default)]
pub struct BeforeExec {
    new_session: bool,
    inherited: Vec<OwnedFd>,
    landlock: Option<OwnedFd>,
}

impl BeforeExec {
    pub fn new() -> Self {
        Self::default()
    }

    /// The child leads a session of its own: signals for the launcher's process group do not reach it.
    #[must_use]
    pub fn new_session(mut self) -> Self {
        self.new_session = true;
        self
    }

    /// The child has this descriptor open, under the same number.
    #[must_use]
    pub fn inherit(mut self, descriptor: OwnedFd) -> Self {
        self.inherited.push(descriptor);
        self
    }

    /// The child is confined by this landlock ruleset (landlock(7)) for good. It needs no_new_privs, which a child of an
    /// unprivileged launcher inherits.
    #[must_use]
    pub fn landlock(mut self, ruleset: Option<OwnedFd>) -> Self {
        self.landlock = ruleset;
        self
    }

    /// To be called by the process that starts the child.
    pub fn apply(self, command: &mut Command) {
        let parent = Pid::this();
        // SAFETY: between fork and exec `run` makes system calls only: setsid, prctl, getppid, fcntl and
        // landlock_restrict_self. All of them are async-signal-safe, and nothing is allocated.
        unsafe {
            command.pre_exec(move || self.run(parent));
        }
    }

    fn run(&self, parent: Pid) -> io::Result<()> {
        if self.new_session {
            setsid()?;
        }
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != parent {
            return Err(Errno::ESRCH.into());
        }
        for descriptor in &self.inherited {
            // Everything is opened close-on-exec.
            fcntl(descriptor.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        self.landlock.as_ref().map_or(Ok(()), restrict)
    }
}

fn restrict(ruleset: &OwnedFd) -> io::Result<()> {
    // SAFETY: the call takes two numbers, and the ruleset is open.
    let result = unsafe { nix::libc::syscall(nix::libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::Stdio;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null());
        command
    }

    #[test]
    fn a_descriptor_is_inherited_under_its_number_and_closed_with_the_command() {
        let (mut reader, writer) = io::pipe().unwrap();
        let writer = OwnedFd::from(writer);
        let mut command = shell(&format!("echo inherited >&{}", writer.as_raw_fd()));
        BeforeExec::new().inherit(writer).apply(&mut command);
        let mut child = command.spawn().unwrap();
        drop(command);
        let mut text = String::new();
        // Ends only once nobody has the other end any more.
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "inherited\n");
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn a_new_session_is_led_by_the_child() {
        let session = |before: BeforeExec| {
            let mut command = shell("cut -d' ' -f1,6 /proc/$$/stat");
            before.apply(&mut command);
            let output = command.output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let (pid, session) = text.trim().split_once(' ').unwrap();
            pid == session
        };
        assert!(session(BeforeExec::new().new_session()));
        assert!(!session(BeforeExec::new()));
    }

    #[test]
    fn a_child_whose_parent_has_gone_does_not_execute() {
        let before = BeforeExec::new();
        let error = before.run(Pid::from_raw(i32::MAX)).unwrap_err();
        // Of this test's thread alone, and taken back.
        nix::sys::prctl::set_pdeathsig(None).unwrap();
        assert_eq!(error.raw_os_error(), Some(nix::libc::ESRCH));
    }
}
