//! The source at work: performs what [`super::source`] decides.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::channel::{self, Address, Security, Stream};
use super::describe::Description;
use super::fence::{signal, stop};
use super::functions::{self, Done, Functions};
use super::link::{Heard, Link};
use super::message::{Message, Prepare, VERSION};
use super::one_time;
use super::relay::{MEETING, SourceRelay};
use super::source::{Action, Ending, Event, State};
use super::watch::watch;
use crate::control::{Answer, Board, Order};
use crate::daemons::passt;
use crate::error::chain;
use crate::lifecycle::Outcome;
use crate::vmm::api::{Api, SendMigration};
use crate::vmm::events::{Events, VmmEvent};
use crate::vmm::{process, threads};

/// For the target to compare, and to have its VMM listen.
const PREPARE: Duration = Duration::from_secs(30);
/// For the guest to let go of its VFs.
const DETACH: Duration = Duration::from_secs(30);
/// Beyond the transfer's own limit, for a VMM that hangs in a dead connection and does not look at it.
const OVERTIME: Duration = Duration::from_secs(30);
/// The longest that a guest stands still for the sake of a migration before it runs here again.
const PAUSE: Duration = Duration::from_secs(20);
/// How long the target is asked what became of the guest. Shorter than the target waits to be asked.
const DOUBT: Duration = Duration::from_secs(60);
const BETWEEN_QUESTIONS: Duration = Duration::from_secs(1);
/// For whoever asked to hear how it ended.
const LAST_ANSWER: Duration = Duration::from_secs(2);
/// For a VMM whose transfer has failed to take orders for the guest again.
const RECOVER: Duration = Duration::from_secs(30);
pub(crate) const REBOOTS: &str =
    "the guest crashed or rebooted while it moved, and cloud-hypervisor cannot start it anew then";
const VCPU_ENDED: &str =
    "a vCPU of the guest's ended while it moved, and cloud-hypervisor does not answer any more";

/// What comes back from tasks.
pub(crate) enum Told {
    Connected(Box<dyn Stream>),
    /// The number tells a channel from the one before.
    Heard(u32, Heard),
    Event(Event),
    /// The VMM has lost a vCPU's thread, and is silent.
    VcpuEnded,
    /// The VMM answers.
    Answered,
    /// Of the supervisor's: a VF was added or asked for.
    Function(Done),
}

/// What the supervisor lends for a moment.
pub(crate) struct Hands<'a> {
    pub(crate) child: &'a mut Option<Child>,
    pub(crate) events: &'a mut Events,
    pub(crate) api: &'a Api,
    pub(crate) board: &'a mut Board,
    pub(crate) functions: &'a mut Functions,
    pub(crate) passts: &'a BTreeMap<String, passt::Handle>,
}

/// A hand-off under way. Dropped, its connections close and its timers end.
pub(crate) struct Outgoing {
    state: State,
    address: Address,
    name: String,
    security: Security,
    order: Order,
    prepare: Prepare,
    vmm_dir: std::path::PathBuf,
    link: Option<Link>,
    channels: u32,
    relay: Option<SourceRelay>,
    times: Times,
    /// The VMM has lent the guest to the transfer.
    lent: bool,
    /// The guest has begun to start anew, and has not yet.
    rebooting: bool,
    /// The VMM has answered since its transfer failed.
    answered: bool,
    watch: Option<AbortHandle>,
    /// Of the guest, before it is lent.
    vcpus: usize,
    tasks: JoinSet<()>,
    answers: mpsc::UnboundedSender<Answer>,
    tell: mpsc::Sender<Told>,
}

/// What cloud-hypervisor would say of a migration itself, had it not been stopped before its end.
#[derive(Debug, Default)]
struct Times {
    began: Option<Instant>,
    paused: Option<Instant>,
    running: Option<Instant>,
}

impl Times {
    fn text(&self) -> String {
        let (Some(began), Some(paused), Some(running)) = (self.began, self.paused, self.running) else {
            return String::new();
        };
        format!(
            "; the transfer took {} ms, in which it stood still for {} ms",
            running.duration_since(began).as_millis(),
            running.duration_since(paused).as_millis()
        )
    }
}

