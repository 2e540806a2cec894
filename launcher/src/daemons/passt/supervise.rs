//! Keeps a passt behind a NIC for as long as the guest lives.
//!
//! The VMM connects to a socket of ours once for each boot of the guest. Each connection is served by a passt of its
//! own; when that dies a fresh one takes over what it had (`vhost_relay`), a bounded number of times. After that the
//! NIC is given up: the VMM is answered in passt's stead so that it can take the device out, which the guest sees. That
//! is the one way there is to show it: without a control queue, which passt has not, virtio-net has no link state.
//!
//! A live migration's source ends its passt by asking it for its state; the target's is started again for the guest that
//! comes ([`Handle::adopt`]), before the VMM connects and gives it that state.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hawser_linux::unix_socket;
use hawser_netsetup::Handed;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

use super::Command;
use super::process::{Backend, StartError, start};
use super::repair::{Repair, Side};
use crate::daemons::restarts::{MAX_RESTARTS, Restarts, WINDOW};
use crate::error::Failure;
use crate::queue::Sink;
use hawser_vhost_relay::{End, Session};

/// After a connection of the VMM that could not be accepted.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Where the VMM connects.
#[derive(Debug)]
pub(crate) struct Frontend {
    listener: UnixListener,
    adoptions: mpsc::Receiver<Adoption>,
    leaving: Arc<AtomicBool>,
    repair: Repair,
}

/// What a live migration wants of it.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    /// The guest's NIC.
    nic: String,
    adoptions: mpsc::Sender<Adoption>,
    leaving: Arc<AtomicBool>,
    repair: Repair,
}

/// A guest that comes from another pod, with what passt offered it there.
#[derive(Debug)]
struct Adoption {
    handed: Handed,
    done: oneshot::Sender<Result<(), StartError>>,
}

impl Handle {
    pub(crate) fn nic(&self) -> &str {
        &self.nic
    }

    /// A passt for a guest with these addresses, before the VMM connects. It serves when this returns.
    pub(crate) async fn adopt(&self, handed: Handed) -> Result<(), String> {
        let (done, serves) = oneshot::channel();
        let gone = || "passt is not served any more".to_owned();
        let adoption = Adoption { handed, done };
        self.adoptions.send(adoption).await.map_err(|_| gone())?;
        let served = serves.await.map_err(|_| gone())?;
        served.map_err(|error| format!("passt: {}", crate::error::chain(&error)))
    }

    /// Whether open connections can be given away or taken up here.
    pub(crate) fn keeps_connections(&self) -> bool {
        self.repair.is_possible()
    }

    /// They go along with the hand-off that begins.
    pub(crate) async fn move_connections(&self, side: Side) {
        self.repair.begin(side).await;
    }

    /// They do not, or the hand-off has come to nothing.
    pub(crate) async fn leave_connections(&self) {
        self.repair.end().await;
    }

    /// Whether cloud-hypervisor has closed the NIC's connection for a migration. It does not connect again if the guest
    /// stays.
    pub(crate) fn is_let_go(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }
}

impl Frontend {
    /// The one path of it, below the unprivileged half's directory: a guest has one such NIC at most, on the pod network.
    pub(crate) fn path(directory: &Path) -> PathBuf {
        directory.join("passt.sock")
    }

    /// `helper`: where one waits for a socket by which it can be asked to move connections.
    pub(crate) fn listen(directory: &Path, nic: &str, helper: Option<PathBuf>) -> io::Result<(Self, Handle)> {
        let path = Self::path(directory);
        let (send, adoptions) = mpsc::channel(1);
        let leaving = Arc::default();
        let repair = Repair::new(helper);
        let this = Self {
            listener: UnixListener::from_std(unix_socket::bind_nonblocking(&path)?)?,
            adoptions,
            leaving: Arc::clone(&leaving),
            repair: repair.clone(),
        };
        let handle = Handle {
            nic: nic.to_owned(),
            adoptions: send,
            leaving,
            repair,
        };
        Ok((this, handle))
    }
}

/// A NIC that nothing will come through any more.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) nic: String,
}

