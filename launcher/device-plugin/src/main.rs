//! The entrypoint of the device plugin's container.

use std::error::Error as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use hawser_device_plugin::{Config, Resource, run};
use tracing_subscriber::EnvFilter;

/// Offers this node's devices for guests to pods, until SIGTERM.
#[derive(Debug, Parser)]
#[command(
    name = "hawser-device-plugin",
    version,
    after_help = "Exit codes: 0 ended by a signal; 1 failed, and must be started again; 2 usage.\nHAWSER_LOG sets what is \
                  logged to stderr: error, warn, info (default), debug."
)]
struct Cli {
    /// What is offered.
    #[arg(
        long,
        value_name = "NAME,…",
        value_delimiter = ',',
        default_value = "kvm,tun,vhost-net,vfio"
    )]
    offer: Vec<Resource>,
    /// The domain of the resources: pods ask for DOMAIN/NAME. KubeVirt's by default, so that pods written for its device
    /// plugins fit.
    #[arg(long, default_value = "devices.kubevirt.io")]
    domain: String,
    /// How many pods of this node can have each device.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..))]
    devices: u16,
    /// The kubelet's directory of device plugins.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet/device-plugins")]
    kubelet_dir: PathBuf,
    /// The node's /dev.
    #[arg(long, value_name = "DIR", default_value = "/dev")]
    dev: PathBuf,
    /// A directory for copies of the device nodes that not every user may open. Its path must be the same on the host.
    /// Without it, containers are given the host's device nodes.
    #[arg(long, value_name = "DIR")]
    copies: Option<PathBuf>,
    /// Write passt's seccomp profile there.
    #[arg(long, value_name = "FILE")]
    passt_profile: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("HAWSER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false)
        .log_internal_errors(false)
        .init();
    let config = Config {
        resources: cli.offer,
        domain: cli.domain,
        devices: cli.devices,
        directory: cli.kubelet_dir,
        dev: cli.dev,
        copies: cli.copies,
        passt_profile: cli.passt_profile,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(event = "plugin-failed", "the plugin cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let source = error
                .source()
                .map(|source| format!(": {source}"))
                .unwrap_or_default();
            tracing::error!(event = "plugin-failed", "{error}{source}");
            ExitCode::FAILURE
        }
    }
}
