//! The command line. What it says is only carried over here; `run` acts on it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

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
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Wire the pod, serve the guest its addresses, run it until it ends, take the wiring down.
    Run(RunArgs),
    /// Only wire the pod, for an init container that holds NET_ADMIN; `run` then finds it done.
    Setup(Common),
    /// Say what `run` would do here. Changes nothing and needs no privilege.
    Plan(PlanArgs),
    /// For each interface, say who gives the IP, what others use, whether it can migrate, what it needs and costs.
    Explain(ExplainArgs),
    /// Say whether this pod is fit to run a guest, with a remedy for each thing that is not.
    Check(CheckArgs),
    /// Print the state of this pod's launcher as JSON; of one that has ended, its last.
    Status(StatusArgs),
    /// Have this pod's guest go on in another pod, where hawser run --incoming waits. Ends when it runs there or stays.
    Migrate(MigrateArgs),
    /// Print the JSON Schema of the manifests that are accepted.
    Schema,
    /// Print the version.
    Version,
}

/// What says how the guest is to be.
#[derive(Debug, Args)]
pub struct Inputs {
    /// The VirtualMachineInstance manifest, YAML or JSON; - for standard input. Without it, STANDALONE_VMI in the
    /// environment holds the manifest as JSON.
    #[arg(long, value_name = "FILE")]
    pub vmi: Option<PathBuf>,
    /// Binding plugins that the manifest names, YAML or JSON, as in KubeVirt's configuration.network.binding; a KubeVirt
    /// object will do.
    #[arg(long, value_name = "FILE")]
    pub bindings: Option<PathBuf>,
}

/// What `run`, `setup` and `plan` have in common.
#[derive(Debug, Args)]
pub struct Common {
    #[command(flatten)]
    pub inputs: Inputs,
    /// Where sockets, the journal and the console's log are kept.
    #[arg(long, value_name = "DIR", default_value = "/run/hawser")]
    pub state_dir: PathBuf,
    /// Where the pod mounts an image that the manifest names: a containerDisk's by its volume's name, kernelBoot's as
    /// kernel-boot. By default images/NAME below the state directory.
    #[arg(long = "image", value_name = "NAME=DIR", value_parser = named_dir)]
    pub images: Vec<(String, PathBuf)>,
    /// Where the pod has a volume that the manifest names: a mounted directory, or a claim's block device. By default
    /// volumes/NAME below the state directory.
    #[arg(long = "volume", value_name = "NAME=PATH", value_parser = named_dir)]
    pub volumes: Vec<(String, PathBuf)>,
    /// The UEFI firmware for guests that boot from a disk.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/usr/share/cloudhv-efi-x86-64/CLOUDHV.fd"
    )]
    pub firmware: PathBuf,
    /// The directory that the sidecars of binding plugins share with hawser, with the socket NAME.sock of each. By default
    /// hooks below the state directory.
    #[arg(long, value_name = "DIR")]
    pub hooks_dir: Option<PathBuf>,
    /// How long the sidecars of binding plugins may take to come up.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub hooks_timeout: u64,
    /// Numeric user id that the guest's processes run as, when hawser itself runs as root.
    #[arg(long, value_name = "UID", default_value_t = 107, value_parser = clap::value_parser!(u32).range(1..))]
    pub uid: u32,
    /// The cloud-hypervisor binary; looked for on PATH by default.
    #[arg(
        long,
        value_name = "PATH",
        env = "CLOUD_HYPERVISOR",
        default_value = "cloud-hypervisor"
    )]
    pub cloud_hypervisor: PathBuf,
    #[command(flatten)]
    pub pod: PodArgs,
}

