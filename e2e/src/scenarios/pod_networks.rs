//! What a pod's network has of its own, and what a guest makes of it: the MTU of its routes, name servers of every kind, addresses
//! that are the guest's own, interfaces that are not called eth0.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Context;
use super::bridge::{has4, mac_of, manifest as bridged, start};
use super::running::{Running, eventually, exit_code, expect_exit};
use super::traffic::{TcpServer, reaches, udp, udp_exchange, unreachable};
use crate::guests::{Client, GATEWAY4, GUEST4, Guest};
use crate::pods::{FAR4, NODE4, NODE6, POD4, POD6, Pod, PodSpec, set, vmi};
use crate::process::output;
use crate::report::Scenario;
use crate::standin_script::Script;

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "masquerade, dhclient: the MTU of the default route",
        run: |c| route_mtu(c, Client::Dhclient, &vmi(Value::Null), "10.0.2.2/24"),
    },
    Scenario {
        name: "bridge, udhcpc: the MTU of the default route",
        run: |c| route_mtu(c, Client::Udhcpc, &bridged(), "10.244.0.5/24"),
    },
    Scenario {
        name: "a name server on the pod's loopback, both families",
        run: resolver_on_loopback,
    },
    Scenario {
        name: "a name server on the pod's loopback that listens elsewhere, as Docker's does",
        run: resolver_behind_rules,
    },
    Scenario {
        name: "masquerade: a link-local name server",
        run: |c| link_local_resolver(c, &vmi(Value::Null), "10.0.2.2/24"),
    },
    Scenario {
        name: "bridge: a link-local name server",
        run: |c| link_local_resolver(c, &bridged(), "10.244.0.5/24"),
    },
    Scenario {
        name: "a name server in the guest's usual network",
        run: resolver_in_guest_network,
    },
    Scenario {
        name: "an interface that is not called eth0",
        run: other_name,
    },
    Scenario {
        name: "no interface that could be the pod's",
        run: no_default_route,
    },
    Scenario {
        name: "a TAP of somebody else's",
        run: foreign_tap,
    },
    Scenario {
        name: "IPv6 alone where it cannot be forwarded",
        run: only6_read_only,
    },
    Scenario {
        name: "bridge: a link without neighbors",
        run: bridge_without_neighbours,
    },
    Scenario {
        name: "udhcpc: the first of many search domains",
        run: |c| many_search_domains(c, Client::Udhcpc),
    },
    Scenario {
        name: "dhcpcd: the first of many search domains",
        run: |c| many_search_domains(c, Client::Dhcpcd),
    },
    Scenario {
        name: "the guest reaches itself at the pod's address: listed ports",
        run: |c| hairpin(c, json!([{"port": 80}, {"port": 53, "protocol": "UDP"}])),
    },
    Scenario {
        name: "the guest reaches itself at the pod's address: all ports",
        run: |c| hairpin(c, Value::Null),
    },
    Scenario {
        name: "without macAddress the guest has one MAC in every pod",
        run: own_mac,
    },
    Scenario {
        name: "dhcpcd: odd routes of a bridged pod",
        run: |c| odd_routes(c, Client::Dhcpcd),
    },
    Scenario {
        name: "dhclient: odd routes of a bridged pod",
        run: |c| odd_routes(c, Client::Dhclient),
    },
];

const ANY4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd10, 0, 2, 0, 0, 0, 0, 1);

fn with_resolv(resolv_conf: &str) -> PodSpec {
    PodSpec {
        resolv_conf: resolv_conf.to_owned(),
        ..PodSpec::default()
    }
}

