//! The target at work: performs what [`super::target`] decides.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Pid;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::channel::{self, Security};
use super::describe::{Description, NicDescription, notes, reasons, same_pod_addresses};
use super::link::{Heard, Link};
use super::message::{Message, Prepare};
use super::one_time;
use super::relay::{MEETING, TargetRelay};
use super::target::{Action, Ending, Event, State};
use crate::control::Board;
use crate::daemons::passt;
use crate::error::chain;
use crate::lifecycle::Outcome;
use crate::vmm::api::{Api, ReceiveMigration};
use crate::vmm::events::VmmEvent;

/// How long the guest is held for a source that has gone silent. Longer than the source asks.
const HOLD: Duration = Duration::from_secs(90);
/// Connections that have not said yet who they are.
const STRANGERS: usize = 16;

/// What a target listens at, and with which certificates.
#[derive(Debug, Clone)]
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    pub(crate) security: Security,
}

/// What comes back from tasks.
pub(crate) enum Arrival {
    Connection(channel::Incoming),
    Heard(u32, Heard),
    Event(Event),
}

/// A target, from before anybody comes until well after the guest is here.
pub(crate) struct Incoming {
    state: State,
    listener: Listener,
    own: Description,
    vmm_dir: PathBuf,
    links: BTreeMap<u32, Link>,
    channels: u32,
    /// The source's channel, and the hand-off's name.
    peer: Option<u32>,
    id: Option<String>,
    credentials: bool,
    relay: Option<TargetRelay>,
    /// By the NIC's name.
    passts: BTreeMap<String, passt::Handle>,
    /// The NICs as the guest has them, which are to be the same here.
    nics: Vec<NicDescription>,
    /// Those behind passt whose open connections come along.
    connected: Vec<String>,
    vmm: Option<Pid>,
    /// The state's name that was last shown.
    shown: &'static str,
    tasks: JoinSet<()>,
    tell: mpsc::Sender<Arrival>,
}

impl Incoming {
    /// Listens. Connections wait until [`Self::open`].
    pub(crate) async fn bind(
        listener: Listener,
        own: Description,
        passts: BTreeMap<String, passt::Handle>,
        vmm_dir: PathBuf,
        tell: mpsc::Sender<Arrival>,
    ) -> std::io::Result<(Self, TcpListener)> {
        let socket = TcpListener::bind(listener.address).await?;
        let this = Self {
            state: State::Waiting,
            listener,
            own,
            vmm_dir,
            links: BTreeMap::new(),
            channels: 0,
            peer: None,
            id: None,
            credentials: false,
            relay: None,
            passts,
            nics: Vec::new(),
            connected: Vec::new(),
            vmm: None,
            shown: State::Waiting.name(),
            tasks: JoinSet::new(),
            tell,
        };
        Ok((this, socket))
    }

    /// The pod is wired and the VMM is there: whoever comes is let in.
    pub(crate) fn open(&mut self, socket: TcpListener, vmm: Option<Pid>, vmm_version: &str) {
        self.vmm = vmm;
        self.own.vmm_version = vmm_version.to_owned();
        tracing::info!(
            event = "waiting-for-guest",
            address = %format_args!("tcp:{}", self.listener.address),
            "waiting for a guest at tcp:{}",
            self.listener.address
        );
        let (security, tell) = (self.listener.security.clone(), self.tell.clone());
        self.tasks.spawn(async move {
            let strangers = Arc::new(Semaphore::new(STRANGERS));
            let mut greeting = JoinSet::new();
            while let Ok((stream, from)) = socket.accept().await {
                while greeting.try_join_next().is_some() {}
                let Ok(permit) = Arc::clone(&strangers).try_acquire_owned() else {
                    continue;
                };
                let (security, tell) = (security.clone(), tell.clone());
                greeting.spawn(async move {
                    match channel::accept(stream, &security).await {
                        Ok(incoming) => drop(tell.send(Arrival::Connection(incoming)).await),
                        Err(error) => tracing::warn!(
                            event = "migration-connection-rejected",
                            address = %from,
                            "migration: {from} was not let in: {}",
                            chain(&error)
                        ),
                    }
                    drop(permit);
                });
            }
        });
    }

    /// Says where it is, if that is news. After each event, and not before what the event has led to is under way: the guest
    /// may be standing still for it.
    pub(crate) fn show(&mut self, board: &mut Board) {
        if self.state.name() == self.shown {
            return;
        }
        self.shown = self.state.name();
        let why = match &self.state {
            State::Ended(Ending::Gone { why } | Ending::Lost { why }) => Some(why.as_str()),
            _ => None,
        };
        let address = format!("tcp:{}", self.listener.address);
        board.migration("in", &address, self.state.name(), why);
        tracing::info!(
            event = "migration-step",
            step = self.state.name(),
            "migration: {}",
            self.state.name()
        );
    }