/// Where the pod says what it has been given.
#[derive(Debug, Args)]
pub struct PodArgs {
    /// The pod's annotation kubevirt.io/network-info or k8s.v1.cni.cncf.io/network-status, as a file that the downward
    /// API mounts; by default /etc/podinfo/network-info where that is there.
    #[arg(long, value_name = "FILE")]
    pub network_status: Option<PathBuf>,
    /// Where the metadata of claimed devices is mounted (Dynamic Resource Allocation).
    #[arg(long, value_name = "DIR", default_value = crate::pod::networks::CLAIMS)]
    pub device_metadata: PathBuf,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub common: Common,
    /// Boot nothing: wait for the guest to come from another launcher by live migration.
    #[arg(long)]
    pub incoming: bool,
    /// Where that launcher finds this one. Port 49152 is kept out of every guest's reach.
    #[arg(
        long,
        value_name = "tcp:ADDRESS:PORT",
        default_value = "tcp:0.0.0.0:49152",
        requires = "incoming",
        value_parser = listen_address
    )]
    pub migration_listen: SocketAddr,
    #[command(flatten)]
    pub security: SecurityArgs,
}

/// Who may send or receive a guest.
#[derive(Debug, Args)]
pub struct SecurityArgs {
    /// Certificates of a live migration: ca-cert.pem, and client-cert.pem and client-key.pem for a source,
    /// server-cert.pem and server-key.pem for a target. Read anew for each connection.
    #[arg(long, value_name = "DIR")]
    pub tls_dir: Option<PathBuf>,
    /// Migrate without certificates and encryption: whoever reaches the port can take or plant a guest, and whoever sees
    /// the network reads its memory.
    #[arg(long, conflicts_with = "tls_dir")]
    pub insecure_plain_tcp: bool,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The running launcher's.
    #[arg(long, value_name = "DIR", default_value = "/run/hawser")]
    pub state_dir: PathBuf,
}

#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// The running launcher's.
    #[arg(long, value_name = "DIR", default_value = "/run/hawser")]
    pub state_dir: PathBuf,
    /// The target.
    #[arg(long, value_name = "tcp:HOST:PORT", required_unless_present = "cancel")]
    pub to: Option<String>,
    #[command(flatten)]
    pub security: SecurityArgs,
    /// Whom the target's certificate is for, if not HOST.
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
    /// How long the guest may stand still: the transfer goes on until the rest fits into that.
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = duration)]
    pub downtime: Duration,
    /// Give up if that is not so by then, in whole seconds.
    #[arg(long, value_name = "TIME", default_value = "3600s", value_parser = duration)]
    pub timeout: Duration,
    /// TCP connections for the guest's memory.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=128))]
    pub connections: u32,
    /// Give up the migration that is under way. A guest that is the target's already stays there.
    #[arg(long, conflicts_with = "to")]
    pub cancel: bool,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub common: Common,
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    pub inputs: Inputs,
    #[command(flatten)]
    pub pod: PodArgs,
    #[arg(short, long, value_enum, default_value_t = ExplainFormat::Text)]
    pub output: ExplainFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExplainFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
    /// A Graphviz drawing of the pod.
    Dot,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// With a manifest, what its SR-IOV interfaces, host devices and shared file systems need is looked at too.
    #[command(flatten)]
    pub inputs: Inputs,
    #[command(flatten)]
    pub pod: PodArgs,
    #[arg(long, value_name = "DIR", default_value = "/run/hawser")]
    pub state_dir: PathBuf,
    #[arg(
        long,
        value_name = "PATH",
        env = "CLOUD_HYPERVISOR",
        default_value = "cloud-hypervisor"
    )]
    pub cloud_hypervisor: PathBuf,
}

fn named_dir(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, dir)) if !name.is_empty() && !dir.is_empty() => Ok((name.to_owned(), PathBuf::from(dir))),
        _ => Err("expected NAME=PATH".to_owned()),
    }
}

fn listen_address(text: &str) -> Result<SocketAddr, String> {
    crate::migration::listen_address(text)
}

/// A number with ms or s.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a number above 0 with its unit, ms or s: 300ms, 60s".to_owned();
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, Duration::from_millis(1)),
        None => (text.strip_suffix('s').ok_or_else(wrong)?, Duration::from_secs(1)),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    if number == 0 {
        return Err(wrong());
    }
    Ok(unit.saturating_mul(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(duration("60s"), Ok(Duration::from_secs(60)));
        for bad in ["300", "0s", "-1s", "1m", "s", "1.5s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

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