impl Outgoing {
    /// Starts to connect. The error is for whoever asked.
    pub(crate) fn start(
        order: Order,
        description: Description,
        vmm_dir: std::path::PathBuf,
        answers: mpsc::UnboundedSender<Answer>,
        tell: mpsc::Sender<Told>,
    ) -> Result<Self, String> {
        let address: Address = order.to.parse()?;
        if !description.obstacles.is_empty() {
            return Err(format!(
                "this guest cannot migrate: {}",
                description.obstacles.join("; ")
            ));
        }
        let security = match &order.tls_dir {
            Some(directory) => Security::Tls(directory.clone()),
            None => Security::Plain,
        };
        channel::check(&security, false).map_err(|error| chain(&error))?;
        let made = |error: std::io::Error| format!("certificates for this migration: {error}");
        let credentials = match security {
            Security::Tls(_) => Some(one_time::issue(&vmm_dir).map_err(made)?),
            Security::Plain => None,
        };
        let mut this = Self {
            state: State::Preparing,
            name: order.server_name.clone().unwrap_or_else(|| address.host.clone()),
            address,
            security,
            prepare: Prepare {
                version: VERSION,
                id: one_time::fresh_id().map_err(made)?,
                description,
                credentials,
            },
            order,
            vmm_dir,
            link: None,
            channels: 0,
            relay: None,
            times: Times::default(),
            lent: false,
            rebooting: false,
            answered: false,
            watch: None,
            vcpus: 0,
            tasks: JoinSet::new(),
            answers,
            tell,
        };
        this.connect(Duration::ZERO);
        this.later(PREPARE, Event::PrepareOver);
        Ok(this)
    }

    pub(crate) fn is_committed(&self) -> bool {
        self.state.is_committed()
    }

    /// Says where it is, on the board and to whoever asked.
    pub(crate) fn show(&self, board: &mut Board) {
        let why = match &self.state {
            State::Cancelling { why }
            | State::Attaching { why }
            | State::Ended(
                Ending::StaysHere { why }
                | Ending::EndedHere { why }
                | Ending::LostThere { why }
                | Ending::InDoubt { why },
            ) => Some(why.as_str()),
            _ => None,
        };
        board.migration("out", &self.address.to_string(), self.state.name(), why);
        let text = match &self.state {
            State::Preparing => format!("asking {}", self.address),
            State::Detaching => "the target is ready; the guest is asked to let go of its VFs".into(),
            State::Sending => "the target is ready; the guest's memory goes over".into(),
            State::Fencing => "the target holds the guest; stopping it here".into(),
            State::Committed => "the guest is the target's".into(),
            State::Cancelling { why } => why.clone(),
            State::Attaching { .. } => "the guest is given its VFs again".into(),
            State::Ended(_) => return,
        };
        self.progress(self.state.name(), text);
    }

    fn progress(&self, step: &str, text: String) {
        tracing::info!(event = "migration-step", step, "migration: {step}: {text}");
        // Whoever asked may have gone; the guest moves all the same.
        let _ = self.answers.send(Answer::Progress {
            step: step.into(),
            text,
        });
    }

    pub(crate) async fn told(&mut self, told: Told, hands: &mut Hands<'_>) -> Option<Outcome> {
        let event = match told {
            Told::Event(event) => event,
            Told::Function(done) => match hands.functions.done(done)? {
                Event::Attached => self.attached(hands.functions)?,
                event => event,
            },
            Told::Answered => {
                self.answered = true;
                self.attached(hands.functions)?
            }
            // Otherwise it was starting anew, as it may.
            Told::VcpuEnded if self.lent => Event::GuestEnded(VCPU_ENDED.to_owned()),
            Told::VcpuEnded => return None,
            Told::Connected(stream) => {
                self.channels = self.channels.wrapping_add(1);
                let (channel, tell) = (self.channels, self.tell.clone());
                let link = Link::start(stream, move |heard| {
                    let tell = tell.clone();
                    async move { drop(tell.send(Told::Heard(channel, heard)).await) }
                });
                match &self.state {
                    State::Preparing => link.say(Message::Prepare(Box::new(self.prepare.clone()))),
                    State::Committed => link.say(self.commit()),
                    _ => {}
                }
                self.link = Some(link);
                return None;
            }
            // Of a channel that has been given up already.
            Told::Heard(channel, _) if channel != self.channels => return None,
            Told::Heard(_, Heard::Lost(why)) => {
                self.link = None;
                Event::ChannelLost(why)
            }
            Told::Heard(_, Heard::Said(message)) => match message {
                Message::Prepared { takes_connections } => {
                    self.move_connections(takes_connections, hands.passts);
                    Event::Prepared
                }
                Message::Refused { reasons } => {
                    Event::Refused(format!("the target refuses: {}", reasons.join("; ")))
                }
                Message::Holding => Event::Holding,
                Message::Running => {
                    self.times.running = Some(Instant::now());
                    Event::Running
                }
                Message::Lost { why } => Event::Lost(why),
                Message::Gone { why } => Event::Gone(format!("the target gave up: {why}")),
                // Not for a source.
                Message::Prepare(_) | Message::Commit { .. } | Message::Abort { .. } | Message::Alive => {
                    return None;
                }
            },
        };
        self.on(event, hands).await
    }

