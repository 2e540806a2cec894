//! `hawser setup`: the wiring alone, for a container of its own. `hawser run` then finds it done.
//!
//! Without `--stay` it is for an init container that ends. With it, for one that the kubelet keeps running beside the guest's
//! (`restartPolicy: Always`): it holds the capability and the device as long as the guest needs them, and takes the wiring down
//! at the end. Its state directory is its own; of the guest's it reads whether the guest was migrated away, and nothing else.

use std::path::PathBuf;

use clap::Args;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::args::PodArgs;
use super::run::ANNOTATION_TIMEOUT;
use super::wiring;
use crate::control::{Whereabouts, whereabouts};
use crate::error::{ExitCode, Failure};
use crate::privileges;
use crate::state_dir::{StateDir, vmm_dir};
use crate::stop_signals;
use crate::survey::{Look, Survey};

#[derive(Debug, Args)]
pub struct SetupArgs {
    #[command(flatten)]
    pub pod: PodArgs,
    /// Stay after the pod is wired, and take the wiring down on SIGTERM. hawser status --wired says when the pod is wired.
    #[arg(long)]
    pub stay: bool,
    /// State directory of the guest's own container. If it says that the guest was migrated away, its wiring is kept: the
    /// guest's addresses are then in use in another pod.
    #[arg(long, value_name = "DIR", requires = "stay")]
    pub guest_state_dir: Option<PathBuf>,
}

pub(super) fn setup(args: &SetupArgs) -> Result<ExitCode, Failure> {
    let signals = |errno| Failure::new(ExitCode::Internal, "handle stop signals").because(errno);
    stop_signals::end_at_once().map_err(signals)?;
    privileges::keep_memory_private()?;
    let SetupArgs {
        pod: args,
        stay,
        guest_state_dir,
    } = args;
    let guest = args.manifest.load()?.spec;
    let nft = wiring::begin()?;
    let places = args.places();
    let survey = Survey {
        places: &places,
        uid: args.uid,
        look: Look::Start {
            wait: ANNOTATION_TIMEOUT,
        },
        certificates: None,
    };
    let (owner, plan, notes) = survey.wiring(guest)?;
    wiring::note(&notes);
    wiring::note(&plan.notes);
    let state = StateDir::open(&places.state_dir, owner)?;
    state.mark_wired(false)?;
    // From here on a stop signal waits until there is a whole wiring to take down.
    let awaited = awaited_signals();
    awaited.thread_block().map_err(signals)?;
    let journal = state.journal()?;
    let done = wiring::wire(&plan, nft, &journal)?;
    state.mark_wired(true)?;
    tracing::info!(
        event = "pod-wired",
        "the pod is wired; hawser run will use this wiring"
    );
    if !stay {
        return Ok(ExitCode::Success);
    }
    wait_for_stop(&awaited).map_err(signals)?;
    state.mark_wired(false)?;
    let guest = guest_state_dir.as_ref().map(|dir| whereabouts(&vmm_dir(dir)));
    if guest.is_some_and(|guest| guest != Whereabouts::Here) {
        tracing::info!(
            event = "wiring-kept",
            "the wiring is kept until the pod ends: the guest's addresses are in use in another pod"
        );
        return Ok(ExitCode::Success);
    }
    Ok(match wiring::take_down(&done, &journal) {
        true => ExitCode::Success,
        false => ExitCode::Teardown,
    })
}

fn awaited_signals() -> SigSet {
    let mut set = SigSet::empty();
    for signal in stop_signals::STOP {
        set.add(signal);
    }
    set.add(Signal::SIGCHLD);
    set
}

/// Until a stop signal. As the first process of the container it reaps what `kubectl exec` leaves behind.
fn wait_for_stop(awaited: &SigSet) -> Result<(), nix::errno::Errno> {
    while awaited.wait()? == Signal::SIGCHLD {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
    }
    Ok(())
}
