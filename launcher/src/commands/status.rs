//! `hawser status`: the state of this pod's launcher, as a table, as JSON, or as an exit code for the kubelet's probes.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::args::StateDirArgs;
use super::status_table::table;
use crate::control;
use crate::error::{ExitCode, Failure};
use crate::state_dir::{is_wired, vmm_dir};
use crate::status::Status;

/// Between two questions of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Moves to the top left of a terminal, and clears it.
const CLEAR: &str = "\x1b[H\x1b[2J";

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub state_dir: StateDirArgs,
    /// How to print it. By default a table at a terminal, and JSON elsewhere.
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<Format>,
    /// Print the table again whenever it has changed, until the launcher ends.
    #[arg(short, long, conflicts_with_all = ["ready", "live", "wired"])]
    pub watch: bool,
    /// Print nothing, and succeed if the guest is running here (exit code 6 if it is not). Where the manifest's annotation
    /// hawser.dev/ready-when asks for it, the guest must also have reported that it has booted. For a readiness probe.
    #[arg(long, conflicts_with_all = ["live", "wired", "output"])]
    pub ready: bool,
    /// Print nothing, and succeed if the launcher answers (exit code 4 if it does not). For a liveness probe.
    #[arg(long, conflicts_with_all = ["wired", "output"])]
    pub live: bool,
    /// Print nothing, and succeed if hawser setup has wired the pod (exit code 4 if it has not). For the startup probe of a
    /// container that runs hawser setup --stay.
    #[arg(long, conflicts_with = "output")]
    pub wired: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs: docs/operate.md has the fields.
    Json,
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
        return match control::live(&vmm_dir)?.not_ready() {
            None => Ok(ExitCode::Success),
            Some(why) => Err(Failure::new(ExitCode::Vmm, why)),
        };
    }
    let usual = match io::stdout().is_terminal() {
        true => Format::Table,
        false => Format::Json,
    };
    let format = args.output.unwrap_or(usual);
    if args.watch {
        return watch(&vmm_dir, format);
    }
    print(&text(&control::status(&vmm_dir)?, format)?)?;
    Ok(ExitCode::Success)
}

/// Until the launcher does not answer any more: what it said last stays in the table.
fn watch(vmm_dir: &Path, format: Format) -> Result<ExitCode, Failure> {
    let mut last = String::new();
    let mut answers = true;
    while answers {
        answers = control::live(vmm_dir).is_ok();
        let now = text(&control::status(vmm_dir)?, format)?;
        if now != last {
            let clears = io::stdout().is_terminal() && format == Format::Table;
            print(&format!("{}{now}", if clears { CLEAR } else { "" }))?;
            last = now;
        }
        if answers {
            std::thread::sleep(WATCH_INTERVAL);
        }
    }
    Ok(ExitCode::Success)
}

fn text(status: &Status, format: Format) -> Result<String, Failure> {
    match format {
        Format::Table => Ok(table(status)),
        Format::Json => serde_json::to_string_pretty(status)
            .map(|text| format!("{text}\n"))
            .map_err(|error| Failure::new(ExitCode::Internal, "the status").because(error)),
    }
}

/// Whoever reads may have read enough.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::new(ExitCode::Internal, "print the status").because(error))
}
