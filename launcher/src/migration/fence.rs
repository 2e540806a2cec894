//! The fence: the source's VMM is stopped as a whole, so that nothing it would do by itself happens.
//!
//! SIGSTOP cannot be caught, and takes every thread: those of the vCPUs, and the one that would resume the guest when
//! the connection breaks. Unlike a kill it can be taken back, and it does not have to wait for the guest's memory to be
//! given back, which for a large one takes longer than a guest should stand still.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::process::Child;

use crate::vmm::process;

/// For a process to stand still once it is told to: a matter of microseconds.
const STOPPING: Duration = Duration::from_secs(5);
/// So many looks take about as long as it takes to have a thread that can wait.
const MAX_POLLS: u32 = 100;

pub(super) fn signal(child: &Option<Child>, signal: Signal) -> Result<Pid, String> {
    let pid = process::id(child).ok_or("cloud-hypervisor has ended")?;
    kill(pid, signal).map_err(|errno| format!("signal cloud-hypervisor: {errno}"))?;
    Ok(pid)
}

/// Stops every thread of the VMM, and returns when they stand still. It is our child, so the kernel tells us.
pub(super) async fn stop(child: &Option<Child>) -> Result<(), String> {
    let pid = signal(child, Signal::SIGSTOP)?;
    // Looked at and left there: the status of an end is the runtime's to take.
    let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    for _ in 0..MAX_POLLS {
        match waitid(Id::Pid(pid), flags | WaitPidFlag::WNOHANG) {
            Ok(WaitStatus::StillAlive) => std::thread::yield_now(),
            Ok(WaitStatus::Stopped(..)) => return Ok(()),
            _ => break,
        }
    }
    let waited = tokio::task::spawn_blocking(move || waitid(Id::Pid(pid), flags));
    match tokio::time::timeout(STOPPING, waited).await {
        Ok(Ok(Ok(WaitStatus::Stopped(..)))) => Ok(()),
        Ok(Ok(Ok(other))) => Err(format!("cloud-hypervisor was to stand still: {other:?}")),
        Ok(Ok(Err(errno))) => Err(format!("wait for cloud-hypervisor to stand still: {errno}")),
        Ok(Err(error)) => Err(format!("wait for cloud-hypervisor to stand still: {error}")),
        Err(_) => Err(format!(
            "cloud-hypervisor did not stand still within {} s",
            STOPPING.as_secs()
        )),
    }
}
