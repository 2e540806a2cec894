//! The whole plugin: a task for each resource, until a signal.

use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::error::Error;
use crate::handout::ALIASES;
use crate::node_copies::NodeCopies;
use crate::offer::Offer;
use crate::plugin::Plugin;
use crate::resource::Resource;
use crate::watch::Watch;
use crate::{KUBELET_SOCKET, PASST_PROFILE, profile};

#[derive(Debug, Clone)]
pub struct Config {
    pub resources: Vec<Resource>,
    /// Before the resources' names.
    pub domain: String,
    /// How many of each.
    pub devices: u16,
    /// The kubelet's directory of device plugins.
    pub directory: PathBuf,
    /// The host's /dev.
    pub dev: PathBuf,
    /// Where copies of nodes are kept; the path must be the same on the host.
    pub copies: Option<PathBuf>,
    /// Where passt's seccomp profile is put.
    pub passt_profile: Option<PathBuf>,
}

/// Serves until SIGTERM or SIGINT, and removes the sockets then.
///
/// # Errors
/// Where nothing but a new start can help.
pub async fn run(config: Config) -> Result<(), Error> {
    // First of all: the first process of a container has no default for them (pid_namespaces(7)).
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    install_profile(&config);
    let offers: Vec<Offer> = config
        .resources
        .iter()
        .map(|resource| config.offer(*resource))
        .collect();
    let mut files: Vec<PathBuf> = offers.iter().map(Offer::path).collect();
    files.push(config.directory.join(KUBELET_SOCKET));
    let watch = Watch::new(&files);
    let mut plugins = JoinSet::new();
    for offer in offers {
        plugins.spawn(Plugin::new(offer, &config.directory, watch.changes()).run());
    }
    let watching = tokio::spawn(watch.run());
    let result = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(ended) = plugins.join_next() => match ended {
            Ok(result) => result,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        },
    };
    watching.abort();
    // Each removes its socket.
    plugins.shutdown().await;
    result
}

/// Guests without passt do not need it.
fn install_profile(config: &Config) {
    let Some(path) = &config.passt_profile else { return };
    match profile::install(path, PASST_PROFILE) {
        Ok(true) => tracing::info!(
            event = "seccomp-profile-written",
            "passt's seccomp profile is at {}",
            path.display()
        ),
        Ok(false) => {}
        Err(error) => tracing::error!(
            event = "seccomp-profile-failed",
            "passt's seccomp profile cannot be written, and pods that name it will not start: {}: {error}",
            path.display()
        ),
    }
}

impl Config {
    fn offer(&self, resource: Resource) -> Offer {
        Offer {
            resource,
            domain: self.domain.clone(),
            count: self.devices,
            dev: self.dev.clone(),
            copies: self.copies.clone().map(|directory| NodeCopies {
                directory,
                aliases: self.dev.join(ALIASES),
            }),
        }
    }
}
