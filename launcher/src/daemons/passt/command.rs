//! passt's command line: every value is ours or a number, an address or a checked name of the manifest, each behind its
//! own `--option=`, so that none can be read as another option.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hawser_netsetup::{GATEWAY_LINK_LOCAL, GuestNic, Handed};
use serde::Serialize;

use crate::pod::resolv::Resolv;
use crate::spec::{PortRange, Ports, Protocol};

/// Next hop of a guest in a pod without an IPv4 default route: passt answers for any address, and the pod's own routes
/// decide where a connection goes.
const GATEWAY_V4: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 1, 1);
/// The gateway's address behind masquerade.
const RESOLVER_V6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xfd10, 0, 2, 0, 0, 0, 0, 1);
/// What passt takes for it at most.
const MAX_MTU: u32 = 65520;
/// passt offers a guest no more name servers of a family.
const MAX_NAMESERVERS: usize = 3;

/// What to run for one NIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Command {
    /// The NIC's id at the VMM.
    pub(crate) nic: String,
    pub(crate) arguments: Vec<String>,
    /// What it is made of.
    #[serde(skip)]
    inputs: Inputs,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Inputs {
    pod_interface: String,
    mtu: u32,
    handed: Handed,
    ports: Ports,
    /// TCP ports that stay in the pod.
    kept: Vec<u16>,
    hostname: String,
    resolv: Resolv,
    search: Vec<String>,
}

impl Command {
    pub(crate) fn new(
        nic: &GuestNic,
        handed: &Handed,
        ports: &Ports,
        kept: Vec<u16>,
        hostname: &str,
        resolv: &Resolv,
        search: &[String],
    ) -> Self {
        let inputs = Inputs {
            pod_interface: nic.pod_interface.clone(),
            mtu: nic.mtu,
            handed: handed.clone(),
            ports: ports.clone(),
            kept,
            hostname: hostname.to_owned(),
            resolv: resolv.clone(),
            search: search.to_vec(),
        };
        Self {
            nic: nic.name.clone(),
            arguments: arguments(&inputs),
            inputs,
        }
    }

    /// The addresses that the guest is offered.
    pub(crate) fn handed(&self) -> &Handed {
        &self.inputs.handed
    }

    /// In this pod, for a guest that has its addresses from another one: all else is as it is here.
    pub(crate) fn for_guest_with(&self, handed: &Handed) -> Self {
        let inputs = Inputs {
            handed: handed.clone(),
            ..self.inputs.clone()
        };
        Self {
            nic: self.nic.clone(),
            arguments: arguments(&inputs),
            inputs,
        }
    }

