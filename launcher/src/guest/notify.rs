//! What the guest's systemd reports of itself over the guest's virtio socket (sd_notify(3), systemd's VM interface): each message
//! is a connection of its own, which systemd ends, and whose end on this side it waits for.
//!
//! Any process of the guest can report anything, as often as it likes. So a message is short or nothing, at most [`PLACES`] are
//! read at a time, the oldest of which gives way to a new one, and those that come too fast are closed unread. What is kept has a
//! bound, and decides nothing but the guest's own readiness.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use crate::accept::Accepting;
use crate::control::now;
use crate::devices::vsock::{NOTIFY_PORT, port_of_host};
use crate::migration::said;
use crate::spec::ReadyWhen;
use crate::status::{BootState, GuestBoot};

/// Messages that are read at a time.
const PLACES: usize = 8;
/// For a message to come whole.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a message; systemd's are shorter than a tenth of that.
const MAX_MESSAGE: u64 = 4096;
/// Messages that are read at once, far more than a boot has, and a second from then on.
const BURST: u32 = 256;
const PER_SECOND: u32 = 32;
/// Before the next connection is looked at, once they come faster than that.
const PAUSE: Duration = Duration::from_millis(1);
/// Target units that are remembered, and bytes of a name.
const MAX_TARGETS: usize = 64;
const MAX_NAME: usize = 64;
/// Changes of the guest's state that are logged from one start or reboot of the guest to the next.
const MAX_LOGGED: u8 = 8;

/// What has been reported since the guest was started.
#[derive(Debug, Clone)]
pub(crate) struct Notified(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// A target that counts however many there are.
    wanted: Option<String>,
    boot: GuestBoot,
    targets: BTreeSet<String>,
    reported: bool,
    ready: bool,
    /// How it ends, by `X_SYSTEMD_SHUTDOWN`.
    ends: bool,
    logged: u8,
}

impl Notified {
    pub(crate) fn new(ready_when: Option<&ReadyWhen>) -> Self {
        let wanted = match ready_when {
            Some(ReadyWhen::Target(name)) => Some(name.clone()),
            Some(ReadyWhen::Booted) | None => None,
        };
        Self(Arc::new(Mutex::new(State::fresh(wanted))))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn boot(&self) -> GuestBoot {
        let state = self.lock();
        GuestBoot {
            targets: state.targets.iter().cloned().collect(),
            ..state.boot.clone()
        }
    }

    /// What was reported before is of the boot before.
    pub(super) fn rebooted(&self) {
        let mut state = self.lock();
        *state = State::fresh(state.wanted.take());
    }

    pub(crate) fn take(&self, message: &[u8]) {
        let mut state = self.lock();
        if let Some(changed) = state.take(message) {
            log(changed);
        }
    }
}

impl State {
    /// Of a guest that has reported nothing.
    fn fresh(wanted: Option<String>) -> Self {
        Self {
            wanted,
            boot: GuestBoot {
                since: now(),
                ..GuestBoot::default()
            },
            targets: BTreeSet::new(),
            reported: false,
            ready: false,
            ends: false,
            logged: 0,
        }
    }

    /// The state that the guest is in from here on, if that is another one and is to be logged.
    fn take(&mut self, message: &[u8]) -> Option<BootState> {
        for line in message.split(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(line);
            if let Some((key, value)) = line.split_once('=') {
                self.assign(key, value);
            }
        }
        let state = self.state();
        if state == self.boot.state {
            return None;
        }
        self.boot.state = state;
        self.boot.since = now();
        self.logged = self.logged.saturating_add(1);
        (self.logged <= MAX_LOGGED).then_some(state)
    }