/// Serves one NIC, for as long as it is polled. `ready` receives whether the first passt serves.
pub(crate) async fn supervise(
    program: PathBuf,
    mut command: Command,
    mut frontend: Frontend,
    ready: oneshot::Sender<Result<(), Failure>>,
    lost: Sink<Report>,
) {
    let repair = frontend.repair.clone();
    let mut first = match start(&program, &command, &repair).await {
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
        let accepted = tokio::select! {
            accepted = frontend.listener.accept() => accepted,
            Some(Adoption { handed, done }) = frontend.adoptions.recv() => {
                if first.is_none() || *command.handed() != handed {
                    command = command.for_guest_with(&handed);
                    // The ports are the next one's to take.
                    if let Some(backend) = first.take() {
                        backend.finish().await;
                    }
                    let started = start(&program, &command, &repair).await;
                    let _ = done.send(started.map(|backend| first = Some(backend)));
                } else {
                    let _ = done.send(Ok(()));
                }
                continue;
            }
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::error!(
                    event = "passt-connection-failed",
                    nic = %command.nic,
                    "{}: cloud-hypervisor cannot connect: {error}",
                    command.nic
                );
                tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
                continue;
            }
        };
        let mut line = Line {
            program: &program,
            command: &command,
            repair: &repair,
            session: Session::new(stream, Arc::clone(&frontend.leaving)),
            restarts: Restarts::default(),
        };
        if let Err(why) = line.serve(first.take()).await {
            tracing::error!(
                event = "passt-given-up",
                nic = %command.nic,
                "{nic}: passt failed {MAX_RESTARTS} times within {} s and is not restarted any more: the NIC is unplugged from the \
                 guest: {why}",
                WINDOW.as_secs(),
                nic = command.nic
            );
            let nic = command.nic.clone();
            // Nobody listens any more when everything is ending.
            lost.send(Report { nic }).await;
            line.session.stand_in().await;
        }
        tracing::debug!("{}: cloud-hypervisor has disconnected the NIC", command.nic);
    }
}

/// One connection of the VMM, and the passts behind it.
struct Line<'a> {
    program: &'a Path,
    command: &'a Command,
    repair: &'a Repair,
    session: Session,
    restarts: Restarts,
}

impl Line<'_> {
    /// Until the VMM closes it; an error is why passt is not restarted any more.
    async fn serve(&mut self, first: Option<Backend>) -> Result<(), String> {
        let mut backend = match first {
            Some(backend) => backend,
            None => match start(self.program, self.command, self.repair).await {
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
                // It ends by itself, and no fresh one could do better: the guest is as good as elsewhere.
                End::HandedOver => {
                    tracing::debug!("{}: passt has handed the guest over", self.command.nic);
                    backend.finish().await;
                    self.session.stand_in().await;
                    return Ok(());
                }
                End::FrontendFault(why) => {
                    tracing::error!(
                        event = "passt-connection-closed",
                        nic = %self.command.nic,
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
                        event = "passt-restarted",
                        nic = %self.command.nic,
                        "{}: passt was restarted: new connections work, those from outside once the guest has sent a frame",
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
                event = "passt-exited",
                nic = %self.command.nic,
                "{}: passt exited, and the guest's open connections have ended: {why}",
                self.command.nic
            );
            let Some(pause) = self.restarts.next(Instant::now()) else {
                return Err(why);
            };
            tokio::time::sleep(pause).await;
            let mut backend = match start(self.program, self.command, self.repair).await {
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

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::net::UnixStream;

    use super::*;
    use crate::test_program;

    /// A stand-in for passt: notes its command line, answers the greeting, and stays until its connection ends.
    fn stand_in(directory: &Path) -> PathBuf {
        let program = directory.join("passt");
        // Version 1, a reply to request 1 (GET_FEATURES), eight bytes: none.
        let script = format!(
            r#"#!/bin/bash
echo "$@" >> {}/lines
socket=${{!#}}
socket=${{socket#--fd=}}
printf '\1\0\0\0\5\0\0\0\10\0\0\0\0\0\0\0\0\0\0\0' >&"$socket"
exec cat <&"$socket" > /dev/null
"#,
            directory.display()
        );
        test_program::write(&program, &script);
        program
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_guest_from_elsewhere_is_served_with_its_own_addresses_before_the_vmm_comes() {
        let directory = tempfile::tempdir().unwrap();
        let program = stand_in(directory.path());
        let (frontend, handle) = Frontend::listen(directory.path(), "default", None).unwrap();
        let command = Command::bare("default", &[]);
        let (ready, serves) = oneshot::channel();
        let (queue, _) = mpsc::channel::<Report>(1);
        let lost = Sink::new(queue);
        tokio::spawn(supervise(program.clone(), command, frontend, ready, lost));
        serves.await.unwrap().unwrap();
        let handed = Handed {
            v4: None,
            v6: Some("fd00::7".parse().unwrap()),
        };
        handle.adopt(handed).await.unwrap();
        let lines = fs::read_to_string(directory.path().join("lines")).unwrap();
        let lines: Vec<_> = lines.lines().collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(!lines[0].contains("fd00::7"), "{lines:?}");
        assert!(lines[1].contains("--address=fd00::7"), "{lines:?}");

        // And it is that one which the VMM gets.
        let vmm = UnixStream::connect(Frontend::path(directory.path()))
            .await
            .unwrap();
        assert!(!handle.is_let_go());
        test_program::write(&program, "#!/bin/sh\nexit 3\n");
        drop(vmm);
        let error = handle.adopt(Handed::default()).await.unwrap_err();
        assert!(error.contains("exit status: 3"), "{error}");
    }
}