/// As Cilium has it: the link takes more.
fn route_mtu(context: &Context, client: Client, vmi: &Value, address: &str) -> Result<()> {
    let running = start(context, PodSpec::default(), vmi, |pod| {
        pod.netns
            .ip(&format!("route replace default via {NODE4} mtu 1400"))?;
        Ok(())
    })?;
    let clients = running.guest.client_of(client, "-4")?;
    eventually(&running, &clients, || {
        ensure!(running.guest.has_address(address)?, "no {address}");
        let link = running.guest.netns.ip("link show dev eth0")?;
        ensure!(link.contains("mtu 1400"), "{link}");
        Ok(())
    })?;
    let tap = running.pod.netns.ip("link show dev tap0")?;
    ensure!(tap.contains("mtu 1400"), "{tap}");
    // By router advertisement too, which need not come before the DHCP client is through.
    eventually(&running, &clients, || {
        let of_ra = running
            .guest
            .netns
            .run(|| Ok(std::fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/mtu")?))?;
        ensure!(of_ra.trim() == "1400", "by router advertisement {of_ra}");
        Ok(())
    })?;
    Ok(())
}

fn resolver_on_loopback(context: &Context) -> Result<()> {
    let mut running = Running::start(
        context,
        with_resolv("nameserver 127.0.0.53\nnameserver ::1\n"),
        &vmi(Value::Null),
    )?;
    let clients = running.guest.client_of(Client::Dhclient, "-4")?;
    eventually(&running, &clients, || {
        has4(&running, &format!("{GUEST4}/24"), Some(GATEWAY4))?;
        let resolv = running.guest.resolv_conf()?;
        ensure!(resolv.contains(&format!("nameserver {GATEWAY4}")), "{resolv}");
        Ok(())
    })?;
    drop(clients);
    let clients = running.guest.client_of(Client::Dhclient, "-6")?;
    eventually(&running, &clients, || {
        let resolv = running.guest.resolv_conf()?;
        ensure!(resolv.contains(&format!("nameserver {GATEWAY6}")), "{resolv}");
        Ok(())
    })?;
    drop(clients);
    let (guest, pod) = (&running.guest.netns, &running.pod.netns);
    let v4: IpAddr = Ipv4Addr::new(127, 0, 0, 53).into();
    let v6: IpAddr = Ipv6Addr::LOCALHOST.into();
    for (any, gateway, address) in [(ANY4, IpAddr::V4(GATEWAY4), v4), (ANY6, IpAddr::V6(GATEWAY6), v6)] {
        // Such a server answers nobody but the pod itself (unbound, systemd-resolved).
        let server = udp(pod, (address, 53))?;
        let seen = running.explain(udp_exchange(&udp(guest, (any, 0))?, (gateway, 53), &server))?;
        ensure!(seen.ip().is_loopback(), "the server sees {seen}");
        let _server = TcpServer::start(pod, "resolver", (address, 53))?;
        let greeting = running.explain(reaches(guest, (gateway, 53), "resolver"))?;
        ensure!(
            greeting.contains("127.0.0.1") || greeting.ends_with("::1"),
            "{greeting}"
        );
        // The pod's own processes still ask it, although the rest of 127.0.0.1 and ::1 is the guest's.
        reaches(pod, (address, 53), "resolver")?;
        // And nothing else of the loopback is open.
        let _other = TcpServer::start(pod, "other", (address, 54))?;
        unreachable(guest, (gateway, 54))?;
        unreachable(guest, (address, 53))?;
    }
    running.stop_cleanly()
}

/// Its container has no socket at port 53, and rules that lead there from processes of the container.
fn resolver_behind_rules(context: &Context) -> Result<()> {
    let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));
    let pod = Pod::new(&context.programs, with_resolv("nameserver 127.0.0.11\n"))?;
    let (by_udp, by_tcp) = (43743, 41001);
    let server = udp(&pod.netns, (address, by_udp))?;
    let _server = TcpServer::start(&pod.netns, "resolver", (address, by_tcp))?;
    let mut guest = Guest::new(&pod)?;
    let hawser = pod.hawser("run", &vmi(Value::Null))?;
    guest.booted_by(&hawser)?;
    let running = Running { hawser, guest, pod };
    running.guest.configure4()?;
    let guest = &running.guest.netns;
    running.explain(udp_exchange(&udp(guest, (ANY4, 0))?, (GATEWAY4, 53), &server))?;
    running.explain(reaches(guest, (GATEWAY4, 53), "resolver"))?;
    unreachable(guest, (GATEWAY4, by_tcp))
}

fn link_local_resolver(context: &Context, vmi: &Value, address: &str) -> Result<()> {
    const SERVER: Ipv4Addr = Ipv4Addr::new(169, 254, 25, 10);
    let spec = with_resolv(&format!("nameserver {SERVER}\n"));
    let running = start(context, spec, vmi, |pod| {
        pod.node.ip(&format!("address add {SERVER}/32 dev lo")).map(drop)
    })?;
    let clients = running.guest.client_of(Client::Dhclient, "-4")?;
    eventually(&running, &clients, || {
        ensure!(running.guest.has_address(address)?, "no {address}");
        let resolv = running.guest.resolv_conf()?;
        ensure!(resolv.contains(&format!("nameserver {SERVER}")), "{resolv}");
        // The clients' scripts set routes after the address and the name servers.
        running.guest.netns.ip(&format!("route get {SERVER}"))?;
        Ok(())
    })?;
    let server = udp(&running.pod.node, (SERVER, 53))?;
    running.explain(udp_exchange(
        &udp(&running.guest.netns, (ANY4, 0))?,
        (SERVER, 53),
        &server,
    ))?;
    Ok(())
}

