//! The supervisor's state while it drives: what happened becomes an event of the guest's life, or first one of a live
//! migration's, whose end then is.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tokio::process::Child;
use tokio::sync::{mpsc, watch};

use super::serve::serve_guest;
use super::{Job, Message, PRESS_INTERVAL, later, press, put_back, take_out_after_migration};
use crate::control::{Answer, Board, Call, Order, Request};
use crate::daemons::passt;
use crate::lifecycle::{Action, Event, Outcome, State};
use crate::migration::{
    self, Arrival, End, FunctionRequest, Functions, Hands, Incoming, Outgoing, SourceEvent, TargetEvent, Told,
};
use crate::nic::Server;
use crate::vmm::api::Api;
use crate::vmm::events::{Events, VmmEvent};
use crate::vmm::log::{GuestEnd, Log};

/// A NIC that cloud-hypervisor has restored does not know any more that its backend can log what it writes
/// (`VHOST_F_LOG_ALL` is not among the features that the guest has taken, which is all that it keeps).
const AGAIN: &str = "cloud-hypervisor moves a guest behind passt once, and this one has come from elsewhere: it can go on once \
                     it has been rebooted";

pub(super) struct Drive {
    pub(super) child: Option<Child>,
    pub(super) api: Api,
    pub(super) events: Events,
    pub(super) log: Log,
    pub(super) state: State,
    pub(super) board: Board,
    pub(super) outgoing: Option<Outgoing>,
    pub(super) incoming: Option<Incoming>,
    pub(super) functions: Functions,
    pub(super) servers: Vec<Server>,
    pub(super) end_servers: watch::Sender<()>,
    pub(super) vmm_version: String,
    /// By the NIC's name.
    pub(super) passts: BTreeMap<String, passt::Handle>,
    /// The guest came from elsewhere, and has not started anew since.
    pub(super) restored: bool,
    /// NICs that go back in when they are out.
    pub(super) plug_again: BTreeSet<String>,
    /// How the VMM ended, while what that means is not known yet.
    pub(super) exited: Option<Option<String>>,
    pub(super) job: Job,
    pub(super) send: mpsc::Sender<Message>,
    pub(super) tell: mpsc::Sender<Told>,
}

impl Drive {
    /// Takes an event of the guest's life to its end.
    pub(super) fn apply(&mut self, event: Event) {
        let leaves = matches!(event, Event::Leave(_));
        let (state, actions) = std::mem::replace(&mut self.state, State::Starting).on(event);
        self.state = state;
        for action in actions {
            match action {
                Action::PressPowerButton => {
                    tracing::info!(
                        event = "power-button-pressed",
                        "pressing the guest's power button"
                    );
                    tokio::spawn(press(self.api.clone(), self.send.clone()));
                }
                Action::ArmPress => later(PRESS_INTERVAL, Event::PressDue, &self.send),
                Action::ArmGrace => later(self.job.grace, Event::GraceOver, &self.send),
                Action::KillVmm => {
                    if let Some(child) = &mut self.child {
                        // It may be gone already; its exit is then on its way to us.
                        let _ = child.start_kill();
                    }
                }
            }
        }
        // It had ended before it was known what for.
        if leaves && let Some(how) = self.exited.take() {
            self.apply(Event::VmmExited(how));
        }
        match &self.state {
            State::Running => self.board.state("running"),
            State::Stopping { .. } => self.board.state("stopping"),
            State::Starting | State::Killing(_) | State::Ended(_) => {}
        }
    }

    /// `arrived`: the guest has come from another pod.
    pub(super) fn serve(&mut self, arrived: bool) {
        for server in self.servers.drain(..) {
            tokio::spawn(serve_guest(server, arrived, self.end_servers.subscribe()));
        }
    }

    /// Somebody wants the guest to end.
    pub(super) async fn stop(&mut self) {
        if let Some(incoming) = self.incoming.as_mut().filter(|incoming| incoming.is_open()) {
            let end = incoming.on(TargetEvent::Stop, None, &self.api);
            return self.received(end).await;
        }
        match &self.outgoing {
            // It is not ours to end any more.
            Some(outgoing) if outgoing.is_committed() => return,
            Some(_) => {
                let why = "the guest is to shut down".to_owned();
                self.migrate(SourceEvent::Cancel(why)).await;
            }
            None => {}
        }
        self.apply(Event::Stop);
    }

