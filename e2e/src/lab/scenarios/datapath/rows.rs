//! The bindings that are measured, each with what it takes to have the same path by hand.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::byhand::{ByHand, backend, options, script};
use super::{Bench, Ours, Round};
use crate::bench::load::PORTS;
use crate::lab::node::pod::{Extra, FORWARD_IPV6, Pod, ROOT, UNPRIVILEGED};
use crate::lab::node::prepare::{NODE_IPV4, NODE_IPV6};
use crate::lab::process::output;
use crate::lab::scenarios::sriov_card::{self, Card};
use crate::lab::scenarios::{bridge, plugins, sriov, vmi};

type Found = Result<Vec<Round>>;

pub(super) struct Row {
    pub(super) binding: &'static str,
    /// It has to do with addresses, so that IPv6 is another path. The others pass frames.
    pub(super) ipv6: bool,
    pub(super) measure: fn(&Bench<'_>) -> Found,
}

pub(super) const ROWS: &[Row] = &[
    Row {
        binding: "masquerade",
        ipv6: true,
        measure: masquerade,
    },
    Row {
        binding: "bridge",
        ipv6: true,
        measure: bridge,
    },
    Row {
        binding: "passt",
        ipv6: true,
        measure: passt,
    },
    Row {
        binding: "macvtap",
        ipv6: false,
        measure: macvtap,
    },
    Row {
        binding: "sriov",
        ipv6: false,
        measure: sriov,
    },
];

/// bench/masquerade.sh: a TAP, a DNAT and a masquerade rule for each family.
fn masquerade(bench: &Bench<'_>) -> Found {
    let pods = bench.pods(&[FORWARD_IPV6])?;
    let [theirs, own] = &pods;
    script(theirs, include_str!("../../../bench/masquerade.sh"))?;
    let by_hand = ByHand {
        options: options(&["--net", "tap=tap0"]),
        arguments: "guest.static=10.0.2.2/24,10.0.2.1 guest.static6=fd10:0:2::2/120,fd10:0:2::1".into(),
        ..ByHand::default()
    };
    let ours = Ours {
        manifest: vmi::masquerade(own.name(), &[]),
        privileges: ROOT,
        extra: Extra::default(),
    };
    bench.compare(&pods, &by_hand, ours, bench.addresses(&pods))
}

/// bench/bridge.sh: a bridge with the pod's interface and a TAP; addresses and MAC to the guest.
fn bridge(bench: &Bench<'_>) -> Found {
    let pods = bench.pods(&[])?;
    let [theirs, own] = &pods;
    let mac = mac(theirs, "eth0")?;
    script(theirs, include_str!("../../../bench/bridge.sh"))?;
    let by_hand = ByHand {
        options: options(&["--net", &format!("tap=tap0,mac={mac}")]),
        arguments: format!(
            "guest.static={}/24,{NODE_IPV4} guest.static6={}/64,{NODE_IPV6}",
            theirs.ipv4, theirs.ipv6
        ),
        ..ByHand::default()
    };
    let ours = Ours {
        manifest: bridge::manifest(own.name()),
        privileges: ROOT,
        extra: Extra::default(),
    };
    bench.compare(&pods, &by_hand, ours, bench.addresses(&pods))
}

/// A passt between the pod's sockets and cloud-hypervisor, without the relay of its control messages.
fn passt(bench: &Bench<'_>) -> Found {
    let pods = bench.pods(&["net.ipv4.ip_unprivileged_port_start=0"])?;
    let [theirs, own] = &pods;
    let socket = "/tmp/byhand-passt.sock";
    let ports = PORTS.map(|port| port.to_string()).join(",");
    let mut command = theirs.command();
    command.args(["passt", "--foreground", "--vhost-user", "--quiet", "--mtu=1500"]);
    command.args([
        format!("--socket={socket}"),
        format!("--tcp-ports={ports}"),
        "--udp-ports=none".to_owned(),
    ]);
    // cloud-hypervisor waits until it listens.
    let _passt = backend(&mut command)?;
    let by_hand = ByHand {
        options: options(&["--net", &format!("vhost_user=true,socket={socket}")]),
        memory: ",shared=on",
        ..ByHand::default()
    };
    let mut manifest = vmi::masquerade(own.name(), &[]);
    let ports: Vec<_> = PORTS
        .iter()
        .map(|port| json!({"port": port, "protocol": "TCP"}))
        .collect();
    vmi::set(
        &mut manifest,
        "/spec/domain/devices/interfaces",
        json!([{"name": "default", "passt": {}, "ports": ports}]),
    );
    let ours = Ours {
        manifest,
        privileges: UNPRIVILEGED,
        extra: Extra::default(),
    };
    bench.compare(&pods, &by_hand, ours, bench.addresses(&pods))
}

/// Both guests have a macvtap on the same wire; by hand it is opened by a shell for cloud-hypervisor.
fn macvtap(bench: &Bench<'_>) -> Found {
    const NODE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
    let guests = [Ipv4Addr::new(10, 9, 0, 5), Ipv4Addr::new(10, 9, 0, 6)];
    let _wire = Wire::new(NODE)?;
    let pods = bench.pods(&[])?;
    let [theirs, own] = &pods;
    let device = |pod: &Pod<'_>, index: u32| -> Result<String> {
        let interface = plugins::INTERFACE;
        let namespace = pod.namespace();
        let namespace = namespace.to_str().context("path is not UTF-8")?;
        ip(&format!(
            "link add link up0 name {interface} index {index} netns {namespace} type macvtap mode bridge"
        ))?;
        pod.run(&format!("ip link set {interface} up"))?;
        Ok(format!("/dev/tap{index}"))
    };
    let [there, here] = [device(theirs, 1000)?, device(own, 1001)?];
    nix::unistd::chown(here.as_str(), Some(107.into()), Some(107.into())).context(here.clone())?;
    let arguments = guests.map(|guest| format!("guest.static={guest}/24,{NODE}"));
    let [by_hands, ours] = arguments;
    let by_hand = ByHand {
        options: options(&["--net", &format!("fd=3,mac={}", mac(theirs, plugins::INTERFACE)?)]),
        arguments: by_hands,
        device: Some(there),
        ..ByHand::default()
    };
    let mut manifest = plugins::manifest(own.name(), "device");
    let arguments = "/spec/domain/firmware/kernelBoot/kernelArgs";
    let kernel = manifest.pointer(arguments).and_then(Value::as_str);
    let kernel = kernel.context("the manifest has no kernel arguments")?;
    let kernel = format!("{kernel} {ours}");
    vmi::set(&mut manifest, arguments, json!(kernel));
    let ours = Ours {
        manifest,
        privileges: UNPRIVILEGED,
        extra: plugins::extra(own, Some(&here))?,
    };
    bench.compare(&pods, &by_hand, ours, guests.map(IpAddr::from))
}

