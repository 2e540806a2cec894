//! Real DHCP clients, each on a guest of its own, and what they make of what they are told.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::Context;
use super::running::{Running, WAIT, eventually};
use super::traffic::udp;
use crate::guests::{Client, GATEWAY4, GUEST4, GUEST6};
use crate::pods::{MTU, PodSpec, link_local, vmi};
use crate::process::until;
use crate::report::{Scenario, Skip};

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "udhcpc: IPv4",
        run: |c| everything4(c, Client::Udhcpc),
    },
    Scenario {
        name: "udhcpc6: IPv6",
        run: |_| Err(Skip::because("Debian's busybox is built without udhcpc6").into()),
    },
    Scenario {
        name: "dhclient: IPv4",
        run: |c| everything4(c, Client::Dhclient),
    },
    Scenario {
        name: "dhclient: IPv6",
        run: |c| everything6(c, Client::Dhclient),
    },
    Scenario {
        name: "dhcpcd: IPv4",
        run: |c| everything4(c, Client::Dhcpcd),
    },
    Scenario {
        name: "dhcpcd: IPv6",
        run: |c| everything6(c, Client::Dhcpcd),
    },
    Scenario {
        name: "systemd-networkd: IPv4",
        run: |c| everything4(c, Client::Networkd),
    },
    Scenario {
        name: "systemd-networkd: IPv6",
        run: |c| everything6(c, Client::Networkd),
    },
    Scenario {
        name: "udhcpc renews, releases and starts again",
        run: udhcpc_renews,
    },
    Scenario {
        name: "DHCPv6 renew, rebind, confirm, release",
        run: renew6,
    },
    Scenario {
        name: "dhclient confirms its address after a reboot",
        run: dhclient_reboots,
    },
    Scenario {
        name: "a remembered address of elsewhere is refused",
        run: wrong_address,
    },
    Scenario {
        name: "dhclient releases and asks again, IPv6",
        run: dhclient6_releases,
    },
    Scenario {
        name: "router solicitations are answered",
        run: solicitation,
    },
];

fn running(context: &Context) -> Result<Running> {
    Running::start(context, PodSpec::default(), &vmi(Value::Null))
}

fn everything4(context: &Context, client: Client) -> Result<()> {
    let running = running(context)?;
    let clients = running.guest.client_of(client, "-4")?;
    eventually(&running, &clients, || {
        let guest = &running.guest;
        ensure!(guest.has_address(&format!("{GUEST4}/24"))?, "no {GUEST4}/24");
        let routes = guest.netns.ip("-4 route show")?;
        ensure!(
            routes.contains(&format!("default via {GATEWAY4}")),
            "routes: {routes}"
        );
        if client != Client::Networkd {
            let resolv = guest.resolv_conf()?;
            ensure!(resolv.contains("nameserver 10.96.0.10"), "resolv.conf: {resolv}");
            // Debian's udhcpc script writes the domain only.
            let domain = if client == Client::Udhcpc {
                ""
            } else {
                "svc.cluster.local"
            };
            ensure!(resolv.contains(domain), "resolv.conf: {resolv}");
        } else {
            networkd_state(&running, &["DNS=10.96.0.10", "svc.cluster.local"])?;
        }
        // dhcpcd puts the MTU on its routes, the others on the link.
        let mtu = guest.netns.ip("link show dev eth0")? + &routes;
        ensure!(mtu.contains(&format!("mtu {MTU}")), "MTU: {mtu}");
        Ok(())
    })
}

fn everything6(context: &Context, client: Client) -> Result<()> {
    let running = running(context)?;
    let clients = running.guest.client_of(client, "-6")?;
    eventually(&running, &clients, || {
        let guest = &running.guest;
        let addresses = guest
            .netns
            .ip("-6 -o address show dev eth0 scope global -tentative")?;
        ensure!(
            addresses.contains(&format!("{GUEST6}/")),
            "no {GUEST6}: {addresses}"
        );
        let routes = guest.default6()?;
        ensure!(routes.contains("default via fe80:"), "default route: {routes}");
        if client == Client::Networkd {
            networkd_state(&running, &["fd00:10:96::a"])?;
        } else {
            let resolv = guest.resolv_conf()?;
            ensure!(
                resolv.contains("nameserver fd00:10:96::a"),
                "resolv.conf: {resolv}"
            );
            ensure!(resolv.contains("svc.cluster.local"), "resolv.conf: {resolv}");
        }
        Ok(())
    })
}

