//! A process under ptrace(2): it is killed behind any of the system calls by which it changes something, or any of them fails.
//!
//! The process is forked from the test and shares its namespaces. Its children (nft) are not traced; they end with it, as
//! the processes of a container do.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, setpgid};

/// What becomes of one system call, by its number among those that are looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) enum What {
    Nothing,
    /// SIGKILL to the process and to what it has started, once the call is over.
    Kill(usize),
    /// The call is not made, and this is its result.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))]
    Fail(usize, Errno),
}

/// How the process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    Exited(i32),
    Killed,
    /// It was killed because it had not ended by itself.
    Hung,
}

#[derive(Debug)]
pub(crate) struct Traced {
    pub(crate) end: End,
    /// The calls that were looked at, in their order.
    pub(crate) calls: Vec<String>,
}

/// Far longer than any plan takes.
const LIMIT: Duration = Duration::from_secs(40);

/// Forks, has the child do `work`, whose result is its exit status, and does `what` to it.
pub(crate) fn traced(what: What, work: impl FnOnce() -> i32) -> Traced {
    // What a killed process leaves comes here, and is waited for.
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    // SAFETY: the other threads of this process wait for this one or for their turn, so none of them holds a lock that the
    // child needs.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
            request(libc::PTRACE_TRACEME, Pid::from_raw(0), 0, 0);
            let _ = kill(Pid::this(), Signal::SIGSTOP);
            let status = work();
            // SAFETY: ends this process; what the test's process does at its end is not done twice.
            unsafe { libc::_exit(status) }
        }
        ForkResult::Parent { child } => follow(child, what),
    }
}

fn request(request: libc::c_uint, pid: Pid, address: usize, data: usize) -> i64 {
    // SAFETY: the requests that are made here read and write what `data` points to, if anything, which outlives the call.
    unsafe { libc::ptrace(request, pid.as_raw(), address, data) }
}

fn follow(child: Pid, what: What) -> Traced {
    let group = Pid::from_raw(-child.as_raw());
    let all = WaitPidFlag::__WALL;
    assert!(matches!(waitpid(child, Some(all)), Ok(WaitStatus::Stopped(..))));
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;
    request(libc::PTRACE_SETOPTIONS, child, 0, options as usize);
    request(libc::PTRACE_SYSCALL, child, 0, 0);
    let deadline = Instant::now() + LIMIT;
    let mut calls = Vec::new();
    let mut end = None;
    // The threads that are in a call that is looked at, and its number.
    let mut inside = std::collections::BTreeMap::new();
    loop {
        let status = match waitpid(group, Some(all | WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {
                if Instant::now() > deadline && end.is_none() {
                    end = Some(End::Hung);
                    let _ = killpg(child, Signal::SIGKILL);
                }
                std::thread::sleep(Duration::from_micros(200));
                continue;
            }
            Ok(status) => status,
            Err(Errno::ECHILD) => break,
            Err(errno) => panic!("{errno}"),
        };
        let Some(pid) = status.pid() else { continue };
        let mut signal = 0;
        match status {
            WaitStatus::Exited(pid, status) if pid == child => {
                end.get_or_insert(End::Exited(status));
                // What it had started and not waited for.
                let _ = killpg(child, Signal::SIGKILL);
            }
            WaitStatus::Signaled(pid, ..) if pid == child => drop(end.get_or_insert(End::Killed)),
            WaitStatus::PtraceSyscall(_) => match state(pid) {
                State::Entry(number, arguments) => {
                    if let Some(text) = change(pid, number, &arguments) {
                        let place = calls.len();
                        calls.push(text);
                        inside.insert(pid.as_raw(), place);
                        if matches!(what, What::Fail(wanted, _) if wanted == place) {
                            skip(pid);
                        }
                    }
                }
                State::Exit => {
                    if let Some(place) = inside.remove(&pid.as_raw()) {
                        match what {
                            What::Kill(wanted) if wanted == place => {
                                end = Some(End::Killed);
                                let _ = killpg(child, Signal::SIGKILL);
                                continue;
                            }
                            What::Fail(wanted, errno) if wanted == place => result(pid, errno),
                            _ => {}
                        }
                    }
                }
            },
            WaitStatus::Stopped(_, Signal::SIGSTOP) => {}
            WaitStatus::Stopped(_, other) => signal = other as usize,
            _ => {}
        }
        request(libc::PTRACE_SYSCALL, pid, 0, signal);
    }
    Traced {
        end: end.unwrap_or(End::Killed),
        calls,
    }
}

const THREAD: u64 = libc::CLONE_THREAD as u64;

enum State {
    Entry(i64, [u64; 6]),
    Exit,
}

fn state(pid: Pid) -> State {
    // SAFETY: it is made of integers, for which zero is a value.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let size = size_of_val(&info);
    request(
        libc::PTRACE_GET_SYSCALL_INFO,
        pid,
        size,
        std::ptr::from_mut(&mut info) as usize,
    );
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return State::Exit;
    }
    // SAFETY: `op` says that it is this one, and it is made of integers.
    let entry = unsafe { info.u.entry };
    State::Entry(entry.nr.cast_signed(), entry.args)
}

