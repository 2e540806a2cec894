//! Scenarios in namespaces of this machine: hawser as a black box, the stand-in VMM, real DHCP clients.
//!
//! Each has a pod of its own, takes a few seconds at most, and needs root, no KVM and no network.

mod bridge;
mod bridge_pod;
mod clients;
mod cni;
mod confinement;
mod console;
mod convergence;
mod cpus;
mod crashes;
mod datapath;
mod disks;
mod double;
mod down;
mod examples;
mod faults;
mod guard;
mod input;
mod layouts;
mod lifecycle;
mod migration;
mod migration_convergence;
mod migration_disks;
mod migration_faults;
mod migration_own_disks;
mod migration_pair;
mod migration_passt;
mod migration_peers;
mod migration_plugins;
mod plugins;
mod plugins_refused;
mod pod_networks;
mod privileges;
mod running;
mod scarcity;
mod sidecars;
mod soak;
mod traffic;
mod unfit;

use std::path::PathBuf;

use anyhow::Result;

use crate::programs::Programs;
use crate::report::{Outcome, Report, Scenario};

pub(crate) use running::resident;
pub(crate) use soak::Length;

/// What every scenario is given.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) programs: Programs,
}

/// Runs the selected ones of all groups with this launcher.
pub(crate) fn run(report: &mut Report, filter: Option<&str>, hawser: Result<PathBuf>) {
    let programs = match hawser.and_then(Programs::with) {
        Ok(programs) => programs,
        Err(error) => {
            return report.record(
                "namespace",
                "programs",
                Outcome::Failed(format!("{error:#}")),
                None,
            );
        }
    };
    let context = Context { programs };
    for (group, scenarios) in GROUPS {
        report.run(group, scenarios, &context, filter);
    }
}

/// Lives of guests and churn, for so long.
pub(crate) fn soak(report: &mut Report, hawser: Result<PathBuf>, length: &Length) {
    match hawser.and_then(Programs::with) {
        Ok(programs) => soak::run(report, &Context { programs }, length),
        Err(error) => report.record("soak", "programs", Outcome::Failed(format!("{error:#}")), None),
    }
}

const GROUPS: &[(&str, &[Scenario<Context>])] = &[
    ("stand-in", double::SCENARIOS),
    ("input", input::SCENARIOS),
    ("unfit", unfit::SCENARIOS),
    ("examples", examples::SCENARIOS),
    ("cpus", cpus::SCENARIOS),
    ("link down", down::SCENARIOS),
    ("disks", disks::SCENARIOS),
    ("clients", clients::SCENARIOS),
    ("datapath", datapath::SCENARIOS),
    ("pod networks", pod_networks::SCENARIOS),
    ("pods", layouts::SCENARIOS),
    ("bridge", bridge::SCENARIOS),
    ("bridge", bridge_pod::SCENARIOS),
    ("cni", cni::SCENARIOS),
    ("plugins", plugins::SCENARIOS),
    ("plugins", plugins_refused::SCENARIOS),
    ("guard", guard::SCENARIOS),
    ("sidecars", sidecars::SCENARIOS),
    ("privileges", privileges::SCENARIOS),
    ("confinement", confinement::SCENARIOS),
    ("lifecycle", lifecycle::SCENARIOS),
    ("faults", faults::SCENARIOS),
    ("scarcity", scarcity::SCENARIOS),
    ("convergence", convergence::SCENARIOS),
    ("console", console::SCENARIOS),
    ("convergence", crashes::SCENARIOS),
    ("soak", soak::SCENARIOS),
    ("migration", migration::SCENARIOS),
    ("migration", migration_convergence::SCENARIOS),
    ("migration", migration_disks::SCENARIOS),
    ("migration", migration_own_disks::SCENARIOS),
    ("migration", migration_faults::SCENARIOS),
    ("migration", migration_passt::SCENARIOS),
    ("migration", migration_peers::SCENARIOS),
    ("migration", migration_plugins::SCENARIOS),
];
