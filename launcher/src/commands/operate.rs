//! `hawser pause`, `resume`, `reset`, `stop` and `nmi`: each asks the launcher of this pod, and prints its answer.

use super::args::StateDirArgs;
use crate::control::{self, Verb};
use crate::error::{ExitCode, Failure};
use crate::state_dir::vmm_dir;

pub(super) fn operate(args: &StateDirArgs, verb: Verb) -> Result<ExitCode, Failure> {
    control::operate(&vmm_dir(&args.state_dir), verb)
}
