//! What the tasks of a migration away from here report to the supervisor.

use super::channel::Stream;
use super::disk_copy::Told;
use super::link::Received;
use super::source::Event;
use super::vf_hotplug::Done;
use crate::vmm::vcpus;

#[derive(Debug)]
pub(crate) enum Report {
    Connected(Box<dyn Stream>),
    /// The number tells a channel from the one before.
    Received(u32, Received),
    Event(Event),
    /// The VMM has lost a vCPU's thread, and does not answer.
    VcpuEnded,
    /// The VMM answers.
    Answered,
    /// A VF was plugged, or the guest was asked to release it.
    Hotplug(Done),
    /// From the copy of the disks.
    Disks(Told),
    /// The rounds over the guest's memory have taken as long as they may.
    TimeOver,
    /// What became of the guest's vCPUs, which were to stand still.
    Vcpus(vcpus::Told),
}

impl From<Told> for Report {
    fn from(told: Told) -> Self {
        Self::Disks(told)
    }
}

impl From<Done> for Report {
    fn from(done: Done) -> Self {
        Self::Hotplug(done)
    }
}