    pub(super) async fn vmm_exited(&mut self, how: Option<String>) {
        if let Some(incoming) = self.incoming.as_mut().filter(|incoming| incoming.is_open()) {
            let why = how.clone().unwrap_or_else(|| "cloud-hypervisor ended".into());
            self.exited = Some(how);
            let end = incoming.on(TargetEvent::VmmFailed(why), None, &self.api);
            return self.received(end).await;
        }
        match &self.outgoing {
            // The guest is not in it any more. What has become of it is about to be known.
            Some(outgoing) if outgoing.is_committed() => self.exited = Some(how),
            _ => {
                let how = self.as_ever(how).await;
                let why = how.clone().unwrap_or_else(|| "the guest has shut down".into());
                self.apply(Event::VmmExited(how));
                self.migrate(SourceEvent::GuestEnded(why)).await;
            }
        }
    }

    /// How the VMM would have ended had it not been sending the guest.
    async fn as_ever(&mut self, how: Option<String>) -> Option<String> {
        let how = how?;
        match self.log.guest_end().await {
            Some(GuestEnd::ShutDown) => None,
            Some(GuestEnd::Reboot) => Some(migration::REBOOTS.to_owned()),
            None => Some(how),
        }
    }

    pub(super) async fn vmm_said(&mut self, event: &VmmEvent) {
        tracing::debug!(
            "cloud-hypervisor: {} {}",
            event.source.escape_debug(),
            event.event.escape_debug()
        );
        let (known, requests) = self.functions.vmm(event);
        self.ask(requests);
        match event.event.as_str() {
            "device-removed" if !known => self.device_removed(event),
            "rebooted" => self.restored = false,
            _ => {}
        }
        if let Some(incoming) = &mut self.incoming {
            let end = incoming.vmm(event, &self.api);
            self.received(end).await;
        }
        if let Some(outgoing) = &mut self.outgoing {
            let mut hands = Hands {
                child: &mut self.child,
                events: &mut self.events,
                api: &self.api,
                board: &mut self.board,
                functions: &mut self.functions,
                passts: &self.passts,
            };
            let outcome = outgoing.vmm(event, &mut hands).await;
            self.migrated(outcome).await;
        }
    }

    pub(super) async fn called(&mut self, Call { request, answers }: Call) {
        let refuse = |text: &str| {
            let _ = answers.send(Answer::Ended {
                migrated: false,
                text: text.to_owned(),
            });
        };
        match request {
            Request::Status => {
                let _ = answers.send(Answer::Status(Box::new(self.board.status.clone())));
            }
            Request::Cancel if self.outgoing.is_none() => refuse("no migration is under way"),
            Request::Cancel => {
                self.migrate(SourceEvent::Cancel("cancelled".into())).await;
                refuse(
                    "the migration is cancelled, unless the guest was the target's already: see hawser status",
                );
            }
            Request::Migrate(_) if self.outgoing.is_some() => refuse("a migration is under way already"),
            Request::Migrate(_) if self.state != State::Running => refuse("the guest is not running"),
            Request::Migrate(order) => self.begin(order, answers),
        }
    }

    fn begin(&mut self, order: Order, answers: mpsc::UnboundedSender<Answer>) {
        let mut description = self.job.description(self.vmm_version.clone());
        if self.restored && !self.passts.is_empty() {
            description.obstacles.push(AGAIN.to_owned());
        }
        description.obstacles.extend(self.functions.obstacles());
        let directory = self.job.directory.clone();
        match Outgoing::start(order, description, directory, answers.clone(), self.tell.clone()) {
            Ok(outgoing) => {
                self.board.status.migration = None;
                outgoing.show(&mut self.board);
                self.outgoing = Some(outgoing);
            }
            Err(text) => {
                let _ = answers.send(Answer::Ended {
                    migrated: false,
                    text,
                });
            }
        }
    }

    async fn migrate(&mut self, event: SourceEvent) {
        self.told(Told::Event(event)).await;
    }

    pub(super) async fn told(&mut self, told: Told) {
        let Some(outgoing) = &mut self.outgoing else {
            if let Told::Function(done) = told {
                // Of no hand-off: at the target, or late.
                let _ = self.functions.done(done);
                self.functions.show(&mut self.board);
            }
            return;
        };
        let mut hands = Hands {
            child: &mut self.child,
            events: &mut self.events,
            api: &self.api,
            board: &mut self.board,
            functions: &mut self.functions,
            passts: &self.passts,
        };
        let outcome = outgoing.told(told, &mut hands).await;
        self.functions.show(&mut self.board);
        self.migrated(outcome).await;
    }

    /// Has the VMM give or take VFs.
    fn ask(&mut self, requests: Vec<FunctionRequest>) {
        migration::perform(requests, &self.api, &self.tell);
        self.functions.show(&mut self.board);
    }

