//! The steps that a plan is made of, and how they read.

use std::fmt;
use std::net::IpAddr;

use hawser_mac::Mac;
use serde::Serialize;

use crate::ruleset;
use crate::spec::{GATEWAY_MAC, Owner};

/// One change of the namespace. Performing a step twice is the same as performing it once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "step")]
pub enum Step {
    Tap(TapStep),
    AddAddress {
        link: String,
        ip: IpAddr,
        prefix_len: u8,
    },
    Neighbour {
        link: String,
        ip: IpAddr,
        mac: Mac,
    },
    /// `local ::1 dev LINK` behind the kernel's own. IPv4 has `route_localnet` to let answers to loopback come in; IPv6
    /// looks for ::1 on the interface that the answer came by, and would find none.
    LoopbackRoute {
        link: String,
    },
    Ruleset {
        document: Box<serde_json::Value>,
    },
    Ipv4Forwarding {
        link: String,
    },
    Sysctl {
        path: String,
        value: String,
    },
    /// A bridge without ports, which neither waits before it forwards nor has an address of its own.
    Bridge(BridgeStep),
    /// Makes the pod's interface a port that passes frames for its own MAC on.
    Port(PortStep),
    Mark {
        link: String,
        alias: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BridgeStep {
    pub name: String,
    pub mac: Mac,
    pub mtu: u32,
    /// Carries what cannot be found out again once the pod's interface is a port.
    pub alias: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PortStep {
    pub interface: String,
    pub bridge: String,
}

/// A persistent TAP that an unprivileged process will open by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TapStep {
    pub name: String,
    pub owner: Owner,
    pub multi_queue: bool,
    pub mac: Mac,
    pub mtu: u32,
    pub alias: String,
    /// The guest's TAP routes; the server's helper is a plain pipe for frames.
    pub gateway: bool,
    /// The bridge that it is a port of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// What is there is ours but made otherwise, and the kernel cannot change it: delete it first.
    pub replace: bool,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tap(tap) => {
                let TapStep { name, owner, mtu, .. } = tap;
                let queues = if tap.multi_queue { "multi-queue " } else { "" };
                write!(
                    f,
                    "create the {queues}TAP {name} (owner {}:{}, MTU {mtu}) ",
                    owner.uid, owner.gid
                )?;
                match &tap.bridge {
                    Some(bridge) => write!(f, "as the guest's port of {bridge}"),
                    None if tap.gateway => f.write_str("as the guest's gateway"),
                    None if tap.mac == GATEWAY_MAC => f.write_str("for a guest's NIC whose link is down"),
                    None => f.write_str("for frames of the DHCP and RA server"),
                }
            }
            Self::AddAddress { link, ip, prefix_len } => {
                write!(f, "add the address {ip}/{prefix_len} to {link}")
            }
            Self::Neighbour { link, ip, mac } => {
                write!(f, "add the permanent neighbour {ip} at {mac} on {link}")
            }
            Self::LoopbackRoute { link } => write!(f, "add the local route ::1 on {link}"),
            Self::Ruleset { document } => {
                f.write_str("replace the nftables tables inet hawser and netdev hawser")?;
                match ruleset::offloads(document) {
                    true => f.write_str(" (with a flowtable, if the kernel has them)"),
                    false => Ok(()),
                }
            }
            Self::Ipv4Forwarding { link } => write!(f, "enable IPv4 forwarding on {link}"),
            Self::Sysctl { path, value } => write!(f, "write {value} to {path}"),
            Self::Bridge(bridge) => write!(f, "create the bridge {} (MTU {})", bridge.name, bridge.mtu),
            Self::Port(PortStep { interface, bridge }) => {
                write!(
                    f,
                    "attach {interface} to {bridge} as a port that forwards frames for its own MAC"
                )
            }
            Self::Mark { link, .. } => write!(f, "mark {link} as finished"),
        }
    }
}
