//! docs/pods.md's table: pods as the networks of clusters make them, times bindings, each run with real DHCP clients.
//!
//! A layout is made by a function in namespaces; it has what such a plugin leaves in a pod, and a node that answers as the
//! plugin's does. A cell says what became of the guest: it reaches the world and is reached in a family, or hawser refuses.

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::Context;
use super::bridge::{eventually, manifest as bridged};
use super::running::Running;
use super::traffic::{TcpServer, reaches};
use crate::guests::{Client, Guest};
use crate::pods::{FAR4, FAR6, POD4, POD6, Pod, PodSpec, vmi};
use crate::report::Scenario;
use crate::standin_script::Script;

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "layouts of docs/pods.md: masquerade",
        run: |c| column(c, 0),
    },
    Scenario {
        name: "layouts of docs/pods.md: bridge",
        run: |c| column(c, 1),
    },
];

/// A binding's name, and a guest of it.
type Binding = (&'static str, fn() -> Value);

const BINDINGS: [Binding; 2] = [("masquerade", || vmi(Value::Null)), ("bridge", bridged)];

struct Layout {
    /// The row's name in the page.
    name: &'static str,
    /// What the pod's interface is called.
    interface: &'static str,
    /// Commands of `ip` in the node, then in the pod.
    node: Vec<&'static str>,
    pod: Vec<&'static str>,
    v6: bool,
    resolv: &'static str,
}

/// A veth whose other end is the node's.
const VETH: &[&str] = &[
    "link add veth0 mtu 1450 type veth peer name eth0 mtu 1450 netns POD",
    "address add 10.244.0.1/24 dev veth0",
    "address add fd00:10:244::1/64 dev veth0",
    "link set veth0 up",
];
/// The same, for a pod that is alone on its link.
const HOST_ROUTES: &[&str] = &[
    "link add veth0 mtu 1500 type veth peer name eth0 mtu 1500 netns POD",
    "address add 169.254.1.1/32 dev veth0",
    "address add fe80::ecee:eeff:feee:eeee/64 dev veth0",
    "link set veth0 up",
    "route add 10.244.0.5/32 dev veth0",
    "-6 route add fd00:10:244::5/128 dev veth0",
];
/// A network that the node only passes on: what is on it is behind `wire`.
const UPLINK: &[&str] = &[
    "link add uplink type veth peer name wire",
    "link set uplink up",
    "link set wire up",
    "address add 10.244.0.1/24 dev wire",
    "address add fd00:10:244::1/64 dev wire",
];
const SUBNET: &[&str] = &[
    "link set eth0 up",
    "address add 10.244.0.5/24 dev eth0",
    "address add fd00:10:244::5/64 dev eth0",
    "route add default via 10.244.0.1",
    "-6 route add default via fd00:10:244::1",
];

/// In both families, with a name server elsewhere.
fn usual(name: &'static str, node: &[&'static str], pod: &[&'static str]) -> Layout {
    Layout {
        name,
        interface: "eth0",
        node: node.to_vec(),
        pod: pod.to_vec(),
        v6: true,
        resolv: "nameserver 10.96.0.10\n",
    }
}

fn layouts() -> Vec<Layout> {
    vec![
        usual("a subnet on a veth", VETH, SUBNET),
        usual(
            "a host address with a link-local gateway",
            HOST_ROUTES,
            &[
                "link set eth0 up",
                "address add 10.244.0.5/32 dev eth0",
                "route add 169.254.1.1 dev eth0 scope link",
                "route add default via 169.254.1.1 dev eth0",
                "address add fd00:10:244::5/128 dev eth0",
                "-6 route add default via fe80::ecee:eeff:feee:eeee dev eth0",
            ],
        ),
        Layout {
            v6: false,
            ..usual(
                "a host address whose gateway answers no ARP",
                &[
                    "link add veth0 address 02:00:5e:00:00:77 type veth peer name eth0 netns POD",
                    "link set veth0 up",
                    "route add 10.244.0.5/32 dev veth0",
                ],
                &[
                    "link set eth0 up",
                    "address add 10.244.0.5/32 dev eth0",
                    "route add 169.254.1.1 dev eth0 scope link",
                    "route add default via 169.254.1.1 dev eth0",
                    "neigh add 169.254.1.1 lladdr 02:00:5e:00:00:77 dev eth0 nud permanent",
                ],
            )
        },
        usual(
            "a host address, and the MTU in its routes",
            VETH,
            &[
                "link set eth0 up",
                "address add 10.244.0.5/32 dev eth0",
                "route add 10.244.0.1 dev eth0 scope link",
                "route add default via 10.244.0.1 mtu 1400",
                "address add fd00:10:244::5/128 dev eth0",
                "-6 route add fd00:10:244::1 dev eth0",
                "-6 route add default via fd00:10:244::1 mtu 1400",
            ],
        ),
        Layout {
            v6: false,
            ..usual(
                "a link without neighbors",
                &[
                    "link add veth0 address 02:00:5e:00:00:01 type veth peer name eth0 address 02:00:5e:00:00:01 netns POD",
                    "link set veth0 arp off up",
                    "address add 10.244.0.1/32 dev veth0",
                    "route add 10.244.0.5/32 dev veth0",
                ],
                &[
                    "link set eth0 arp off up",
                    "address add 10.244.0.5/32 dev eth0",
                    "route add default dev eth0",
                ],
            )
        },
        Layout {
            v6: false,
            ..usual(
                "the subnet behind a gateway",
                VETH,
                &[
                    "link set eth0 up",
                    "address add 10.244.0.5/24 dev eth0",
                    "route del 10.244.0.0/24 dev eth0",
                    "route add 10.244.0.1 dev eth0 scope link src 10.244.0.5",
                    "route add 10.244.0.0/24 via 10.244.0.1 src 10.244.0.5",
                    "route add default via 10.244.0.1",
                ],
            )
        },
        usual(
            "a macvlan",
            &[
                UPLINK,
                &["link add eth0 link uplink netns POD type macvlan mode bridge"],
            ]
            .concat(),
            SUBNET,
        ),
        Layout {
            interface: "tap0",
            v6: false,
            resolv: "nameserver 10.0.2.3\n",
            ..usual(
                "tap0 in 10.0.2.0/24",
                &[
                    "link add veth0 type veth peer name tap0 netns POD",
                    "address add 10.0.2.2/24 dev veth0",
                    "address add 10.0.2.3/24 dev veth0",
                    "link set veth0 up",
                    "route add 10.244.0.5/32 dev veth0",
                ],
                &[
                    "link set tap0 up",
                    "address add 10.244.0.5/32 dev tap0",
                    "address add 10.0.2.100/24 dev tap0",
                    "route add default via 10.0.2.2",
                ],
            )
        },
        Layout {
            interface: "enp1s0",
            ..usual(
                "an interface of the host's name",
                &[
                    "link add veth0 type veth peer name enp1s0 netns POD",
                    "address add 10.244.0.1/24 dev veth0",
                    "address add fd00:10:244::1/64 dev veth0",
                    "link set veth0 up",
                ],
                &[
                    "link set enp1s0 up",
                    "address add 10.244.0.5/24 dev enp1s0",
                    "address add fd00:10:244::5/64 dev enp1s0",
                    "route add default via 10.244.0.1",
                    "-6 route add default via fd00:10:244::1",
                ],
            )
        },
        usual(
            "a subnet, and a VPN's interface with routes in a table of its own",
            VETH,
            &[
                SUBNET,
                &[
                    "tuntap add tailscale0 mode tun",
                    "link set tailscale0 up",
                    "address add 100.64.0.7/32 dev tailscale0",
                    "route add 100.64.0.0/10 dev tailscale0 table 52",
                    "rule add priority 5270 lookup 52",
                ],
            ]
            .concat(),
        ),
    ]
}

fn pod_of(context: &Context, layout: &Layout) -> Result<Pod> {
    let spec = PodSpec {
        by_cni: true,
        resolv_conf: layout.resolv.to_owned(),
        ..PodSpec::default()
    };
    let pod = Pod::new(&context.programs, spec)?;
    pod.node.set_sysctl("net.ipv6.conf.all.forwarding", "1")?;
    for command in &layout.node {
        pod.node.ip(&command.replace("POD", pod.netns.name()))?;
    }
    for command in &layout.pod {
        pod.netns.ip(command)?;
    }
    pod.settle_on(layout.interface)?;
    Ok(pod)
}

/// What becomes of the guest, in the words of the page.
fn outcome(context: &Context, layout: &Layout, vmi: &Value) -> Result<String> {
    let pod = pod_of(context, layout)?;
    let mut plan = pod.hawser_as(&pod.entry(), "plan", vmi, &["--output", "json"])?;
    if plan.wait_exit(super::running::WAIT)?.code() != Some(0) {
        let said = plan.stderr();
        let why = said
            .lines()
            .find(|line| line.contains("hawser: "))
            .unwrap_or(&said);
        let why = why.split("hawser: network: ").nth(1).unwrap_or(why);
        let short = why.split(": ").nth(1).unwrap_or(why);
        let short = short.split(", so ").next().unwrap_or(short);
        return Ok(format!("refused: {short}"));
    }
    let text = serde_json::from_str::<Value>(&plan.stdout())?.to_string();
    let tap = text
        .split("\"tap\":\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    let mut script = Script::default();
    script
        .ports
        .insert(tap.context("the plan has no TAP")?.to_owned(), pod.port());
    pod.script(&script)?;
    let mut guest = Guest::new(&pod)?;
    let hawser = pod.hawser("run", vmi)?;
    guest.booted_by(&hawser)?;
    let mut running = Running { hawser, guest, pod };
    works(&running, layout)?;
    running.stop_cleanly()?;
    Ok(if layout.v6 { "IPv4, IPv6" } else { "IPv4" }.to_owned())
}

fn works(running: &Running, layout: &Layout) -> Result<()> {
    let (guest, node) = (&running.guest.netns, &running.pod.node);
    let any6 = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let _in_guest = TcpServer::start(guest, "guest", (any6, 80))?;
    let _in_node = TcpServer::start(node, "node", (any6, 8080))?;
    let route4 = || -> Result<()> {
        let routes = guest.ip("-4 route show default")?;
        ensure!(routes.contains("default"), "no IPv4 default route: {routes}");
        Ok(())
    };
    for client in [Client::Udhcpc, Client::Dhclient] {
        let clients = running.guest.client_of(client, "-4")?;
        eventually(running, &clients, route4)?;
        running.explain(reaches(guest, (FAR4, 8080), "node"))?;
        running.explain(reaches(node, (POD4, 80), "guest"))?;
        drop(clients);
        if client == Client::Udhcpc {
            guest.ip("-4 address flush dev eth0")?;
        }
    }
    if layout.v6 {
        let clients = running.guest.client_of(Client::Dhclient, "-6")?;
        eventually(running, &clients, || {
            let addresses = guest.ip("-6 -o address show dev eth0 scope global -tentative")?;
            ensure!(!addresses.is_empty(), "no IPv6 address");
            let routes = running.guest.default6()?;
            ensure!(routes.contains("default"), "no IPv6 default route");
            Ok(())
        })?;
        running.explain(reaches(guest, (FAR6, 8080), "node"))?;
        running.explain(reaches(node, (POD6, 80), "guest"))?;
    }
    Ok(())
}

/// All that is wrong in one go, so that the page can be put right in one go.
fn column(context: &Context, binding: usize) -> Result<()> {
    let (name, vmi) = BINDINGS.get(binding).context("no such binding")?;
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/pods.md");
    let page = std::fs::read_to_string(page)?;
    let mut wrong = Vec::new();
    for layout in layouts() {
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| {} |", layout.name)));
        let cells: Vec<_> = row.unwrap_or_default().split('|').map(str::trim).collect();
        let written = cells.get(3 + binding).copied().unwrap_or("no such row");
        let found = outcome(context, &layout, &vmi()).unwrap_or_else(|error| format!("{error:#}"));
        if written != found {
            wrong.push(format!(
                "{} with {name}: docs/pods.md says {written:?}, found {found:?}",
                layout.name
            ));
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}
