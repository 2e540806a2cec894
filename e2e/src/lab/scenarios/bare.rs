//! The lab without the launcher: the guest image under cloud-hypervisor, on a TAP made by hand.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::node::console::Console;
use crate::lab::node::pace;
use crate::lab::node::prepare::GUEST_IMAGE;
use crate::lab::node::{Lab, PAYLOAD, RESULTS};
use crate::lab::process::output;

const TAP: &str = "bare0";
const API: &str = "/run/bare.sock";

pub(super) fn guest_boots_and_powers_off(lab: &Lab) -> Result<()> {
    output(Command::new("ip").args(["tuntap", "add", "dev", TAP, "mode", "tap", "vnet_hdr"]))?;
    output(Command::new("ip").args(["link", "set", TAP, "up"]))?;
    let result = boot(lab);
    output(Command::new("ip").args(["link", "del", TAP]))?;
    result
}

fn boot(lab: &Lab) -> Result<()> {
    let mut child = Command::new(Path::new(PAYLOAD).join("vmm/out/usr/bin/cloud-hypervisor"))
        .args([
            "--api-socket",
            &format!("path={API}"),
            "--cpus",
            "boot=1",
            "--memory",
            "size=192M",
        ])
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
        .and_then(|_| console.wait_for("guest: ready", Duration::from_secs(30)))
        .and_then(|_| press_power_button())
        .and_then(|()| console.wait_for("guest: power button", Duration::from_secs(30)))
        // Its output ends when cloud-hypervisor does.
        .and_then(|_| console.wait_for_end(Duration::from_secs(30)));
    if seen.is_err() {
        child.kill()?;
    }
    let status = child.wait()?;
    seen?;
    ensure!(
        status.success(),
        "the guest powered off, but cloud-hypervisor ended with {status}"
    );
    Ok(())
}

fn press_power_button() -> Result<()> {
    let mut api = UnixStream::connect(API)?;
    api.set_read_timeout(Some(pace::allowed(Duration::from_secs(10))))?;
    write!(
        api,
        "PUT /api/v1/vm.power-button HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    )?;
    let mut answer = [0; 256];
    let length = api.read(&mut answer)?;
    let answer = String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).into_owned();
    ensure!(
        answer.contains(" 204 "),
        "the power button cannot be pressed: {answer}"
    );
    Ok(())
}