/// What a system call is called where it may change something.
fn change(pid: Pid, number: i64, arguments: &[u64; 6]) -> Option<String> {
    let descriptor = || {
        fs::read_link(format!("/proc/{pid}/fd/{}", arguments[0]))
            .unwrap_or_default()
            .display()
            .to_string()
    };
    match number {
        libc::SYS_sendto => {
            // struct nlmsghdr: the length, then the type, of which each third of four asks for something.
            let mut header = [0; 6];
            let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
            memory.read_exact_at(&mut header, arguments[1]).ok()?;
            let kind = u16::from_le_bytes([header[4], header[5]]);
            (kind % 4 != 2).then(|| format!("netlink message {kind}"))
        }
        libc::SYS_recvfrom => Some("netlink answer".to_owned()),
        libc::SYS_ioctl => {
            // linux/if_tun.h.
            let is_tun = (arguments[1] >> 8) & 0xff == u64::from(b'T') && arguments[1] & 0xff >= 200;
            is_tun.then(|| format!("ioctl {:#x}", arguments[1]))
        }
        libc::SYS_write => {
            let to = descriptor();
            (!to.starts_with("anon_inode:")).then(|| format!("write to {to}"))
        }
        libc::SYS_openat => {
            let writes = arguments[2] & (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT) as u64 != 0;
            writes.then(|| "openat for writing".to_owned())
        }
        libc::SYS_renameat | libc::SYS_renameat2 => Some("rename".to_owned()),
        libc::SYS_unlinkat => Some("unlink".to_owned()),
        // A thread changes nothing.
        libc::SYS_clone => (arguments[0] & THREAD == 0).then(|| "clone".to_owned()),
        libc::SYS_clone3 => {
            let mut flags = [0; 8];
            let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
            memory.read_exact_at(&mut flags, arguments[0]).ok()?;
            (u64::from_ne_bytes(flags) & THREAD == 0).then(|| "clone3".to_owned())
        }
        #[cfg(target_arch = "x86_64")]
        libc::SYS_vfork => Some("vfork".to_owned()),
        _ => None,
    }
}

#[cfg(target_arch = "x86_64")]
fn registers(pid: Pid, change: impl FnOnce(&mut libc::user_regs_struct)) {
    // SAFETY: it is made of integers, for which zero is a value.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    let place = std::ptr::from_mut(&mut registers) as usize;
    request(libc::PTRACE_GETREGS, pid, 0, place);
    change(&mut registers);
    request(libc::PTRACE_SETREGS, pid, 0, place);
}

#[cfg(target_arch = "x86_64")]
fn skip(pid: Pid) {
    registers(pid, |registers| registers.orig_rax = u64::MAX);
}

#[cfg(target_arch = "x86_64")]
fn result(pid: Pid, errno: Errno) {
    registers(pid, |registers| {
        registers.rax = (-i64::from(errno as i32)).cast_unsigned()
    });
}

#[cfg(not(target_arch = "x86_64"))]
fn skip(_: Pid) {}

#[cfg(not(target_arch = "x86_64"))]
fn result(_: Pid, _: Errno) {}
