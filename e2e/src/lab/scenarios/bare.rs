//! The lab without the launcher: the guest image under cloud-hypervisor, on a TAP made by hand.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::node::console::Console;
use crate::lab::node::prepare::GUEST_IMAGE;
use crate::lab::node::{Lab, PAYLOAD, RESULTS};
use crate::lab::process::output;

const TAP: &str = "bare0";

pub(super) fn guest_boots(lab: &Lab) -> Result<()> {
    output(Command::new("ip").args(["tuntap", "add", "dev", TAP, "mode", "tap", "vnet_hdr"]))?;
    output(Command::new("ip").args(["link", "set", TAP, "up"]))?;
    let result = boot(lab);
    output(Command::new("ip").args(["link", "del", TAP]))?;
    result
}

fn boot(lab: &Lab) -> Result<()> {
    let mut child = Command::new(Path::new(PAYLOAD).join("vmm/out/usr/bin/cloud-hypervisor"))
        .args(["--cpus", "boot=1", "--memory", "size=192M"])
        .args([
            "--kernel",
            &format!("{GUEST_IMAGE}/vmlinux"),
            "--initramfs",
            &format!("{GUEST_IMAGE}/initrd.img"),
        ])
        .args(["--cmdline", "console=ttyS0 quiet panic=-1 mitigations=off"])
        .args([
            "--serial",
            "tty",
            "--console",
            "off",
            "--net",
            &format!("tap={TAP},mac=52:54:00:00:00:01"),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start cloud-hypervisor")?;
    let console = Console::default();
    let log = Path::new(RESULTS).join("bare.log");
    if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
        console.follow(stdout, &log, lab.narrator())?;
        console.follow(stderr, &log, lab.narrator())?;
    }
    let seen = console
        .wait_for("guest: nic eth0 mac 52:54:00:00:00:01", Duration::from_secs(90))
        .and_then(|_| console.wait_for("guest: ready", Duration::from_secs(30)));
    child.kill()?;
    child.wait()?;
    seen.map(drop)
}
