//! `hawser plan`: what `hawser run` would do here. Changes nothing and needs no privilege.

mod dot;
mod output;

use clap::{Args, ValueEnum};

use self::output::Output;
use super::args::PodArgs;
use crate::error::{ExitCode, Failure};
use crate::launch::Layout;
use crate::survey::namespace::Network;
use crate::survey::{Look, Survey};

#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub pod: PodArgs,
    /// Format of the plan.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
    /// A Graphviz drawing of the pod.
    Dot,
}

pub(super) fn plan(args: &PlanArgs) -> Result<ExitCode, Failure> {
    let places = args.pod.places();
    let survey = Survey {
        places: &places,
        uid: args.pod.uid,
        look: Look::Glance,
        certificates: None,
    };
    let mut pod = survey.pod(args.pod.manifest.load()?.spec);
    let notes = pod.notes();
    let (Network { plan, cni }, pci) = pod.wiring_and_functions()?;
    let layout = Layout::new(&pod.guest, &plan, &cni, &pci, &pod.resolv, &places.vmm_dir());
    let output = Output {
        guest: &pod.guest,
        plan: &plan,
        cni: &cni,
        pci: &pci,
        layout: &layout,
        notes,
        boot: &pod.boot,
        cpus: &pod.cpus,
        disks: &pod.disks,
        root_keys: &pod.root_keys,
        directory: places.vmm_dir(),
    };
    match args.output {
        Format::Text => print!("{}", output.text()),
        Format::Json => println!("{:#}", output.json()),
        Format::Dot => print!("{}", output.dot()),
    }
    Ok(ExitCode::Success)
}
