//! `hawser explain`: for each interface and device, who gives the IP, what others use, whether it can migrate, what it
//! needs.

use clap::{Args, ValueEnum};

use super::args::{DEFAULT_UID, DeviceArgs, ManifestArgs};
use crate::error::{ExitCode, Failure};
use crate::launch::Explanations;
use crate::survey;

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
    let (guest, cni) = survey::as_far_as_known(guest, status, DEFAULT_UID)?;
    let explanations = Explanations::new(&guest, &cni);
    match args.output {
        ExplainFormat::Text => print!("{}", explanations.text()),
        ExplainFormat::Json => {
            println!("{:#}", serde_json::json!(explanations));
        }
    }
    Ok(ExitCode::Success)
}
