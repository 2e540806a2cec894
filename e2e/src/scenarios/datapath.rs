//! What reaches the guest, and what the guest reaches.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Context;
use super::running::Running;
use super::traffic::{TcpServer, nothing, reaches, receive, udp, udp_exchange, unreachable};
use crate::pods::{FAR4, FAR6, NODE4, NODE6, POD4, POD6, PodSpec, set, vmi};
use crate::process::{output, until};
use crate::report::Scenario;

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "listed TCP ports of both families",
        run: listed_tcp,
    },
    Scenario {
        name: "listed UDP ports of both families",
        run: listed_udp,
    },
    Scenario {
        name: "port ranges",
        run: ranges,
    },
    Scenario {
        name: "all ports but the reserved ones",
        run: all_ports,
    },
    Scenario {
        name: "from outside the cluster",
        run: from_far,
    },
    Scenario {
        name: "from inside the pod by loopback and by its own address",
        run: loopback,
    },
    Scenario {
        name: "transit traffic is not taken",
        run: transit,
    },
    Scenario {
        name: "the sidecar's ports stay in the pod",
        run: istio,
    },
    Scenario {
        name: "outbound is masqueraded, both families",
        run: outbound,
    },
    Scenario {
        name: "too large packets are answered with the path's MTU",
        run: path_mtu,
    },
    Scenario {
        name: "guest networks of the manifest's own",
        run: custom_networks,
    },
    Scenario {
        name: "several queues",
        run: several_queues,
    },
    Scenario {
        name: "an IPv4-only pod",
        run: only4,
    },
    Scenario {
        name: "an IPv6-only pod",
        run: only6,
    },
];

const ANY4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// With a configured guest.
fn running(context: &Context, ports: Value) -> Result<Running> {
    let running = Running::start(context, PodSpec::default(), &vmi(ports))?;
    running.explain(running.guest.configure())?;
    Ok(running)
}

fn listed_tcp(context: &Context) -> Result<()> {
    let running = running(
        context,
        json!([{"name": "http", "port": 80}, {"name": "ssh", "port": 22, "protocol": "TCP"}]),
    )?;
    let (guest, node) = (&running.guest.netns, &running.pod.node);
    let _servers = [80, 22, 81]
        .map(|port| TcpServer::start(guest, "guest", (ANY6, port)))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    for port in [80, 22] {
        let peer = reaches(node, (POD4, port), "guest")?;
        ensure!(
            peer.contains(&NODE4.to_string()),
            "the guest sees {peer}, not the client"
        );
        reaches(node, (POD6, port), "guest")?;
    }
    unreachable(node, (POD4, 81))?;
    unreachable(node, (POD6, 81))
}

fn listed_udp(context: &Context) -> Result<()> {
    let running = running(context, json!([{"port": 53, "protocol": "UDP"}]))?;
    let (guest, node) = (&running.guest.netns, &running.pod.node);
    for (any, pod) in [(ANY4, IpAddr::V4(POD4)), (ANY6, IpAddr::V6(POD6))] {
        let (listed, unlisted) = (udp(guest, (any, 53))?, udp(guest, (any, 54))?);
        let client = udp(node, (any, 0))?;
        client.send_to(b"unlisted", (pod, 54))?;
        udp_exchange(&client, (pod, 53), &listed)?;
        nothing(&unlisted, "UDP to a port that is not listed")?;
    }
    Ok(())
}