    /// After each event of a hand-off of ours.
    async fn migrated(&mut self, outcome: Option<Outcome>) {
        if let Some(outgoing) = self.outgoing.take_if(|outgoing| outgoing.has_ended()) {
            match outcome {
                Some(outcome) => self.apply(Event::Leave(outcome)),
                None => self.take_up_again(),
            }
            outgoing.finish(&mut self.board).await;
        }
    }

    /// The guest stays. cloud-hypervisor ends the connection of a vhost-user NIC when it takes the last of the guest's
    /// state, and does not connect again: the NIC would be dead from then on.
    fn take_up_again(&mut self) {
        for passt in self.passts.values() {
            let passt = passt.clone();
            tokio::spawn(async move { passt.leave_connections().await });
        }
        let let_go = self.passts.iter().filter(|(_, passt)| passt.is_let_go());
        for (nic, _) in let_go {
            tracing::warn!(
                event = "nic-replug-started",
                nic = %nic,
                "{nic}: cloud-hypervisor had let go of the NIC for the migration: it is taken out of the guest and put back"
            );
            self.plug_again.insert(nic.clone());
            tokio::spawn(take_out_after_migration(self.api.clone(), nic.clone()));
        }
    }

    fn device_removed(&mut self, event: &VmmEvent) {
        let id = event
            .properties
            .as_ref()
            .and_then(|properties| properties.get("id"));
        let id = id.and_then(Value::as_str).unwrap_or_default();
        if !self.plug_again.remove(id) {
            tracing::warn!(
                event = "device-unplugged",
                device = %id,
                "a device that did not work any more has left the guest"
            );
            return;
        }
        let config = serde_json::to_value(&self.job.config).unwrap_or_default();
        let nics = config.get("net").and_then(Value::as_array);
        let is_it = |nic: &&Value| nic.get("id").and_then(Value::as_str) == Some(id);
        if let Some(nic) = nics.and_then(|nics| nics.iter().find(is_it)) {
            tokio::spawn(put_back(self.api.clone(), nic.clone()));
        }
    }

    pub(super) async fn arrived(&mut self, arrival: Arrival) {
        if let Some(incoming) = &mut self.incoming {
            let end = incoming.arrived(arrival, &self.api);
            self.received(end).await;
        }
    }

    /// After each event of a hand-off to us.
    async fn received(&mut self, end: Option<End>) {
        // Other tasks carry what has been said and let go. They are first: the guest or the source may wait for it.
        tokio::task::yield_now().await;
        if let Some(incoming) = &mut self.incoming {
            incoming.show(&mut self.board);
        }
        match end {
            Some(End::Runs { stop }) => {
                tracing::info!(event = "guest-running", "the guest is running");
                self.restored = true;
                if let Some(incoming) = &self.incoming {
                    incoming.forget();
                }
                self.keep_addresses();
                self.serve(true);
                self.apply(Event::Booted);
                let requests = self.functions.attach();
                self.ask(requests);
                if stop {
                    self.apply(Event::Stop);
                }
            }
            Some(End::Leave(outcome)) => self.apply(Event::Leave(outcome)),
            None => {}
        }
    }

    /// The guest has the addresses that passt told it where it was, and takes them along when it goes on.
    fn keep_addresses(&mut self) {
        let theirs = self.incoming.as_ref().map_or(&[][..], Incoming::nics);
        let by_passt = theirs.iter().filter(|nic| nic.passt.is_some());
        for theirs in by_passt {
            if let Some(ours) = self.job.nics.iter_mut().find(|nic| nic.name == theirs.name) {
                ours.addresses.clone_from(&theirs.addresses);
                ours.passt.clone_from(&theirs.passt);
            }
        }
        self.board.status.nics.clone_from(&self.job.nics);
    }

    /// The last words; and how it ended.
    pub(super) async fn end(self) -> State {
        let Self {
            state,
            mut board,
            outgoing,
            incoming,
            end_servers,
            log,
            ..
        } = self;
        drop(end_servers);
        if let Some(outgoing) = outgoing {
            outgoing.finish(&mut board).await;
        }
        if let Some(incoming) = incoming {
            incoming.finish().await;
        }
        log.finish().await;
        if let State::Ended(outcome) = &state {
            board.state(match outcome {
                Outcome::ShutDown => "shut-down",
                Outcome::NeverStarted => "never-started",
                Outcome::Killed => "killed",
                Outcome::Failed(_) => "failed",
                Outcome::Migrated(_) => "migrated",
                Outcome::NotReceived(_) => "not-received",
                Outcome::HandedOver(_) => "handed-over",
            });
        }
        state
    }
}
