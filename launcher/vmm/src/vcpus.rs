//! The guest's vCPUs, slowed down or stopped from outside while cloud-hypervisor sends the guest.
//!
//! cloud-hypervisor 53 decides by itself when the guest is paused for the last round over its memory: its limits are given with
//! `vm.send-migration`, and nothing changes them later (`vm.pause` is refused meanwhile). But what it decides by is how much the
//! guest writes. If the vCPUs stand still, the round after the next one is nearly empty, and cloud-hypervisor pauses the guest.
//! If they stand still for a part of the time, the rounds get smaller.
//!
//! A vCPU is stopped in KVM_RUN only: there its thread runs or waits for the guest, and has none of cloud-hypervisor's locks but
//! that on the vCPU itself, which nobody asks for before the pause. For the pause cloud-hypervisor sends each vCPU a signal, waits
//! a second for it to answer, and sends it again every 10 ms. So the vCPUs are released as soon as such a signal waits for one,
//! and left alone from then on.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use std::{io, thread};

use hawser_linux::stopped::{Call, StopError, Stopped};
use nix::unistd::Pid;

use crate::threads;

/// linux/kvm.h
const KVM_RUN: Call = Call {
    number: nix::libc::SYS_ioctl,
    second: 0xae80,
};
/// For all vCPUs to be in KVM_RUN once: the guest's I/O takes them out of it for microseconds.
const STOPPING: Duration = Duration::from_millis(500);
/// How often that may fail in a row before it is said.
const MISSES: u32 = 2;
/// Between two looks whether cloud-hypervisor wants to pause the guest.
const INTERVAL: Duration = Duration::from_millis(1);
/// How long slowed vCPUs run between two stops: as long as QEMU's.
const SLICE: Duration = Duration::from_millis(10);

/// What becomes of the vCPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// They stand still.
    Held,
    /// They run on: why they cannot be stopped.
    Failed(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Run,
    /// This many percent of the time they stand still.
    Slow(u32),
    Hold,
}

/// The vCPUs of one VMM. Dropped, they run.
#[derive(Debug)]
pub struct Vcpus {
    orders: Sender<Order>,
}

impl Vcpus {
    /// `tell` is called by a thread that waits for it.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn new(vmm: Pid, tell: impl Fn(Told) + Send + 'static) -> io::Result<Self> {
        let (orders, given) = channel();
        thread::Builder::new()
            .name("vcpus".to_owned())
            .stack_size(128 << 10)
            .spawn(move || obey(vmm, &given, tell))?;
        Ok(Self { orders })
    }

    /// Has them stand still for so many percent of the time, less than 100.
    pub fn slow(&self, percent: u32) {
        self.order(Order::Slow(percent.min(99)));
    }

    /// Has them stand still.
    pub fn hold(&self) {
        self.order(Order::Hold);
    }

    /// A thread that has ended has said why, or cloud-hypervisor pauses the guest.
    fn order(&self, order: Order) {
        let _ = self.orders.send(order);
    }
}

/// Why vCPUs that stood still were released.
enum Ended {
    Time,
    Order(Order),
    /// cloud-hypervisor pauses the guest, or nobody wants anything any more.
    Over,
}

fn obey(vmm: Pid, orders: &Receiver<Order>, tell: impl Fn(Told)) {
    let mut order = Order::Run;
    let mut missed = 0;
    loop {
        let stood = match order {
            Order::Run => match orders.recv() {
                Ok(next) => {
                    order = next;
                    continue;
                }
                Err(_) => return,
            },
            Order::Slow(percent) => stand(vmm, Some(pause_of(percent)), orders, || ()),
            Order::Hold => stand(vmm, None, orders, || tell(Told::Held)),
        };
        if stood.is_ok() {
            missed = 0;
        }
        match stood {
            Ok(Ended::Over) => return,
            Ok(Ended::Order(next)) => order = next,
            Ok(Ended::Time) => match orders.recv_timeout(SLICE) {
                Ok(next) => order = next,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            },
            // A thread that is not scheduled stays where it is.
            Err(StopError::Elsewhere { .. }) if missed < MISSES => {
                missed = missed.saturating_add(1);
                continue;
            }
            Err(error) => {
                tell(Told::Failed(text(&error)));
                return;
            }
        }
    }
}

fn stand(
    vmm: Pid,
    time: Option<Duration>,
    orders: &Receiver<Order>,
    begun: impl FnOnce(),
) -> Result<Ended, StopError> {
    let threads = threads::vcpu_threads(vmm).map_err(|source| StopError::Other { thread: vmm, source })?;
    if threads.is_empty() {
        let source = io::Error::other("it has no thread of a vCPU");
        return Err(StopError::Other { thread: vmm, source });
    }
    let stopped = Stopped::within(vmm, &threads, KVM_RUN, STOPPING)?;
    let began = Instant::now();
    begun();
    loop {
        match orders.recv_timeout(INTERVAL) {
            Ok(next) => return Ok(Ended::Order(next)),
            Err(RecvTimeoutError::Disconnected) => return Ok(Ended::Over),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if stopped.is_signalled() {
            return Ok(Ended::Over);
        }
        if time.is_some_and(|time| began.elapsed() >= time) {
            return Ok(Ended::Time);
        }
    }
}

/// Between two slices.
fn pause_of(percent: u32) -> Duration {
    SLICE * percent / 100_u32.saturating_sub(percent).max(1)
}

fn text(error: &StopError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_time_is_a_pause_between_two_slices() {
        let milliseconds = Duration::from_millis;
        assert_eq!(pause_of(20), Duration::from_micros(2500));
        assert_eq!(pause_of(50), milliseconds(10));
        assert_eq!(pause_of(90), milliseconds(90));
        assert_eq!(pause_of(99), milliseconds(990));
        assert_eq!(pause_of(100), milliseconds(1000));
    }

    /// A process whose thread is nowhere near KVM_RUN: it is left alone, and that is said.
    #[test]
    fn what_is_no_vcpu_that_runs_is_not_held() {
        let mut command = std::process::Command::new("bash");
        command.args(["-c", "echo vcpu0 > /proc/self/comm; echo; read forever"]);
        command
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = [0];
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        let (say, told) = channel();
        let vcpus = Vcpus::new(Pid::from_raw(child.id().cast_signed()), move |what| {
            let _ = say.send(what);
        })
        .unwrap();
        vcpus.hold();
        let Told::Failed(why) = told.recv_timeout(Duration::from_secs(10)).unwrap() else {
            panic!("it is held")
        };
        assert!(why.contains("was not in the system call"), "{why}");
        drop(vcpus);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