    fn assign(&mut self, key: &str, value: &str) {
        match key {
            "READY" if value == "1" => {
                // After a kexec, another systemd has booted in the same machine.
                self.ends = false;
                self.targets.remove(SHUTDOWN);
                self.ready = true;
            }
            "STATUS" => self.boot.status = Some(said::text(value)).filter(|text| !text.is_empty()),
            "X_SYSTEMD_HOSTNAME" if is_name(value) => self.boot.hostname = Some(value.to_owned()),
            "X_SYSTEMD_UNIT_ACTIVE" if is_name(value) => {
                if self.targets.len() < MAX_TARGETS || self.counts(value) {
                    self.targets.insert(value.to_owned());
                }
            }
            "X_SYSTEMD_UNIT_INACTIVE" => {
                self.targets.remove(value);
            }
            "X_SYSTEMD_SHUTDOWN" => self.ends = true,
            "X_SYSTEMD_MACHINE_ID" | "X_SYSTEMD_SIGNALS_LEVEL" | "X_SYSTEMD_HOSTNAME" => {}
            // Not of this protocol.
            _ => return,
        }
        self.reported = true;
    }

    /// Whether a unit says more than that it is active.
    fn counts(&self, name: &str) -> bool {
        name == SHUTDOWN || EMERGENCY.contains(&name) || self.wanted.as_deref() == Some(name)
    }

    fn state(&self) -> BootState {
        let active = |name: &str| self.targets.contains(name);
        if self.ends || active(SHUTDOWN) {
            BootState::ShuttingDown
        } else if EMERGENCY.into_iter().any(active) {
            // systemd says READY=1 there too.
            BootState::Emergency
        } else if self.ready {
            BootState::Booted
        } else if self.reported {
            BootState::Booting
        } else {
            BootState::NotReported
        }
    }
}

const SHUTDOWN: &str = "shutdown.target";
const EMERGENCY: [&str; 2] = ["emergency.target", "rescue.target"];

/// A host name or a unit's name, fit for a log as it is.
fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:@\\".contains(&b);
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(plain)
}

fn log(state: BootState) {
    match state {
        BootState::Booted => tracing::info!(
            event = "guest-booted",
            "the guest's systemd says that it has booted"
        ),
        BootState::Emergency => tracing::warn!(
            event = "guest-in-emergency-mode",
            "the guest's systemd says that it has ended in emergency or rescue mode: hawser console shows why"
        ),
        BootState::ShuttingDown => tracing::info!(
            event = "guest-shutting-down",
            "the guest's systemd says that it is shutting down"
        ),
        BootState::NotReported | BootState::Booting => {}
    }
}

/// How many messages may be read, by the clock of whoever asks.
#[derive(Debug)]
struct Budget {
    left: u32,
    since: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            since: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        let seconds = now.saturating_duration_since(self.since).as_secs();
        if seconds > 0 {
            let more = u32::try_from(seconds)
                .unwrap_or(u32::MAX)
                .saturating_mul(PER_SECOND);
            self.left = self.left.saturating_add(more).min(BURST);
            self.since = now;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

/// Before the guest is started, in the directory of its virtio socket.
pub(super) fn listen(directory: &Path) -> io::Result<UnixListener> {
    let path = port_of_host(directory, NOTIFY_PORT);
    UnixListener::from_std(hawser_linux::unix_socket::bind_nonblocking(&path)?)
}

/// Takes messages until the runtime ends.
pub(super) async fn serve(listener: UnixListener, notified: Notified) {
    let mut accepting = Accepting::at("the guest's reports");
    let mut budget = Budget::new(Instant::now());
    let mut reading: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        let (stream, _) = accepting.next(|context| listener.poll_accept(context)).await;
        reading.retain(|task| !task.is_finished());
        if !budget.take(Instant::now()) {
            drop(stream);
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        if reading.len() >= PLACES
            && let Some(oldest) = reading.pop_front()
        {
            oldest.abort();
        }
        let notified = notified.clone();
        reading.push_back(tokio::spawn(async move {
            if let Ok(Some(message)) = tokio::time::timeout(READ_TIMEOUT, read(stream)).await {
                notified.take(&message);
            }
        }));
    }
}

/// A whole message that is no longer than one may be. Whoever sent it waits until the connection is closed, which it is with this.
async fn read(stream: UnixStream) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    let read = stream
        .take(MAX_MESSAGE.saturating_add(1))
        .read_to_end(&mut message)
        .await;
    let whole = read.is_ok() && message.len() as u64 <= MAX_MESSAGE;
    whole.then_some(message)
}

#[cfg(test)]
mod tests;
