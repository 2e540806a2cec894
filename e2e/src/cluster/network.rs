//! The cluster's network: a namespace of this machine with a bridge, on which the control plane has an address and each
//! node a TAP. Nothing of it is seen elsewhere on the machine.

use anyhow::Result;

use crate::netns::Netns;

/// Of the control plane, and the nodes' gateway.
pub(super) const CONTROL_PLANE: [&str; 2] = ["10.123.0.1", "fd00:10:123::1"];
pub(super) const SERVICES: &str = "10.96.0.0/16,fd00:10:96::/112";
/// The first address of each family of [`SERVICES`], which the API server's own Service has.
pub(super) const API_SERVICE: [&str; 2] = ["10.96.0.1", "fd00:10:96::1"];
/// Of the name server's Service; `e2e/cluster/node/kubelet.yaml` has them too.
pub(super) const DNS_SERVICE: [&str; 2] = ["10.96.0.10", "fd00:10:96::a"];
pub(super) const PODS: &str = "10.244.0.0/16,fd00:10:244::/48";

/// Of a node; `e2e/cluster/node/init` has them too.
pub(super) fn addresses(node: usize) -> [String; 2] {
    CONTROL_PLANE.map(|address| format!("{address}{node}"))
}

pub(super) fn tap(node: usize) -> String {
    format!("node{node}")
}

pub(super) fn make(nodes: usize) -> Result<Netns> {
    let netns = Netns::new("cluster")?;
    netns.ip("link add nodes type bridge")?;
    for (address, length) in CONTROL_PLANE.iter().zip([24, 64]) {
        // Not only for the API server's sake: an address that is being probed cannot be bound.
        let nodad = if address.contains(':') { " nodad" } else { "" };
        netns.ip(&format!("address add {address}/{length} dev nodes{nodad}"))?;
    }
    netns.ip("link set nodes up")?;
    for node in 1..=nodes {
        let tap = tap(node);
        netns.ip(&format!("tuntap add {tap} mode tap"))?;
        netns.ip(&format!("link set {tap} master nodes up"))?;
        let [ipv4, ipv6] = addresses(node);
        // The API server answers pods of this node.
        netns.ip(&format!("route add 10.244.{node}.0/24 via {ipv4}"))?;
        netns.ip(&format!("-6 route add fd00:10:244:{node}::/64 via {ipv6}"))?;
    }
    Ok(netns)
}
