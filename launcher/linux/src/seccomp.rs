//! A seccomp filter (seccomp(2)) that refuses some system calls to a thread and to all that it starts, whatever filters
//! these add.

use std::io;

use nix::libc;

/// Of the architecture that this is built for (AUDIT_ARCH of the kernel's audit.h).
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;
/// From here on x86-64 has the numbers of another calling convention (x32).
const OTHER_CONVENTION: u32 = 0x4000_0000;
/// What a filter is given (struct seccomp_data): the call's number, then the architecture.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
/// The halves of the first argument, on a machine that has the lower one first.
const FIRST: u32 = 16;
const FIRST_HIGH: u32 = 20;

/// A call that is answered only with one of these as its first argument.
#[derive(Debug, Clone, Copy)]
pub struct Only {
    pub call: libc::c_long,
    pub first: &'static [u32],
}

/// Answers `calls` with EPERM from here on, `only` but for what it allows, and every call of another architecture or convention,
/// which would have other numbers for them. Needs no_new_privs.
pub fn forbid(calls: &[libc::c_long], only: &[Only]) -> io::Result<()> {
    let mut filter = program(calls, only)?;
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(io::Error::other)?,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program and its filter outlive the call, which copies them.
    let result = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Each test goes to the instruction after it where it finds what is refused, and that one refuses. So no jump is longer
/// than one instruction, however long the list is; a call of `only` is followed by all that there is to say of it.
fn program(calls: &[libc::c_long], only: &[Only]) -> io::Result<Vec<libc::sock_filter>> {
    let refuse = instruction(
        libc::BPF_RET | libc::BPF_K,
        libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned(),
        (0, 0),
    );
    let test = |how: u32, value: u32, if_refused: (u8, u8)| {
        [
            instruction(libc::BPF_JMP | how | libc::BPF_K, value, if_refused),
            refuse,
        ]
    };
    let load = |offset| instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, (0, 0));
    let mut all = vec![load(ARCH)];
    all.extend(test(libc::BPF_JEQ, ARCHITECTURE, (1, 0)));
    all.push(load(NUMBER));
    all.extend(test(libc::BPF_JGE, OTHER_CONVENTION, (0, 1)));
    for call in calls {
        let number = u32::try_from(*call).map_err(io::Error::other)?;
        all.extend(test(libc::BPF_JEQ, number, (0, 1)));
    }
    let allow = instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, (0, 0));
    for Only { call, first } in only {
        let number = u32::try_from(*call).map_err(io::Error::other)?;
        let mut arguments = vec![load(FIRST_HIGH)];
        arguments.extend(test(libc::BPF_JEQ, 0, (1, 0)));
        arguments.push(load(FIRST));
        for value in *first {
            let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
            arguments.extend([instruction(equal, *value, (0, 1)), allow]);
        }
        arguments.push(refuse);
        let length = u8::try_from(arguments.len()).map_err(io::Error::other)?;
        let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        all.push(instruction(equal, number, (0, length)));
        all.extend(arguments);
    }
    all.push(allow);
    Ok(all)
}

/// `jumps` are how many instructions are left out where a test is true, and where it is not.
fn instruction(code: u32, k: u32, jumps: (u8, u8)) -> libc::sock_filter {
    libc::sock_filter {
        // All codes fit (linux/bpf_common.h).
        code: u16::try_from(code).unwrap_or_default(),
        jt: jumps.0,
        jf: jumps.1,
        k,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forbidden_is_refused_to_the_thread_and_to_what_it_starts_and_nothing_else_is() {
        use nix::errno::Errno;
        use nix::sys::signal::kill;
        use nix::unistd::Pid;

        let tried = std::thread::spawn(|| {
            nix::sys::prctl::set_no_new_privs().unwrap();
            forbid(&[libc::SYS_getppid, libc::SYS_kill], &[]).unwrap();
            let shell = |script: &str| {
                let mut command = std::process::Command::new("/bin/sh");
                command.args(["-c", script]).stderr(std::process::Stdio::null());
                command.status().unwrap().success()
            };
            (kill(Pid::this(), None), shell("exit 0"), shell("kill -0 $$"))
        });
        assert_eq!(tried.join().unwrap(), (Err(Errno::EPERM), true, false));
        // Of the other threads nothing is asked.
        assert_eq!(kill(Pid::this(), None), Ok(()));
    }

    #[test]
    fn a_call_is_allowed_with_some_first_arguments_only() {
        use nix::errno::Errno;
        use nix::unistd::{Pid, getpgid, getppid};

        let tried = std::thread::spawn(|| {
            nix::sys::prctl::set_no_new_privs().unwrap();
            let only = Only {
                call: libc::SYS_getpgid,
                first: &[0],
            };
            forbid(&[], &[only]).unwrap();
            (
                getpgid(None).is_ok(),
                getppid(),
                getpgid(Some(Pid::this())),
                getpgid(Some(getppid())),
            )
        });
        let refused = Err(Errno::EPERM);
        assert_eq!(tried.join().unwrap(), (true, getppid(), refused, refused));
    }
}
