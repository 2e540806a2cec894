//! A full Debian from a disk, as a user's manifest has it: nothing but a containerDisk, cloud-init and a network.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::lifecycle::END;
use super::vmi;
use crate::lab::debian_guest;
use crate::lab::node::pod::{FORWARD_IPV6, Pod, ROOT};
use crate::lab::node::{Lab, PAYLOAD};
use crate::report::Skip;

pub(crate) const NAME: &str = "debian_boots_by_uefi_with_cloud_init";

/// What is seen on the way, each within [`STAGE`] of the one before: systemd is there; cloud-init has begun; the user data
/// has been carried out.
const STAGES: [&str; 3] = ["Welcome to", "Cloud-init v.", "guest: cloud-init done"];
/// On a processor that is emulated twice.
const STAGE: Duration = Duration::from_secs(240);

/// Prints what came of it. The guest has no network configuration of its own, so addresses are what it was told. It has no
/// SSH server either, and no room that its file system could grow into.
const USER_DATA: &str = "#cloud-config
resize_rootfs: false
ssh_deletekeys: false
runcmd:
  - |
    for try in $(seq 60); do
      ip -6 -o address show scope global | grep -q fd10 && ip -4 -o address show scope global | grep -q 10.0.2 && break
      sleep 1
    done
    { echo \"guest: hostname $(hostname)\"
      [ -d /sys/firmware/efi ] && echo \"guest: booted by UEFI\"
      ip -o address show scope global | sed 's/^/guest: address /'
      ip -4 route show default | sed 's/^/guest: route4 /'
      ip -6 route show default | sed 's/^/guest: route6 /'
      echo \"guest: cloud-init done\"; } > /dev/ttyS0
";

pub(super) fn boots_by_uefi(lab: &Lab) -> Result<()> {
    let firmware = Path::new(PAYLOAD).join("firmware/out/usr/share/cloudhv-efi-x86-64/CLOUDHV.fd");
    if !firmware.exists() {
        return Err(
            Skip::because("no UEFI firmware: Debian's package cloudhv-efi-x86-64 could not be had").into(),
        );
    }
    let pod = Pod::create(lab, "debian", &[FORWARD_IPV6])?;
    let image = pod.state().join("images/root/disk");
    fs::create_dir_all(&image)?;
    fs::copy(
        Path::new(PAYLOAD).join("debian").join(debian_guest::FILE),
        image.join("disk.qcow2"),
    )?;
    let mut manifest = vmi::masquerade("debian", &[]);
    vmi::set(&mut manifest, "/spec/domain/firmware", json!({}));
    vmi::set(&mut manifest, "/spec/domain/memory", json!({"guest": "768Mi"}));
    vmi::set(
        &mut manifest,
        "/spec/domain/devices/disks",
        json!([
            {"name": "root", "disk": {"bus": "virtio"}}, {"name": "seed", "disk": {"bus": "virtio"}},
        ]),
    );
    vmi::set(
        &mut manifest,
        "/spec/volumes",
        json!([
            {"name": "root", "containerDisk": {"image": "example/debian"}},
            {"name": "seed", "cloudInitNoCloud": {"userData": USER_DATA}},
        ]),
    );
    pod.set_manifest(&manifest)?;
    let mut launcher = pod.launch("run", ROOT)?;
    let console = &launcher.console;
    console.wait_for(
        "no bootloader is named: the guest boots by UEFI",
        Duration::from_secs(30),
    )?;
    for stage in STAGES {
        lab.step(format!("waiting for Debian to say '{stage}'"));
        console.wait_for(stage, STAGE)?;
    }
    let said = |wanted: &str| console.wait_for(wanted, Duration::ZERO);
    said("guest: booted by UEFI")?;
    said("guest: hostname debian").context("cloud-init's local-hostname")?;
    said("inet 10.0.2.2/24").context("IPv4 by DHCP")?;
    said("inet6 fd10:0:2::2/128").context("IPv6 by DHCPv6")?;
    said("guest: route4 default via 10.0.2.1")?;
    let route = said("guest: route6 default ")?;
    ensure!(
        route.contains("via fe80::"),
        "no default route by router advertisement: {route}"
    );
    launcher.signal("TERM")?;
    launcher.expect_exit(0, END)
}