    pub(crate) fn arrived(&mut self, arrival: Arrival, api: &Api) -> Option<End> {
        match arrival {
            Arrival::Event(event) => self.on(event, None, api),
            Arrival::Connection(channel::Incoming::Control(stream)) => {
                self.channels = self.channels.wrapping_add(1);
                let (channel, tell) = (self.channels, self.tell.clone());
                let link = Link::start(stream, move |heard| {
                    let tell = tell.clone();
                    async move { drop(tell.send(Arrival::Heard(channel, heard)).await) }
                });
                self.links.insert(channel, link);
                None
            }
            Arrival::Connection(channel::Incoming::Memory { id, stream }) => {
                match &mut self.relay {
                    Some(relay) if self.id.as_ref() == Some(&id) => relay.add(stream),
                    _ => tracing::warn!(
                        event = "memory-connection-rejected",
                        "migration: a connection for the memory of no hand-off was closed"
                    ),
                }
                None
            }
            Arrival::Heard(channel, Heard::Lost(why)) => {
                self.links.remove(&channel);
                if self.peer != Some(channel) {
                    return None;
                }
                self.peer = None;
                self.on(Event::ChannelLost(why), None, api)
            }
            Arrival::Heard(channel, Heard::Said(message)) => self.said(channel, message, api),
        }
    }

    fn said(&mut self, channel: u32, message: Message, api: &Api) -> Option<End> {
        match message {
            Message::Prepare(prepare) => {
                let reasons = self.judge(&prepare);
                if reasons.is_empty() && self.state == State::Waiting {
                    self.peer = Some(channel);
                    self.id = Some(prepare.id.clone());
                    self.nics.clone_from(&prepare.description.nics);
                    self.connected = self.take_connections(&self.nics);
                    self.credentials = prepare.credentials.is_some();
                    for note in notes(&prepare.description, &self.own) {
                        tracing::warn!(event = "migration-note", "migration: {note}");
                    }
                }
                self.on(Event::Prepare { reasons }, Some(channel), api)
            }
            // Whoever knows the name is the source, over whatever channel.
            Message::Commit { id } if self.id.as_ref() == Some(&id) => {
                self.peer = Some(channel);
                self.on(Event::Commit, None, api)
            }
            Message::Abort { why } if self.peer == Some(channel) => {
                self.on(Event::Abort(format!("the source gave up: {why}")), None, api)
            }
            _ => None,
        }
    }

    fn judge(&self, prepare: &Prepare) -> Vec<String> {
        let mut all = reasons(prepare.version, &prepare.description, &self.own);
        match (&self.listener.security, &prepare.credentials) {
            (Security::Tls(_), Some(credentials)) if all.is_empty() && self.state == State::Waiting => {
                if let Err(error) = one_time::accept(&self.vmm_dir, credentials) {
                    all.push(format!(
                        "the target cannot keep this migration's certificates: {error}"
                    ));
                }
            }
            (Security::Tls(_), None) => all.push("the source wants plain TCP, the target TLS".into()),
            (Security::Plain, Some(_)) => all.push("the source wants TLS, the target plain TCP".into()),
            _ => {}
        }
        all
    }

    /// Of these NICs at the source, those whose connections can go on here.
    fn take_connections(&self, theirs: &[NicDescription]) -> Vec<String> {
        let here = |nic: &&NicDescription| {
            let takes = self
                .passts
                .get(&nic.name)
                .is_some_and(passt::Handle::keeps_connections);
            let ours = self.own.nics.iter().find(|ours| ours.name == nic.name);
            takes && ours.is_some_and(|ours| same_pod_addresses(nic, ours))
        };
        theirs.iter().filter(here).map(|nic| nic.name.clone()).collect()
    }

    /// What cloud-hypervisor says of itself.
    pub(crate) fn vmm(&mut self, event: &VmmEvent, api: &Api) -> Option<End> {
        let event = match event.event.as_str() {
            "migration-receive-ready" => Event::Listening,
            "migration-receive-finished" => Event::Resumed,
            "migration-receive-failed" => Event::VmmFailed("cloud-hypervisor's transfer failed".into()),
            _ => return None,
        };
        self.on(event, None, api)
    }

