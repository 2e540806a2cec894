//! `hawser explain`: for each interface and device, who gives the IP, what others use, whether it can migrate, what it needs.

use clap::{Args, ValueEnum};
use hawser_netsetup::{Owner, interface_names};

use super::args::{DEFAULT_UID, DeviceArgs, ManifestArgs};
use crate::devices;
use crate::error::{ExitCode, Failure};
use crate::nic;
use crate::privileges;
use crate::survey::name_interfaces_here;
use crate::survey::namespace::cni_devices;

#[derive(Debug, Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    pub manifest: ManifestArgs,
    #[command(flatten)]
    pub devices: DeviceArgs,
    /// Format of the answer.
    #[arg(short, long, value_enum, default_value_t = ExplainFormat::Text)]
    pub output: ExplainFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExplainFormat {
    Text,
    Json,
}

pub(super) fn explain(args: &ExplainArgs) -> Result<ExitCode, Failure> {
    let guest = args.manifest.load()?.spec;
    let status = args.devices.network_status.as_deref();
    // Also where the pod is not, so that its interfaces are not looked for in vain.
    let here = name_interfaces_here(guest.clone(), status, &interface_names());
    let guest = here.or_else(|_| name_interfaces_here(guest, status, &[]))?;
    let owner = privileges::owner(DEFAULT_UID).unwrap_or(Owner {
        uid: DEFAULT_UID,
        gid: DEFAULT_UID,
    });
    let cni = cni_devices(&guest, owner);
    let interfaces = nic::explain(&guest, &cni);
    let devices = devices::explain(&guest);
    match args.output {
        ExplainFormat::Text => {
            print!("{}", nic::explanation_text(&interfaces));
            print!("{}", devices::explanation_text(&devices));
        }
        ExplainFormat::Json => {
            println!(
                "{:#}",
                serde_json::json!({ "interfaces": interfaces, "devices": devices })
            );
        }
    }
    Ok(ExitCode::Success)
}
