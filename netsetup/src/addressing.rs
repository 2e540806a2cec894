//! Addresses and routes of a pod's interface, with all of them that a guest can be offered.

use std::net::{IpAddr, Ipv6Addr};

use hawser_mac::Mac;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Route protocols of linux/rtnetlink.h that tell who made a route.
const PROTO_KERNEL: u8 = 2;
const PROTO_RA: u8 = 9;

/// An address that was set, not one that the kernel has made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    pub ip: IpAddr,
    /// Of the peer's network where there is a peer.
    pub prefix_len: u8,
    /// The other end of a point-to-point link.
    pub peer: Option<IpAddr>,
    /// The others of its prefix are on the link: the kernel has a route of its own for them. Plugins take it away where
    /// only a gateway is there (CNI's ptp).
    pub on_link: bool,
}

impl Assigned {
    /// Whether the route is to the address's own prefix.
    pub(crate) fn is_of(&self, route: &Route) -> bool {
        IpNet::new(self.ip, self.prefix_len).is_ok_and(|net| net.trunc() == route.destination)
    }
}

/// A unicast route of the main table, by one next hop: a multipath route is as many of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub destination: IpNet,
    pub gateway: Option<IpAddr>,
    pub metric: u32,
    /// The largest packet that goes by it, where the route itself says so. Bytes.
    pub mtu: Option<u32>,
    /// RTPROT_* of linux/rtnetlink.h.
    pub protocol: u8,
    /// The gateway's link-local address, where it has been found; see [`crate::find_routers`].
    pub link_local: Option<Ipv6Addr>,
    /// The MAC of a gateway that has no such address, or none that could be found; from there too.
    pub router_mac: Option<Mac>,
}

impl Route {
    /// Learnt from a router advertisement: it comes by itself again.
    pub fn is_advertised(&self) -> bool {
        self.protocol == PROTO_RA
    }

    /// Made by the kernel for an address, with which it comes and goes.
    pub(crate) fn is_kernels(&self) -> bool {
        self.protocol == PROTO_KERNEL
    }

    pub(crate) fn is_default(&self) -> bool {
        self.destination.prefix_len() == 0
    }
}
