//! What the source's tasks and cloud-hypervisor report, as events of the machine in [`crate::migration::source`].

use std::time::Instant;

use super::{Hands, Outgoing};
use crate::daemons::passt;
use crate::migration::link::{Link, Received};
use crate::migration::message::Message;
use crate::migration::report::Report;
use crate::migration::said;
use crate::migration::source::Event;
use crate::migration::vf_hotplug::VfHotplug;
use crate::migration::vmm_watchdog::watch;
use crate::vmm::events::VmmEvent;
use crate::vmm::process;

pub(crate) const REBOOTED: &str = "the guest crashed or rebooted during the migration; cloud-hypervisor cannot reset a VM that is migrating";
const VCPU_ENDED: &str =
    "a vCPU of the guest ended during the migration, and cloud-hypervisor does not answer any more";

impl Outgoing {
    /// What a report of a task means for the migration.
    pub(crate) fn report(&mut self, report: Report, hands: &mut Hands<'_>) -> Option<Event> {
        match report {
            Report::Event(event) => Some(event),
            Report::Disks(told) => self.told(told),
            Report::TimeOver => self.time_over(),
            Report::Vcpus(told) => {
                self.vcpus_told(told);
                None
            }
            Report::Hotplug(done) => match hands.vfs.done(done)? {
                Event::Attached => self.attached(hands.vfs),
                event => Some(event),
            },
            Report::Answered => {
                self.answered = true;
                self.attached(hands.vfs)
            }
            // Otherwise it was rebooting, as it may.
            Report::VcpuEnded => self.lent.then(|| Event::GuestEnded(VCPU_ENDED.to_owned())),
            Report::Connected(stream) => {
                self.channels = self.channels.wrapping_add(1);
                let (channel, sink) = (self.channels, self.sink.clone());
                self.link = Some(Link::start(stream, move |received| {
                    let sink = sink.clone();
                    async move { sink.send(Report::Received(channel, received)).await }
                }));
                Some(Event::Connected)
            }
            // Of a channel that has been given up already.
            Report::Received(channel, _) if channel != self.channels => None,
            Report::Received(_, Received::Lost(why)) => {
                self.link = None;
                Some(Event::ChannelLost(why))
            }
            Report::Received(_, Received::Message(message)) => self.message(message, hands.passt),
        }
    }

    fn message(&mut self, message: Message, passt: Option<&passt::Handle>) -> Option<Event> {
        Some(match message {
            Message::Prepared { takes_connections } => {
                self.move_connections(takes_connections, passt);
                Event::Prepared
            }
            Message::Refused { reasons } => {
                let reasons = said::reasons(reasons).join("; ");
                Event::Refused(format!("the target refuses: {reasons}"))
            }
            Message::Holding => return self.own_disks.restored(),
            Message::Running => {
                self.times.running = Some(Instant::now());
                Event::Running
            }
            Message::Lost { why } => Event::Lost(said::text(&why)),
            Message::Gone { why } => Event::Gone(format!("the target gave up: {}", said::text(&why))),
            // Not for a source.
            Message::Prepare(_) | Message::Commit { .. } | Message::Abort { .. } | Message::Alive => {
                return None;
            }
        })
    }

    /// What an event of cloud-hypervisor means for the migration.
    pub(crate) fn vmm_event(&mut self, event: &VmmEvent, hands: &mut Hands<'_>) -> Option<Event> {
        match event.event.as_str() {
            "migration-started" => {
                self.lent = true;
                if self.rebooting {
                    return Some(Event::GuestEnded(REBOOTED.to_owned()));
                }
                let vmm = process::id(hands.child)?;
                let watchdog = watch(vmm, self.vcpus, hands.api.clone(), self.sink.clone());
                self.watchdog = Some(self.tasks.spawn(watchdog));
                None
            }
            // Before the VM is lent, and after that, the guest reboots as ever.
            "rebooting" => {
                self.rebooting = true;
                self.lent.then(|| Event::GuestEnded(REBOOTED.to_owned()))
            }
            "migration-failed" => {
                self.lent = false;
                self.release_vcpus();
                Some(Event::TransferFailed(
                    "cloud-hypervisor's transfer failed; its log says why".to_owned(),
                ))
            }
            "migration-finished" => Some(Event::TransferFinished),
            "device-removed" | "rebooted" => {
                self.rebooting &= event.event != "rebooted";
                hands.vfs.are_out().then_some(Event::Detached)
            }
            "paused" => {
                self.own_disks.guest_is_paused();
                // A guest that is paused does not end.
                self.stop_watchdog();
                self.release_vcpus();
                self.paused("the guest is paused; the rest of its memory is being copied");
                None
            }
            "migration-memory-iteration" => {
                let id = event
                    .properties
                    .as_ref()
                    .and_then(|properties| properties.get("id"));
                let number = id.and_then(|id| id.as_str()).and_then(|id| id.parse().ok())?;
                self.round(number, hands)
            }
            _ => None,
        }
    }

    /// Before the transfer, at the end of which passt is asked for them.
    fn move_connections(&mut self, along: bool, passt: Option<&passt::Handle>) {
        if let Some(passt) = passt.cloned() {
            self.tasks.spawn(async move {
                if along {
                    passt.move_connections(passt::Side::Source).await;
                } else {
                    passt.leave_connections().await;
                }
            });
        }
    }

    fn attached(&self, vfs: &VfHotplug) -> Option<Event> {
        (self.answered && vfs.are_settled()).then_some(Event::Attached)
    }
}
