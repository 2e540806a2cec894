//! The source at work: performs what [`super::source`] decides. [`observe`] turns what its tasks and cloud-hypervisor report
//! into that machine's events.

mod end;
mod observe;
mod own_disks;
mod rounds;
mod times;
mod transfer;

pub(crate) use end::{in_doubt, lost_there};
pub(crate) use observe::REBOOTED;
use own_disks::OwnDisks;
use rounds::Rounds;
use times::Times;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::channel::{self, Address};
use super::describe::{Description, VERSION};
use super::disk_copy::CopiedDisk;
use super::fence::signal;
use super::fresh_id::fresh_id;
use super::link::Link;
use super::message::{Message, Prepare};
use super::relay::SourceRelay;
use super::report::Report;
use super::shared::TokenFile;
use super::source::{Action, Event, State};
use super::tls::{Security, check};
use super::vf_hotplug::{self, VfHotplug};
use super::{said, session_certs};
use crate::control::{Answer, Board, Order};
use crate::daemons::passt;
use crate::error::chain;
use crate::queue::Sink;
use crate::status::{Direction, Step};
use crate::vmm::api::Api;
use crate::vmm::events::Events;

/// For the target to compare, and to have its VMM listen.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(30);
/// For the guest to release its VFs.
const DETACH_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the target is asked what became of the guest. Shorter than the target waits to be asked.
const DOUBT_TIMEOUT: Duration = Duration::from_secs(60);
const RECONNECT_INTERVAL: Duration = Duration::from_secs(1);
/// For a VMM whose transfer has failed to take orders for the guest again.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(30);

/// What the supervisor lends for the time of a call.
pub(crate) struct Hands<'a> {
    pub(crate) child: &'a Option<Child>,
    pub(crate) events: &'a mut Events,
    pub(crate) api: &'a Api,
    pub(crate) board: &'a mut Board,
    pub(crate) vfs: &'a mut VfHotplug,
    pub(crate) passt: Option<&'a passt::Handle>,
}

/// A migration away from here that is under way. Dropped, its connections close and its timers end.
#[derive(Debug)]
pub(crate) struct Outgoing {
    address: Address,
    /// That the target's certificate has to have.
    server_name: String,
    security: Security,
    order: Order,
    prepare: Prepare,
    /// Until the target has looked at them.
    tokens: Vec<TokenFile>,
    vmm_dir: PathBuf,
    link: Option<Link>,
    channels: u32,
    relay: Option<SourceRelay>,
    own_disks: OwnDisks,
    /// Once the transfer has begun.
    rounds: Option<Rounds>,
    times: Times,
    /// The step that was last reported.
    shown: Option<Step>,
    /// The VMM has lent the guest to the transfer.
    lent: bool,
    /// The guest has begun to reboot, and has not yet.
    rebooting: bool,
    /// The VMM has answered since its transfer failed.
    answered: bool,
    watchdog: Option<AbortHandle>,
    /// Of the guest, before it is lent.
    vcpus: usize,
    tasks: JoinSet<()>,
    progress: mpsc::UnboundedSender<Answer>,
    sink: Sink<Report>,
}

impl Outgoing {
    /// Everything for a migration, before anything is done. The error is for the caller.
    pub(crate) fn new(
        order: Order,
        (description, tokens): (Description, Vec<TokenFile>),
        copied: Vec<CopiedDisk>,
        vmm_dir: PathBuf,
        progress: mpsc::UnboundedSender<Answer>,
        sink: Sink<Report>,
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
        check(&security, false).map_err(|error| chain(&error))?;
        let made = |error: std::io::Error| format!("certificates for this migration: {error}");
        let credentials = match security {
            Security::Tls(_) => Some(session_certs::issue(&vmm_dir).map_err(made)?),
            Security::Plain => None,
        };
        Ok(Self {
            server_name: order.server_name.clone().unwrap_or_else(|| address.host.clone()),
            address,
            security,
            prepare: Prepare {
                version: VERSION,
                id: fresh_id().map_err(made)?,
                description,
                credentials,
            },
            tokens,
            order,
            vmm_dir,
            link: None,
            channels: 0,
            relay: None,
            own_disks: OwnDisks::new(copied),
            rounds: None,
            times: Times::default(),
            shown: None,
            lent: false,
            rebooting: false,
            answered: false,
            watchdog: None,
            vcpus: 0,
            tasks: JoinSet::new(),
            progress,
            sink,
        })
    }

    /// Reports a new state, on the board and to the caller.
    pub(crate) fn show(&mut self, state: &State, vfs: &VfHotplug, board: &mut Board) {
        let step = state.step();
        // A step in which there is nothing to do for a guest without VFs, or without disks of the pod's own.
        let passed_by = match state {
            State::Detaching | State::Attaching { .. } => vfs.is_empty(),
            State::Copying => self.own_disks.disks.is_empty(),
            _ => false,
        };
        if passed_by || self.shown == Some(step) {
            return;
        }
        self.shown = Some(step);
        let why = match state {
            State::Cancelling { why } | State::Attaching { why } => Some(why.as_str()),
            State::Ended(ending) => ending.why(),
            _ => None,
        };
        board.migration(Direction::Out, &self.address.to_string(), step, why);
        let text = match state {
            State::Describing | State::Ended(_) => return,
            State::Preparing => format!("asking {}", self.address),
            State::Copying => "the target is ready; the guest's disks are being copied".into(),
            State::Detaching => "the target is ready; the guest is asked to release its VFs".into(),
            State::Sending => "the target is ready; the guest's memory is being copied".into(),
            State::Fencing => "the target holds the guest; stopping it here".into(),
            State::Committed { .. } => "the guest is committed to the target".into(),
            State::Cancelling { why } => why.clone(),
            State::Attaching { .. } => "the guest gets its VFs back".into(),
        };
        self.progress(step.name(), text);
    }

