//! `hawser events`: what the launcher of this pod has logged, for programs.

use clap::Args;

use super::args::StateDirArgs;
use crate::control;
use crate::error::{ExitCode, Failure};
use crate::state_dir::vmm_dir;

#[derive(Debug, Args)]
pub struct EventsArgs {
    #[command(flatten)]
    pub state_dir: StateDirArgs,
    /// Print those to come too, until the launcher ends.
    #[arg(short, long)]
    pub follow: bool,
}

pub(super) fn events(args: &EventsArgs) -> Result<ExitCode, Failure> {
    control::events(&vmm_dir(&args.state_dir.state_dir), args.follow)
}
