//! The target at work: performs what [`super::target`] decides, and turns what its tasks and cloud-hypervisor report into that
//! machine's events.

mod judge;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::arrival::{Arrival, Compared};
use super::channels::Channels;
use super::comparison::Comparison;
use super::describe::{Description, notes};
use super::disk_copy::Receiver;
use super::disks::MigratingDisk;
use super::link::Received;
use super::listen;
use super::message::Message;
use super::port::{self, Port};
use super::relay::{MEETING, TargetRelay};
use super::target::{Action, Ending, Event, State};
use super::tls::{Security, Server};
use super::{descriptors, said, session_certs};
use crate::control::Board;
use crate::daemons::passt;
use crate::error::chain;
use crate::queue::Sink;
use crate::status::{Direction, NicDescription, Step};
use crate::vmm::api::{Api, ReceiveMigration};
use crate::vmm::events::VmmEvent;

/// How long the guest is held for a source that has gone silent. Longer than the source asks.
const HOLD_TIMEOUT: Duration = Duration::from_secs(90);
/// Refusals over plain TCP are logged in full no more often.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(1);
/// All that a source is told over plain TCP, where anybody may be one.
const REFUSED: &str = "the target refuses this guest; over plain TCP only its log says why";

/// What a target listens at, and with which certificates.
#[derive(Debug, Clone)]
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    pub(crate) security: Security,
    /// Whom the source's certificate has to be for.
    pub(crate) peer_name: String,
}

