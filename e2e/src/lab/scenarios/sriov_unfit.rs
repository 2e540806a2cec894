//! Pods in which a function cannot be had: each ends at once, with its own line, and `hawser check` says the same.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::lifecycle::{END, compare};
use super::sriov::{MEMLOCK, manifest};
use super::sriov_card::{Card, Function, bind, extra, give};
use crate::lab::node::Lab;
use crate::lab::node::pod::{Extra, Pod, ROOT};
use crate::lab::process::output;

pub(super) fn each_thing(lab: &Lab) -> Result<()> {
    let card = Card::with_functions()?;
    let [function, other] = card.functions.as_slice() else {
        anyhow::bail!("two functions were wanted");
    };
    let all = extra(&[function], MEMLOCK);
    let address = &function.address;
    let node = function.node();

    let mut without_node = all.clone();
    without_node
        .podman
        .retain(|option| *option != format!("--device={node}"));
    expect(
        lab,
        function,
        &without_node,
        &format!("{node}: No such file or directory"),
    )?;

    expect(
        lab,
        function,
        &extra(&[function], 128),
        "locked memory: the limit is 128 MiB, and the guest's memory with headroom is 256 MiB",
    )?;

    give(&node, "0:0")?;
    expect(
        lab,
        function,
        &all,
        &format!("{node}: owned by 0:0 with mode 600, which user 107 may not read and write"),
    )?;
    give(&node, "107:107")?;

    let mut untold = all.clone();
    untold.podman.retain(|option| !option.starts_with("--env"));
    expect(
        lab,
        function,
        &untold,
        "cannot determine the VF of network vf0 in this pod",
    )?;
    let mut ambiguous = untold.clone();
    for (resource, function) in [("A", function), ("B", other)] {
        ambiguous.podman.push(format!(
            "--env=PCIDEVICE_EXAMPLE_COM_{resource}={}",
            function.address
        ));
    }
    expect(
        lab,
        function,
        &ambiguous,
        &format!(
            "network vf0 may have a VF of any of PCIDEVICE_EXAMPLE_COM_A={address} PCIDEVICE_EXAMPLE_COM_B={}",
            other.address
        ),
    )?;

    not_viable(lab, function)?;

    output(std::process::Command::new("modprobe").arg("igbvf"))?;
    bind(address, "igbvf")?;
    // The group's node is gone with the driver.
    expect(
        lab,
        function,
        &without_node,
        &format!("{address}: bound to igbvf, not to vfio-pci"),
    )
}

/// The chipset's functions 0, 2 and 3 are one group; the disk controller is a driver's.
fn not_viable(lab: &Lab, function: &Function) -> Result<()> {
    const SMBUS: &str = "0000:00:1f.3";
    let mut extra = extra(&[function], MEMLOCK);
    extra.podman.retain(|option| !option.starts_with("--env"));
    extra
        .podman
        .push(format!("--env=PCIDEVICE_EXAMPLE_COM_VF={SMBUS}"));
    bind(SMBUS, "vfio-pci")?;
    let result = expect(
        lab,
        function,
        &extra,
        "IOMMU group 7 is not viable: 0000:00:1f.0 is bound to lpc_ich, 0000:00:1f.2 is bound to ahci",
    );
    bind(SMBUS, "i801_smbus")?;
    result.context("a group that is not viable")
}

fn expect(lab: &Lab, function: &Function, extra: &Extra, line: &str) -> Result<()> {
    let pod = Pod::create(lab, "unfit", &[])?;
    let before = pod.snapshot()?;
    pod.set_manifest(&manifest("unfit", &[(function, "10.91.0.2", json!({}))]))?;
    for subcommand in ["run", "check"] {
        let mut launcher = pod.launch_with(subcommand, ROOT, extra)?;
        launcher
            .expect_exit(4, END)
            .with_context(|| format!("{subcommand}: wanted '{line}'"))?;
        launcher.console.wait_for(line, Duration::from_secs(5))?;
        launcher.console.wait_for("remedy: ", Duration::ZERO)?;
    }
    compare(&before, &pod.snapshot()?)
}