    /// What cloud-hypervisor says of itself.
    pub(crate) async fn vmm(&mut self, event: &VmmEvent, hands: &mut Hands<'_>) -> Option<Outcome> {
        match event.event.as_str() {
            "migration-started" => {
                self.lent = true;
                if self.rebooting {
                    return self.on(Event::GuestEnded(REBOOTS.to_owned()), hands).await;
                }
                let vmm = process::id(hands.child)?;
                self.watch =
                    Some(
                        self.tasks
                            .spawn(watch(vmm, self.vcpus, hands.api.clone(), self.tell.clone())),
                    );
                None
            }
            // Before the VM is lent, and after that, it starts anew as ever.
            "rebooting" => {
                self.rebooting = true;
                if !self.lent {
                    return None;
                }
                self.on(Event::GuestEnded(REBOOTS.to_owned()), hands).await
            }
            "migration-failed" => {
                self.lent = false;
                let why = "cloud-hypervisor's transfer failed; its log says why".to_owned();
                self.on(Event::TransferFailed(why), hands).await
            }
            "migration-finished" => self.on(Event::TransferFinished, hands).await,
            "device-removed" | "rebooted" => {
                self.rebooting &= event.event != "rebooted";
                if !hands.functions.are_out() {
                    return None;
                }
                self.on(Event::Detached, hands).await
            }
            "paused" => {
                self.times.paused = Some(Instant::now());
                // A guest that stands still does not end.
                self.unwatch();
                let why = format!("the target did not take the guest within {} s", PAUSE.as_secs());
                self.later(PAUSE, Event::Cancel(why));
                self.progress("sending", "the guest is paused, its last memory goes over".into());
                None
            }
            "migration-memory-iteration" => {
                let id = event
                    .properties
                    .as_ref()
                    .and_then(|properties| properties.get("id"));
                if let Some(round) = id.and_then(|id| id.as_str()).and_then(|id| id.parse().ok()) {
                    hands.board.round(round);
                    self.progress("sending", format!("round {round} over the guest's memory"));
                }
                None
            }
            _ => None,
        }
    }

