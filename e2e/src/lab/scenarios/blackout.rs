//! `cargo e2e bench --migration`: how long a guest is not heard of while it migrates, hawser's hand-off beside a bare one.
//!
//! Two guests of the same image, processor and memory, each with one NIC on a network of the node: one is hawser's, which
//! moves it between two pods; the other is cloud-hypervisor's, told to send and to receive by its API. Both go over TLS.
//! Both are there all the time and move in turns, there and back; who is first changes with the round. A pair of
//! neighbours in time sees the same node, so the ratio is that of each pair, and its median.

mod probes;
mod sides;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use self::probes::PROBE;
use self::sides::{Bare, Figures, Ours};
use super::masquerade::SERVE;
use super::migration::manifest;
use super::migration_network::{RED, red_network};
use super::vmi;
use crate::bench::median;
use crate::certificates::Authority;
use crate::lab::events::Event;
use crate::lab::node::guest::{self, PORT};
use crate::lab::node::pod::{FORWARD_IPV6, Pod};
use crate::lab::node::{Lab, PAYLOAD};
use crate::lab::process::output;

/// In the payload: the number of rounds.
pub(crate) const ROUNDS: &str = "migration-rounds";
/// Address and MAC: bare, and hawser's.
const BARE: (&str, &str) = ("10.96.0.11", "02:00:5e:00:53:11");
pub(super) const OURS: (&str, &str) = ("10.96.0.12", "02:00:5e:00:53:12");
const KERNEL_ARGS: &str = "console=ttyS0 quiet panic=-1 mitigations=off";
const DOWNTIME_MS: u64 = 300;
/// Two mebibytes, ten times a second at most: few enough to go over within the limit.
const DIRTY: &str = "(while [ -e /tmp/dirty ]; do dd if=/dev/zero of=/tmp/dirt bs=1M count=2 conv=notrunc; sleep 0.1; done) > /dev/null 2>&1 &";
const WHAT: [&str; 3] = ["blackout, ms", "downtime, ms", "transfer, ms"];

pub(crate) fn compare(lab: &Lab) -> Result<()> {
    let rounds: usize = fs::read_to_string(Path::new(PAYLOAD).join(ROUNDS))?
        .trim()
        .parse()?;
    let say = |text: String| lab.tell(&Event::Line { text });
    let create = |name: &str| Pod::create(lab, name, &[FORWARD_IPV6]);
    let (a, b) = (create("move-a")?, create("move-b")?);
    let (bare_a, bare_b) = (create("bare-a")?, create("bare-b")?);
    let lan = red_network([&a, &b], "lan1", &["10.96.0.1/24"], &[])?;
    let authority = Authority::new("migration")?;
    for pod in [&a, &b, &bare_a, &bare_b] {
        pod.set_manifest(&one_nic())?;
        authority.issue(&pod.certificates()?, vmi::LAUNCHERS, &pod.addresses())?;
    }
    for (index, pod) in [&bare_a, &bare_b].into_iter().enumerate() {
        wire(pod, index)?;
    }
    let mut ours = Ours::start(&a, true)?;
    let mut theirs = Bare::start(&bare_a, true)?;
    for (address, _) in [BARE, OURS] {
        guest::greet_within(address.parse()?, PORT, SERVE)?;
    }
    say(format!(
        "medians of {rounds} rounds, a probe every {PROBE:.0} ms; the node is emulated, so only the ratios mean anything"
    ));
    say(format!(
        "{:<14} {:<18} {:>9} {:>9} {:>16}",
        "guest", "", "bare", "hawser", "hawser / bare"
    ));
    let mut away = false;
    for load in ["idle", "dirties memory"] {
        if load != "idle" {
            for (address, _) in [BARE, OURS] {
                guest::execute(address.parse()?, &format!("touch /tmp/dirty; {DIRTY}"))?;
            }
        }
        let (mut bare, mut own) = (Vec::new(), Vec::new());
        // The first finds cold caches, and is not counted.
        for round in 0..=rounds {
            lab.step(format!("{load}: round {round} of {rounds}"));
            let (to, bare_to) = if away { (&a, &bare_a) } else { (&b, &bare_b) };
            away = !away;
            let mut move_bare = |theirs: Bare| -> Result<Bare> {
                let (moved, figures) = theirs.migrate(bare_to)?;
                lab.record("blackout", &format!("{load} bare {figures:?}"))?;
                bare.push(figures);
                Ok(moved)
            };
            if round % 2 == 0 {
                theirs = move_bare(theirs)?;
            }
            let (moved, figures) = ours.migrate(to)?;
            ours = moved;
            lab.record("blackout", &format!("{load} hawser {figures:?}"))?;
            own.push(figures);
            if round % 2 == 1 {
                theirs = move_bare(theirs)?;
            }
        }
        let counted = |all: Vec<Figures>| all.into_iter().skip(1).collect::<Vec<_>>();
        let (theirs, ours) = (counted(bare), counted(own));
        for line in table(load, &theirs, &ours) {
            say(line);
        }
    }
    drop(theirs);
    drop(lan);
    Ok(())
}

