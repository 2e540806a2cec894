//! `hawser console`: the guest's serial console at this terminal.

use clap::Args;

use super::args::StateDirArgs;
use crate::console::{self, Mode};
use crate::error::{ExitCode, Failure};
use crate::state_dir::vmm_dir;

#[derive(Debug, Args)]
pub struct ConsoleArgs {
    #[command(flatten)]
    pub state_dir: StateDirArgs,
    /// Only show what the guest prints; what is typed does not reach it.
    #[arg(long)]
    pub read_only: bool,
}

pub(super) fn console(args: &ConsoleArgs) -> Result<ExitCode, Failure> {
    let mode = match args.read_only {
        true => Mode::Watch,
        false => Mode::Type,
    };
    console::attach(&vmm_dir(&args.state_dir.state_dir), mode)
}
