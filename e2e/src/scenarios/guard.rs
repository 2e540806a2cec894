//! What a hostile guest must not achieve, and what hawser must not have while it serves one.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Context;
use super::datapath::marker;
use super::running::{Running, processes, resident, status_field};
use super::traffic::{nothing, udp};
use crate::guests::GUEST4;
use crate::packets::{icmp6_frame, mac, udp4_frame};
use crate::pods::{GUEST_MAC, NODE4, Pod, PodSpec, link_local, vmi};
use crate::report::Scenario;

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "the pod's loopback is out of the guest's reach",
        run: no_loopback,
    },
    Scenario {
        name: "spoofed sources are dropped",
        run: spoofed,
    },
    Scenario {
        name: "the guest is not heard as a router",
        run: no_router,
    },
    Scenario {
        name: "the guest is not heard as a DHCP server",
        run: no_dhcp_server,
    },
    Scenario {
        name: "a flood of bad DHCP does not stop the server",
        run: flood,
    },
    Scenario {
        name: "no capabilities while the guest runs",
        run: no_capabilities,
    },
    Scenario {
        name: "at most 10 MiB resident",
        run: small,
    },
];

fn running(context: &Context) -> Result<Running> {
    let running = Running::start(context, PodSpec::default(), &vmi(json!([{"port": 80}])))?;
    running.explain(running.guest.configure())?;
    Ok(running)
}

/// Source and destination MACs of what the guest sends to its gateway.
fn macs(pod: &Pod) -> Result<([u8; 6], [u8; 6])> {
    let link = pod.netns.ip_json("link show dev tap0")?;
    let tap = link
        .pointer("/0/address")
        .and_then(Value::as_str)
        .context("no TAP")?;
    Ok((mac(GUEST_MAC)?, mac(tap)?))
}

fn no_loopback(context: &Context) -> Result<()> {
    let mut running = running(context)?;
    let macs = macs(&running.pod)?;
    let service = udp(&running.pod.netns, (Ipv4Addr::LOCALHOST, 5555))?;
    let any = udp(&running.pod.netns, (Ipv4Addr::UNSPECIFIED, 5556))?;
    for source in [GUEST4, Ipv4Addr::LOCALHOST, Ipv4Addr::new(10, 0, 2, 1)] {
        for port in [5555, 5556] {
            let frame = udp4_frame(
                macs,
                (source.octets(), 1),
                ([127, 0, 0, 1], port),
                b"from the guest",
            );
            running.guest.send_frame(&frame)?;
        }
    }
    marker(&running)?;
    nothing(&service, "the pod's loopback")?;
    nothing(&any, "the pod's loopback")
}

fn spoofed(context: &Context) -> Result<()> {
    let mut running = running(context)?;
    let macs = macs(&running.pod)?;
    let node = udp(&running.pod.node, (NODE4, 6666))?;
    for source in [
        [10, 0, 2, 77],
        [192, 0, 2, 1],
        [10, 244, 0, 5],
        [10, 244, 0, 9],
        [0, 0, 0, 0],
    ] {
        let frame = udp4_frame(macs, (source, 1), (NODE4.octets(), 6666), b"spoofed");
        running.guest.send_frame(&frame)?;
    }
    marker(&running)?;
    nothing(&node, "a spoofed source")
}

fn no_router(context: &Context) -> Result<()> {
    let mut running = running(context)?;
    let (guest_mac, tap_mac) = macs(&running.pod)?;
    let guest = link_local(&running.guest.netns, "eth0")?.context("the guest has no link-local address")?;
    let pod = link_local(&running.pod.netns, "tap0")?.context("the TAP has no link-local address")?;
    let before = running.pod.netns.snapshot()?;
    // With a prefix for addresses, and a lifetime as router.
    let mut body = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 3, 4, 64, 0xc0];
    body.extend([0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0]);
    body.extend(Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 0).octets());
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let to_all = [0x33, 0x33, 0, 0, 0, 1];
    running
        .guest
        .send_frame(&icmp6_frame((guest_mac, tap_mac), guest, pod, &body))?;
    running
        .guest
        .send_frame(&icmp6_frame((guest_mac, to_all), guest, all_nodes, &body))?;
    marker(&running)?;
    let changes = before.changes(&running.pod.netns.snapshot()?);
    let changes: Vec<&String> = changes
        .iter()
        .filter(|change| !change.starts_with("nft"))
        .collect();
    ensure!(
        changes.is_empty(),
        "an advertisement of the guest changed the pod: {changes:?}"
    );
    Ok(())
}