fn ranges(context: &Context) -> Result<()> {
    let mut vmi = vmi(Value::Null);
    set(
        &mut vmi,
        "/spec/domain/devices/interfaces/0/portRanges",
        json!([{"start": 8000, "end": 8999, "protocol": "TCP"}, {"start": 9100, "end": 9101, "protocol": "UDP"}]),
    );
    let running = Running::start(context, PodSpec::default(), &vmi)?;
    running.explain(running.guest.configure())?;
    let (guest, node) = (&running.guest.netns, &running.pod.node);
    let _servers = [8000, 8999, 9000]
        .map(|port| TcpServer::start(guest, "guest", (ANY6, port)))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    for port in [8000, 8999] {
        reaches(node, (POD4, port), "guest")?;
        reaches(node, (POD6, port), "guest")?;
    }
    unreachable(node, (POD4, 9000))?;
    udp_exchange(&udp(node, (ANY4, 0))?, (POD4, 9101), &udp(guest, (ANY4, 9101))?)?;
    // A thousand ports in one element of a set: no rule for each.
    let rules = running.pod.netns.nft("list ruleset")?;
    ensure!(
        rules.lines().count() < 200,
        "{} lines of rules",
        rules.lines().count()
    );
    Ok(())
}

fn all_ports(context: &Context) -> Result<()> {
    let running = running(context, Value::Null)?;
    let (guest, node, pod) = (&running.guest.netns, &running.pod.node, &running.pod.netns);
    let _servers = [1, 80, 49151, 49155, 65535]
        .map(|port| TcpServer::start(guest, "guest", (ANY6, port)))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    for port in [1, 80, 49151, 49155, 65535] {
        reaches(node, (POD4, port), "guest")?;
        reaches(node, (POD6, port), "guest")?;
    }
    for port in [49152, 49153, 49154] {
        let _in_guest = TcpServer::start(guest, "guest", (ANY6, port))?;
        let in_pod = TcpServer::start(pod, "pod", (ANY6, port));
        let Ok(_in_pod) = in_pod else { continue };
        reaches(node, (POD4, port), "pod")?;
        reaches(node, (POD6, port), "pod")?;
    }
    udp_exchange(&udp(node, (ANY4, 0))?, (POD4, 5353), &udp(guest, (ANY4, 5353))?)?;
    udp_exchange(&udp(node, (ANY6, 0))?, (POD6, 5353), &udp(guest, (ANY6, 5353))?)?;
    Ok(())
}

fn from_far(context: &Context) -> Result<()> {
    let running = running(context, json!([{"port": 80, "protocol": "UDP"}]))?;
    let (guest, node) = (&running.guest.netns, &running.pod.node);
    let from = udp_exchange(&udp(node, (FAR4, 0))?, (POD4, 80), &udp(guest, (ANY4, 80))?)?;
    ensure!(from.ip() == IpAddr::V4(FAR4), "the guest sees {from}");
    let from = udp_exchange(&udp(node, (FAR6, 0))?, (POD6, 80), &udp(guest, (ANY6, 80))?)?;
    ensure!(from.ip() == IpAddr::V6(FAR6), "the guest sees {from}");
    Ok(())
}

fn loopback(context: &Context) -> Result<()> {
    for ports in [
        json!([{"port": 80}, {"port": 53, "protocol": "UDP"}]),
        Value::Null,
    ] {
        let running = running(context, ports)?;
        let (guest, pod) = (&running.guest.netns, &running.pod.netns);
        let _server = TcpServer::start(guest, "guest", (ANY6, 80))?;
        reaches(pod, (Ipv4Addr::LOCALHOST, 80), "guest")?;
        reaches(pod, (Ipv6Addr::LOCALHOST, 80), "guest")?;
        udp_exchange(
            &udp(pod, (ANY4, 0))?,
            (Ipv4Addr::LOCALHOST, 53),
            &udp(guest, (ANY4, 53))?,
        )?;
        udp_exchange(
            &udp(pod, (ANY6, 0))?,
            (Ipv6Addr::LOCALHOST, 53),
            &udp(guest, (ANY6, 53))?,
        )?;
    }
    Ok(())
}