    fn progress(&self, step: &str, text: String) {
        tracing::info!(event = "migration-step", step, "migration: {step}: {text}");
        // The caller may have gone; the migration goes on.
        let _ = self.progress.send(Answer::Progress {
            step: step.into(),
            text,
        });
    }

    /// Performs an action. It may lead to an event at once.
    pub(crate) async fn perform(&mut self, action: Action, hands: &mut Hands<'_>) -> Option<Event> {
        match action {
            Action::Connect => {
                self.connect(Duration::ZERO);
                self.later(PREPARE_TIMEOUT, Event::PrepareOver);
            }
            Action::SendPrepare => self.send(Message::Prepare(Box::new(self.prepare.clone()))),
            Action::CopyDisks => {
                // The target has answered.
                self.tokens.clear();
                return self.copy_disks();
            }
            Action::Detach => {
                let requests = hands.vfs.release();
                if hands.vfs.are_out() {
                    return Some(Event::Detached);
                }
                let why = format!(
                    "the guest did not release its VFs within {} s, and keeps them: {}",
                    DETACH_TIMEOUT.as_secs(),
                    hands.vfs.pending()
                );
                self.perform_hotplug(requests, hands.api);
                self.later(DETACH_TIMEOUT, Event::NotDetached(why));
            }
            Action::Attach => {
                self.recover(hands.api);
                self.perform_hotplug(hands.vfs.attach(), hands.api);
            }
            Action::Transfer => return self.transfer(hands).await,
            Action::CutTransfer => {
                self.release_vcpus();
                self.relay = None;
            }
            Action::Fence => return Some(self.fence(hands).await),
            Action::Unfence => {
                hands.board.take_back();
                if let Err(why) = signal(hands.child, Signal::SIGCONT) {
                    tracing::error!(
                        event = "unfence-failed",
                        "cloud-hypervisor is stopped and cannot be continued: {why}"
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
                        "cannot write to the state directory that the guest was given away: {error}"
                    );
                }
            }
            Action::SendCommit => match &self.link {
                Some(_) => self.send(self.commit()),
                None => self.connect(Duration::ZERO),
            },
            Action::SendAbort(why) => {
                self.own_disks.end();
                self.send(Message::Abort { why });
            }
            Action::AskAgain => self.connect(RECONNECT_INTERVAL),
            Action::ArmDoubt => self.later(DOUBT_TIMEOUT, Event::DoubtOver),
        }
        None
    }

    /// Without a channel there is nobody to hear it; its loss is an event of its own.
    fn send(&self, message: Message) {
        if let Some(link) = &self.link {
            link.send(message);
        }
    }

    fn commit(&self) -> Message {
        Message::Commit {
            id: self.prepare.id.clone(),
        }
    }

    fn perform_hotplug(&mut self, requests: Vec<vf_hotplug::Request>, api: &Api) {
        vf_hotplug::perform(requests, api, &self.sink.of());
    }

    /// A VMM whose transfer has failed has the guest again if it answers. One whose guest has ended meanwhile does not,
    /// and its process is about to end.
    fn recover(&mut self, api: &Api) {
        self.stop_watchdog();
        let (api, sink) = (api.clone(), self.sink.clone());
        self.tasks.spawn(async move {
            let end = Instant::now() + RECOVERY_TIMEOUT;
            while let Err(error) = api.ping().await {
                if Instant::now() >= end {
                    tracing::error!(
                        event = "vmm-not-answering",
                        "cloud-hypervisor does not answer: {}",
                        chain(&error)
                    );
                    break;
                }
                tokio::time::sleep(RECONNECT_INTERVAL).await;
            }
            sink.send(Report::Answered).await;
        });
    }

    fn stop_watchdog(&mut self) {
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.abort();
        }
    }

    fn connect(&mut self, after: Duration) {
        self.link = None;
        // Whatever the last channel still brings is of no interest.
        self.channels = self.channels.wrapping_add(1);
        let (address, name, security) = (
            self.address.clone(),
            self.server_name.clone(),
            self.security.clone(),
        );
        let sink = self.sink.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep(after).await;
            let report = match channel::connect(&address, &name, &security).await {
                Ok(stream) => Report::Connected(stream),
                Err(error) => Report::Event(Event::ChannelLost(said::text(&chain(&error)))),
            };
            sink.send(report).await;
        });
    }

    fn later(&mut self, after: Duration, event: Event) {
        let sink = self.sink.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep(after).await;
            sink.send(Report::Event(event)).await;
        });
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }
}
