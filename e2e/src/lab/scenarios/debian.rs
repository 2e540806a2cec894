//! Whole Debian systems from disks, as users' manifests have them: nothing but a containerDisk and a network, and cloud-init
//! for one of them. What they have for the network is their distribution's default for one DHCP client.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::lifecycle::END;
use super::masquerade::{reach_out, resolve};
use super::vmi;
use crate::lab::debian_guest::{self, Make};
use crate::lab::node::guest::{self, PORT};
use crate::lab::node::pod::{Extra, FORWARD_IPV6, Launcher, Pod, ROOT};
use crate::lab::node::prepare::{NODE_IPV4, NODE_IPV6};
use crate::lab::node::{Lab, PAYLOAD};
use crate::report::Skip;

/// From one thing that a guest is waited for to the next, on a processor that is emulated.
pub(super) const STAGE: Duration = Duration::from_secs(280);

/// Says when it has come to its end, and leaves something to be found. There is no SSH server in this guest, and no room that
/// its file system could grow into.
const USER_DATA: &str = "#cloud-config
resize_rootfs: false
ssh_deletekeys: false
write_files:
- path: /srv/guest/www/from-user-data
  content: written by cloud-init
runcmd:
- |
  echo \"guest: cloud-init ran on $(hostname)\" > /dev/ttyS0
";

/// Fails where it is not this client that the guest has its addresses from.
fn client(make: &Make) -> &'static str {
    match make.name {
        "networkd" => {
            "systemctl is-active systemd-networkd && ls /run/systemd/netif/leases && ! busybox pidof dhclient dhcpcd"
        }
        "dhcpcd" => "systemctl is-active dhcpcd && ls /var/lib/dhcpcd/eth0.lease /var/lib/dhcpcd/eth0.lease6",
        "ifupdown" => {
            "busybox pidof dhclient && ls /var/lib/dhcp/dhclient.eth0.leases /var/lib/dhcp/dhclient6.eth0.leases"
        }
        _ => "systemctl is-active NetworkManager && nmcli --terse device status",
    }
}

pub(super) fn networkd(lab: &Lab) -> Result<()> {
    let make = &debian_guest::NETWORKD;
    let pod = Pod::create(lab, make.name, &[FORWARD_IPV6])?;
    let mut manifest = manifest(make);
    with_cloud_init(&mut manifest);
    pod.set_manifest(&manifest)?;
    let mut launcher = launch(&pod, make)?;
    cloud_init_took_effect(lab, &pod, &launcher)?;
    has_the_network(lab, &pod, make, &BEHIND_MASQUERADE)?;
    launcher.signal("TERM")?;
    launcher.expect_exit(0, END)
}

pub(super) fn dhcpcd(lab: &Lab) -> Result<()> {
    behind_masquerade(lab, &debian_guest::DHCPCD)
}

pub(super) fn ifupdown(lab: &Lab) -> Result<()> {
    behind_masquerade(lab, &debian_guest::IFUPDOWN)
}

pub(super) fn network_manager(lab: &Lab) -> Result<()> {
    behind_masquerade(lab, &debian_guest::NETWORK_MANAGER)
}

fn behind_masquerade(lab: &Lab, make: &Make) -> Result<()> {
    let pod = Pod::create(lab, make.name, &[FORWARD_IPV6])?;
    pod.set_manifest(&manifest(make))?;
    let _launcher = launch(&pod, make)?;
    has_the_network(lab, &pod, make, &BEHIND_MASQUERADE)
}

pub(super) fn bridged(lab: &Lab) -> Result<()> {
    let make = &debian_guest::DHCPCD;
    let pod = Pod::create(lab, "bridgeddebian", &[])?;
    let mut manifest = manifest(make);
    vmi::set(
        &mut manifest,
        "/spec/domain/devices/interfaces",
        json!([{"name": "default", "bridge": {}}]),
    );
    vmi::set(&mut manifest, "/metadata/name", json!(pod.name()));
    pod.set_manifest(&manifest)?;
    let _launcher = launch(&pod, make)?;
    let expected = Expected {
        ipv4: format!("inet {}/24 ", pod.ipv4),
        ipv6: format!("inet6 {}/", pod.ipv6),
        route: format!("default via {NODE_IPV4} "),
    };
    has_the_network(lab, &pod, make, &expected)
}