    /// `from`: the channel that an answer goes to if it is not the source's.
    pub(crate) fn on(&mut self, event: Event, from: Option<u32>, api: &Api) -> Option<End> {
        let had_ended = matches!(self.state, State::Ended(_));
        let (state, actions) = std::mem::replace(&mut self.state, State::Waiting).on(event);
        self.state = state;
        for action in actions {
            self.perform(action, from, api);
        }
        if had_ended {
            return None;
        }
        match &self.state {
            State::Ended(Ending::Runs { stop }) => Some(End::Runs { stop: *stop }),
            State::Ended(Ending::Gone { why }) => Some(End::Leave(Outcome::NotReceived(why.clone()))),
            State::Ended(Ending::Stopped) => Some(End::Leave(Outcome::NeverStarted)),
            State::Ended(Ending::Lost { why }) => Some(End::Leave(Outcome::HandedOver(format!(
                "given to this launcher, and failed: {why}"
            )))),
            _ => None,
        }
    }

    fn perform(&mut self, action: Action, from: Option<u32>, api: &Api) {
        match action {
            Action::Refuse(reasons) => {
                for reason in &reasons {
                    tracing::warn!(event = "migration-refused", "migration: refused: {reason}");
                }
                if let Some(link) = from.and_then(|from| self.links.get(&from)) {
                    link.say(Message::Refused { reasons });
                }
            }
            Action::Receive => self.receive(api),
            Action::SayPrepared => self.say(Message::Prepared {
                takes_connections: !self.connected.is_empty(),
            }),
            Action::SayHolding => self.say(Message::Holding),
            Action::ArmHold => {
                let tell = self.tell.clone();
                self.tasks.spawn(async move {
                    tokio::time::sleep(HOLD).await;
                    let _ = tell.send(Arrival::Event(Event::HoldOver)).await;
                });
            }
            Action::Release => {
                if let Some(relay) = &self.relay {
                    relay.release();
                }
            }
            Action::SayRunning => self.say(Message::Running),
            Action::SayLost(why) => self.say(Message::Lost { why }),
            Action::SayGone(why) => {
                self.relay = None;
                self.say(Message::Gone { why });
            }
            // The end has it done.
            Action::KillVmm => {}
        }
    }

    fn say(&self, message: Message) {
        if let Some(link) = self.peer.and_then(|peer| self.links.get(&peer)) {
            link.say(message);
        }
    }

    fn receive(&mut self, api: &Api) {
        // One that has ended is heard of by other ways.
        let Some(vmm) = self.vmm else { return };
        let (holding, mut held) = mpsc::channel(1);
        self.relay = Some(TargetRelay::new(vmm, holding));
        let tell = self.tell.clone();
        self.tasks.spawn(async move {
            while let Some(()) = held.recv().await {
                let _ = tell.send(Arrival::Event(Event::Restored)).await;
            }
        });
        let how = ReceiveMigration {
            receiver_url: format!("tcp:{MEETING}"),
            tls_dir: self.credentials.then(|| one_time::directory(&self.vmm_dir)),
        };
        let adoptions: Vec<_> = self
            .nics
            .iter()
            .filter_map(|nic| {
                let connected = self.connected.contains(&nic.name);
                Some((self.passts.get(&nic.name)?.clone(), nic.passt.clone()?, connected))
            })
            .collect();
        let (api, tell) = (api.clone(), self.tell.clone());
        self.tasks.spawn(async move {
            let receive = async {
                // The VMM connects to them when it restores the guest.
                for (passt, handed, connected) in adoptions {
                    passt.adopt(handed).await?;
                    if connected {
                        passt.move_connections(passt::Side::Target).await;
                    }
                }
                api.receive_migration(&how).await.map_err(|error| chain(&error))
            };
            let event = match receive.await {
                // Also where the event was lost.
                Ok(()) => Event::Resumed,
                Err(why) => Event::VmmFailed(why),
            };
            let _ = tell.send(Arrival::Event(event)).await;
        });
    }

    /// The guest is here: nobody needs the hand-off's certificates any more.
    pub(crate) fn forget(&self) {
        one_time::clear(&self.vmm_dir);
    }

    /// The NICs of the guest that has come, as it had them where it was.
    pub(crate) fn nics(&self) -> &[NicDescription] {
        &self.nics
    }

    /// The guest is neither here nor gone.
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.state, State::Ended(_))
    }

    /// The last words.
    pub(crate) async fn finish(self) {
        one_time::clear(&self.vmm_dir);
        for link in self.links.into_values() {
            link.finish().await;
        }
    }
}

/// What a target has come to.
#[derive(Debug)]
pub(crate) enum End {
    /// The guest is ours. `stop`: and is to end.
    Runs {
        stop: bool,
    },
    Leave(Outcome),
}