    /// For a stand-in that makes of them what it likes.
    #[cfg(test)]
    pub(crate) fn bare(nic: &str, arguments: &[&str]) -> Self {
        Self {
            nic: nic.to_owned(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
            inputs: Inputs::default(),
        }
    }
}

fn arguments(inputs: &Inputs) -> Vec<String> {
    let Inputs { handed, ports, .. } = inputs;
    let mut arguments: Vec<String> = ["--foreground", "--vhost-user", "--quiet"]
        .map(str::to_owned)
        .into();
    let mut set = |option: &str, value: String| arguments.push(format!("--{option}={value}"));
    set("interface", inputs.pod_interface.clone());
    if let Some(v4) = handed.v4 {
        set("address", v4.address.to_string());
        set("netmask", v4.prefix_len.to_string());
        set("gateway", v4.gateway.unwrap_or(GATEWAY_V4).to_string());
    }
    if let Some(v6) = handed.v6 {
        set("address", v6.to_string());
        // The same in every pod, as behind masquerade.
        set("gateway", GATEWAY_LINK_LOCAL.to_string());
    }
    set("mtu", inputs.mtu.min(MAX_MTU).to_string());
    for server in nameservers(handed, &inputs.resolv) {
        set("dns", server);
    }
    for (asked, server) in resolvers(handed, &inputs.resolv) {
        set("dns-forward", asked.to_string());
        set("dns-host", server.to_string());
    }
    set("search", search_value(&inputs.search));
    set("hostname", inputs.hostname.clone());
    // Without these the gateway's address is the pod's loopback, sidecars and all.
    set("map-host-loopback", "none".into());
    set("map-guest-addr", "none".into());
    // Its helper comes by standard input (`super::repair`).
    set("repair-path", "none".into());
    // Both are always passed: what is left out of one may follow from the other.
    set("tcp-ports", ports_value(ports, Protocol::Tcp, &inputs.kept));
    set("udp-ports", ports_value(ports, Protocol::Udp, &[]));
    match (handed.v4, handed.v6) {
        (Some(_), None) => arguments.push("--ipv4-only".into()),
        (None, Some(_)) => arguments.push("--ipv6-only".into()),
        _ => {}
    }
    arguments
}

/// How `all` reads to people.
pub(crate) fn forwards_all_text() -> String {
    "all but the pod's ephemeral ones (net.ipv4.ip_local_port_range) and those kept for migration and metrics"
        .into()
}

/// Those of the families that the guest has, or none; passt would read from resolv.conf what is not passed.
fn nameservers(handed: &Handed, resolv: &Resolv) -> Vec<String> {
    let of = |v4: bool| {
        let mut list: Vec<String> = Vec::new();
        for ip in resolv.nameservers.iter().filter(|ip| ip.is_ipv4() == v4) {
            let asked = if ip.is_loopback() {
                asked_for_loopback(v4)
            } else {
                *ip
            }
            .to_string();
            if !list.contains(&asked) {
                list.push(asked);
            }
        }
        list.truncate(MAX_NAMESERVERS);
        list
    };
    let mut all = Vec::new();
    if handed.v4.is_some() {
        all.extend(of(true));
    }
    if handed.v6.is_some() {
        all.extend(of(false));
    }
    if all.is_empty() {
        all.push("none".into());
    }
    all
}

/// Addresses that the guest asks, and the name servers on the pod's loopback that passt asks for it.
fn resolvers(handed: &Handed, resolv: &Resolv) -> Vec<(IpAddr, IpAddr)> {
    let has = |ip: &IpAddr| {
        if ip.is_ipv4() {
            handed.v4.is_some()
        } else {
            handed.v6.is_some()
        }
    };
    let servers = resolv.resolvers().into_iter().filter(has);
    servers
        .map(|server| (asked_for_loopback(server.is_ipv4()), server))
        .collect()
}

/// Of no station: passt takes what is for it. The same in every pod, since the guest keeps it.
fn asked_for_loopback(v4: bool) -> IpAddr {
    if v4 { GATEWAY_V4.into() } else { RESOLVER_V6.into() }
}

fn search_value(search: &[String]) -> String {
    match search {
        [] => "none".into(),
        // A domain of that name, as passt's manual has it.
        [only] if only == "none" => "none.".into(),
        all => all.join(" "),
    }
}

fn ports_value(ports: &Ports, protocol: Protocol, kept: &[u16]) -> String {
    let Ports::Listed(list) = ports else {
        // With exclusions alone passt forwards all the others, ports that it cannot have left out.
        let excluded: Vec<_> = kept.iter().map(|port| format!("~{port}")).collect();
        return if excluded.is_empty() {
            "all".into()
        } else {
            excluded.join(",")
        };
    };
    let listed = list.iter().filter(|range| range.protocol == protocol);
    // A port may be listed under two names, and passt takes each once.
    let ranges: BTreeSet<_> = listed.flat_map(|range| without(range, kept)).collect();
    let pieces: Vec<_> = ranges
        .into_iter()
        .map(|(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        })
        .collect();
    if pieces.is_empty() {
        "none".into()
    } else {
        pieces.join(",")
    }
}

/// What a range is when the kept ports are taken out of it.
fn without(range: &PortRange, kept: &[u16]) -> Vec<(u16, u16)> {
    let mut kept: Vec<_> = kept
        .iter()
        .copied()
        .filter(|port| (range.first..=range.last).contains(port))
        .collect();
    kept.sort_unstable();
    let mut pieces = Vec::new();
    let mut first = u32::from(range.first);
    let ends = kept.into_iter().map(u32::from);
    for end in ends.chain([u32::from(range.last).saturating_add(1)]) {
        let last = end.saturating_sub(1);
        if let (Ok(a), Ok(b)) = (u16::try_from(first), u16::try_from(last))
            && first <= last
        {
            pieces.push((a, b));
        }
        first = end.saturating_add(1);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use hawser_netsetup::{HandedV4, Joined, Mac};

    use super::*;
    use crate::spec::pod_ports::kept;

    fn nic() -> GuestNic {
        GuestNic {
            name: "default".into(),
            pod_interface: "eth0".into(),
            queue_pairs: 1,
            guest_mac: Mac([2, 0, 0, 0, 0, 9]),
            mtu: 1400,
            joined: Joined::Passt(handed()),
        }
    }

    fn handed() -> Handed {
        Handed {
            v4: Some(HandedV4 {
                address: "10.1.2.3".parse().unwrap(),
                prefix_len: 24,
                gateway: Some("10.1.2.1".parse().unwrap()),
            }),
            v6: Some("fd00::3".parse().unwrap()),
        }
    }

    fn port(protocol: Protocol, first: u16, last: u16) -> PortRange {
        PortRange {
            name: None,
            protocol,
            first,
            last,
        }
    }

    fn listed(list: Vec<PortRange>) -> Ports {
        Ports::Listed(list)
    }

    fn line(handed: &Handed, ports: &Ports, istio: bool, resolv: &str, search: &[&str]) -> String {
        let search: Vec<_> = search.iter().map(ToString::to_string).collect();
        let resolv = crate::pod::resolv::parse(resolv);
        Command::new(&nic(), handed, ports, kept(istio), "web", &resolv, &search)
            .arguments
            .join("\n")
    }

    #[test]
    fn the_whole_line_of_a_dual_stack_pod() {
        let ports = listed(vec![port(Protocol::Tcp, 80, 80), port(Protocol::Udp, 5000, 5010)]);
        let resolv = "nameserver 10.96.0.10\nnameserver fd00::a\n";
        insta::assert_snapshot!(line(&handed(), &ports, false, resolv, &["a.b", "c"]));
    }

    #[test]
    fn a_family_that_the_pod_has_not_is_off_and_so_are_its_servers() {
        let resolv = "nameserver 10.96.0.10\nnameserver fd00::a\n";
        let ports = listed(Vec::new());
        let mut only = handed();
        only.v6 = None;
        let v4 = line(&only, &ports, false, resolv, &[]);
        assert!(v4.ends_with("--ipv4-only") && !v4.contains("fd00"), "{v4}");
        let mut only = handed();
        only.v4 = None;
        let v6 = line(&only, &ports, false, resolv, &[]);
        assert!(v6.ends_with("--ipv6-only") && !v6.contains("10."), "{v6}");
        assert!(v6.contains("--search=none\n") && v6.contains("--tcp-ports=none\n--udp-ports=none"));
    }

    #[test]
    fn what_is_not_there_is_said_to_be_none_or_passt_would_look_for_it() {
        let mut without = handed();
        without.v4.as_mut().unwrap().gateway = None;
        let line = line(&without, &listed(Vec::new()), false, "", &["none"]);
        for expected in ["--dns=none", "--search=none.", "--gateway=169.254.1.1"] {
            assert!(line.lines().any(|argument| argument == expected), "{line}");
        }
    }

    #[test]
    fn a_name_server_on_the_loopback_is_asked_by_passt() {
        let resolv = "nameserver 127.0.0.11\nnameserver 10.96.0.10\nnameserver ::1\n";
        let text = line(&handed(), &listed(Vec::new()), false, resolv, &[]);
        let expected = "--dns=169.254.1.1\n--dns=10.96.0.10\n--dns=fd10:0:2::1\n--dns-forward=169.254.1.1\n\
                        --dns-host=127.0.0.11\n--dns-forward=fd10:0:2::1\n--dns-host=::1\n";
        assert!(text.contains(expected), "{text}");
        let without = Handed { v6: None, ..handed() };
        let text = line(&without, &listed(Vec::new()), false, resolv, &[]);
        assert!(!text.contains("::1"), "{text}");
    }

    #[test]
    fn kept_ports_are_nobodys_but_the_pods() {
        let all = Ports::All;
        let tcp = |ports: &Ports, istio| ports_value(ports, Protocol::Tcp, &kept(istio));
        assert_eq!(tcp(&all, false), "~49152,~49153,~49154");
        assert!(tcp(&all, true).contains(",~15006,"));
        assert_eq!(ports_value(&all, Protocol::Udp, &[]), "all");
        let range = |first, last| listed(vec![port(Protocol::Tcp, first, last)]);
        assert_eq!(tcp(&range(49000, 65535), false), "49000-49151,49155-65535");
        assert_eq!(tcp(&range(49153, 49153), false), "none");
        assert_eq!(tcp(&range(49154, 49156), false), "49155-49156");
        assert_eq!(tcp(&range(1, 49152), false), "1-49151");
        assert_eq!(tcp(&range(15006, 15007), true), "15007");
        let udp = listed(vec![port(Protocol::Udp, 49152, 49152)]);
        assert_eq!(ports_value(&udp, Protocol::Udp, &[]), "49152");
        let twice = listed(vec![port(Protocol::Tcp, 80, 80), port(Protocol::Tcp, 80, 80)]);
        assert_eq!(tcp(&twice, false), "80");
        assert_eq!(tcp(&udp, false), "none");
    }

    #[test]
    fn a_guest_from_another_pod_keeps_its_addresses_and_all_else_is_of_this_pod() {
        let resolv = crate::pod::resolv::parse("nameserver 10.96.0.10\nnameserver fd00::a\n");
        let ports = listed(vec![port(Protocol::Tcp, 80, 80)]);
        let here = Command::new(&nic(), &handed(), &ports, kept(false), "web", &resolv, &[]);
        let theirs = Handed {
            v4: Some(HandedV4 {
                address: "192.0.2.7".parse().unwrap(),
                prefix_len: 26,
                gateway: None,
            }),
            v6: None,
        };
        let there = here.for_guest_with(&theirs);
        assert_eq!(there.handed(), &theirs);
        assert_eq!(
            there.arguments,
            Command::new(&nic(), &theirs, &ports, kept(false), "web", &resolv, &[]).arguments
        );
        let line = there.arguments.join("\n");
        for expected in [
            "--address=192.0.2.7",
            "--netmask=26",
            "--interface=eth0",
            "--ipv4-only",
        ] {
            assert!(line.lines().any(|argument| argument == expected), "{line}");
        }
        assert!(!line.contains("10.1.2.") && !line.contains("fd00"), "{line}");
        assert_eq!(there.for_guest_with(here.handed()), here);
    }

    #[test]
    fn each_value_stays_behind_its_own_option() {
        let hostile = ["--tcp-ports=all", "-x"];
        let line = line(&handed(), &listed(Vec::new()), false, "", &hostile);
        assert!(line.contains("\n--search=--tcp-ports=all -x\n"), "{line}");
        assert!(line.lines().all(|argument| argument.starts_with("--")));
    }
}
