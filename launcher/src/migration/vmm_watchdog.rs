//! Whether a VMM that sends its guest still has one.
//!
//! While cloud-hypervisor 53 sends, its control loop does not have the VM. Whatever the guest then comes to (a triple
//! fault, a reboot, powering off, a vCPU that KVM cannot go on with) ends that loop with an error, and what is left of
//! the process waits for the thread that sends. That one goes on until it wants to pause the guest. A vCPU that was to
//! power off or to reboot waits for the loop and does not answer: after a second the transfer fails, and the process
//! ends. One that a triple fault or KVM has ended is waited for without end, and nothing that happens to the connection
//! changes that.
//!
//! What can be seen of it from outside, each of it seen with the real one:
//!
//! - the event `rebooting`, for a reboot and for a triple fault, at once: `super::outgoing` knows it by that;
//! - from that moment on the API does not answer, whatever it was;
//! - the thread of a vCPU that has ended by a triple fault or an error is gone; of one that powers off it stays.
//!
//! The API's silence alone may be a slow machine's, so it only has the transfer cut: a VMM that was slow resumes the
//! guest, and one whose guest has powered off ends. With a vCPU's thread gone it is certain.

use std::time::Duration;

use nix::unistd::Pid;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::report::Report;
use super::source::Event;
use crate::error::chain;
use crate::queue::Sink;
use crate::vmm::api::Api;
use crate::vmm::threads;

const INTERVAL: Duration = Duration::from_secs(1);
/// Of an API that is asked while a transfer is under way, and answers in milliseconds.
const MAX_SILENCE: Duration = Duration::from_secs(10);
/// The same, of a VMM that has lost a vCPU.
const MAX_SILENCE_WITHOUT_VCPU: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Well,
    /// For all that is known it is only slow.
    Silent,
    /// A vCPU of the guest's has ended.
    Dead,
}

fn judge(silent: Duration, vcpus_lost: bool) -> Verdict {
    if vcpus_lost && silent >= MAX_SILENCE_WITHOUT_VCPU {
        Verdict::Dead
    } else if silent >= MAX_SILENCE {
        Verdict::Silent
    } else {
        Verdict::Well
    }
}

/// Ends once it has something to report. `vcpus`: of the guest before it was lent.
pub(super) async fn watch(vmm: Pid, mut vcpus: usize, api: Api, sink: Sink<Report>) {
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let asked = Instant::now();
        let mut ping = Box::pin(api.ping());
        let answer = loop {
            tokio::select! {
                answer = &mut ping => break answer,
                _ = tick.tick() => {
                    // A process that has gone is heard of by its exit.
                    let there = threads::vcpus(vmm).unwrap_or(vcpus);
                    vcpus = vcpus.max(there);
                    let report = match judge(asked.elapsed(), there < vcpus) {
                        Verdict::Well => continue,
                        Verdict::Silent => Report::Event(Event::Cancel(format!(
                            "cloud-hypervisor has not answered for {} s",
                            MAX_SILENCE.as_secs()
                        ))),
                        Verdict::Dead => Report::VcpuEnded,
                    };
                    sink.send(report).await;
                    return;
                }
            }
        };
        if let Err(error) = answer {
            // Its process ends, which is heard of by its exit.
            tracing::debug!("migration: {}", chain(&error));
        }
        tick.tick().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_alone_is_no_death_and_a_lost_vcpu_alone_is_none_either() {
        let seconds = Duration::from_secs;
        assert_eq!(judge(seconds(9), false), Verdict::Well);
        assert_eq!(judge(seconds(10), false), Verdict::Silent);
        assert_eq!(
            judge(seconds(2), true),
            Verdict::Well,
            "it may be about to end well"
        );
        assert_eq!(judge(seconds(3), true), Verdict::Dead);
    }
}
