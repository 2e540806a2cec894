//! Single threads of another process, stopped and released again, with ptrace(2). A signal cannot do that: SIGSTOP stops the
//! whole process.
//!
//! Of ptrace only three requests are used: SEIZE, INTERRUPT and DETACH. They read and write nothing of the process, and what
//! they do, kill(2) does too, only to all threads at once.
//!
//! A thread that is stopped anywhere may hold a lock that others wait for: the allocator's, or a device's. So a thread is
//! stopped only where it is in one given system call (proc_pid_syscall(5)); anywhere else it is released at once, and tried again.
//!
//! The kernel ties what is stopped to the thread that has stopped it: if that one ends, everything is released.

use std::marker::PhantomData;
use std::time::{Duration, Instant};
use std::{fs, io};

use nix::errno::Errno;
use nix::libc::{c_long, c_ulong};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Between two looks at a thread that is about to stop, or to be where it may be stopped.
const INTERVAL: Duration = Duration::from_micros(500);

/// A system call by its number and its second argument, which of an ioctl is the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    pub number: c_long,
    pub second: c_ulong,
}

#[derive(Debug, thiserror::Error)]
pub enum StopError {
    #[error("the kernel does not let hawser stop a thread of its own child (ptrace)")]
    Forbidden(#[source] io::Error),
    #[error("thread {thread} has ended")]
    Ended { thread: Pid },
    #[error("thread {thread} was not in the system call in which it may be stopped, within {} ms", .within.as_millis())]
    Elsewhere { thread: Pid, within: Duration },
    /// It is released when the calling thread ends, and not before.
    #[error("thread {thread} did not stop within {} ms", .within.as_millis())]
    Silent { thread: Pid, within: Duration },
    #[error("stop thread {thread}")]
    Other {
        thread: Pid,
        #[source]
        source: io::Error,
    },
}

/// Threads that are stopped, all in the same system call. Dropped, they run.
#[derive(Debug)]
pub struct Stopped {
    process: Pid,
    threads: Vec<Pid>,
    /// Only the thread that has stopped them may release them.
    here: PhantomData<*const ()>,
}

impl Stopped {
    /// Stops all of `threads`, or none of them.
    ///
    /// # Errors
    /// If a thread cannot be stopped in `call` within the time. After [`StopError::Silent`] the calling thread has to end.
    pub fn within(process: Pid, threads: &[Pid], call: Call, within: Duration) -> Result<Self, StopError> {
        let end = Instant::now() + within;
        let mut stopped = Self {
            process,
            threads: Vec::new(),
            here: PhantomData,
        };
        for &thread in threads {
            loop {
                if stop(process, thread, call, end, within)? {
                    stopped.threads.push(thread);
                    break;
                }
                if Instant::now() >= end {
                    return Err(StopError::Elsewhere { thread, within });
                }
                std::thread::sleep(INTERVAL);
            }
        }
        Ok(stopped)
    }

    /// Whether a signal waits for one of them. It is not heard before the thread runs again.
    pub fn is_signalled(&self) -> bool {
        self.threads
            .iter()
            .any(|&thread| is_signalled(self.process, thread))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for &thread in &self.threads {
            // One that was killed meanwhile has gone.
            let _ = ptrace::detach(thread, None);
        }
    }
}

/// Stops one thread. False: it was not in `call`, and runs.
fn stop(process: Pid, thread: Pid, call: Call, end: Instant, within: Duration) -> Result<bool, StopError> {
    let other = |errno: Errno| match errno {
        Errno::ESRCH => StopError::Ended { thread },
        Errno::EPERM | Errno::EACCES | Errno::ENOSYS => StopError::Forbidden(errno.into()),
        errno => StopError::Other {
            thread,
            source: errno.into(),
        },
    };
    ptrace::seize(thread, ptrace::Options::empty()).map_err(other)?;
    ptrace::interrupt(thread).map_err(other)?;
    let signal = loop {
        match waitpid(thread, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) if Instant::now() < end + within => std::thread::sleep(INTERVAL),
            Ok(WaitStatus::StillAlive) => return Err(StopError::Silent { thread, within }),
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => {
                return Err(StopError::Ended { thread });
            }
            // A signal came first. Released, the thread gets it.
            Ok(WaitStatus::Stopped(_, signal)) if signal != Signal::SIGTRAP => break Some(signal),
            Ok(_) => break None,
            // A real-time signal came first, for which nix has no name. It is lost with the release: whoever sends one to have a
            // thread look at something has to send it again.
            Err(Errno::EINVAL) => break None,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(other(errno)),
        }
    };
    if signal.is_none() && is_in(process, thread, call) {
        return Ok(true);
    }
    ptrace::detach(thread, signal).map_err(other)?;
    Ok(false)
}

