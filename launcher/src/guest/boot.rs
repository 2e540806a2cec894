//! From a VMM that has just been started to a guest that runs: what completes its configuration, what has to serve before
//! it boots, and the requests themselves.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use hawser_vmm::assumptions::{self, NEWEST_TESTED, OLDEST, Release};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::machine::Event;
use super::{Input, Job};
use crate::daemons::passt::{self, Passt};
use crate::daemons::virtiofsd;
use crate::error::{ExitCode, Failure, chain};
use crate::hooks::{self, HookError};
use crate::queue::Sink;
use crate::vmm::api::Api;
use crate::vmm::config::{take_late_nics, with_names_of_52};

/// What the VM is created with.
pub(super) enum Config {
    Ready(Value),
    /// When the sidecars have had their say.
    Asked(oneshot::Receiver<Result<Value, HookError>>),
}

/// What the VM is to be created with; where sidecars have a say in it, they are asked while the VMM comes up.
pub(super) fn ask_sidecars(
    job: &mut Job,
    ended: &watch::Sender<()>,
) -> Result<(Config, Option<JoinHandle<()>>), Failure> {
    let config = serde_json::to_value(&job.config)
        .map_err(|error| Failure::new(ExitCode::Internal, "the VM's configuration").because(error))?;
    Ok(match job.hooks.take() {
        None => (Config::Ready(config), None),
        Some(hooks) => {
            let (answer, defined) = oneshot::channel();
            let sidecars = tokio::spawn(hooks::run(hooks, config, answer, ended.subscribe()));
            (Config::Asked(defined), Some(sidecars))
        }
    })
}

/// Tells the VMM what the guest is.
async fn create(
    api: &Api,
    config: Config,
    descriptors: &mut BTreeMap<String, Vec<OwnedFd>>,
    version: &str,
) -> Result<(), Input> {
    let failed = |error| Input::Event(Event::StartFailed(chain(&error)));
    let mut config = match config {
        Config::Ready(config) => config,
        Config::Asked(defined) => match defined.await {
            Ok(answer) => answer.map_err(|error| Input::Unfit(error.into()))?,
            // The guest's end, which has come already, is the only reason for that.
            Err(_) => {
                let why = "the guest ended before all sidecars had answered".to_owned();
                return Err(Input::Event(Event::StartFailed(why)));
            }
        },
    };
    if assumptions::is_52(version) {
        with_names_of_52(&mut config);
    }
    let handed_over: Vec<_> = descriptors.keys().cloned().collect();
    let late = take_late_nics(&mut config, &handed_over);
    api.create(&config).await.map_err(failed)?;
    for nic in late {
        let id = nic.get("id").and_then(Value::as_str).unwrap_or_default();
        let queues = descriptors.remove(id).unwrap_or_default();
        api.add_net(&nic, queues).await.map_err(failed)?;
    }
    Ok(())
}

/// Starts passt and every virtiofsd, and lets the guest boot when all of them serve.
pub(super) async fn begin(
    passt: Option<(Passt, passt::Frontend)>,
    (virtiofsd, shares): (PathBuf, Vec<virtiofsd::Share>),
    go: oneshot::Sender<()>,
    send: mpsc::Sender<Input>,
) {
    if let Some((Passt { program, command }, frontend)) = passt {
        let (ready, serves) = oneshot::channel();
        tokio::spawn(passt::supervise(
            program,
            command,
            frontend,
            ready,
            Sink::new(send.clone()),
        ));
        if let Ok(Err(failure)) = serves.await {
            let _ = send.send(Input::Unfit(failure)).await;
            return;
        }
    }
    for share in shares {
        let (ready, serves) = oneshot::channel();
        tokio::spawn(virtiofsd::supervise(virtiofsd.clone(), share, ready));
        if let Ok(Err(failure)) = serves.await {
            let _ = send.send(Input::Unfit(failure)).await;
            return;
        }
    }
    // A boot that has failed already listens no more.
    let _ = go.send(());
}

/// Tells the VMM what to run, and to run it once `wired` says that the TAPs are there, unless it is `held` for an operator.
/// Without a configuration there is nothing to tell: the guest comes with its own.
pub(super) async fn boot(
    api: Api,
    config: Option<Config>,
    mut descriptors: BTreeMap<String, Vec<OwnedFd>>,
    wired: oneshot::Receiver<()>,
    held: bool,
    send: mpsc::Sender<Input>,
) {
    let attempt = async {
        let ping = api
            .ping()
            .await
            .map_err(|error| Input::Event(Event::StartFailed(chain(&error))))?;
        tracing::debug!("cloud-hypervisor {} ({})", ping.version, ping.build_version);
        check_version(&ping.version).map_err(Input::Unfit)?;
        let failed = |error| Input::Event(Event::StartFailed(chain(&error)));
        let boots = config.is_some();
        if let Some(config) = config {
            create(&api, config, &mut descriptors, &ping.version).await?;
        }
        if wired.await.is_err() {
            let why = "the privileged process ended before the pod was wired".to_owned();
            return Err(Input::Event(Event::StartFailed(why)));
        }
        let _ = send.send(Input::Wired(ping.version)).await;
        if !boots {
            return Ok(None);
        }
        if held {
            return Ok(Some(Event::Held));
        }
        tracing::debug!("asking for vm.boot");
        api.boot().await.map_err(failed)?;
        Ok(Some(Event::Booted))
    };
    let message = match attempt.await {
        Ok(Some(event)) => {
            match event {
                Event::Held => tracing::info!(
                    event = "guest-held",
                    "the guest is not started: its manifest has startStrategy Paused, and hawser resume starts it"
                ),
                _ => tracing::info!(event = "guest-running", "the guest is running"),
            }
            Input::Event(event)
        }
        Ok(None) => return,
        Err(message) => message,
    };
    // Nobody listens any more once the VMM is gone.
    let _ = send.send(message).await;
}

/// Refuses a cloud-hypervisor that is too old.
pub(crate) fn check_version(version: &str) -> Result<(), Failure> {
    match assumptions::release(version) {
        Release::TooOld => Err(Failure::new(
            ExitCode::PodUnfit,
            format!("cloud-hypervisor {version} is too old: v{OLDEST}.0 or newer is needed"),
        )
        .remedy("install a newer release of cloud-hypervisor")),
        Release::Tested => Ok(()),
        Release::NotTested => {
            tracing::warn!(
                event = "cloud-hypervisor-version-not-tested",
                "hawser was tested with cloud-hypervisor v{NEWEST_TESTED}.x, and this is {version}: live migration relies on \
                 behaviour that a newer release may have changed"
            );
            Ok(())
        }
        Release::Unknown => {
            tracing::warn!(
                event = "cloud-hypervisor-version-unknown",
                "cannot parse the version {version:?} of cloud-hypervisor; v{OLDEST}.0 or newer is required"
            );
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_from_52_on() {
        for good in ["v52.0", "v53.0", "53.0.0", "v53.0-dirty", "v100.1", "unknown"] {
            assert!(check_version(good).is_ok(), "{good}");
        }
        for bad in ["v51.1", "v9.0", "51.2.0"] {
            let failure = check_version(bad).unwrap_err();
            assert_eq!(failure.code(), ExitCode::PodUnfit, "{bad}");
        }
    }
}
