//! What is wanted of the pod's namespace, as validated data. Nothing here knows of manifests or of DHCP.

use std::net::{IpAddr, Ipv6Addr};

use hawser_mac::Mac;
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// MAC of every TAP, which behind masquerade is the guest's gateway. It is the same in every pod because it travels in a live
/// migration's VM configuration and because a guest's neighbour cache must stay right on the target.
pub const GATEWAY_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0]);

/// The gateway's link-local address on a masquerade TAP: next hop of the guest's IPv6 default route.
pub const GATEWAY_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Everything wanted in one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetSpec {
    pub nics: Vec<Nic>,
    /// Who opens the TAPs: the unprivileged user that runs the VMM and the DHCP server.
    pub owner: Owner,
    /// Addresses outside of the pod that the guest is to reach: name servers, the cluster's API.
    pub peers: Vec<IpAddr>,
    /// Name servers on the pod's loopback, which a masqueraded guest asks by way of its gateway: one of each family.
    pub resolvers: Vec<IpAddr>,
}

/// Numeric ids. The kernel lets a process open a TAP that has both, or has CAP_NET_ADMIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

/// One guest NIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// The network's name in the manifest; also the NIC's id at the VMM.
    pub name: String,
    /// The pod's interface that it stands behind, `eth0` for the pod network.
    pub pod_interface: String,
    pub tap: String,
    /// Helper TAP that carries the DHCP and router-advertisement server's frames.
    pub server_tap: String,
    /// Queue pairs; the TAP is multi-queue if and only if there is more than one.
    pub queue_pairs: u16,
    /// The manifest's MAC for the guest.
    pub guest_mac: Option<Mac>,
    /// Where the manifest has none: the guest's, unless it takes the place of the pod's interface and with it that MAC.
    pub made_mac: Mac,
    pub wiring: Wiring,
}

/// How a NIC is joined to the pod's interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wiring {
    Masquerade(Masquerade),
    /// The guest takes the interface's place on its network, with its MAC, addresses and routes.
    Bridge,
    /// The same wiring, and hawser does not serve the guest: the network's own servers do.
    ManagedTap,
    /// passt serves the guest by the pod's own sockets; the interface is not touched.
    Passt(Passt),
    /// The link is down: the guest has the NIC, and no frame passes.
    Down,
}

/// What passt needs of the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passt {
    /// The lowest port that is to reach the guest.
    pub lowest_port: Option<u16>,
    /// No port was asked for by number: those that cannot be had are done without.
    pub all_ports: bool,
}

/// NAT behind the pod's addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Masquerade {
    /// First host address: gateway. Second: guest. At most /30.
    pub v4: Ipv4Net,
    /// The same for IPv6. At most /126.
    pub v6: Ipv6Net,
    /// What to take instead where the pod's own network has addresses of those, the first that fits. None where the
    /// manifest names the network.
    pub v4_else: Vec<Ipv4Net>,
    pub v6_else: Vec<Ipv6Net>,
    /// The manifest names the IPv6 network, so that doing without IPv6 is an error and not a choice.
    pub v6_required: bool,
    pub ports: Ports,
    /// TCP ports that stay in the pod, whatever `ports` says.
    pub kept_tcp: Vec<u16>,
    /// An Istio sidecar takes what arrives and connects to the guest from inside the pod.
    pub istio: bool,
}

/// Which ports of the pod are the guest's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ports {
    All,
    Listed(Vec<PortRange>),
}

/// Ports `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRange {
    pub protocol: Protocol,
    pub first: u16,
    pub last: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

/// Name of the guest's TAP, as in KubeVirt: `tap0` behind `eth0`, `tap<hash>` behind `pod<hash>`, `tap1` behind `net1`.
pub fn tap_name(pod_interface: &str) -> String {
    format!("tap{}", tap_suffix(pod_interface))
}

/// Names of both where another program's interface has one of the usual ones.
pub(crate) fn other_tap_names(pod_interface: &str) -> (String, String) {
    let suffix = digits(&format!("hawser {pod_interface}"));
    (format!("tap{suffix}"), format!("srv{suffix}"))
}

/// Name of the server's helper TAP, with the same ending.
pub fn server_tap_name(pod_interface: &str) -> String {
    format!("srv{}", tap_suffix(pod_interface))
}

/// No two interfaces have the same.
fn tap_suffix(pod_interface: &str) -> String {
    let ordinal = pod_interface.strip_prefix("net").filter(|number| {
        let plain = number.bytes().all(|byte| byte.is_ascii_digit());
        plain && number.len() <= 5 && !number.is_empty() && !number.starts_with('0')
    });
    match (pod_interface, ordinal) {
        ("eth0", _) => "0".to_owned(),
        (_, Some(number)) => number.to_owned(),
        _ if pod_interface
            .strip_prefix("pod")
            .is_some_and(|hash| !hash.is_empty()) =>
        {
            short(pod_interface)
        }
        _ => digits(pod_interface),
    }
}

/// Name of the bridge that joins a pod's interface and a TAP, as in KubeVirt: `k6t-eth0` or `k6t-<hash>`.
pub fn bridge_name(pod_interface: &str) -> String {
    format!("{BRIDGE_PREFIX}{}", short(pod_interface))
}

/// Prefix of the names of KubeVirt's bridges and of hawser's; only hawser's are signed.
pub(crate) const BRIDGE_PREFIX: &str = "k6t-";

/// What is left of IFNAMSIZ (15 characters) beside a prefix or suffix of four.
const SHORT: usize = 11;

/// What KubeVirt's `pod<hash>` interfaces have after "pod", which are 11 hex digits; other names as they are, or as many
/// digits of a hash where they are longer.
fn short(pod_interface: &str) -> String {
    let hash = pod_interface.strip_prefix("pod").unwrap_or_default();
    let name = if hash.is_empty() { pod_interface } else { hash };
    if name.len() <= SHORT {
        return name.to_owned();
    }
    digits(pod_interface)
}

fn digits(name: &str) -> String {
    let digest: String = Sha256::digest(name)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    digest.chars().take(SHORT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pod_interface_has_names_of_its_own_that_fit() {
        let pods = [
            "eth0",
            "net1",
            "net2",
            "net0",
            "net",
            "pod",
            "podb1f51a511f1",
            "pod0123456789ab",
            "ovn-udn1",
            "a-name-this-lng",
            "a-name-this-lnh",
        ];
        for name in [tap_name, server_tap_name, bridge_name] {
            let names: std::collections::BTreeSet<String> = pods.iter().map(|pod| name(pod)).collect();
            assert_eq!(names.len(), pods.len(), "{names:?}");
            assert!(names.iter().all(|name| name.len() <= 15), "{names:?}");
        }
        assert_eq!([tap_name("eth0"), tap_name("net1")], ["tap0", "tap1"]);
        assert_eq!(tap_name("podb1f51a511f1"), "tapb1f51a511f1");
        assert_eq!(server_tap_name("eth0"), "srv0");
        assert_eq!(bridge_name("net1"), "k6t-net1");
    }
}