fn resolver_in_guest_network(context: &Context) -> Result<()> {
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
    let mut addresses = Vec::new();
    // The same in two pods of one guest.
    for _ in 0..2 {
        let spec = with_resolv(&format!("nameserver {SERVER}\n"));
        let running = start(context, spec, &vmi(json!([{"port": 80}])), |pod| {
            pod.node.ip(&format!("address add {SERVER}/32 dev lo")).map(drop)
        })?;
        let clients = running.guest.client_of(Client::Udhcpc, "-4")?;
        eventually(&running, &clients, || {
            let resolv = running.guest.resolv_conf()?;
            ensure!(resolv.contains(&format!("nameserver {SERVER}")), "{resolv}");
            let routes = running.guest.netns.ip("-4 route show")?;
            ensure!(routes.contains("default via 172."), "{routes}");
            Ok(())
        })?;
        let server = udp(&running.pod.node, (SERVER, 53))?;
        running.explain(udp_exchange(
            &udp(&running.guest.netns, (ANY4, 0))?,
            (SERVER, 53),
            &server,
        ))?;
        let _in_guest = TcpServer::start(&running.guest.netns, "guest", (ANY4, 80))?;
        running.explain(reaches(&running.pod.node, (POD4, 80), "guest"))?;
        let said = running.hawser.stderr();
        ensure!(
            said.contains("not 10.0.2.0/24: 10.0.2.3, which the pod uses"),
            "{said}"
        );
        addresses.push(
            running
                .guest
                .netns
                .ip("-4 -o address show dev eth0 scope global")?,
        );
    }
    let words = |text: &String| text.split_whitespace().nth(3).map(str::to_owned);
    let found: Vec<_> = addresses.iter().map(words).collect();
    ensure!(found.first() == found.last(), "{found:?}");
    Ok(())
}

/// Rootless podman calls it tap0, which is the name that hawser would give its own.
fn other_name(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    for command in [
        "link set eth0 down".to_owned(),
        "link set eth0 name tap0".into(),
        "link set tap0 up".into(),
        format!("route add default via {NODE4}"),
        format!("address add {POD6}/64 dev tap0"),
        format!("-6 route add default via {NODE6}"),
    ] {
        pod.netns.ip(&command)?;
    }
    let mut script = Script::default();
    script.ports.insert(own_tap(&pod)?, pod.port());
    pod.script(&script)?;
    let mut guest = Guest::new(&pod)?;
    let hawser = pod.hawser("run", &vmi(json!([{"port": 80}])))?;
    guest.booted_by(&hawser)?;
    let mut running = Running { hawser, guest, pod };
    running.explain(running.guest.configure())?;
    let _server = TcpServer::start(&running.guest.netns, "guest", (ANY6, 80))?;
    running.explain(reaches(&running.pod.node, (POD4, 80), "guest"))?;
    running.explain(reaches(&running.pod.node, (POD6, 80), "guest"))?;
    running.stop_cleanly()
}

