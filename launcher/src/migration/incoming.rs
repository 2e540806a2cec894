//! The target at work: performs what [`super::target`] decides, and turns what its tasks and cloud-hypervisor report into that
//! machine's events.

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
use super::describe::{Description, notes, reasons, same_pod_addresses};
use super::link::{Link, Received};
use super::message::{Message, Prepare};
use super::relay::{MEETING, TargetRelay};
use super::session_certs;
use super::target::{Action, Ending, Event, State};
use crate::control::Board;
use crate::daemons::passt;
use crate::error::chain;
use crate::queue::Sink;
use crate::status::{Direction, NicDescription, Step};
use crate::vmm::api::{Api, ReceiveMigration};
use crate::vmm::events::VmmEvent;

/// How long the guest is held for a source that has gone silent. Longer than the source asks.
const HOLD_TIMEOUT: Duration = Duration::from_secs(90);
/// Connections that have not authenticated yet.
const MAX_UNAUTHENTICATED: usize = 16;

/// What a target listens at, and with which certificates.
#[derive(Debug, Clone)]
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    pub(crate) security: Security,
}

/// What the tasks of a target report.
#[derive(Debug)]
pub(crate) enum Arrival {
    Connection(channel::Incoming),
    Received(u32, Received),
    Event(Event),
}

/// A target, from before a source connects until well after the guest is here.
#[derive(Debug)]
pub(crate) struct Incoming {
    listener: Listener,
    own: Description,
    vmm_dir: PathBuf,
    links: BTreeMap<u32, Link>,
    channels: u32,
    /// The source's channel, and the migration's name.
    peer: Option<u32>,
    id: Option<String>,
    /// The channel that the last `Prepare` came over.
    asking: Option<u32>,
    credentials: bool,
    relay: Option<TargetRelay>,
    passt: Option<passt::Handle>,
    /// The NICs as the guest has them, which are to be the same here.
    nics: Vec<NicDescription>,
    /// Those behind passt whose open connections come along.
    connected: Vec<String>,
    vmm: Option<Pid>,
    shown: Step,
    tasks: JoinSet<()>,
    sink: Sink<Arrival>,
}

impl Incoming {
    /// Listens. Connections wait until [`Self::open`].
    pub(crate) async fn bind(
        listener: Listener,
        own: Description,
        passt: Option<passt::Handle>,
        vmm_dir: PathBuf,
        sink: Sink<Arrival>,
    ) -> std::io::Result<(Self, TcpListener)> {
        let socket = TcpListener::bind(listener.address).await?;
        let this = Self {
            listener,
            own,
            vmm_dir,
            links: BTreeMap::new(),
            channels: 0,
            peer: None,
            id: None,
            asking: None,
            credentials: false,
            relay: None,
            passt,
            nics: Vec::new(),
            connected: Vec::new(),
            vmm: None,
            shown: Step::Waiting,
            tasks: JoinSet::new(),
            sink,
        };
        Ok((this, socket))
    }

    /// The pod is wired and the VMM is there: connections are accepted.
    pub(crate) fn open(&mut self, socket: TcpListener, vmm: Option<Pid>, vmm_version: &str) {
        self.vmm = vmm;
        self.own.vmm_version = vmm_version.to_owned();
        tracing::info!(
            event = "waiting-for-guest",
            address = %format_args!("tcp:{}", self.listener.address),
            "waiting for a guest at tcp:{}",
            self.listener.address
        );
        let (security, sink) = (self.listener.security.clone(), self.sink.clone());
        self.tasks.spawn(async move {
            let unauthenticated = Arc::new(Semaphore::new(MAX_UNAUTHENTICATED));
            let mut greeting = JoinSet::new();
            while let Ok((stream, from)) = socket.accept().await {
                while greeting.try_join_next().is_some() {}
                let Ok(permit) = Arc::clone(&unauthenticated).try_acquire_owned() else {
                    continue;
                };
                let (security, sink) = (security.clone(), sink.clone());
                greeting.spawn(async move {
                    match channel::accept(stream, &security).await {
                        Ok(incoming) => sink.send(Arrival::Connection(incoming)).await,
                        Err(error) => tracing::warn!(
                            event = "migration-connection-rejected",
                            address = %from,
                            "migration: rejected a connection from {from}: {}",
                            chain(&error)
                        ),
                    }
                    drop(permit);
                });
            }
        });
    }

