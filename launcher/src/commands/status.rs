//! `hawser status`: the state of this pod's launcher.

use super::args::StateDirArgs;
use crate::control;
use crate::error::{ExitCode, Failure};
use crate::state_dir::vmm_dir;

pub(super) fn status(args: &StateDirArgs) -> Result<ExitCode, Failure> {
    control::status(&vmm_dir(&args.state_dir))
}
