//! Pods as the networks of clusters make them: the rows of docs/pods.md. Each is made by commands of `ip`, and has what such a
//! plugin leaves in a pod and on its node.

/// The page that the rows are compared with.
pub(crate) const PAGE: &str = include_str!("../../docs/pods.md");

/// A pod's network as a cluster's plugin leaves it.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// The row's name in the page.
    pub(crate) name: &'static str,
    /// What the pod's interface is called.
    pub(crate) interface: &'static str,
    /// Commands of `ip` in the node, then in the pod.
    pub(crate) node: Vec<&'static str>,
    pub(crate) pod: Vec<&'static str>,
    pub(crate) v6: bool,
    pub(crate) resolv: &'static str,
    /// The kernel of whoever runs the tests may lack what it is made of; that of the lab's node does not.
    pub(crate) in_the_lab_alone: bool,
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
        in_the_lab_alone: false,
    }
}

/// The rows of docs/pods.md, in its order.
pub(crate) fn layouts() -> Vec<Layout> {
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
            in_the_lab_alone: true,
            ..usual(
                "an ipvlan in mode l2",
                &[
                    UPLINK,
                    &["link add eth0 link uplink netns POD type ipvlan mode l2"],
                ]
                .concat(),
                SUBNET,
            )
        },
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

impl Layout {
    /// What the page says of it in the column of a binding.
    pub(crate) fn written(&self, binding: &str) -> &'static str {
        let cells = |line: &'static str| line.split('|').map(str::trim);
        let mut rows = PAGE.lines().filter(|line| line.starts_with('|'));
        let column = rows
            .clone()
            .find_map(|line| cells(line).position(|cell| cell == binding));
        let row = rows.find(|line| line.starts_with(&format!("| {} |", self.name)));
        match (row, column) {
            (Some(row), Some(column)) => cells(row).nth(column).unwrap_or("no such cell"),
            _ => "no such row",
        }
    }
}

/// Why a plan was refused, as the page has it, from what hawser printed.
pub(crate) fn refusal(said: &str) -> String {
    let why = said
        .lines()
        .find(|line| line.contains("hawser: "))
        .unwrap_or(said);
    let why = why.split("hawser: network: ").nth(1).unwrap_or(why);
    let short = why.split(": ").nth(1).unwrap_or(why);
    let short = short.split(", so ").next().unwrap_or(short);
    format!("refused: {short}")
}