pub(super) fn boots_by_uefi(lab: &Lab) -> Result<()> {
    let firmware = Path::new(PAYLOAD).join("firmware/out/usr/share/cloudhv-efi-x86-64/CLOUDHV.fd");
    if !firmware.exists() {
        return Err(
            Skip::because("no UEFI firmware: Debian's package cloudhv-efi-x86-64 could not be had").into(),
        );
    }
    let rare = RareTimers::set()?;
    let make = &debian_guest::NETWORKD;
    let pod = Pod::create(lab, "uefi", &[FORWARD_IPV6])?;
    let mut manifest = manifest(make);
    vmi::set(&mut manifest, "/metadata/name", json!(pod.name()));
    vmi::set(&mut manifest, "/spec/domain/firmware", json!({}));
    vmi::set(&mut manifest, "/spec/domain/devices/autoattachVSOCK", json!(true));
    // With few timers everything takes longer, going down too.
    vmi::set(
        &mut manifest,
        "/spec/terminationGracePeriodSeconds",
        json!(STAGE.as_secs()),
    );
    with_cloud_init(&mut manifest);
    pod.set_manifest(&manifest)?;
    let mut launcher = launch(&pod, make)?;
    launcher.console.wait_for(
        "no bootloader is named: the guest boots by UEFI",
        Duration::from_secs(30),
    )?;
    launcher.console.wait_for("EFI stub", STAGE)?;
    drop(rare);
    cloud_init_took_effect(lab, &pod, &launcher)?;
    // The firmware has passed SMBIOS on, by which systemd knows whom to report to.
    lab.step("waiting for the guest's systemd to report that it has booted");
    launcher.console.wait_for(r#"event="guest-booted""#, STAGE)?;
    guest::execute(pod.ipv4.into(), "ls -d /sys/firmware/efi").context("booted, but not by UEFI")?;
    has_the_network(lab, &pod, make, &BEHIND_MASQUERADE)?;
    launcher.signal("TERM")?;
    launcher.expect_exit(0, STAGE + END)
}

/// A disk as the only source of a system, and a NIC.
pub(super) fn manifest(make: &Make) -> Value {
    let mut manifest = vmi::masquerade(make.name, &[]);
    vmi::set(&mut manifest, "/spec/domain/memory", json!({"guest": "512Mi"}));
    vmi::set(
        &mut manifest,
        "/spec/domain/firmware/kernelBoot",
        json!({
            "container": {
                "image": "example/kernel",
                "kernelPath": format!("/debian/{}", debian_guest::KERNEL),
                "initrdPath": format!("/debian/{}", debian_guest::INITRAMFS),
            },
            "kernelArgs": kernel_arguments(make),
        }),
    );
    vmi::set(
        &mut manifest,
        "/spec/domain/devices/disks",
        json!([{"name": "root", "disk": {"bus": "virtio"}}]),
    );
    vmi::set(
        &mut manifest,
        "/spec/volumes",
        json!([{"name": "root", "containerDisk": {"image": "example/debian"}}]),
    );
    manifest
}

/// Leaves out what takes an emulated processor long and is not looked at here: each unit is a program to start.
const LEFT_OUT: &[&str] = &[
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "modprobe@configfs.service",
    "modprobe@dm_mod.service",
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
    "modprobe@fuse.service",
    "modprobe@loop.service",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-journal-flush.service",
    "systemd-modules-load.service",
    "systemd-random-seed.service",
    "systemd-user-sessions.service",
];

fn kernel_arguments(make: &Make) -> String {
    let mut arguments = format!("root={} {}", make.root, debian_guest::COMMAND_LINE);
    for unit in LEFT_OUT {
        arguments.push_str(" systemd.mask=");
        arguments.push_str(unit);
    }
    arguments
}

fn with_cloud_init(manifest: &mut Value) {
    for (list, item) in [
        (
            "/spec/domain/devices/disks",
            json!({"name": "seed", "disk": {"bus": "virtio"}}),
        ),
        (
            "/spec/volumes",
            json!({"name": "seed", "cloudInitNoCloud": {"userData": USER_DATA}}),
        ),
    ] {
        if let Some(list) = manifest.pointer_mut(list).and_then(Value::as_array_mut) {
            list.push(item);
        }
    }
}

/// The image is where the machine shares it with the node.
pub(super) fn launch<'a>(pod: &'a Pod<'_>, make: &Make) -> Result<Launcher<'a>> {
    let image = Path::new(PAYLOAD).join("debian").join(make.name);
    ensure!(image.is_dir(), "{} is not in the payload", image.display());
    let volume = format!("{}:/debian:ro", image.display());
    let extra = Extra {
        podman: vec!["--volume".to_owned(), volume],
        hawser: vec!["--image".to_owned(), "root=/debian".to_owned()],
    };
    pod.launch_with("run", ROOT, &extra)
}

fn cloud_init_took_effect(lab: &Lab, pod: &Pod<'_>, launcher: &Launcher<'_>) -> Result<()> {
    lab.step("waiting for cloud-init to begin");
    launcher.console.wait_for("Cloud-init v.", STAGE)?;
    lab.step("waiting for cloud-init to have run the user data");
    let line = launcher.console.wait_for("guest: cloud-init ran on", STAGE)?;
    ensure!(
        line.trim_end().ends_with(&format!(" {}", pod.name())),
        "the host name from cloud-init's metadata: {line:?}"
    );
    let found = guest::execute(pod.ipv4.into(), "cat /srv/guest/www/from-user-data")?;
    ensure!(
        found.trim_end() == "written by cloud-init",
        "the user data's file has {found:?}"
    );
    Ok(())
}

/// Beginnings of the lines that `ip` prints.
struct Expected<S> {
    ipv4: S,
    ipv6: S,
    route: S,
}

const BEHIND_MASQUERADE: Expected<&str> = Expected {
    ipv4: "inet 10.0.2.2/24 ",
    ipv6: "inet6 fd10:0:2::2/",
    route: "default via 10.0.2.1 ",
};

/// Both families: reached from outside, with address and default route, reaching out, and with a name server.
fn has_the_network<S: AsRef<str>>(
    lab: &Lab,
    pod: &Pod<'_>,
    make: &Make,
    expected: &Expected<S>,
) -> Result<()> {
    for address in pod.addresses() {
        lab.step(format!("waiting for {} at {address}", make.name));
        guest::greet_within(address, PORT, STAGE).context("from outside, through the pod's address")?;
    }
    let seen = guest::execute(
        pod.ipv4.into(),
        "ip -o address show dev eth0 scope global; ip route show default; ip -6 route show default; hostname",
    )?;
    lab.step(format!("{} has: {}", make.name, seen.replace('\n', " | ")));
    for wanted in [&expected.ipv4, &expected.ipv6, &expected.route] {
        ensure!(
            seen.contains(wanted.as_ref()),
            "no {:?} in: {seen}",
            wanted.as_ref()
        );
    }
    ensure!(
        seen.contains("default via fe80::") || seen.contains("default nhid"),
        "no default route by router advertisement: {seen}"
    );
    let client = guest::execute(pod.ipv4.into(), client(make)).context("another client than expected")?;
    lab.step(format!("{}: {}", make.name, client.replace('\n', " | ")));
    reach_out(pod, pod.ipv4.into(), NODE_IPV4.parse()?)?;
    reach_out(pod, pod.ipv6.into(), NODE_IPV6.parse()?)?;
    // With its domain: systemd-resolved asks no server for a name of one label.
    resolve(pod, &format!("{}.dns.podman", pod.name()))
}

/// While it lives, guests' periodic timers fire no more than ten times a second. QEMU's emulation of SVM ends the node
/// (`cpu_interrupt: assertion failed: (bql_locked())`) when a guest writes CR8 while KVM waits to inject an interrupt; Linux
/// does not write CR8, but the firmware does at the end of each interrupt, and its only interrupts are its timer's.
struct RareTimers {
    before: String,
}

const MIN_TIMER_PERIOD: &str = "/sys/module/kvm/parameters/min_timer_period_us";

impl RareTimers {
    fn set() -> Result<Self> {
        let before = fs::read_to_string(MIN_TIMER_PERIOD).context(MIN_TIMER_PERIOD)?;
        fs::write(MIN_TIMER_PERIOD, "100000").context(MIN_TIMER_PERIOD)?;
        Ok(Self { before })
    }
}

impl Drop for RareTimers {
    fn drop(&mut self) {
        if let Err(error) = fs::write(MIN_TIMER_PERIOD, &self.before) {
            eprintln!("node: {MIN_TIMER_PERIOD}: {error}");
        }
    }
}
