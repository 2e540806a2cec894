//! A guest without hawser: cloud-hypervisor started directly in a pod's namespace, with as few options as will do.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use super::INITRD;
use crate::lab::node::console::Console;
use crate::lab::node::pod::Pod;
use crate::lab::node::prepare::GUEST_IMAGE;
use crate::lab::node::{PAYLOAD, RESULTS};
use crate::lab::process::output;

/// What one guest needs, once its pod is wired.
#[derive(Debug, Default)]
pub(super) struct ByHand {
    /// cloud-hypervisor's: the NIC.
    pub(super) options: Vec<String>,
    /// Of `--memory`, after the size.
    pub(super) memory: &'static str,
    /// The kernel's: what the guest's addresses are, where there is no server.
    pub(super) arguments: String,
    /// A device that cloud-hypervisor gets as descriptor 3.
    pub(super) device: Option<String>,
}

pub(super) fn options(options: &[&str]) -> Vec<String> {
    options.iter().map(ToString::to_string).collect()
}

/// Runs a script in the pod's network namespace.
pub(super) fn script(pod: &Pod<'_>, text: &str) -> Result<()> {
    output(pod.command().args(["sh", "-c", text])).map(drop)
}

/// Ends when dropped.
#[derive(Debug)]
pub(super) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What stands between the pod and a vhost-user NIC.
pub(super) fn backend(command: &mut Command) -> Result<Running> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(Path::new(RESULTS).join("byhand.log"))?;
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    Ok(Running(child))
}

pub(super) struct Vmm {
    _process: Running,
    pub(super) console: Console,
}

impl Vmm {
    pub(super) fn boot(pod: &Pod<'_>, guest: &ByHand) -> Result<Self> {
        // sysfs shows the network namespace that it was mounted in, and cloud-hypervisor looks for the TAP there.
        let mut start = String::from("mount -t sysfs sysfs /sys");
        if let Some(device) = &guest.device {
            start.push_str(&format!(" && exec 3<> {device}"));
        }
        start.push_str(" && exec \"$@\"");
        let arguments = format!("console=ttyS0 quiet panic=-1 mitigations=off {}", guest.arguments);
        let mut command = pod.command();
        command
            .args(["unshare", "--mount", "sh", "-c", &start, "sh"])
            .arg(Path::new(PAYLOAD).join("vmm/out/usr/bin/cloud-hypervisor"))
            .args(["--cpus", "boot=1"])
            .args(["--memory", &format!("size=192M{}", guest.memory)])
            .args(["--kernel", &format!("{GUEST_IMAGE}/vmlinux")])
            .args(["--initramfs", &format!("{GUEST_IMAGE}/{INITRD}")])
            .args(["--cmdline", &arguments])
            .args(["--serial", "tty", "--console", "off"])
            .args(&guest.options);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start cloud-hypervisor")?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let process = Running(child);
        let console = Console::default();
        let log = Path::new(RESULTS).join(format!("{}.log", pod.name()));
        if let (Some(stdout), Some(stderr)) = (stdout, stderr) {
            console.follow(stdout, &log, |_| ())?;
            console.follow(stderr, &log, |_| ())?;
        }
        Ok(Self {
            _process: process,
            console,
        })
    }
}