/// networkd tells resolved, not resolv.conf; its state files are what resolved reads.
fn networkd_state(running: &Running, wanted: &[&str]) -> Result<()> {
    let index = running.guest.netns.ip_json("link show dev eth0")?;
    let index = index
        .pointer("/0/ifindex")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    let state = running.guest.file(&format!("run/systemd/netif/links/{index}"))?;
    for text in wanted {
        let name = text.split('=').next_back().unwrap_or(text);
        ensure!(state.contains(name), "no {name} in networkd's state:\n{state}");
    }
    Ok(())
}

fn udhcpc_renews(context: &Context) -> Result<()> {
    let running = running(context)?;
    let client = running.guest.udhcpc(&[])?;
    running.explain(client.wait_for("lease of 10.0.2.2 obtained", 1, WAIT))?;
    client.signal(Signal::SIGUSR1)?;
    running.explain(client.wait_for("lease of 10.0.2.2 obtained", 2, WAIT))?;
    ensure!(
        client.stderr().contains("sending renew"),
        "{}",
        client.transcript()
    );
    client.signal(Signal::SIGUSR2)?;
    client.wait_for("entering released state", 1, WAIT)?;
    client.signal(Signal::SIGUSR1)?;
    running.explain(client.wait_for("lease of 10.0.2.2 obtained", 3, WAIT))?;
    Ok(())
}

/// DHCPv6 options as the wire has them.
fn options6(message: &[u8]) -> BTreeMap<u16, Vec<u8>> {
    let mut options = BTreeMap::new();
    let mut rest = message.get(4..).unwrap_or_default();
    while let [c0, c1, l0, l1, tail @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        options.insert(
            u16::from_be_bytes([*c0, *c1]),
            tail.get(..length).unwrap_or_default().to_vec(),
        );
        rest = tail.get(length..).unwrap_or_default();
    }
    options
}

fn option6(code: u16, value: &[u8]) -> Vec<u8> {
    let mut option = code.to_be_bytes().to_vec();
    option.extend((value.len() as u16).to_be_bytes());
    option.extend(value);
    option
}

/// No client renews or rebinds when it is told to, so these messages are written here (RFC 9915, 18.2).
fn renew6(context: &Context) -> Result<()> {
    const CLIENT: &[u8] = &[0, 3, 0, 1, 2, 0x11, 0xaa, 0x33, 0x44, 0x55];
    let running = running(context)?;
    let guest = &running.guest.netns;
    let local = until("a link-local address", WAIT, || link_local(guest, "eth0"))?;
    let index = guest.run(|| Ok(nix::net::if_::if_nametoindex("eth0")?))?;
    let socket = udp(guest, SocketAddrV6::new(local, 546, 0, index))?;
    let servers = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2), 547, 0, index);
    let ask = |kind: u8,
               server: Option<&[u8]>,
               address: Option<Ipv6Addr>|
     -> Result<(u8, BTreeMap<u16, Vec<u8>>)> {
        let mut association = vec![0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        if let Some(address) = address {
            let mut inner = address.octets().to_vec();
            inner.extend([0; 8]);
            association.extend(option6(5, &inner));
        }
        let mut message = vec![kind, 7, 7, kind];
        message.extend(option6(1, CLIENT));
        message.extend(option6(8, &[0, 0]));
        message.extend(server.map(|server| option6(2, server)).unwrap_or_default());
        message.extend(option6(3, &association));
        socket.send_to(&message, servers)?;
        let mut reply = [0; 1500];
        let length = running.explain(
            socket
                .recv(&mut reply)
                .with_context(|| format!("no reply to message {kind}")),
        )?;
        let reply = reply.get(..length).unwrap_or_default();
        Ok((reply.first().copied().unwrap_or_default(), options6(reply)))
    };
    // The address in IA_NA, and its valid lifetime.
    let granted = |options: &BTreeMap<u16, Vec<u8>>| -> Option<(Ipv6Addr, u32)> {
        let inner = options6(options.get(&3)?.get(8..)?);
        let address = inner.get(&5)?;
        let octets: [u8; 16] = address.get(..16)?.try_into().ok()?;
        let valid: [u8; 4] = address.get(20..24)?.try_into().ok()?;
        Some((octets.into(), u32::from_be_bytes(valid)))
    };
    let (kind, advertised) = ask(1, None, None)?;
    let server = advertised.get(&2).context("no server identifier")?.clone();
    ensure!(
        kind == 2 && granted(&advertised).is_some_and(|(a, _)| a == GUEST6),
        "advertise {kind}: {advertised:?}"
    );
    let elsewhere = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 7);
    for (what, message, server) in [
        ("request", 3, Some(&*server)),
        ("renew", 5, Some(&*server)),
        ("rebind", 6, None),
    ] {
        let (kind, reply) = ask(message, server, Some(GUEST6))?;
        let grant = granted(&reply);
        ensure!(
            kind == 7 && grant.is_some_and(|(address, valid)| address == GUEST6 && valid > 0),
            "{what}: {kind} {grant:?} {reply:?}"
        );
    }
    let (kind, reply) = ask(4, None, Some(elsewhere))?;
    let status = reply.get(&13).and_then(|status| status.get(1)).copied();
    ensure!(
        kind == 7 && status == Some(4),
        "an address of elsewhere is confirmed: {kind} {status:?}"
    );
    let (kind, _) = ask(8, Some(&server), Some(GUEST6))?;
    ensure!(kind == 7, "release: {kind}");
    let (kind, _) = ask(1, None, None)?;
    ensure!(kind == 2, "solicit after release: {kind}");
    Ok(())
}

