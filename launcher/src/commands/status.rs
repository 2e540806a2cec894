//! `hawser status`: the state of this pod's launcher, as JSON or as an exit code for the kubelet's probes.

use clap::Args;

use super::args::StateDirArgs;
use crate::control;
use crate::error::{ExitCode, Failure};
use crate::state_dir::{is_wired, vmm_dir};
use crate::status::Phase;

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub state_dir: StateDirArgs,
    /// Print nothing, and succeed if the guest is running here (exit code 6 if it is not). For a readiness probe.
    #[arg(long, conflicts_with_all = ["live", "wired"])]
    pub ready: bool,
    /// Print nothing, and succeed if the launcher answers (exit code 4 if it does not). For a liveness probe.
    #[arg(long, conflicts_with = "wired")]
    pub live: bool,
    /// Print nothing, and succeed if hawser setup has wired the pod (exit code 4 if it has not). For the startup probe of a
    /// container that runs hawser setup --stay.
    #[arg(long)]
    pub wired: bool,
}

pub(super) fn status(args: &StatusArgs) -> Result<ExitCode, Failure> {
    let state_dir = &args.state_dir.state_dir;
    let vmm_dir = vmm_dir(state_dir);
    if args.wired {
        return match is_wired(state_dir) {
            true => Ok(ExitCode::Success),
            false => Err(Failure::new(ExitCode::PodUnfit, "the pod is not wired yet")),
        };
    }
    if args.live {
        return control::live(&vmm_dir).map(|_| ExitCode::Success);
    }
    if args.ready {
        return match control::live(&vmm_dir)?.state {
            Phase::Running => Ok(ExitCode::Success),
            state => Err(Failure::new(
                ExitCode::Vmm,
                format!("the guest is not running: {}", state.name()),
            )),
        };
    }
    let status = control::status(&vmm_dir)?;
    let text = serde_json::to_string_pretty(&status)
        .map_err(|error| Failure::new(ExitCode::Internal, "the status").because(error))?;
    println!("{text}");
    Ok(ExitCode::Success)
}