/// A function of the card's for each; the node is the physical function.
fn sriov(bench: &Bench<'_>) -> Found {
    let card = Card::with_functions()?;
    let [one, two] = card.functions.as_slice() else {
        bail!("two functions were wanted");
    };
    let pods = bench.pods(&[])?;
    let [_, own] = &pods;
    let guests = ["10.91.0.2", "10.91.0.3"];
    let [there, here] = guests;
    let by_hand = ByHand {
        options: options(&["--device", &format!("path=/sys/bus/pci/devices/{}", one.address)]),
        arguments: format!("guest.ip.{}={there}/24", one.mac),
        ..ByHand::default()
    };
    let ours = Ours {
        manifest: sriov::manifest(own.name(), &[(two, here, json!({}))]),
        privileges: UNPRIVILEGED,
        extra: sriov_card::extra(&[two], sriov::MEMLOCK),
    };
    bench.compare(&pods, &by_hand, ours, [there.parse()?, here.parse()?])
}

fn ip(command: &str) -> Result<String> {
    output(Command::new("ip").args(command.split(' ')))
}

fn mac(pod: &Pod<'_>, interface: &str) -> Result<String> {
    let link: Value = serde_json::from_str(&pod.run(&format!("ip -j link show dev {interface}"))?)?;
    let mac = link.pointer("/0/address").and_then(Value::as_str);
    Ok(mac.with_context(|| format!("{interface} has no MAC"))?.to_owned())
}

/// What the macvtaps are on: a veth, whose other end is the node's. Gone when dropped, with what is on it.
struct Wire;

impl Wire {
    fn new(node: Ipv4Addr) -> Result<Self> {
        ip("link add up0 type veth peer name up1")?;
        // From here on dropping it cleans up.
        let wire = Self;
        ip(&format!("address add {node}/24 dev up1"))?;
        ip("link set up0 up")?;
        ip("link set up1 up")?;
        Ok(wire)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Err(error) = ip("link delete up0") {
            eprintln!("node: {error:#}");
        }
    }
}
