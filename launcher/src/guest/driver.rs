//! The supervisor: feeds [`super::machine`] with what happens, and performs what it decides.
//!
//! Everything that happens comes as an [`Input`] from one queue, but for the VMM's events and its exit, which are read where
//! they arise: at the fence of a migration it matters what the VMM had reported up to that moment.

mod calls;

use std::collections::{BTreeMap, VecDeque};

use tokio::process::Child;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::dhcp::serve_guest;
use super::heard::Heard;
use super::machine::{Action, CallId, Event, Guest, Outcome, Vcpus, VmmExit};
use super::notify::Notified;
use super::power;
use super::replug::Replug;
use super::verbs::{Verbs, refused};
use super::{Input, Job};
use crate::control::{Answer, Board, Order};
use crate::daemons::passt;
use crate::disks::Growth;
use crate::migration::source::{self, Ending};
use crate::migration::{
    self, Arrival, Description, Hands, Incoming, Outgoing, Report, TokenFile, VfHotplug, VfRequest, target,
};
use crate::nic::Server;
use crate::queue::Sink;
use crate::status::Phase;
use crate::vmm::api::Api;
use crate::vmm::events::{Events, VmmEvent};
use crate::vmm::log::{GuestEnd, Log};

/// cloud-hypervisor keeps of a vhost-user NIC the features that the guest has taken, and `VHOST_F_LOG_ALL`, by which its backend
/// logs what it writes, is not among them.
const ARRIVED_BEHIND_PASST: &str = "a guest with a passt NIC that was itself migrated here cannot be migrated again until it reboots \
                                    (limitation of cloud-hypervisor)";

pub(super) struct Supervisor {
    pub(super) child: Option<Child>,
    pub(super) api: Api,
    pub(super) events: Events,
    pub(super) log: Log,
    pub(super) board: Board,
    pub(super) incoming: Option<Incoming>,
    pub(super) vfs: VfHotplug,
    pub(super) servers: Vec<Server>,
    /// Dropped, it ends the servers.
    pub(super) end_servers: watch::Sender<()>,
    pub(super) vmm_version: String,
    pub(super) passt: Option<passt::Handle>,
    pub(super) job: Job,
    pub(super) queue: mpsc::Sender<Input>,
    pub(super) migrating: Migrating,
    pub(super) replug: Replug,
    pub(super) growth: Growth,
    pub(super) verbs: Verbs,
    pub(super) heard: Heard,
    /// Of a guest with a virtio socket.
    pub(super) notified: Option<Notified>,
}

/// What there is of a migration away from here.
#[derive(Debug, Default)]
pub(super) struct Migrating {
    /// Callers that wait for their answer.
    calls: BTreeMap<CallId, Waiting>,
    last_call: u64,
    /// The one under way, by its call.
    outgoing: Option<(CallId, Outgoing)>,
    /// The last answers, until they are read.
    finishing: JoinSet<()>,
    /// Where the guest was last to be migrated to.
    to: String,
}

#[derive(Debug)]
struct Waiting {
    answers: mpsc::UnboundedSender<Answer>,
    order: Option<Order>,
}