    /// Takes the event to its end, through every action that it leads to.
    pub(crate) async fn on(&mut self, event: Event, hands: &mut Hands<'_>) -> Option<Outcome> {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            let before = self.state.name();
            let (state, actions) = std::mem::replace(&mut self.state, State::Preparing).on(event);
            self.state = state;
            if self.state.name() != before && !self.is_passed_by(hands.functions) {
                self.show(hands.board);
            }
            for action in actions {
                if let Some(event) = self.perform(action, hands).await {
                    next = Some(event);
                }
            }
        }
        self.outcome()
    }

    /// A step in which there is nothing to do for a guest without VFs.
    fn is_passed_by(&self, functions: &Functions) -> bool {
        matches!(self.state, State::Detaching | State::Attaching { .. }) && functions.are_none()
    }

    async fn perform(&mut self, action: Action, hands: &mut Hands<'_>) -> Option<Event> {
        match action {
            Action::Detach => {
                let requests = hands.functions.release();
                if hands.functions.are_out() {
                    return Some(Event::Detached);
                }
                let why = format!(
                    "the guest did not let go of its VFs within {} s, and keeps them: {}",
                    DETACH.as_secs(),
                    hands.functions.names()
                );
                functions::perform(requests, hands.api, &self.tell);
                self.later(DETACH, Event::NotDetached(why));
            }
            Action::Attach => {
                self.recover(hands.api);
                functions::perform(hands.functions.attach(), hands.api, &self.tell);
            }
            Action::Transfer => return self.transfer(hands).await,
            Action::CutTransfer => self.relay = None,
            Action::Fence => return Some(self.fence(hands).await),
            Action::Unfence => {
                hands.board.take_back();
                if let Err(why) = signal(hands.child, Signal::SIGCONT) {
                    tracing::error!(
                        event = "unfence-failed",
                        "cloud-hypervisor stands still and cannot be let go: {why}"
                    );
                }
            }
            Action::Note => {
                tracing::warn!(
                    event = "guest-sent-before-commit",
                    "cloud-hypervisor gave the guest away before it was asked to"
                );
                if let Err(error) = hands.board.hand_over(&self.address.to_string()) {
                    tracing::error!(
                        event = "hand-off-note-failed",
                        "that the guest was given away cannot be noted: {error}"
                    );
                }
            }
            Action::SendCommit => match &self.link {
                Some(link) => link.say(self.commit()),
                None => self.connect(Duration::ZERO),
            },
            Action::SendAbort(why) => {
                if let Some(link) = &self.link {
                    link.say(Message::Abort { why });
                }
            }
            Action::AskAgain => self.connect(BETWEEN_QUESTIONS),
            Action::ArmDoubt => self.later(DOUBT, Event::DoubtOver),
            // The outcome has it done.
            Action::KillVmm => {}
        }
        None
    }

    /// A VMM whose transfer has failed has the guest again if it answers. One whose guest has ended meanwhile does not,
    /// and its process is about to end.
    fn recover(&mut self, api: &Api) {
        self.unwatch();
        let (api, tell) = (api.clone(), self.tell.clone());
        self.tasks.spawn(async move {
            let end = Instant::now() + RECOVER;
            while let Err(error) = api.ping().await {
                if Instant::now() >= end {
                    tracing::error!(
                        event = "vmm-not-answering",
                        "cloud-hypervisor does not answer: {}",
                        chain(&error)
                    );
                    break;
                }
                tokio::time::sleep(BETWEEN_QUESTIONS).await;
            }
            let _ = tell.send(Told::Answered).await;
        });
    }

    fn unwatch(&mut self) {
        if let Some(watch) = self.watch.take() {
            watch.abort();
        }
    }

    /// Before the transfer, at the end of which passt is asked for them.
    fn move_connections(&mut self, along: bool, passts: &BTreeMap<String, passt::Handle>) {
        for passt in passts.values() {
            let passt = passt.clone();
            self.tasks.spawn(async move {
                if along {
                    passt.move_connections(passt::Side::Source).await;
                } else {
                    passt.leave_connections().await;
                }
            });
        }
    }

    fn attached(&self, functions: &Functions) -> Option<Event> {
        (self.answered && functions.are_settled()).then_some(Event::Attached)
    }

    fn commit(&self) -> Message {
        Message::Commit {
            id: self.prepare.id.clone(),
        }
    }

    async fn transfer(&mut self, hands: &mut Hands<'_>) -> Option<Event> {
        let to = self.address.to_string();
        self.times.began = Some(Instant::now());
        self.vcpus = process::id(hands.child).map_or(0, |vmm| threads::vcpus(vmm).unwrap_or(0));
        let started = match SourceRelay::start(self.address.clone(), self.prepare.id.clone()).await {
            Ok(relay) => {
                self.relay = Some(relay);
                hands.board.prepare_hand_over(&to)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = started {
            return Some(Event::TransferFailed(format!(
                "the transfer cannot be prepared: {error}"
            )));
        }
        let how = SendMigration {
            destination_url: format!("tcp:{MEETING}"),
            downtime_ms: self.order.downtime_ms,
            timeout_s: self.order.timeout_s,
            connections: self.order.connections,
            tls_dir: matches!(self.security, Security::Tls(_)).then(|| one_time::directory(&self.vmm_dir)),
        };
        let (api, tell) = (hands.api.clone(), self.tell.clone());
        self.tasks.spawn(async move {
            if let Err(error) = api.send_migration(&how).await {
                let _ = tell.send(Told::Event(Event::TransferFailed(chain(&error)))).await;
            }
        });
        let limit = Duration::from_secs(self.order.timeout_s).saturating_add(OVERTIME);
        self.later(
            limit,
            Event::Cancel(format!("the transfer was not over within {} s", limit.as_secs())),
        );
        None
    }

    /// Stops the VMM, looks whether it had given up before, and notes that the guest is given away.
    async fn fence(&mut self, hands: &mut Hands<'_>) -> Event {
        if let Err(why) = stop(hands.child).await {
            return Event::CannotFence(why);
        }
        // It stands still, so this is all that it has said.
        let said = hands.events.pending();
        let has_said = |what: &[&str]| said.iter().any(|event| what.contains(&event.event.as_str()));
        if has_said(&["migration-finished"]) {
            return Event::TransferFinished;
        }
        if has_said(&["rebooting"]) {
            return Event::GuestEnded(REBOOTS.to_owned());
        }
        let hung_up = self.relay.as_ref().is_none_or(SourceRelay::is_hung_up);
        if hung_up || has_said(&["migration-failed", "resuming"]) {
            return Event::Fenced { failed: true };
        }
        match hands.board.hand_over(&self.address.to_string()) {
            Ok(()) => Event::Fenced { failed: false },
            Err(error) => Event::CannotFence(format!("the hand-over cannot be noted: {error}")),
        }
    }

    fn connect(&mut self, after: Duration) {
        self.link = None;
        // Whatever the last channel still has to say is of no interest.
        self.channels = self.channels.wrapping_add(1);
        let (address, name, security) = (self.address.clone(), self.name.clone(), self.security.clone());
        let tell = self.tell.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep(after).await;
            let told = match channel::connect(&address, &name, &security).await {
                Ok(stream) => Told::Connected(stream),
                Err(error) => Told::Event(Event::ChannelLost(chain(&error))),
            };
            let _ = tell.send(told).await;
        });
    }

    fn later(&mut self, after: Duration, event: Event) {
        let tell = self.tell.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep(after).await;
            let _ = tell.send(Told::Event(event)).await;
        });
    }

    /// What it has come to; the guest staying is none.
    fn outcome(&self) -> Option<Outcome> {
        let to = self.address.to_string();
        match &self.state {
            State::Ended(Ending::Migrated) => Some(Outcome::Migrated(to)),
            State::Ended(Ending::EndedHere { why }) => Some(Outcome::Failed(why.clone())),
            State::Ended(Ending::LostThere { why }) => Some(Outcome::HandedOver(format!(
                "given to {to}, and failed there: {why}"
            ))),
            State::Ended(Ending::InDoubt { why }) => Some(Outcome::HandedOver(format!(
                "given to {to}, where it runs if it runs at all: {why}"
            ))),
            _ => None,
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended(_))
    }

    /// The last words, to the target and to whoever asked.
    pub(crate) async fn finish(self, board: &mut Board) {
        let text = match &self.state {
            State::Ended(Ending::StaysHere { why }) => {
                board.take_back();
                tracing::warn!(
                    event = "migration-failed",
                    "migration: the guest stays here: {why}"
                );
                format!("the guest stays here: {why}")
            }
            State::Ended(Ending::EndedHere { why }) => {
                board.take_back();
                format!("the guest has not moved, and has come to its end here: {why}")
            }
            State::Ended(Ending::Migrated) => {
                let text = format!("the guest runs at {}{}", self.address, self.times.text());
                tracing::info!(event = "migration-completed", "migration: {text}");
                text
            }
            _ => match self.outcome() {
                Some(Outcome::HandedOver(text)) => text,
                _ => "the launcher ended".to_owned(),
            },
        };
        one_time::clear(&self.vmm_dir);
        let _ = self.answers.send(Answer::Ended {
            migrated: matches!(self.state, State::Ended(Ending::Migrated)),
            text,
        });
        if let Some(link) = self.link {
            link.finish().await;
        }
        // This process may be about to end.
        let _ = tokio::time::timeout(LAST_ANSWER, self.answers.closed()).await;
    }
}