/// As the kernel says of a thread that is stopped: number, six arguments, stack and program pointer.
fn is_in(process: Pid, thread: Pid, call: Call) -> bool {
    fs::read_to_string(format!("/proc/{process}/task/{thread}/syscall"))
        .is_ok_and(|text| is_call(&text, call))
}

fn is_call(text: &str, call: Call) -> bool {
    let mut words = text.split_ascii_whitespace();
    let number = words.next().and_then(|word| word.parse::<c_long>().ok());
    let second = words.nth(1).and_then(|word| word.strip_prefix("0x"));
    let second = second.and_then(|digits| c_ulong::from_str_radix(digits, 16).ok());
    number == Some(call.number) && second == Some(call.second)
}

fn is_signalled(process: Pid, thread: Pid) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{process}/task/{thread}/status")) else {
        return true;
    };
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigPnd:"))
        .is_none_or(|pending| pending.trim().bytes().any(|digit| digit != b'0'))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use nix::libc;
    use nix::sys::signal::kill;

    use super::*;

    /// A process that writes lines without end, and is in write(2) whenever nobody reads them.
    fn writer() -> (Child, Pid) {
        let mut command = Command::new("yes");
        let child = command.stdout(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        (child, pid)
    }

    /// The second argument of write(2) is where the text is, which is not known: as `yes` has it.
    fn its_call(pid: Pid) -> Call {
        let path = format!("/proc/{pid}/syscall");
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            let text = fs::read_to_string(&path).unwrap_or_default();
            if let Some(rest) = text.strip_prefix(&format!("{} ", libc::SYS_write)) {
                let second = rest.split(' ').nth(1).unwrap().strip_prefix("0x").unwrap();
                return Call {
                    number: libc::SYS_write,
                    second: c_ulong::from_str_radix(second, 16).unwrap(),
                };
            }
            std::thread::sleep(INTERVAL);
        }
        panic!("it never writes")
    }

    fn state(pid: Pid) -> char {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        text.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    }

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn a_thread_stands_still_until_it_is_released_and_a_signal_waits_for_it() {
        let (mut child, pid) = writer();
        let call = its_call(pid);
        for _ in 0..50 {
            let stopped = Stopped::within(pid, &[pid], call, SOON).unwrap();
            assert_eq!(state(pid), 't');
            assert!(!stopped.is_signalled());
            drop(stopped);
        }
        let stopped = Stopped::within(pid, &[pid], call, SOON).unwrap();
        assert_ne!(state(pid), 'S');
        kill(pid, Signal::SIGTERM).unwrap();
        // To the process, not to the thread: those of a thread are what is looked at.
        assert_eq!(state(pid), 't');
        drop(stopped);
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    }

    #[test]
    fn one_that_is_elsewhere_is_left_alone() {
        let (mut child, pid) = writer();
        let nowhere = Call {
            number: libc::SYS_ioctl,
            second: 0xae80,
        };
        let soon = Duration::from_millis(50);
        let error = Stopped::within(pid, &[pid], nowhere, soon).unwrap_err();
        assert!(matches!(error, StopError::Elsewhere { .. }), "{error}");
        assert_ne!(state(pid), 't');
        child.kill().unwrap();
        child.wait().unwrap();
        let error = Stopped::within(pid, &[pid], nowhere, soon).unwrap_err();
        assert!(matches!(error, StopError::Ended { .. }), "{error}");
    }

    #[test]
    fn what_a_thread_has_stopped_runs_when_that_thread_ends() {
        let (mut child, pid) = writer();
        let call = its_call(pid);
        std::thread::spawn(move || std::mem::forget(Stopped::within(pid, &[pid], call, SOON).unwrap()))
            .join()
            .unwrap();
        let end = Instant::now() + SOON;
        while state(pid) == 't' {
            assert!(Instant::now() < end, "it is still stopped");
            std::thread::sleep(INTERVAL);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_kernels_line_about_a_system_call_is_read() {
        let run = Call {
            number: libc::SYS_ioctl,
            second: 0xae80,
        };
        let line = format!("{} 0x1e 0xae80 0x0 0x0 0x0 0x0 0x7f 0x7f", libc::SYS_ioctl);
        assert!(is_call(&line, run));
        for other in [
            "running",
            "-1 0x7f 0x7f",
            "",
            "0 0x1e 0xae80 0x0",
            "16",
            "16 0x1e 0xae81",
        ] {
            assert!(!is_call(other, run), "{other}");
        }
    }
}