/// A target, from before a source connects until well after the guest is here.
#[derive(Debug)]
pub(crate) struct Incoming {
    listener: Listener,
    /// Without the disks, which are read when a source asks.
    own: Description,
    comparison: Comparison,
    vmm_dir: PathBuf,
    port: Port,
    accepting: Option<AbortHandle>,
    channels: Channels,
    /// The migration's name.
    id: Option<String>,
    /// The channel that the last `Prepare` came over.
    asking: Option<u32>,
    refused: Option<Instant>,
    /// How long the source may come back once the guest is here.
    settling: Duration,
    credentials: bool,
    relay: Option<TargetRelay>,
    disks: Receiver,
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
        (own, disks): (Description, Vec<MigratingDisk>),
        passt: Option<passt::Handle>,
        vmm_dir: PathBuf,
        sink: Sink<Arrival>,
    ) -> std::io::Result<(Self, TcpListener)> {
        let socket = listen::at(listener.address)?;
        let port = Port::new(match &listener.security {
            Security::Tls(directory) => Some(Server::new(directory, &listener.peer_name)),
            Security::Plain => None,
        });
        let this = Self {
            listener,
            own,
            comparison: Comparison::of(disks),
            vmm_dir,
            port,
            accepting: None,
            channels: Channels::default(),
            id: None,
            asking: None,
            refused: None,
            settling: HOLD_TIMEOUT,
            credentials: false,
            relay: None,
            disks: Receiver::default(),
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
        let address = socket.local_addr().unwrap_or(self.listener.address);
        tracing::info!(
            event = "waiting-for-guest",
            address = %format_args!("tcp:{address}"),
            "waiting for a guest at tcp:{address}, from {}",
            match self.listener.security {
                Security::Tls(_) =>
                    format!("a launcher with a certificate for {}", self.listener.peer_name),
                Security::Plain => "whoever connects: plain TCP".to_owned(),
            }
        );
        descriptors::raise();
        let serve = self.port.clone().serve(socket, self.sink.of());
        self.accepting = Some(self.tasks.spawn(serve));
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

    /// Publishes that the guest runs here: it is received no more, and the state of that is gone.
    pub(crate) fn show_received(&mut self, board: &mut Board) {
        self.show(&State::Ended(Ending::Runs { stop: false }), board);
    }

    /// What a report of a task means for the machine, which `waits` for a first source.
    pub(crate) fn arrived(&mut self, arrival: Arrival, waits: bool) -> Option<Event> {
        match arrival {
            Arrival::Event(event) => Some(self.with_its_disks(event)),
            Arrival::Settled => {
                self.close();
                None
            }
            Arrival::Connection(port::Incoming::Control { stream, from }) => {
                if let Some(from) = self.channels.add(stream, from, self.sink.of()) {
                    let why = "its control channel was the oldest, and there were too many";
                    self.port.rejections.log(from, why);
                }
                None
            }
            Arrival::Connection(port::Incoming::Disks(stream)) => {
                self.tasks.spawn(self.disks.clone().serve(stream));
                None
            }
            Arrival::Connection(port::Incoming::Memory(stream)) => {
                match &mut self.relay {
                    Some(relay) => relay.add(stream),
                    None => tracing::warn!(
                        event = "memory-connection-rejected",
                        "migration: rejected a connection for guest memory: cloud-hypervisor does not receive"
                    ),
                }
                None
            }
            Arrival::Received(channel, _) if !self.channels.has(channel) => None,
            Arrival::Received(channel, Received::Lost(why)) => {
                self.channels.lose(channel).then_some(Event::ChannelLost(why))
            }
            Arrival::Received(channel, Received::Message(message)) => self.message(channel, message),
            Arrival::Compared(compared) => self.compared(compared, waits),
        }
    }

    fn message(&mut self, channel: u32, message: Message) -> Option<Event> {
        match message {
            // It was heard the first time.
            Message::Prepare(_) if self.channels.is_source(channel) => None,
            Message::Prepare(prepare) => {
                self.comparison
                    .begin(channel, prepare, &mut self.tasks, &self.sink);
                None
            }
            // Whoever knows the name is the source, over whatever channel.
            Message::Commit { id } if self.id.as_ref() == Some(&id) => {
                self.channels.choose(channel);
                Some(Event::Commit)
            }
            Message::Abort { why } if self.channels.is_source(channel) => {
                Some(Event::Abort(format!("the source gave up: {}", said::text(&why))))
            }
            _ => None,
        }
    }

    fn compared(&mut self, compared: Compared, waits: bool) -> Option<Event> {
        let Compared {
            channel,
            prepare,
            disks,
            problems,
        } = compared;
        self.comparison.end(channel);
        // It has ended meanwhile, or asked twice.
        if !self.channels.has(channel) || self.channels.is_source(channel) {
            return None;
        }
        self.own.disks = disks;
        let reasons = self.judge(&prepare, problems, waits);
        if reasons.is_empty() && waits {
            let from = self.channels.choose(channel);
            self.port.expect(&prepare.id, from);
            self.id = Some(prepare.id.clone());
            self.disks = self.receiver(&prepare);
            self.nics.clone_from(&prepare.description.nics);
            self.connected = self.take_connections(&self.nics);
            self.credentials = prepare.credentials.is_some();
            for note in notes(&prepare.description, &self.own) {
                tracing::warn!(event = "migration-note", "migration: {}", said::text(&note));
            }
        }
        self.asking = Some(channel);
        Some(Event::Prepare { reasons })
    }

    /// What an event of cloud-hypervisor means for the machine.
    pub(crate) fn vmm_event(&self, event: &VmmEvent) -> Option<Event> {
        match event.event.as_str() {
            "migration-receive-ready" => Some(Event::Listening),
            "migration-receive-finished" => Some(self.with_its_disks(Event::Resumed)),
            "migration-receive-failed" => Some(Event::VmmFailed("cloud-hypervisor's transfer failed".into())),
            _ => None,
        }
    }

    pub(crate) fn perform(&mut self, action: Action, api: &Api) {
        match action {
            Action::Refuse(reasons) => self.refuse(reasons),
            Action::Receive => self.receive(api),
            Action::SendPrepared => self.channels.send(Message::Prepared {
                takes_connections: !self.connected.is_empty(),
            }),
            Action::SendHolding => self.channels.send(Message::Holding),
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
            Action::SendRunning => self.channels.send(Message::Running),
            Action::SendLost(why) => self.channels.send(Message::Lost { why }),
            Action::SendGone(why) => {
                self.relay = None;
                self.channels.send(Message::Gone { why });
            }
        }
    }

    /// A source is told once, and has to connect again to ask again.
    fn refuse(&mut self, reasons: Vec<String>) {
        let Some(asking) = self.asking.take() else { return };
        let plain = self.listener.security == Security::Plain;
        let told = match plain {
            true => vec![REFUSED.to_owned()],
            false => reasons.clone(),
        };
        let Some(from) = self.channels.dismiss(asking, Message::Refused { reasons: told }) else {
            return;
        };
        if plain
            && self
                .refused
                .is_some_and(|refused| refused.elapsed() < REFUSAL_INTERVAL)
        {
            self.port.rejections.log(from, "refused");
        } else {
            self.refused = Some(Instant::now());
            for reason in reasons {
                tracing::warn!(event = "migration-refused", "migration: refused: {reason}");
            }
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

    /// The guest is here: the migration's certificates are of no use any more, and the port soon is not.
    pub(crate) fn settle(&mut self) {
        session_certs::clear(&self.vmm_dir);
        let (settling, sink) = (self.settling, self.sink.clone());
        self.tasks.spawn(async move {
            tokio::time::sleep(settling).await;
            sink.send(Arrival::Settled).await;
        });
    }

    fn close(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            self.relay = None;
            self.channels = Channels::default();
            tracing::info!(
                event = "migration-port-closed",
                "the migration is over; tcp:{} is closed",
                self.listener.address
            );
        }
    }

    /// The NICs of the guest that has come, as it had them where it was.
    pub(crate) fn nics(&self) -> &[NicDescription] {
        &self.nics
    }

    /// Closes everything, once what is queued is sent.
    pub(crate) async fn finish(self) {
        session_certs::clear(&self.vmm_dir);
        self.channels.finish().await;
    }
}

#[cfg(test)]
mod tests;
