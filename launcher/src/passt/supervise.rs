//! Keeps a passt behind a NIC for as long as the guest lives.
//!
//! The VMM connects to a socket of ours once for each boot of the guest. Each connection is served by a passt of its own;
//! when that dies a fresh one takes over what it had (`vhost_relay`), a bounded number of times. After that the NIC is given
//! up: the VMM is answered in passt's stead so that it can take the device out, which the guest sees. That is the one way
//! there is to show it: without a control queue, which passt has not, virtio-net has no link state.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

use super::Command;
use super::process::{Backend, start};
use crate::error::Failure;
use crate::vhost_relay::{End, Session};

/// Fresh ones within `WINDOW`; more would hide a fault that does not go away.
const MOST: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);
/// Before the second fresh one within the window; doubled for each after it. The first comes at once.
const PAUSE: Duration = Duration::from_millis(100);

/// Where the VMM connects.
#[derive(Debug)]
pub(crate) struct Frontend {
    listener: UnixListener,
}

impl Frontend {
    /// The one path of it, below the unprivileged half's directory: a guest has one such NIC at most, on the pod network.
    pub(crate) fn path(directory: &Path) -> PathBuf {
        directory.join("passt.sock")
    }

    pub(crate) fn listen(directory: &Path) -> io::Result<Self> {
        let path = Self::path(directory);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Self {
            listener: UnixListener::bind(path)?,
        })
    }
}

/// A NIC that nothing will come through any more.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) nic: String,
}

/// Serves one NIC, for as long as it is polled. `ready` hears whether the first passt serves.
pub(crate) async fn supervise(
    program: PathBuf,
    command: Command,
    frontend: Frontend,
    ready: oneshot::Sender<Result<(), Failure>>,
    lost: mpsc::Sender<Report>,
) {
    let mut first = match start(&program, &command).await {
        Ok(backend) => {
            let _ = ready.send(Ok(()));
            Some(backend)
        }
        Err(error) => {
            let _ = ready.send(Err(error.failure()));
            return;
        }
    };
    loop {
        let stream = match frontend.listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::error!("{}: cloud-hypervisor cannot connect: {error}", command.nic);
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let mut line = Line {
            program: &program,
            command: &command,
            session: Session::new(stream),
            restarts: Restarts::default(),
        };
        if let Err(why) = line.serve(first.take()).await {
            tracing::error!(
                "{nic}: passt was started again {MOST} times within {} s and is given up: the NIC is down and is taken out of \
                 the guest: {why}",
                WINDOW.as_secs(),
                nic = command.nic
            );
            let nic = command.nic.clone();
            // Nobody listens any more when everything is ending.
            let _ = lost.send(Report { nic }).await;
            line.session.stand_in().await;
        }
        tracing::debug!("{}: cloud-hypervisor has let go of the NIC", command.nic);
    }
}

/// One connection of the VMM, and the passts behind it.
struct Line<'a> {
    program: &'a Path,
    command: &'a Command,
    session: Session,
    restarts: Restarts,
}

impl Line<'_> {
    /// Until the VMM closes it; an error says why passt was given up.
    async fn serve(&mut self, first: Option<Backend>) -> Result<(), String> {
        let mut backend = match first {
            Some(backend) => backend,
            None => match start(self.program, self.command).await {
                Ok(backend) => backend,
                Err(error) => self.replace(crate::error::chain(&error)).await?,
            },
        };
        loop {
            match self.session.carry(&mut backend.channel).await {
                End::Frontend => {
                    backend.finish().await;
                    return Ok(());
                }
                End::FrontendFault(why) => {
                    tracing::error!(
                        "{}: cloud-hypervisor: {why}: its connection is closed",
                        self.command.nic
                    );
                    backend.finish().await;
                    return Ok(());
                }
                End::Backend(error) => {
                    let why = backend.failed(error).await;
                    backend = self.replace(crate::error::chain(&why)).await?;
                    tracing::info!(
                        "{}: a fresh passt serves the guest: new connections work, those from outside once the guest has sent a frame",
                        self.command.nic
                    );
                }
            }
        }
    }

    /// A fresh passt that has taken over.
    async fn replace(&mut self, mut why: String) -> Result<Backend, String> {
        loop {
            tracing::warn!(
                "{}: passt is gone, and with it the guest's open connections: {why}",
                self.command.nic
            );
            let Some(pause) = self.restarts.next(Instant::now()) else {
                return Err(why);
            };
            tokio::time::sleep(pause).await;
            let mut backend = match start(self.program, self.command).await {
                Ok(backend) => backend,
                Err(error) => {
                    why = crate::error::chain(&error);
                    continue;
                }
            };
            match self.session.resume(&mut backend.channel).await {
                Ok(()) => return Ok(backend),
                Err(error) => why = crate::error::chain(&backend.failed(error).await),
            }
        }
    }
}

/// When there may be another one.
#[derive(Debug, Default)]
pub(crate) struct Restarts {
    recent: VecDeque<Instant>,
}

impl Restarts {
    /// How long to wait before the next; none when there were too many.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Duration> {
        let is_old = |then: &Instant| now.saturating_duration_since(*then) >= WINDOW;
        while self.recent.front().is_some_and(is_old) {
            self.recent.pop_front();
        }
        let count = self.recent.len();
        if count >= MOST {
            return None;
        }
        self.recent.push_back(now);
        let doubled = |times: u32| PAUSE.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX));
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Some(count.checked_sub(1).map_or(Duration::ZERO, doubled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_within_a_minute_further_and_further_apart_and_then_none() {
        let mut restarts = Restarts::default();
        let start = Instant::now();
        let pauses: Vec<_> = (0..6).map(|_| restarts.next(start)).collect();
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(
            pauses,
            [ms(0), ms(100), ms(200), ms(400), ms(800), None],
            "bounded"
        );
        assert_eq!(restarts.next(start + WINDOW - Duration::from_secs(1)), None);
        assert_eq!(
            restarts.next(start + WINDOW),
            ms(0),
            "a minute later all is forgotten"
        );
    }
}