/// Sent to the pod's MAC, but to an address that is not the pod's.
fn transit(context: &Context) -> Result<()> {
    let running = running(context, Value::Null)?;
    let (guest, node) = (&running.guest.netns, &running.pod.node);
    let cases = [
        (ANY4, IpAddr::V4(POD4), IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9))),
        (
            ANY6,
            IpAddr::V6(POD6),
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9)),
        ),
    ];
    for (any, pod, elsewhere) in cases {
        node.ip(&format!("route add {elsewhere} via {pod}"))?;
        let (server, other) = (udp(guest, (any, 7777))?, udp(guest, (any, 7778))?);
        let client = udp(node, (any, 0))?;
        client.send_to(b"transit", (elsewhere, 7778))?;
        udp_exchange(&client, (pod, 7777), &server)?;
        nothing(&other, &format!("what was sent to {elsewhere}"))?;
    }
    Ok(())
}

fn istio(context: &Context) -> Result<()> {
    let mut vmi = vmi(Value::Null);
    set(
        &mut vmi,
        "/metadata/annotations",
        json!({"sidecar.istio.io/inject": "true"}),
    );
    let running = Running::start(context, PodSpec::default(), &vmi)?;
    running.explain(running.guest.configure())?;
    let (guest, node, pod) = (&running.guest.netns, &running.pod.node, &running.pod.netns);
    let _guest_side = TcpServer::start(guest, "guest", (ANY6, 22))?;
    reaches(node, (POD4, 22), "guest").context("ssh goes to the guest directly")?;
    for port in [15000, 15001, 15006, 15008, 15020, 15021, 15090] {
        let _sidecar = TcpServer::start(pod, "sidecar", (ANY6, port))?;
        reaches(node, (POD4, port), "sidecar")?;
    }
    // The sidecar hands inbound connections on from 127.0.0.6.
    let _http = TcpServer::start(guest, "guest", (ANY6, 80))?;
    reaches(pod, (POD4, 80), "guest").context("the pod's own address is the guest's")?;
    Ok(())
}

fn outbound(context: &Context) -> Result<()> {
    let running = running(context, json!([{"port": 80}]))?;
    let (guest, node) = (&running.guest.netns, &running.pod.node);
    let _server = TcpServer::start(node, "node", (ANY6, 8080))?;
    for (to, seen) in [
        (IpAddr::V4(NODE4), IpAddr::V4(POD4)),
        (IpAddr::V4(FAR4), IpAddr::V4(POD4)),
        (IpAddr::V6(NODE6), IpAddr::V6(POD6)),
        (IpAddr::V6(FAR6), IpAddr::V6(POD6)),
    ] {
        let greeting = reaches(guest, (to, 8080), "node")?;
        ensure!(
            greeting.ends_with(&seen.to_string()),
            "{to} sees {greeting}, not the pod's {seen}"
        );
    }
    let from = udp_exchange(&udp(guest, (ANY4, 0))?, (FAR4, 9), &udp(node, (FAR4, 9))?)?;
    ensure!(from.ip() == IpAddr::V4(POD4), "{from}");
    let from = udp_exchange(&udp(guest, (ANY6, 0))?, (FAR6, 9), &udp(node, (FAR6, 9))?)?;
    ensure!(from.ip() == IpAddr::V6(POD6), "{from}");
    for to in [IpAddr::V4(FAR4), IpAddr::V6(FAR6)] {
        output(&mut running.guest.command("ping", &["-c1", "-W2", &to.to_string()])?)?;
    }
    Ok(())
}

/// The guest has 1500 here, because it did not ask for the MTU.
fn path_mtu(context: &Context) -> Result<()> {
    let running = running(context, Value::Null)?;
    for (to, header) in [(IpAddr::V4(FAR4), 28), (IpAddr::V6(FAR6), 48)] {
        let ping = |size: u32| -> Result<bool> {
            let size = (size - header).to_string();
            let args = ["-M", "do", "-c1", "-W1", "-s", &size, &to.to_string()];
            Ok(running.guest.command("ping", &args)?.output()?.status.success())
        };
        ensure!(ping(1450)?, "{to}: a packet of the pod's MTU does not pass");
        ensure!(!ping(1500)?, "{to}: a packet over the pod's MTU passes");
        until("the guest learnt the path's MTU", Duration::from_secs(2), || {
            let route = running.guest.netns.ip(&format!("route get {to}"))?;
            Ok(route.contains("mtu 1450").then_some(()))
        })
        .with_context(|| to.to_string())?;
    }
    Ok(())
}

