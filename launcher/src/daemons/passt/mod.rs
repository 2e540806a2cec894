//! passt, for a NIC of that binding: its command line (pure), its version, its process, and what happens when it dies.
//!
//! passt is started with one end of a socket pair (`--fd`), so there is no path to wait for and no socket that is left
//! over. It is asked for its features before the guest runs: an answer says that it is in its sandbox, has its ports and
//! serves. It ends by itself when the connection does, so none outlives the supervisor.

mod command;
mod process;
mod repair;
mod repair_program;
mod supervise;
mod version;

use std::path::PathBuf;

pub(crate) use command::{Command, forwards_all_text};
pub(crate) use repair::Side;
pub(crate) use repair_program::{RepairProgram, RunningRepair};
pub(crate) use supervise::{Frontend, Handle, Report, supervise};
pub(crate) use version::{Fitness, check, find};

/// What runs behind a NIC. A guest has one such NIC at most, since it is on the pod network.
#[derive(Debug)]
pub(crate) struct Passt {
    pub(crate) program: PathBuf,
    pub(crate) command: Command,
}

/// Its name on PATH.
const PROGRAM: &str = "passt";
