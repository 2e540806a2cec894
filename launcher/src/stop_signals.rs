//! The signals that ask for the guest's end, from the first instruction of `hawser run` on.
//!
//! For the first process of a PID namespace, which a container's entrypoint mostly is, the kernel drops a signal whose action is
//! the default (pid_namespaces(7)). The kubelet sends SIGTERM once: dropped while hawser still waits for an annotation, it would
//! be a guest that boots in a pod that is being deleted, and is killed in the middle. So until the keeper takes over, a stop
//! signal ends the process at once: nothing is wired and no guest has run.

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

pub(crate) const STOP: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// Until the guest is started, a stop signal ends this process as one that was stopped before the guest ran.
pub(crate) fn end_at_once() -> Result<(), Errno> {
    set(SigHandler::Handler(end))
}

/// For the supervisor, which is stopped over its pipe.
pub(crate) fn restore_default() -> Result<(), Errno> {
    set(SigHandler::SigDfl)
}

/// The guest has ended, and taking the wiring down takes a moment that is not to be cut short.
pub(crate) fn ignore() -> Result<(), Errno> {
    set(SigHandler::SigIgn)
}

fn set(handler: SigHandler) -> Result<(), Errno> {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    for signal in STOP {
        // SAFETY: `end` calls nothing but functions that are safe in a signal handler (signal-safety(7)).
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

extern "C" fn end(_: libc::c_int) {
    const TEXT: &[u8] = b"hawser: stopped before the guest ran\n";
    // SAFETY: write(2) and _exit(2) are safe in a signal handler, and the buffer is a constant.
    unsafe {
        libc::write(libc::STDERR_FILENO, TEXT.as_ptr().cast(), TEXT.len());
        libc::_exit(0)
    }
}
