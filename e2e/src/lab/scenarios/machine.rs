//! What a manifest says of the machine itself, seen from the node.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::masquerade::{BOOT, SERVE};
use super::vmi;
use crate::lab::node::Lab;
use crate::lab::node::guest::{self, PORT};
use crate::lab::node::pod::{Pod, ROOT};

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// A VirtualMachine, as most people have them, with memory of huge pages.
fn manifest() -> Result<Value> {
    let mut instance = vmi::masquerade("huge", &[]);
    vmi::set(
        &mut instance,
        "/spec/domain/memory",
        json!({"guest": "192Mi", "hugepages": {"pageSize": "2Mi"}}),
    );
    vmi::set(&mut instance, "/spec/domain/features", json!({"acpi": {}}));
    let spec = instance.get("spec").context("a manifest without spec")?;
    Ok(json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": "huge", "namespace": "default"},
        "spec": {"runStrategy": "Always", "template": {"spec": spec}},
    }))
}

pub(super) fn hugepages(lab: &Lab) -> Result<()> {
    let pages = Pages::reserve(200)?;
    let free = free()?;
    let pod = Pod::create(lab, "huge", &[])?;
    pod.set_manifest(&manifest()?)?;
    let mut launcher = pod.launch("run", ROOT)?;
    launcher.console.wait_for("guest: ipv4 eth0 10.0.2.2/24 ", BOOT)?;
    guest::greet_within(pod.ipv4.into(), PORT, SERVE)?;
    let used = free.saturating_sub(self::free()?);
    // A page is taken when the guest touches it.
    ensure!(
        used >= 16,
        "the guest runs, and of its 96 huge pages {used} are used"
    );
    launcher.signal("TERM")?;
    launcher.expect_exit(0, Duration::from_secs(60))?;

    drop(pages);
    let mut launcher = pod.launch("run", ROOT)?;
    launcher.expect_exit(4, Duration::from_secs(60))?;
    launcher.console.wait_for(
        "96 pages of 2048 KiB are needed, and the node has 0 free",
        Duration::ZERO,
    )?;
    Ok(())
}

/// The node's pool, empty again when dropped.
struct Pages;

impl Pages {
    fn reserve(count: u32) -> Result<Self> {
        fs::write(format!("{POOL}/nr_hugepages"), count.to_string())?;
        let pages = Self;
        ensure!(free()? >= 96, "the node could not reserve {count} huge pages");
        Ok(pages)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let _ = fs::write(format!("{POOL}/nr_hugepages"), "0");
    }
}

fn free() -> Result<u64> {
    Ok(fs::read_to_string(format!("{POOL}/free_hugepages"))?
        .trim()
        .parse()?)
}
