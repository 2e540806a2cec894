//! The command line.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Guests that hawser runs in this cluster.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl hawser",
    bin_name = "kubectl hawser",
    version,
    after_help = "It starts kubectl for each step, with these options, and has no rights of its own.\nExit codes: 0 done; 1 kubectl \
                  failed, or it is not known what became of the guest: run the same again; 2 usage; 3 refused, and nothing was \
                  changed; 6 the guest has ended; 9 the guest is not where it was asked to be. logs, console and stop exit as \
                  kubectl does, ssh as ssh does."
)]
pub struct Cli {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// kubectl's own.
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    /// Namespace of the guest.
    #[arg(short, long, global = true, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// Context of the kubeconfig.
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The kubeconfig.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<String>,
    /// The kubectl program: a path, or a name to look up on PATH.
    #[arg(long, global = true, value_name = "PATH", default_value = "kubectl")]
    pub(crate) kubectl: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the state of a guest, as the launcher in each of its pods says it.
    Status {
        /// Name of the guest.
        guest: String,
        /// Format: a table for each pod, or one JSON list.
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Print the guest's console and its launcher's log.
    Logs {
        /// Name of the guest.
        guest: String,
        /// Go on with what is printed from now on.
        #[arg(short, long)]
        follow: bool,
    },
    /// Show the guest's serial console here, and type at it. Ctrl-] detaches.
    Console {
        /// Name of the guest.
        guest: String,
        /// Only show what the guest prints.
        #[arg(long)]
        read_only: bool,
    },
    /// Press the guest's power button; after its grace period, kill it.
    Stop {
        /// Name of the guest.
        guest: String,
    },
    /// Log in to a guest with autoattachVSOCK over its virtio socket, without its network. Ends with ssh's exit code.
    Ssh {
        /// Name of the guest, with a user before it: root@web.
        #[arg(value_name = "[USER@]GUEST")]
        guest: String,
        /// The ssh program: a path, or a name to look up on PATH.
        #[arg(long, value_name = "PATH", default_value = "ssh")]
        ssh: String,
        /// Options of ssh's, and a command for the guest.
        #[arg(last = true, value_name = "ARGUMENT")]
        arguments: Vec<String>,
    },
    /// Migrate the guest to another node while it runs. A run that was interrupted is taken up by the next.
    Migrate(MigrateArgs),
    /// Cancel the migration that is under way, and remove what an interrupted one has left. A guest that was committed to the target
    /// stays there.
    Cancel {
        /// Name of the guest.
        guest: String,
        #[command(flatten)]
        pace: PaceArgs,
    },
    /// Cordon a node, and have its guests leave it, in all namespaces: those whose evictionStrategy asks for it migrate, the others are
    /// shut down. kubectl drain does the rest.
    Drain(DrainArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// Name of the guest.
    pub(crate) guest: String,
    /// The node to migrate to. Without it, the scheduler decides.
    #[arg(long, value_name = "NODE")]
    pub(crate) to: Option<String>,
    /// Time for the rounds over the guest's memory.
    #[arg(long, value_name = "TIME", value_parser = hawser_s)]
    pub(crate) timeout: Option<String>,
    /// The longest downtime that is aimed at.
    #[arg(long, value_name = "TIME", value_parser = hawser_s)]
    pub(crate) downtime: Option<String>,
    /// The longest that the guest may be paused altogether.
    #[arg(long, value_name = "TIME", value_parser = hawser_s)]
    pub(crate) max_downtime: Option<String>,
    /// Time for the target's pod to start.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    pub(crate) start_timeout: Duration,
    /// Name images as the source's pod does, also by tags. Without it, a migration is refused if the digest of an image is not known.
    #[arg(long)]
    pub(crate) keep_tags: bool,
    /// The level of the source's SELinux label, where its pod does not say it.
    #[arg(long, value_name = "LEVEL")]
    pub(crate) selinux_level: Option<String>,
    #[command(flatten)]
    pub(crate) pace: PaceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// Name of the node.
    pub(crate) node: String,
    /// For each guest, time for the rounds over its memory.
    #[arg(long, value_name = "TIME", value_parser = hawser_s)]
    pub(crate) timeout: Option<String>,
    /// For each target's pod, time to start.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    pub(crate) start_timeout: Duration,
    /// Name images as the sources' pods do, also by tags.
    #[arg(long)]
    pub(crate) keep_tags: bool,
    #[command(flatten)]
    pub(crate) pace: PaceArgs,
}

/// How often the cluster is asked, and for how long without an answer.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct PaceArgs {
    /// Time between two questions to the cluster.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    pub(crate) interval: Duration,
    /// Time without an answer from the cluster or the launchers, after which it ends with exit code 1.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    pub(crate) give_up: Duration,
}

/// hawser reads it again; here it is a matter of usage.
fn hawser_s(text: &str) -> Result<String, String> {
    match humantime::parse_duration(text) {
        Ok(time) if !time.is_zero() => Ok(text.to_owned()),
        _ => Err("expected a number with its unit: 300ms, 60s, 5m".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("kubectl-hawser migrate web --to b -n vms").is_ok());
        assert!(parse("kubectl-hawser --context c migrate web --timeout 1h").is_ok());
        assert!(parse("kubectl-hawser migrate web --timeout 100").is_err());
        assert!(parse("kubectl-hawser migrate").is_err());
        assert!(parse("kubectl-hawser drain a --keep-tags").is_ok());
        assert!(parse("kubectl-hawser ssh root@web -n vms -- -i key uname -a").is_ok());
        assert!(parse("kubectl-hawser ssh root@web uname").is_err());
    }
}
