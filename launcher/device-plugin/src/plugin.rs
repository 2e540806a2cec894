//! One resource, from the start to the end: does what `registration` says, and watches over its node.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::KUBELET_SOCKET;
use crate::error::Error;
use crate::kubelet::{self, RegisterError};
use crate::node::Node;
use crate::node_copies::Copied;
use crate::offer::Offer;
use crate::registration::{FileId, Registration, Seen, Step};
use crate::server::{Answers, Server};

/// A kubelet's socket is there before anybody listens on it, for a moment.
const UNREACHABLE_AGAIN: Duration = Duration::from_millis(500);
/// A kubelet that answered will hardly answer otherwise soon.
const REFUSED_AGAIN: Duration = Duration::from_secs(10);
/// How long a kubelet may go without a stream of devices before it is told of the resource again. It counts the devices as
/// unhealthy then. Another plugin that has registered the same resource is a cause, and wins no faster than this.
const UNWATCHED: Duration = Duration::from_secs(5);

pub(crate) struct Plugin {
    offer: Arc<Offer>,
    directory: PathBuf,
    changes: watch::Receiver<()>,
    healthy: watch::Sender<bool>,
    watchers: watch::Sender<usize>,
    node: Option<Node>,
    server: Option<Server>,
    registration: Registration,
    /// A kubelet that it could not register with, and when it tries again. Another kubelet does not wait for that.
    failed: Option<(FileId, Instant)>,
    /// Whether a stream of devices was open when this was last looked at.
    watched: bool,
    /// Since then the kubelet that was registered with has had no stream of devices.
    unwatched_since: Instant,
}

impl Plugin {
    pub(crate) fn new(offer: Offer, directory: &Path, changes: watch::Receiver<()>) -> Self {
        let now = Instant::now();
        Self {
            offer: Arc::new(offer),
            directory: directory.to_owned(),
            changes,
            healthy: watch::Sender::new(false),
            watchers: watch::Sender::new(0),
            node: None,
            server: None,
            registration: Registration::default(),
            failed: None,
            watched: false,
            unwatched_since: now,
        }
    }

    /// # Errors
    /// What only a new process can mend, or an operator.
    pub(crate) async fn run(mut self) -> Result<(), Error> {
        let mut watchers = self.watchers.subscribe();
        loop {
            self.changes.mark_unchanged();
            self.look_at_node();
            let seen = self.see()?;
            let step = self.registration.next(seen);
            let now = Instant::now();
            let watched = *watchers.borrow_and_update() > 0;
            if std::mem::replace(&mut self.watched, watched) {
                self.unwatched_since = now;
            }
            // Of a kubelet that is there, `Wait` means that it was registered with.
            let until = match step {
                Step::Listen => {
                    if self.listen()? {
                        continue;
                    }
                    None
                }
                Step::Register(kubelet) => match self.failed {
                    Some((failed, again)) if failed == kubelet && again > now => Some(again),
                    _ => {
                        self.register(kubelet).await;
                        continue;
                    }
                },
                // Nobody to watch, or somebody who does.
                Step::Wait if seen.kubelet.is_none() || watched => None,
                Step::Wait if self.unwatched_since + UNWATCHED <= now => {
                    self.unwatched();
                    continue;
                }
                Step::Wait => Some(self.unwatched_since + UNWATCHED),
            };
            tokio::select! {
                // The sender lives as long as the process.
                _ = self.changes.changed() => {}
                _ = watchers.changed() => {}
                () = sleep_until(until.unwrap_or(now)), if until.is_some() => {}
            }
        }
    }

    fn see(&self) -> Result<Seen, Error> {
        if fs::metadata(&self.directory).is_ok_and(|found| found.nlink() == 0) {
            return Err(Error::DirectoryRemoved {
                path: self.directory.clone(),
            });
        }
        Ok(Seen {
            kubelet: FileId::of(&self.directory.join(KUBELET_SOCKET)),
            socket: FileId::of(&self.socket()),
        })
    }

    fn socket(&self) -> PathBuf {
        self.directory.join(self.offer.resource.socket())
    }

    fn look_at_node(&mut self) {
        let node = self.offer.look();
        if self.node == Some(node) {
            return;
        }
        let resource = self.offer.full_name();
        let path = self.offer.path();
        let path = path.display();
        match node {
            Node::Device(_) => {
                tracing::info!(event = "device-available", resource, "{path} can be allocated")
            }
            Node::Absent => {
                tracing::warn!(
                    event = "device-unavailable",
                    resource,
                    "{path} does not exist on this node"
                );
            }
            Node::Unusable => tracing::warn!(
                event = "device-unavailable",
                resource,
                "{path} is not a character device, or cannot be looked at"
            ),
        }
        // Before the kubelet hears of it. And a container that restarts uses the copy without asking.
        let (copied, why) = self.offer.prepare(node);
        match copied {
            Copied::Mountable(copy) | Copied::NotMountable(copy) if why.is_none() => tracing::info!(
                event = "device-copied",
                resource,
                "not every user may open {path}: containers are given {}",
                copy.display()
            ),
            _ => {}
        }
        if let Some(why) = why {
            tracing::warn!(
                event = "device-copy-failed",
                resource,
                "some pods will not be able to open {path}, which not every user may: {why}"
            );
        }
        self.node = Some(node);
        self.healthy.send_if_modified(|healthy| {
            let before = *healthy;
            *healthy = node.is_usable();
            before != *healthy
        });
    }

    /// Whether it listens now.
    fn listen(&mut self) -> Result<bool, Error> {
        self.server = None;
        let path = self.socket();
        let answers = Answers {
            offer: self.offer.clone(),
            healthy: self.healthy.subscribe(),
            watchers: self.watchers.clone(),
        };
        match Server::listen(&path, answers) {
            Ok(server) => {
                self.registration = Registration::listening(server.socket);
                self.server = Some(server);
                Ok(true)
            }
            // The directory, or the socket already, is gone again. That is a change, which is waited for.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(Error::Listen { path, source }),
        }
    }

    async fn register(&mut self, kubelet: FileId) {
        let resource = self.offer.full_name();
        let endpoint = self.offer.resource.socket();
        let path = self.directory.join(KUBELET_SOCKET);
        let result = kubelet::register(&path, endpoint, resource.clone()).await;
        let now = Instant::now();
        match result {
            Ok(()) => {
                tracing::info!(
                    event = "resource-registered",
                    resource,
                    "the kubelet knows the resource"
                );
                self.registration.kubelet = Some(kubelet);
                self.unwatched_since = now;
                self.failed = None;
            }
            Err(error) => {
                let (event, again) = match error {
                    RegisterError::Unreachable(_) => ("kubelet-unreachable", UNREACHABLE_AGAIN),
                    RegisterError::Refused(_) | RegisterError::TimedOut => {
                        ("registration-refused", REFUSED_AGAIN)
                    }
                };
                // Once for each kubelet.
                let before = self.failed.replace((kubelet, now + again));
                if before.is_none_or(|(before, _)| before != kubelet) {
                    tracing::warn!(event, resource, "the plugin tries again: {error}");
                }
            }
        }
    }

    fn unwatched(&mut self) {
        tracing::warn!(
            event = "kubelet-not-watching",
            resource = self.offer.full_name(),
            "the kubelet does not watch the devices; the plugin registers again. Does another plugin offer the same resource?"
        );
        self.registration.kubelet = None;
    }
}