fn dhclient_reboots(context: &Context) -> Result<()> {
    let running = running(context)?;
    let first = running.guest.dhclient("-4", &[])?;
    running.explain(first.wait_for("bound to 10.0.2.2", 1, WAIT))?;
    drop(first);
    let second = running.guest.dhclient("-4", &[])?;
    running.explain(second.wait_for("bound to 10.0.2.2", 1, WAIT))?;
    ensure!(
        !second.stderr().contains("DHCPDISCOVER"),
        "it did not ask for its old one:\n{}",
        second.transcript()
    );
    Ok(())
}

fn wrong_address(context: &Context) -> Result<()> {
    let running = running(context)?;
    let lease = "lease {\n  interface \"eth0\";\n  fixed-address 192.168.7.7;\n  option subnet-mask 255.255.255.0;\n  \
                 option dhcp-lease-time 86400;\n  option dhcp-server-identifier 192.168.7.1;\n  \
                 renew 0 2037/01/01 00:00:00;\n  rebind 0 2037/01/02 00:00:00;\n  expire 0 2037/01/03 00:00:00;\n}\n";
    running.guest.write("run/leases-4", lease)?;
    let client = running.guest.dhclient("-4", &[])?;
    running.explain(client.wait_for("DHCPREQUEST for 192.168.7.7", 1, WAIT))?;
    running.explain(client.wait_for("DHCPNAK from 10.0.2.1", 1, WAIT))?;
    running.explain(client.wait_for("bound to 10.0.2.2", 1, WAIT))?;
    Ok(())
}

fn dhclient6_releases(context: &Context) -> Result<()> {
    let running = running(context)?;
    let first = running.guest.dhclient("-6", &[])?;
    running.explain(first.wait_for("PRC: Bound", 1, WAIT))?;
    // What it is killed with unwritten it does not remember.
    until("the lease is written", WAIT, || {
        Ok(running
            .guest
            .file("run/leases-6")
            .unwrap_or_default()
            .contains("iaaddr")
            .then_some(()))
    })?;
    drop(first);
    let mut release = running.guest.dhclient("-6", &["-r"])?;
    release.wait_exit(WAIT)?;
    ensure!(
        release.stderr().contains("XMT: Release on eth0"),
        "no Release:\n{}",
        release.transcript()
    );
    let heard = "DHCPv6 Release: the address stays reserved for the guest";
    running.explain(running.hawser.wait_for(heard, 1, WAIT))?;
    let again = running.guest.dhclient("-6", &[])?;
    running.explain(again.wait_for("PRC: Bound", 1, WAIT))?;
    Ok(())
}

/// The kernel of the guest solicits when its link comes up; a second time, so that no periodic advertisement can be
/// mistaken for the answer.
fn solicitation(context: &Context) -> Result<()> {
    let running = running(context)?;
    let guest = &running.guest.netns;
    for _ in 0..2 {
        running.explain(until("a default route by RA", Duration::from_secs(3), || {
            Ok(running
                .guest
                .default6()?
                .contains("default via fe80:")
                .then_some(()))
        }))?;
        guest.ip("link set eth0 down")?;
        guest.ip("link set eth0 up")?;
    }
    Ok(())
}