    /// Publishes a new state. After each event, and not before what the event has led to is under way: the guest may be paused
    /// for it.
    pub(crate) fn show(&mut self, state: &State, board: &mut Board) {
        let step = state.step();
        if step == self.shown {
            return;
        }
        self.shown = step;
        let why = match state {
            State::Ended(Ending::Gone { why } | Ending::Lost { why }) => Some(why.as_str()),
            _ => None,
        };
        let address = format!("tcp:{}", self.listener.address);
        board.migration(Direction::In, &address, step, why);
        tracing::info!(
            event = "migration-step",
            step = step.name(),
            "migration: {}",
            step.name()
        );
    }

    /// What a report of a task means for the machine, which `waits` for a first source.
    pub(crate) fn arrived(&mut self, arrival: Arrival, waits: bool) -> Option<Event> {
        match arrival {
            Arrival::Event(event) => Some(event),
            Arrival::Connection(channel::Incoming::Control(stream)) => {
                self.channels = self.channels.wrapping_add(1);
                let (channel, sink) = (self.channels, self.sink.clone());
                let link = Link::start(stream, move |received| {
                    let sink = sink.clone();
                    async move { sink.send(Arrival::Received(channel, received)).await }
                });
                self.links.insert(channel, link);
                None
            }
            Arrival::Connection(channel::Incoming::Memory { id, stream }) => {
                match &mut self.relay {
                    Some(relay) if self.id.as_ref() == Some(&id) => relay.add(stream),
                    _ => tracing::warn!(
                        event = "memory-connection-rejected",
                        "migration: rejected a connection for guest memory that belongs to no migration under way"
                    ),
                }
                None
            }
            Arrival::Received(channel, Received::Lost(why)) => {
                self.links.remove(&channel);
                if self.peer != Some(channel) {
                    return None;
                }
                self.peer = None;
                Some(Event::ChannelLost(why))
            }
            Arrival::Received(channel, Received::Message(message)) => self.message(channel, message, waits),
        }
    }

    fn message(&mut self, channel: u32, message: Message, waits: bool) -> Option<Event> {
        match message {
            Message::Prepare(prepare) => {
                let reasons = self.judge(&prepare, waits);
                if reasons.is_empty() && waits {
                    self.peer = Some(channel);
                    self.id = Some(prepare.id.clone());
                    self.nics.clone_from(&prepare.description.nics);
                    self.connected = self.take_connections(&self.nics);
                    self.credentials = prepare.credentials.is_some();
                    for note in notes(&prepare.description, &self.own) {
                        tracing::warn!(event = "migration-note", "migration: {note}");
                    }
                }
                self.asking = Some(channel);
                Some(Event::Prepare { reasons })
            }
            // Whoever knows the name is the source, over whatever channel.
            Message::Commit { id } if self.id.as_ref() == Some(&id) => {
                self.peer = Some(channel);
                Some(Event::Commit)
            }
            Message::Abort { why } if self.peer == Some(channel) => {
                Some(Event::Abort(format!("the source gave up: {why}")))
            }
            _ => None,
        }
    }