/// What hawser calls its TAP in this pod.
fn own_tap(pod: &Pod) -> Result<String> {
    let mut plan = pod.hawser_as(&pod.entry(), "plan", &vmi(Value::Null), &["--output", "json"])?;
    expect_exit(exit_code(&mut plan)?, 0, &plan)?;
    let plan: Value = serde_json::from_str(&plan.stdout())?;
    let text = plan.to_string();
    let name = text
        .split("\"tap\":\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    Ok(name.context("no TAP in the plan")?.to_owned())
}

fn no_default_route(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    pod.netns.ip("link set eth0 down")?;
    pod.netns.ip("link set eth0 name wan")?;
    for verb in ["run", "check"] {
        let mut hawser = pod.hawser(verb, &vmi(Value::Null))?;
        let code = exit_code(&mut hawser)?;
        expect_exit(code, 4, &hawser)?;
        let said = hawser.transcript();
        ensure!(
            said.contains(
                "the pod has no interface eth0, and of its interfaces (lo, wan) none has a default route"
            ),
            "{said}"
        );
    }
    Ok(())
}

fn foreign_tap(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    pod.netns.ip("tuntap add tap0 mode tap")?;
    let before = pod.netns.ip("-d link show dev tap0")?;
    let mut script = Script::default();
    script.ports.insert(own_tap(&pod)?, pod.port());
    pod.script(&script)?;
    let mut guest = Guest::new(&pod)?;
    let hawser = pod.hawser("run", &vmi(json!([{"port": 80}])))?;
    guest.booted_by(&hawser)?;
    let mut running = Running { hawser, guest, pod };
    running.explain(running.guest.configure4())?;
    let _server = TcpServer::start(&running.guest.netns, "guest", (ANY4, 80))?;
    running.explain(reaches(&running.pod.node, (POD4, 80), "guest"))?;
    running.stop_cleanly()?;
    let after = running.pod.netns.ip("-d link show dev tap0")?;
    ensure!(before == after, "before {before}, after {after}");
    Ok(())
}

fn refused(context: &Context, spec: PodSpec, vmi: &Value, arrange: &str, why: &str) -> Result<()> {
    let pod = Pod::new(&context.programs, spec)?;
    if !arrange.is_empty() {
        pod.netns.ip(arrange)?;
    }
    let before = pod.netns.snapshot()?;
    for verb in ["run", "check"] {
        let mut hawser = pod.hawser(verb, vmi)?;
        let code = exit_code(&mut hawser)?;
        expect_exit(code, 4, &hawser)?;
        let said = hawser.transcript();
        ensure!(said.contains(why), "{said}");
    }
    let changes = before.changes(&pod.netns.snapshot()?);
    ensure!(changes.is_empty(), "changed: {changes:?}");
    Ok(())
}

fn only6_read_only(context: &Context) -> Result<()> {
    let spec = PodSpec {
        v4: false,
        read_only_proc_sys: true,
        ..PodSpec::default()
    };
    let why = "the pod has IPv6 only, and net.ipv6.conf.all.forwarding is 0 and read-only in this pod";
    refused(context, spec, &vmi(Value::Null), "", why)
}

fn bridge_without_neighbours(context: &Context) -> Result<()> {
    let why = "eth0: nothing on it answers ARP or neighbor solicitations (NOARP)";
    refused(
        context,
        PodSpec::default(),
        &bridged(),
        "link set eth0 arp off",
        why,
    )
}

fn many_search_domains(context: &Context, client: Client) -> Result<()> {
    let domains: Vec<_> = (0..32)
        .map(|n| format!("team-{n:02}.a-rather-long-domain-{n:02}.of-its-own-{n:02}.example"))
        .collect();
    let spec = with_resolv(&format!("nameserver 10.96.0.10\nsearch {}\n", domains.join(" ")));
    let running = Running::start(context, spec, &vmi(Value::Null))?;
    let wanted = ["-O", "search"];
    let clients = match client {
        Client::Udhcpc => vec![running.guest.udhcpc(&wanted)?],
        _ => running.guest.client(client)?,
    };
    eventually(&running, &clients, || {
        let resolv = running.guest.resolv_conf()?;
        ensure!(resolv.contains("nameserver 10.96.0.10"), "{resolv}");
        // Debian's script for udhcpc writes the first one.
        let first: Vec<_> = domains
            .iter()
            .take(if client == Client::Udhcpc { 1 } else { 4 })
            .collect();
        for domain in first {
            ensure!(resolv.contains(domain.as_str()), "{domain} is not in {resolv}");
        }
        Ok(())
    })
}

fn hairpin(context: &Context, ports: Value) -> Result<()> {
    let mut running = Running::start(context, PodSpec::default(), &vmi(ports))?;
    running.explain(running.guest.configure())?;
    let guest = &running.guest.netns;
    let _server = TcpServer::start(guest, "guest", (ANY6, 80))?;
    for (any, pod) in [(ANY4, IpAddr::V4(POD4)), (ANY6, IpAddr::V6(POD6))] {
        running.explain(reaches(guest, (pod, 80), "guest"))?;
        let server = udp(guest, (any, 53))?;
        running.explain(udp_exchange(&udp(guest, (any, 0))?, (pod, 53), &server))?;
        // What stays in the pod stays out of the guest's reach.
        let _in_pod = TcpServer::start(&running.pod.netns, "pod", (any, 49152))?;
        unreachable(guest, (pod, 49152))?;
    }
    // The kernel would point out that there is a shorter way.
    let redirects = output(&mut running.guest.command("cat", &["/proc/net/snmp"])?)?;
    let icmp: Vec<Vec<&str>> = redirects
        .lines()
        .filter(|line| line.starts_with("Icmp:"))
        .map(|line| line.split_whitespace().collect())
        .collect();
    let at = icmp
        .first()
        .and_then(|names| names.iter().position(|name| *name == "InRedirects"));
    let count = icmp.get(1).zip(at).and_then(|(values, at)| values.get(at));
    ensure!(count == Some(&"0"), "redirects: {count:?}");
    running.stop_cleanly()
}

fn own_mac(context: &Context) -> Result<()> {
    let mut vmi = vmi(Value::Null);
    set(
        &mut vmi,
        "/spec/domain/devices/interfaces",
        json!([{"name": "default", "masquerade": {}, "ports": [{"port": 80}]}]),
    );
    let mut found = Vec::new();
    for _ in 0..2 {
        let running = Running::start(context, PodSpec::default(), &vmi)?;
        running.explain(running.guest.configure())?;
        let _server = TcpServer::start(&running.guest.netns, "guest", (ANY6, 80))?;
        running.explain(reaches(&running.pod.node, (POD4, 80), "guest"))?;
        running.explain(reaches(&running.pod.node, (POD6, 80), "guest"))?;
        let mac = mac_of(&running.guest.netns, "eth0")?;
        ensure!(mac != mac_of(&running.pod.netns, "eth0")?, "the pod's: {mac}");
        found.push(mac);
        let mut explain = running.pod.hawser("explain", &vmi)?;
        expect_exit(exit_code(&mut explain)?, 0, &explain)?;
        let said = explain.stdout();
        ensure!(
            found.iter().all(|mac| said.contains(mac.as_str())),
            "{found:?}: {said}"
        );
    }
    ensure!(found.first() == found.last(), "{found:?}");
    Ok(())
}

/// What a client is told, and what it makes of it: docs/bridge.md has the table.
fn odd_routes(context: &Context, client: Client) -> Result<()> {
    let running = start(context, PodSpec::default(), &bridged(), |pod| {
        for command in [
            "route del default".to_owned(),
            "route add 224.0.0.0/4 dev eth0".into(),
            "route add blackhole 198.51.100.0/24".into(),
            "address add 10.244.0.6/24 dev eth0".into(),
            format!("route add 203.0.113.0/24 via {NODE4} src 10.244.0.6"),
            "route add 198.18.0.0/24 nexthop via 10.244.0.1 nexthop via 10.244.0.2".into(),
            "route add 198.18.1.0/24 via 169.254.7.7 dev eth0 onlink".into(),
            "route add default via 10.244.0.2 metric 200".into(),
            format!("route add default via {NODE4} metric 100"),
        ] {
            pod.netns.ip(&command)?;
        }
        for address in ["203.0.113.1", "198.18.0.1", "198.18.1.1", "169.254.7.7"] {
            pod.node.ip(&format!("address add {address}/32 dev lo"))?;
        }
        Ok(())
    })?;
    let clients = running.guest.client_of(client, "-4")?;
    eventually(&running, &clients, || {
        has4(&running, &format!("{POD4}/24"), Some(NODE4))?;
        let routes = running.guest.netns.ip("-4 route show")?;
        let is_told = [
            format!("203.0.113.0/24 via {NODE4}"),
            format!("198.18.0.0/24 via {NODE4}"),
            "198.18.1.0/24 via 169.254.7.7".into(),
        ];
        for route in is_told {
            ensure!(routes.contains(&route), "no {route}: {routes}");
        }
        for route in ["224.0.0.0", "198.51.100.0", "10.244.0.2"] {
            ensure!(!routes.contains(route), "{route}: {routes}");
        }
        Ok(())
    })?;
    let _in_node = TcpServer::start(&running.pod.node, "node", (ANY4, 8080))?;
    for to in [
        FAR4,
        Ipv4Addr::new(203, 0, 113, 1),
        Ipv4Addr::new(198, 18, 0, 1),
        Ipv4Addr::new(198, 18, 1, 1),
    ] {
        running.explain(reaches(&running.guest.netns, (to, 8080), "node"))?;
    }
    let said = running.hawser.stderr();
    for note in [
        "but not 10.244.0.2: it gets one for each destination",
        "also has 10.244.0.6/24",
    ] {
        ensure!(said.contains(note), "no {note:?}: {said}");
    }
    Ok(())
}
