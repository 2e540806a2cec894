//! The namespace as it is, read once before anything moves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hawser_mac::Mac;
use serde::Serialize;

use crate::addressing::{Assigned, Route};
use crate::spec::Protocol;

/// Without this the kernel forwards no IPv6 at all.
pub(crate) const IPV6_FORWARDING: &str = "/proc/sys/net/ipv6/conf/all/forwarding";
/// Group ids that may open ping sockets (icmp(7)), as `LOW<tab>HIGH`; none where LOW is above HIGH.
pub(crate) const PING_GROUP_RANGE: &str = "/proc/sys/net/ipv4/ping_group_range";
/// The first port that needs no CAP_NET_BIND_SERVICE (ip-sysctl.rst).
pub(crate) const UNPRIVILEGED_PORT_START: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// Every link of ours carries an alias that begins so.
pub(crate) const SIGNATURE: &str = "hawser ";

/// What a plan may write, besides [`accept_ra_of`] an interface.
pub(crate) const SYSCTLS: [&str; 3] = [IPV6_FORWARDING, PING_GROUP_RANGE, UNPRIVILEGED_PORT_START];

/// The interface whose `accept_ra` is at this path.
pub(crate) fn accept_ra_of(path: &str) -> Option<&str> {
    path.strip_prefix("/proc/sys/net/ipv6/conf/")?
        .strip_suffix("/accept_ra")
}

/// The namespace as the kernel reports it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Observed {
    pub links: Vec<Link>,
    /// `net.ipv6.conf.all.forwarding`; absent where the kernel has no IPv6.
    pub ipv6_forwarding: Option<Sysctl>,
    /// `net.ipv6.conf.default.disable_ipv6`: new interfaces, such as a TAP, get no IPv6.
    pub ipv6_disabled_by_default: bool,
    /// `net.ipv4.ping_group_range`.
    pub ping_group_range: Option<Sysctl>,
    /// `net.ipv4.ip_unprivileged_port_start`.
    pub unprivileged_port_start: Option<Sysctl>,
    /// Of the pod's own processes, as they were in that moment.
    pub connections: Vec<Connection>,
    /// Where processes of the pod take what comes to its loopback.
    pub listeners: Vec<Listener>,
}

/// A connection of a process in the namespace; of UDP, a socket that is connected to one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Connection {
    pub protocol: Protocol,
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// A socket of a process in the namespace that is bound to a loopback address and has no peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Listener {
    pub protocol: Protocol,
    pub local: SocketAddr,
}

/// A sysctl and whether this process could write it (in a container /proc/sys is often mounted read-only).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sysctl {
    pub value: String,
    pub writable: bool,
}

/// One interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mac: Option<Mac>,
    /// Bytes.
    pub mtu: u32,
    pub up: bool,
    /// Nothing on the link is asked for its MAC (IFF_NOARP).
    pub no_arp: bool,
    /// Kernel's kind: `veth`, `tun`, `bridge`, … ; absent for a physical device.
    pub kind: Option<String>,
    /// IFLA_IFALIAS. hawser signs its links here.
    pub alias: Option<String>,
    pub tap: Option<TapFacts>,
    pub addresses: Vec<Address>,
    /// Those of `addresses` that were set, with all that is needed to set them again.
    pub assigned: Vec<Assigned>,
    /// Unicast routes of the main table that lead out here, but for the kernel's own.
    pub routes: Vec<Route>,
    /// Other tables than the main one and the kernel's own that have routes which lead out here.
    pub other_tables: Vec<u32>,
    /// IPv4 neighbors whose MAC the pod was told, and so does not ask for.
    pub permanent_neighbours: Vec<Ipv4Addr>,
    /// Frames for other MACs than its own do not get here: a macvlan, but for one in passthru mode.
    pub own_mac_only: bool,
    /// Index of the bridge that this is a port of.
    pub controller: Option<u32>,
    pub devconf: Devconf,
    /// `net.ipv6.conf.<link>.accept_ra`, where /proc has it.
    pub accept_ra: Option<Sysctl>,
    /// An IPv6 default route that was learnt from a router advertisement leads out here.
    pub default_route_by_ra: bool,
}

/// A TUN/TAP device (IFLA_TUN_*).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TapFacts {
    pub owner: Option<u32>,
    pub group: Option<u32>,
    pub persistent: bool,
    pub multi_queue: bool,
}

/// Per-interface IPv4 settings (IFLA_INET_CONF).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Devconf {
    pub forwarding: bool,
    pub route_localnet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Address {
    pub ip: IpAddr,
    pub prefix_len: u8,
}

impl Link {
    /// Whether hawser has created it.
    pub(crate) fn is_ours(&self) -> bool {
        let alias = self.alias.as_deref();
        alias.is_some_and(|alias| alias.starts_with(SIGNATURE))
    }

    /// What a packet may have on its way out: no more than the link takes, nor than the default routes do (Cilium's say it
    /// there). Bytes.
    pub fn usable_mtu(&self) -> u32 {
        let defaults = self.routes.iter().filter(|route| route.is_default());
        defaults.filter_map(|route| route.mtu).fold(self.mtu, u32::min)
    }

    /// Its MAC, where that can be a guest's.
    pub fn usable_mac(&self) -> Option<Mac> {
        self.mac.filter(|mac| mac.is_unicast())
    }

    /// Addresses that the rest of the cluster can reach the pod by.
    pub fn global_v4(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.addresses.iter().filter_map(|address| match address.ip {
            IpAddr::V4(ip)
                if !ip.is_loopback() && !ip.is_link_local() && !ip.is_multicast() && !ip.is_unspecified() =>
            {
                Some(ip)
            }
            _ => None,
        })
    }

    /// Global unicast in KubeVirt's sense, so unique local addresses (RFC 4193) count.
    pub fn global_v6(&self) -> impl Iterator<Item = Ipv6Addr> + '_ {
        self.addresses.iter().filter_map(|address| match address.ip {
            IpAddr::V6(ip)
                if !ip.is_loopback()
                    && !ip.is_unicast_link_local()
                    && !ip.is_multicast()
                    && !ip.is_unspecified() =>
            {
                Some(ip)
            }
            _ => None,
        })
    }
}

impl Observed {
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// What a sysctl of this path was, of those that a plan may write.
    pub(crate) fn sysctl(&self, path: &str) -> Option<&String> {
        let sysctl = match path {
            IPV6_FORWARDING => &self.ipv6_forwarding,
            PING_GROUP_RANGE => &self.ping_group_range,
            UNPRIVILEGED_PORT_START => &self.unprivileged_port_start,
            _ => &self.link(accept_ra_of(path)?)?.accept_ra,
        };
        sysctl.as_ref().map(|sysctl| &sysctl.value)
    }
}
