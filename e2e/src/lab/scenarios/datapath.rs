//! `cargo e2e bench --datapath`: what passes between the node and a real guest, hawser's wiring beside the same by hand.
//!
//! For each binding two pods, both with a guest of the same image and the same processor and memory: in one hawser wires
//! and starts it, in the other a script of `ip` and `nft` and cloud-hypervisor itself. Both guests are there all the
//! time, and are measured in turns; which is first changes with the round. A pair of neighbours in time sees the same
//! node, so the ratio is that of each pair, and its median. The node is emulated: the ratios say something, the figures
//! by themselves do not.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::masquerade::{BOOT, SERVE};
use super::{bridge, vmi};
use crate::bench::load::{MEASURES, measure};
use crate::bench::median;
use crate::lab::events::Event;
use crate::lab::node::console::Console;
use crate::lab::node::guest::{self, PORT};
use crate::lab::node::pod::{FORWARD_IPV6, Pod, ROOT};
use crate::lab::node::prepare::{GUEST_IMAGE, NODE_IPV4};
use crate::lab::node::{Lab, PAYLOAD, RESULTS};
use crate::lab::process::output;

/// Beside the guest's own image (`GUEST_IMAGE`): the same with the load program in it.
pub(crate) const INITRD: &str = "initrd-load.img";
/// In the payload: the number of rounds.
pub(crate) const ROUNDS: &str = "rounds";

/// A binding in the table.
struct Row {
    binding: &'static str,
    manifest: fn(&str) -> Value,
    plain: fn(&Pod<'_>) -> Result<Plain>,
}

/// What a guest without hawser needs, once its pod is wired.
struct Plain {
    /// cloud-hypervisor's `--net`.
    net: String,
    /// Address and gateway: there is no DHCP server.
    address: String,
}

const ROWS: &[Row] = &[
    Row {
        binding: "masquerade",
        manifest: |name| vmi::masquerade(name, &[]),
        plain: |pod| {
            script(pod, include_str!("../../bench/masquerade.sh"))?;
            Ok(Plain {
                net: "tap=tap0".into(),
                address: "10.0.2.2/24,10.0.2.1".into(),
            })
        },
    },
    Row {
        binding: "bridge",
        manifest: bridge::manifest,
        plain: |pod| {
            let link = pod.run("ip -j link show dev eth0")?;
            let link: Value = serde_json::from_str(&link)?;
            let mac = link.pointer("/0/address").and_then(Value::as_str);
            let mac = mac.context("the pod has no MAC")?.to_owned();
            script(pod, include_str!("../../bench/bridge.sh"))?;
            Ok(Plain {
                net: format!("tap=tap0,mac={mac}"),
                address: format!("{}/24,{NODE_IPV4}", pod.ipv4),
            })
        },
    },
];

fn script(pod: &Pod<'_>, text: &str) -> Result<()> {
    output(pod.command().args(["sh", "-c", text])).map(drop)
}

pub(crate) fn compare(lab: &Lab) -> Result<()> {
    let rounds: usize = fs::read_to_string(Path::new(PAYLOAD).join(ROUNDS))?
        .trim()
        .parse()?;
    let say = |text: String| lab.tell(&Event::Line { text });
    say(format!(
        "medians of {rounds} rounds; the node is emulated, so only the ratios mean anything"
    ));
    say(format!(
        "{:<11} {:<24} {:>9} {:>9} {:>16}",
        "binding", "", "by hand", "hawser", "hawser / by hand"
    ));
    for row in ROWS {
        for line in of_binding(lab, row, rounds).with_context(|| row.binding.to_owned())? {
            say(line);
        }
    }
    Ok(())
}

fn of_binding(lab: &Lab, row: &Row, rounds: usize) -> Result<Vec<String>> {
    let name = |who: &str| format!("{who}-{}", row.binding);
    let (ours, theirs) = (
        Pod::create(lab, &name("hawser"), &[FORWARD_IPV6])?,
        Pod::create(lab, &name("plain"), &[])?,
    );
    let mut manifest = (row.manifest)(&name("hawser"));
    let initrd = "/spec/domain/firmware/kernelBoot/container/initrdPath";
    vmi::set(&mut manifest, initrd, json!(format!("/{INITRD}")));
    ours.set_manifest(&manifest)?;
    let plain = (row.plain)(&theirs)?;
    let launcher = ours.launch("run", ROOT)?;
    let vmm = Vmm::boot(&theirs, &plain)?;
    launcher.console.wait_for("guest: ipv4 eth0 ", BOOT)?;
    vmm.console.wait_for("guest: ready", BOOT)?;
    let sides: [IpAddr; 2] = [theirs.ipv4.into(), ours.ipv4.into()];
    for address in sides {
        guest::greet_within(address, PORT, SERVE)?;
    }

    // The first finds cold caches, and is not counted.
    let mut found: [Vec<[f64; 4]>; 2] = [Vec::new(), Vec::new()];
    for round in 0..=rounds {
        lab.step(format!("{}: round {round} of {rounds}", row.binding));
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for side in order {
            if let (Some(address), Some(found)) = (sides.get(side), found.get_mut(side)) {
                found.push(measure(*address)?);
            }
        }
    }
    let [theirs, ours] = found.map(|all| all.into_iter().skip(1).collect::<Vec<_>>());
    Ok(table(row.binding, &theirs, &ours))
}

fn table(binding: &str, theirs: &[[f64; 4]], ours: &[[f64; 4]]) -> Vec<String> {
    let line = |(index, what): (usize, &&str)| {
        let of = |all: &[[f64; 4]]| -> Vec<f64> {
            all.iter()
                .filter_map(|values| values.get(index).copied())
                .collect()
        };
        let (mut theirs, mut ours) = (of(theirs), of(ours));
        let mut ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(own, other)| own / other).collect();
        let ratio = median(&mut ratios);
        let span = ratios
            .first()
            .zip(ratios.last())
            .map(|(low, high)| format!("{low:.2}-{high:.2}"));
        format!(
            "{binding:<11} {what:<24} {:>9.1} {:>9.1} {ratio:>6.2} ({})",
            median(&mut theirs),
            median(&mut ours),
            span.unwrap_or_default()
        )
    };
    MEASURES.iter().enumerate().map(line).collect()
}

/// cloud-hypervisor in a pod, without a launcher.
struct Vmm {
    child: Child,
    console: Console,
}

impl Vmm {
    fn boot(pod: &Pod<'_>, plain: &Plain) -> Result<Self> {
        // sysfs shows the network namespace that it was mounted in, and cloud-hypervisor looks for the TAP there.
        let start = "mount -t sysfs sysfs /sys && exec \"$@\"";
        let mut command = pod.command();
        command.args(["unshare", "--mount", "sh", "-c", start, "sh"]);
        command
            .arg(Path::new(PAYLOAD).join("vmm/out/usr/bin/cloud-hypervisor"))
            .args(["--cpus", "boot=1", "--memory", "size=192M"])
            .args(["--kernel", &format!("{GUEST_IMAGE}/vmlinux")])
            .args(["--initramfs", &format!("{GUEST_IMAGE}/{INITRD}")])
            .args([
                "--cmdline",
                &format!(
                    "console=ttyS0 quiet panic=-1 mitigations=off guest.static={}",
                    plain.address
                ),
            ])
            .args(["--serial", "tty", "--console", "off", "--net", &plain.net]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start cloud-hypervisor")?;
        let console = Console::default();
        let log = Path::new(RESULTS).join("plain.log");
        if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
            console.follow(stdout, &log, |_| ())?;
            console.follow(stderr, &log, |_| ())?;
        }
        Ok(Self { child, console })
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
