//! From the command line to the verb.

use std::process::ExitCode;

use crate::cli::{Cli, Command};
use crate::failure::Failure;
use crate::kubectl::Kubectl;
use crate::{drain, migrate, ssh, thin};

/// Does what the command line says.
///
/// # Errors
/// What was asked for was not done.
pub fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let cluster = cli.cluster;
    let flags = [
        ("--namespace", cluster.namespace),
        ("--context", cluster.context),
        ("--kubeconfig", cluster.kubeconfig),
    ];
    let flags = flags
        .into_iter()
        .filter_map(|(flag, value)| Some(format!("{flag}={}", value?)));
    let kubectl = Kubectl::new(cluster.kubectl, flags.collect());
    match cli.command {
        Command::Status { guest, output } => thin::status(&kubectl, &guest, output),
        Command::Logs { guest, follow } => thin::logs(&kubectl, &guest, follow),
        Command::Console { guest, read_only } => thin::console(&kubectl, &guest, read_only),
        Command::Stop { guest } => thin::stop(&kubectl, &guest),
        Command::Ssh {
            guest,
            ssh,
            arguments,
        } => ssh::ssh(&kubectl, &guest, &ssh, &arguments),
        Command::Migrate(args) => migrate::migrate(&kubectl, &args),
        Command::Drain(args) => drain::drain(&kubectl, &args),
        Command::Cancel { guest, pace } => migrate::cancel(&kubectl, &guest, &pace),
    }
}
