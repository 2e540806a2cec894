//! The command line. Each verb's own options are in its file below `commands`.

use clap::{Parser, Subcommand};

use crate::commands::args::StateDirArgs;
use crate::commands::check::CheckArgs;
use crate::commands::console::ConsoleArgs;
use crate::commands::events::EventsArgs;
use crate::commands::explain::ExplainArgs;
use crate::commands::migrate::MigrateArgs;
use crate::commands::plan::PlanArgs;
use crate::commands::pod::PodArgs;
use crate::commands::run::RunArgs;
use crate::commands::setup::SetupArgs;
use crate::commands::shell::{CompletionsArgs, ManArgs};
use crate::commands::status::StatusArgs;
use crate::commands::vsock::VsockArgs;

/// Runs a KubeVirt VirtualMachineInstance in this pod with cloud-hypervisor.
#[derive(Debug, Parser)]
#[command(
    name = "hawser",
    version,
    after_help = "Exit codes: 0 guest shut down; 1 internal error; 2 usage; 3 manifest refused; 4 pod unfit; \
                  5 namespace in a state hawser will not touch; 6 VMM or guest failed; 7 guest killed after its \
                  grace period; 8 teardown incomplete; 9 a live migration failed.\nHAWSER_LOG sets what is logged to stderr: error, warn, \
                  info (default), debug."
)]
pub struct Cli {
    /// The form of the log on standard error.
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        env = "HAWSER_LOG_FORMAT",
        default_value = "text"
    )]
    pub log_format: crate::log::Format,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Wire the pod, serve the guest its addresses, run it until it ends, take the wiring down.
    Run(RunArgs),
    /// Only wire the pod, for a container of its own that holds NET_ADMIN; `run` then finds it done.
    Setup(SetupArgs),
    /// Print the Kubernetes objects that run this guest, for kubectl apply -f -. Needs neither a cluster nor a pod.
    Pod(PodArgs),
    /// Say what `run` would do here. Changes nothing and needs no privilege.
    Plan(PlanArgs),
    /// For each interface, say who gives the IP, what others use, whether it can migrate, what it needs and costs.
    Explain(ExplainArgs),
    /// Say whether this pod is fit to run a guest, with a remedy for each thing that is not.
    Check(CheckArgs),
    /// Print the state of this pod's launcher as JSON; of one that has ended, its last.
    Status(StatusArgs),
    /// Print the events that the launcher of this pod has logged, as JSON, a line each.
    Events(EventsArgs),
    /// Show the guest's serial console here, and type at it. Ctrl-] detaches.
    Console(ConsoleArgs),
    /// Connect standard input and output to a port of the guest's virtio socket, as for ssh -o ProxyCommand.
    Vsock(VsockArgs),
    /// Stop the guest's vCPUs. Its memory and its devices stay, and hawser resume runs it again.
    Pause(StateDirArgs),
    /// Run a guest again that was paused.
    Resume(StateDirArgs),
    /// Reset the guest at once, as by the reset button of a computer: it boots again, and loses what it had not written.
    Reset(StateDirArgs),
    /// Press the guest's power button until it has powered off; after its grace period, kill it. As on SIGTERM.
    Stop(StateDirArgs),
    /// Send the guest a non-maskable interrupt. What it does upon that is the guest's own setting: a crash dump, in most cases.
    Nmi(StateDirArgs),
    /// Have this pod's guest go on in another pod, where hawser run --incoming waits. Ends when it runs there or stays.
    Migrate(MigrateArgs),
    /// Print the JSON Schema of the manifests that are accepted.
    Schema,
    /// Print the versions of hawser and of the programs that it starts, and what each makes possible.
    Version,
    /// Print what a shell needs to complete hawser's command line.
    Completions(CompletionsArgs),
    /// Print the manual page.
    Man(ManArgs),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("hawser run --incoming --tls-dir /certs").is_ok());
        assert!(
            parse("hawser run --migration-listen tcp:0.0.0.0:1").is_err(),
            "nobody comes"
        );
        assert!(parse("hawser migrate --tls-dir /certs").is_err(), "where to");
        assert!(parse("hawser migrate --to tcp:h:1 --tls-dir /c --insecure-plain-tcp").is_err());
        assert!(parse("hawser migrate --cancel").is_ok());
    }
}