fn custom_networks(context: &Context) -> Result<()> {
    let mut vmi = vmi(json!([{"port": 80}]));
    set(
        &mut vmi,
        "/spec/networks/0/pod",
        json!({"vmNetworkCIDR": "172.30.5.8/29", "vmIPv6NetworkCIDR": "fd42:9::/64"}),
    );
    let running = Running::start(context, PodSpec::default(), &vmi)?;
    let _clients = running.guest.client(crate::guests::Client::Dhclient)?;
    running.explain(running.guest.wait_address("172.30.5.10/29"))?;
    running.explain(until("fd42:9::2", super::running::WAIT, || {
        Ok(running
            .guest
            .netns
            .ip("-6 -o address show dev eth0 -tentative")?
            .contains("fd42:9::2/")
            .then_some(()))
    }))?;
    let _server = TcpServer::start(&running.guest.netns, "guest", (ANY6, 80))?;
    reaches(&running.pod.node, (POD4, 80), "guest")?;
    reaches(&running.pod.node, (POD6, 80), "guest")?;
    Ok(())
}

fn several_queues(context: &Context) -> Result<()> {
    let mut vmi = vmi(json!([{"port": 80}]));
    set(&mut vmi, "/spec/domain/cpu/cores", json!(4));
    let running = Running::start(context, PodSpec::default(), &vmi)?;
    running.explain(running.guest.configure())?;
    let link = running.pod.netns.ip("-d link show dev tap0")?;
    ensure!(link.contains("multi_queue"), "{link}");
    let _server = TcpServer::start(&running.guest.netns, "guest", (ANY6, 80))?;
    reaches(&running.pod.node, (POD4, 80), "guest")?;
    reaches(&running.pod.node, (POD6, 80), "guest").map(drop)
}

fn only4(context: &Context) -> Result<()> {
    let spec = PodSpec {
        v6: false,
        ..PodSpec::default()
    };
    let mut running = Running::start(context, spec, &vmi(json!([{"port": 80}])))?;
    running.guest.configure4()?;
    let _server = TcpServer::start(&running.guest.netns, "guest", (ANY4, 80))?;
    reaches(&running.pod.node, (POD4, 80), "guest")?;
    ensure!(
        running.guest.default6()?.is_empty(),
        "an IPv6 default route that leads nowhere"
    );
    running.stop_cleanly()
}

fn only6(context: &Context) -> Result<()> {
    let spec = PodSpec {
        v4: false,
        ..PodSpec::default()
    };
    let mut running = Running::start(context, spec, &vmi(json!([{"port": 80}])))?;
    let _clients = running.guest.client(crate::guests::Client::Dhcpcd)?;
    running.explain(
        running
            .guest
            .wait_address(&format!("{}/128", crate::guests::GUEST6)),
    )?;
    let server = udp(&running.guest.netns, (ANY6, 7))?;
    drop(server);
    let _server = TcpServer::start(&running.guest.netns, "guest", (ANY6, 80))?;
    reaches(&running.pod.node, (POD6, 80), "guest")?;
    running.stop_cleanly()
}

/// Proof that everything which the guest sent before has been dealt with: one more packet, and it arrives.
pub(super) fn marker(running: &Running) -> Result<()> {
    let node = udp(&running.pod.node, (NODE4, 4444))?;
    udp(&running.guest.netns, (ANY4, 0))?.send_to(b"marker", (NODE4, 4444))?;
    let (text, _) = receive(&node)?;
    ensure!(text == "marker", "{text}");
    Ok(())
}