impl Supervisor {
    /// Takes an event, and what it leads to at once, to its end.
    pub(super) async fn apply(&mut self, guest: Guest, event: Event) -> Guest {
        let mut guest = guest;
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let (next, actions) = guest.on(event);
            guest = next;
            if let (Guest::Leaving(leaving), Some((_, outgoing))) = (&guest, &mut self.migrating.outgoing) {
                outgoing.show(&leaving.source, &self.vfs, &mut self.board);
            }
            for action in actions {
                events.extend(self.perform(action).await);
            }
            if self.incoming.is_some() {
                // Other tasks carry what was sent and released. They are first: the guest or the source may wait for it.
                tokio::task::yield_now().await;
            }
            self.publish(&guest);
        }
        guest
    }

    async fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::PressPowerButton => {
                tracing::info!(
                    event = "power-button-pressed",
                    "pressing the guest's power button"
                );
                tokio::spawn(power::press(self.api.clone()));
            }
            Action::ArmPress => self.later(power::PRESS_INTERVAL, Event::PressDue),
            Action::ArmGrace => self.later(self.job.grace, Event::GraceOver),
            Action::KillVmm => {
                if let Some(child) = &mut self.child {
                    // It may be gone already; its exit is then an event to come.
                    let _ = child.start_kill();
                }
            }
            Action::Describe { call, arrived } => self.describe(call, arrived),
            Action::Source(action) => {
                let (_, outgoing, mut hands) = self.outgoing()?;
                let event = outgoing.perform(action, &mut hands).await;
                self.vfs.show(&mut self.board);
                return event.map(Event::Source);
            }
            Action::Target(action) => {
                if let Some(incoming) = &mut self.incoming {
                    incoming.perform(action, &self.api);
                }
            }
            Action::TakeOver => self.take_over(),
            Action::Resume => self.replug.resume(self.passt.as_ref(), &self.api),
            Action::Finish(call, ending) => self.finish(call, &ending),
            Action::Refuse(call, refusal) => self.answer(call, refused(refusal)),
            Action::Cancelling(call) => self.done(
                call,
                "the migration is being cancelled; hawser status shows when the guest is as before",
            ),
            Action::Ask(call, verb) => self.verbs.ask(call, verb),
            Action::Reply(call, verb, result) => self.reply(call, verb, result),
        }
        None
    }

    fn later(&self, delay: std::time::Duration, event: Event) {
        let queue = self.queue.clone();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let _ = queue.send(Input::Event(event)).await;
        });
    }

    /// Serves the guest its addresses. `arrived`: it was migrated here.
    pub(super) fn serve(&mut self, arrived: bool) {
        for server in self.servers.drain(..) {
            let heard = self.heard.clone();
            tokio::spawn(serve_guest(server, arrived, heard, self.end_servers.subscribe()));
        }
    }

    /// The guest was migrated here, and runs.
    fn take_over(&mut self) {
        tracing::info!(event = "guest-running", "the guest is running");
        if let Some(incoming) = &mut self.incoming {
            incoming.settle();
            // It keeps the addresses that passt offered it at the source, and takes them along when it migrates again.
            let by_passt = incoming.nics().iter().filter(|nic| nic.passt.is_some());
            for theirs in by_passt {
                if let Some(ours) = self.job.nics.iter_mut().find(|nic| nic.name == theirs.name) {
                    ours.addresses.clone_from(&theirs.addresses);
                    ours.passt.clone_from(&theirs.passt);
                }
            }
        }
        self.board.status.nics.clone_from(&self.job.nics);
        self.board.status.facts.arrived = true;
        self.serve(true);
        let requests = self.vfs.attach();
        self.hotplug(requests);
    }

    fn hotplug(&mut self, requests: Vec<VfRequest>) {
        let sink: Sink<Report> = Sink::with(self.queue.clone(), |report| Input::Source(None, report));
        migration::perform_hotplug(requests, &self.api, &sink.of());
        self.vfs.show(&mut self.board);
    }

    /// Reads the disks that the target is to compare; beside the runtime, which serves the guest.
    fn describe(&mut self, call: CallId, arrived: bool) {
        self.board.status.migration = None;
        let mut description = self.job.description(self.vmm_version.clone());
        if arrived && self.passt.is_some() {
            description.obstacles.push(ARRIVED_BEHIND_PASST.to_owned());
        }
        description.obstacles.extend(self.vfs.obstacles());
        let disks = self.job.migrating_disks.clone();
        let queue = self.queue.clone();
        tokio::spawn(async move {
            let described = tokio::task::spawn_blocking(move || description.with_disks(&disks)).await;
            let described = described.map_err(|error| format!("the guest's disks: {error}"));
            let _ = queue.send(Input::Described(call, described)).await;
        });
    }

    /// Everything for the migration is known: whether it can begin.
    pub(super) fn described(
        &mut self,
        call: CallId,
        described: Result<(Description, Vec<TokenFile>), String>,
    ) -> Event {
        let begun = described.and_then(|description| {
            let waiting = self.migrating.calls.get_mut(&call);
            let (order, answers) = waiting
                .and_then(|waiting| Some((waiting.order.take()?, waiting.answers.clone())))
                .ok_or_else(|| "the call has ended".to_owned())?;
            let sink = Sink::with(self.queue.clone(), move |report| {
                Input::Source(Some(call), report)
            });
            let copied = migration::copied_disks(&self.job.migrating_disks);
            let directory = self.job.directory.clone();
            Outgoing::new(order, description, copied, directory, answers, sink)
        });
        Event::Source(match begun {
            Ok(outgoing) => {
                self.migrating.to = outgoing.address();
                self.migrating.outgoing = Some((call, outgoing));
                source::Event::Described
            }
            Err(why) => source::Event::NotDescribed(why),
        })
    }

    /// The migration of this call has ended.
    fn finish(&mut self, call: CallId, ending: &Ending) {
        match self.migrating.outgoing.take() {
            Some((_, mut outgoing)) => {
                outgoing.show(&source::State::Ended(ending.clone()), &self.vfs, &mut self.board);
                self.migrating.calls.remove(&call);
                let finish = outgoing.finish(ending, &mut self.board);
                self.migrating.finishing.spawn(finish);
            }
            None => self.answer(call, ending.why().unwrap_or_default()),
        }
    }

    /// The migration away from here that is under way, and what it is lent.
    fn outgoing(&mut self) -> Option<(CallId, &mut Outgoing, Hands<'_>)> {
        let (call, outgoing) = self.migrating.outgoing.as_mut()?;
        let hands = Hands {
            child: &self.child,
            events: &mut self.events,
            api: &self.api,
            board: &mut self.board,
            vfs: &mut self.vfs,
            passt: self.passt.as_ref(),
        };
        Some((*call, outgoing, hands))
    }

    pub(super) fn reported(&mut self, call: Option<CallId>, report: Report) -> Option<Event> {
        let event = match self.outgoing() {
            // What a migration that has ended had still to report is not the next one's.
            Some((current, outgoing, mut hands)) if call.is_none_or(|call| call == current) => {
                outgoing.report(report, &mut hands)
            }
            _ => {
                if let Report::Hotplug(done) = report {
                    // Of no migration away from here: at the target, or late.
                    let _ = self.vfs.done(done);
                }
                None
            }
        };
        self.vfs.show(&mut self.board);
        event.map(Event::Source)
    }

    pub(super) fn arrived(&mut self, arrival: Arrival, guest: &Guest) -> Option<Event> {
        let waits =
            matches!(guest, Guest::Receiving(receiving) if receiving.target == target::State::Waiting);
        let incoming = self.incoming.as_mut()?;
        incoming.arrived(arrival, waits).map(Event::Target)
    }

    /// What an event of the VMM means; for a guest that migrates and one that does not.
    pub(super) fn vmm_event(&mut self, event: &VmmEvent) -> Vec<Event> {
        tracing::debug!(
            "cloud-hypervisor: {} {}",
            event.source.escape_debug(),
            event.event.escape_debug()
        );
        let (of_a_vf, requests) = self.vfs.vmm(event);
        self.hotplug(requests);
        let mut events = Vec::new();
        match event.event.as_str() {
            "device-removed" if !of_a_vf => self.replug.removed(event, &self.job.config, &self.api),
            "rebooting" if self.job.ends_at_reboot => {
                tracing::info!(
                    event = "ends-at-reboot",
                    "the guest reboots, and ends with that (rebootPolicy)"
                );
                events.push(Event::EndsAtReboot);
            }
            "rebooted" => {
                self.heard.rebooted();
                if let Some(notified) = &self.notified {
                    notified.rebooted();
                }
                self.board.status.facts.arrived = false;
                events.push(Event::Rebooted);
            }
            "panic" if event.source == "guest" => tracing::error!(
                event = "guest-panicked",
                "the guest's kernel says that it has panicked"
            ),
            _ => {}
        }
        if let Some(incoming) = &self.incoming {
            events.extend(incoming.vmm_event(event).map(Event::Target));
        }
        if let Some((_, outgoing, mut hands)) = self.outgoing() {
            events.extend(outgoing.vmm_event(event, &mut hands).map(Event::Source));
        }
        events
    }

    /// How the VMM ended; of one that was sending the guest, how it would have ended otherwise.
    pub(super) async fn exit(&mut self, exit: VmmExit, guest: &Guest) -> VmmExit {
        let VmmExit::Failure(_) = exit else { return exit };
        // What has become of a guest that was given away is about to be known from the target.
        if guest.is_committed() {
            return exit;
        }
        match self.log.guest_end().await {
            Some(GuestEnd::ShutDown) => VmmExit::Success,
            Some(GuestEnd::Reboot) if self.job.ends_at_reboot => VmmExit::Success,
            Some(GuestEnd::Reboot) => VmmExit::Failure(migration::REBOOTED.to_owned()),
            None => exit,
        }
    }

    fn publish(&mut self, guest: &Guest) {
        match (guest, &mut self.incoming) {
            (Guest::Receiving(receiving), Some(incoming)) => {
                incoming.show(&receiving.target, &mut self.board)
            }
            (Guest::Running { .. } | Guest::Paused { .. } | Guest::Stopping { .. }, Some(incoming)) => {
                incoming.show_received(&mut self.board);
            }
            _ => {}
        }
        match guest {
            Guest::Running { .. } => self.board.phase(Phase::Running),
            Guest::Held
            | Guest::Paused {
                vcpus: Vcpus::Paused, ..
            } => self.board.phase(Phase::Paused),
            Guest::Stopping { .. } => self.board.phase(Phase::Stopping),
            Guest::Leaving(leaving) if leaving.is_stopping() => self.board.phase(Phase::Stopping),
            Guest::Booting
            | Guest::Receiving(_)
            | Guest::Paused { .. }
            | Guest::Leaving(_)
            | Guest::Killing(_)
            | Guest::Ended(_) => {}
        }
    }

    /// Where the guest was last to be migrated to.
    pub(super) fn last_target(&self) -> &str {
        &self.migrating.to
    }

    /// Publishes how it ended, and waits until whoever was promised an answer has it.
    pub(super) async fn end(self, outcome: &Outcome) {
        let Self {
            mut board,
            mut migrating,
            incoming,
            end_servers,
            log,
            ..
        } = self;
        drop(end_servers);
        while migrating.finishing.join_next().await.is_some() {}
        if let Some(incoming) = incoming {
            incoming.finish().await;
        }
        log.finish().await;
        board.phase(match outcome {
            Outcome::ShutDown => Phase::ShutDown,
            Outcome::NeverStarted => Phase::NeverStarted,
            Outcome::Killed => Phase::Killed,
            Outcome::Failed(_) => Phase::Failed,
            Outcome::Migrated => Phase::Migrated,
            Outcome::NotReceived(_) => Phase::NotReceived,
            Outcome::LostHere(_) | Outcome::LostAtTarget(_) | Outcome::InDoubt(_) => Phase::HandedOver,
        });
    }
}