/// A guest with nothing but the network that it is probed on, and an address of its own there.
pub(super) fn one_nic() -> Value {
    let (address, mac) = OURS;
    let mut manifest = manifest();
    vmi::set(
        &mut manifest,
        "/spec/domain/devices/interfaces",
        json!([{"name": "red", "bridge": {}, "macAddress": mac}]),
    );
    vmi::set(
        &mut manifest,
        "/spec/networks",
        json!([{"name": "red", "multus": {"networkName": "red"}}]),
    );
    vmi::set(
        &mut manifest,
        "/spec/domain/firmware/kernelBoot/kernelArgs",
        json!(format!("{KERNEL_ARGS} guest.ip.{mac}={address}/24")),
    );
    manifest
}

/// The least that joins a TAP to the network: what hawser makes of a bridge, by hand.
fn wire(pod: &Pod<'_>, index: usize) -> Result<()> {
    let (ours, theirs) = (format!("lan1-bare{index}"), format!("lan1-b{index}p"));
    output(Command::new("ip").args(["link", "add", &ours, "type", "veth", "peer", "name", &theirs]))?;
    output(Command::new("ip").args(["link", "set", &ours, "master", "lan1", "up"]))?;
    super::migration_network::give(pod, &theirs, RED)?;
    for command in [
        "ip tuntap add dev tap0 mode tap vnet_hdr".to_owned(),
        // It goes along in the VM's configuration.
        "ip link set tap0 address 02:00:5e:00:53:aa".to_owned(),
        "ip link add br0 type bridge".to_owned(),
        format!("ip link set {RED} master br0"),
        "ip link set tap0 master br0".to_owned(),
        format!("ip link set {RED} up"),
        "ip link set tap0 up".to_owned(),
        "ip link set br0 up".to_owned(),
    ] {
        pod.run(&command)?;
    }
    Ok(())
}

fn table(load: &str, theirs: &[Figures], ours: &[Figures]) -> Vec<String> {
    let line = |(index, what): (usize, &&str)| {
        let of =
            |all: &[Figures]| -> Vec<f64> { all.iter().filter_map(|one| one.get(index).copied()).collect() };
        let (mut theirs, mut ours) = (of(theirs), of(ours));
        let mut ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(own, other)| own / other).collect();
        let ratio = median(&mut ratios);
        let span = ratios
            .first()
            .zip(ratios.last())
            .map(|(low, high)| format!("{low:.2}-{high:.2}"));
        format!(
            "{load:<14} {what:<18} {:>9.0} {:>9.0} {ratio:>6.2} ({})",
            median(&mut theirs),
            median(&mut ours),
            span.unwrap_or_default()
        )
    };
    WHAT.iter().enumerate().map(line).collect()
}

fn number_after(text: &str, what: &str) -> Result<f64> {
    let rest = text
        .split_once(what)
        .with_context(|| format!("no {what:?}in {text:?}"))?
        .1;
    let number: String = rest
        .chars()
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .collect();
    Ok(number.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_in_what_each_side_says() {
        let ours = "migrated: the guest runs at tcp:b:1; the transfer took 1234 ms, with a downtime of 56 ms";
        assert_eq!(number_after(ours, "the transfer took ").unwrap(), 1234.0);
        assert_eq!(number_after(ours, "with a downtime of ").unwrap(), 56.0);
    }
}
