//! The verbs of the command line, one file each.

pub mod args;
pub mod check;
pub mod console;
pub mod events;
pub mod explain;
pub mod migrate;
mod operate;
pub mod plan;
pub mod pod;
pub mod run;
pub mod setup;
pub mod shell;
pub mod status;
mod status_table;
mod version;
pub mod vsock;
mod wiring;

use clap::CommandFactory;

use crate::cli::{Cli, Command};
use crate::control::Verb;
use crate::descriptors;
use crate::error::{ExitCode, Failure};
use crate::spec;

/// Does what the command line says.
pub fn dispatch(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.command {
        Command::Run(args) => descriptors::require().and_then(|()| run::run(&args)),
        Command::Setup(args) => descriptors::require().and_then(|()| setup::setup(&args)),
        Command::Pod(args) => pod::pod(&args),
        Command::Plan(args) => plan::plan(&args),
        Command::Explain(args) => explain::explain(&args),
        Command::Check(args) => check::check(&args),
        Command::Status(args) => status::status(&args),
        Command::Events(args) => events::events(&args),
        Command::Console(args) => console::console(&args),
        Command::Vsock(args) => vsock::vsock(&args),
        Command::Pause(args) => operate::operate(&args, Verb::Pause),
        Command::Resume(args) => operate::operate(&args, Verb::Resume),
        Command::Reset(args) => operate::operate(&args, Verb::Reset),
        Command::Stop(args) => operate::operate(&args, Verb::Stop),
        Command::Nmi(args) => operate::operate(&args, Verb::Nmi),
        Command::Migrate(args) => migrate::migrate(args),
        Command::Schema => {
            println!("{:#}", spec::schema());
            Ok(ExitCode::Success)
        }
        Command::Completions(args) => shell::completions(&args, Cli::command()),
        Command::Man(args) => shell::man(&args, Cli::command()),
        Command::Version => version::version(),
    }
}