fn no_dhcp_server(context: &Context) -> Result<()> {
    let mut running = running(context)?;
    let (guest_mac, tap_mac) = macs(&running.pod)?;
    let client = udp(&running.pod.netns, (Ipv4Addr::UNSPECIFIED, 68))?;
    let offer = [2_u8; 300];
    let (pod, all) = ([10, 0, 2, 1], [255; 4]);
    running.guest.send_frame(&udp4_frame(
        (guest_mac, tap_mac),
        (GUEST4.octets(), 67),
        (pod, 68),
        &offer,
    ))?;
    running.guest.send_frame(&udp4_frame(
        (guest_mac, [255; 6]),
        (GUEST4.octets(), 67),
        (all, 68),
        &offer,
    ))?;
    marker(&running)?;
    nothing(&client, "a DHCP offer of the guest")
}

/// BOOTP header of a DISCOVER from the guest, with options as given.
fn discover(hlen: u8, options: &[u8]) -> Vec<u8> {
    let mut packet = vec![1, 1, hlen, 0, 0, 0, 0, 42, 0, 0, 0x80, 0];
    packet.resize(28, 0);
    packet.extend(mac(GUEST_MAC).unwrap_or_default());
    packet.resize(236, 0);
    packet.extend([99, 130, 83, 99]);
    packet.extend(options);
    packet
}

fn flood(context: &Context) -> Result<()> {
    let mut running = Running::start(context, PodSpec::default(), &vmi(json!([{"port": 80}])))?;
    let guest_mac = mac(GUEST_MAC)?;
    let resident = |running: &Running| -> Result<u64> { rss(running) };
    let before = resident(&running)?;
    let good = discover(6, &[53, 1, 1, 255]);
    let mut oversized = discover(6, &[53, 1, 1]);
    oversized.extend([12, 255].iter().chain(&[b'x'; 255]).copied().cycle().take(1100));
    let mut packets = vec![
        discover(17, &[53, 1, 1, 255]),
        discover(255, &[53, 1, 1, 255]),
        discover(6, &[53, 1]),
        discover(6, &[53, 255, 1]),
        discover(6, &[]),
        oversized,
        vec![],
        vec![1],
    ];
    packets.extend(
        (0..good.len())
            .step_by(7)
            .filter_map(|length| good.get(..length).map(<[u8]>::to_vec)),
    );
    for round in 0..20 {
        for packet in &packets {
            let frame = udp4_frame((guest_mac, [255; 6]), ([0; 4], 68), ([255; 4], 67), packet);
            running
                .guest
                .send_frame(&frame)
                .with_context(|| format!("round {round}"))?;
        }
    }
    let _client = running.guest.udhcpc(&[])?;
    running.explain(running.guest.wait_address(&format!("{GUEST4}/24")))?;
    let after = resident(&running)?;
    ensure!(
        after < before + 2048,
        "resident memory went from {before} to {after} KiB"
    );
    running.stop_cleanly()
}

fn rss(running: &Running) -> Result<u64> {
    let text = status_field(running.hawser.pid(), "VmRSS")?;
    text.split_whitespace()
        .next()
        .unwrap_or_default()
        .parse()
        .with_context(|| format!("VmRSS {text:?}"))
}

/// Of every process in the pod: the keeper, which may hold NET_ADMIN to take the wiring down and hears nothing of the
/// guest; the supervisor and the VMM, which have nothing.
fn no_capabilities(context: &Context) -> Result<()> {
    let running = running(context)?;
    let processes = processes(&running.pod)?;
    ensure!(
        processes.iter().any(|(_, name)| name == "standin-vmm"),
        "no VMM among {processes:?}"
    );
    let keeper = running.hawser.pid();
    let guest_facing = processes.iter().filter(|(pid, _)| *pid != keeper).count();
    ensure!(
        guest_facing == 2,
        "not a supervisor and a VMM beside the keeper: {processes:?}"
    );
    for (pid, name) in processes {
        let net_admin: u64 = if pid == keeper { 1 << 12 } else { 0 };
        for (set, most) in [
            ("CapInh", 0),
            ("CapPrm", net_admin),
            ("CapEff", net_admin),
            ("CapAmb", 0),
        ] {
            let value = status_field(pid, set)?;
            ensure!(
                u64::from_str_radix(&value, 16).is_ok_and(|held| held & !most == 0),
                "{name} ({pid}) has {set} {value}"
            );
        }
        if pid != keeper {
            ensure!(
                !status_field(pid, "Uid")?.starts_with("0\t"),
                "{name} ({pid}) is root"
            );
        }
        ensure!(
            status_field(pid, "NoNewPrivs")? == "1",
            "{name} ({pid}) without no_new_privs"
        );
    }
    Ok(())
}

/// Keeper and supervisor together, pages that they share counted once.
fn small(context: &Context) -> Result<()> {
    let running = running(context)?;
    let kib = resident(&running.pod)?;
    ensure!(kib > 0 && kib <= 10 * 1024, "{kib} KiB resident");
    Ok(())
}