    fn judge(&self, prepare: &Prepare, waits: bool) -> Vec<String> {
        let mut all = reasons(prepare.version, &prepare.description, &self.own);
        match (&self.listener.security, &prepare.credentials) {
            (Security::Tls(_), Some(credentials)) if all.is_empty() && waits => {
                if let Err(error) = session_certs::accept(&self.vmm_dir, credentials) {
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

    /// What serves this NIC here, where passt does.
    fn passt_of(&self, nic: &NicDescription) -> Option<&passt::Handle> {
        self.passt.as_ref().filter(|passt| passt.nic() == nic.name)
    }

    /// Of these NICs at the source, those whose connections can go on here.
    fn take_connections(&self, theirs: &[NicDescription]) -> Vec<String> {
        let here = |nic: &&NicDescription| {
            let takes = self.passt_of(nic).is_some_and(passt::Handle::keeps_connections);
            let ours = self.own.nics.iter().find(|ours| ours.name == nic.name);
            takes && ours.is_some_and(|ours| same_pod_addresses(nic, ours))
        };
        theirs.iter().filter(here).map(|nic| nic.name.clone()).collect()
    }

    /// What an event of cloud-hypervisor means for the machine.
    pub(crate) fn vmm_event(event: &VmmEvent) -> Option<Event> {
        match event.event.as_str() {
            "migration-receive-ready" => Some(Event::Listening),
            "migration-receive-finished" => Some(Event::Resumed),
            "migration-receive-failed" => Some(Event::VmmFailed("cloud-hypervisor's transfer failed".into())),
            _ => None,
        }
    }

    pub(crate) fn perform(&mut self, action: Action, api: &Api) {
        match action {
            Action::Refuse(reasons) => {
                for reason in &reasons {
                    tracing::warn!(event = "migration-refused", "migration: refused: {reason}");
                }
                if let Some(link) = self.asking.and_then(|asking| self.links.get(&asking)) {
                    link.send(Message::Refused { reasons });
                }
            }
            Action::Receive => self.receive(api),
            Action::SendPrepared => self.send(Message::Prepared {
                takes_connections: !self.connected.is_empty(),
            }),
            Action::SendHolding => self.send(Message::Holding),
            Action::ArmHold => {
                let sink = self.sink.clone();
                self.tasks.spawn(async move {
                    tokio::time::sleep(HOLD_TIMEOUT).await;
                    sink.send(Arrival::Event(Event::HoldOver)).await;
                });
            }
            Action::Release => {
                if let Some(relay) = &self.relay {
                    relay.release();
                }
            }
            Action::SendRunning => self.send(Message::Running),
            Action::SendLost(why) => self.send(Message::Lost { why }),
            Action::SendGone(why) => {
                self.relay = None;
                self.send(Message::Gone { why });
            }
        }
    }

    fn send(&self, message: Message) {
        if let Some(link) = self.peer.and_then(|peer| self.links.get(&peer)) {
            link.send(message);
        }
    }

    fn receive(&mut self, api: &Api) {
        // The exit of one that has ended is an event of its own.
        let Some(vmm) = self.vmm else { return };
        let (holding, mut held) = mpsc::channel(1);
        self.relay = Some(TargetRelay::new(vmm, holding));
        let sink = self.sink.clone();
        self.tasks.spawn(async move {
            while let Some(()) = held.recv().await {
                sink.send(Arrival::Event(Event::Restored)).await;
            }
        });
        let how = ReceiveMigration {
            receiver_url: format!("tcp:{MEETING}"),
            tls_dir: self.credentials.then(|| session_certs::directory(&self.vmm_dir)),
        };
        let adoptions: Vec<_> = self
            .nics
            .iter()
            .filter_map(|nic| {
                let connected = self.connected.contains(&nic.name);
                Some((self.passt_of(nic)?.clone(), nic.passt.clone()?, connected))
            })
            .collect();
        let (api, sink) = (api.clone(), self.sink.clone());
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
            sink.send(Arrival::Event(event)).await;
        });
    }

    /// The guest is here: the migration's certificates are of no use any more.
    pub(crate) fn forget(&self) {
        session_certs::clear(&self.vmm_dir);
    }

    /// The NICs of the guest that has come, as it had them where it was.
    pub(crate) fn nics(&self) -> &[NicDescription] {
        &self.nics
    }

    /// Closes everything, once what is queued is sent.
    pub(crate) async fn finish(self) {
        session_certs::clear(&self.vmm_dir);
        for link in self.links.into_values() {
            link.finish().await;
        }
    }
}
