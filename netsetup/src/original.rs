//! What a pod's interface was before it was bridged: read before it moves, given to the guest, put back at the end.
//!
//! A bridged interface keeps neither its addresses nor its routes, so whoever starts next could not learn them from
//! the kernel's tables. They are kept in two places. The journal has all of it. And the links themselves carry it as
//! text in their alias, addresses on the interface and routes on the bridge, so that a start whose journal is lost
//! still knows. An alias holds 255 bytes; what does not fit is refused before anything moves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::observe::Link;

/// IFALIASZ of linux/if.h, less the terminating zero.
pub(crate) const ALIAS_MAX: usize = 255;

const INTERFACE: &str = "hawser was ";
const ROUTES: &str = "hawser routes";

/// Route protocols of linux/rtnetlink.h that tell who made a route.
const PROTO_KERNEL: u8 = 2;
const PROTO_BOOT: u8 = 3;
const PROTO_RA: u8 = 9;

const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;

/// Metric that the kernel gives to IPv6 routes that name none.
const METRIC_V6: u32 = 1024;

/// A pod's interface as the CNI plugin left it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Original {
    pub mac: [u8; 6],
    /// Bytes.
    pub mtu: u32,
    /// IFLA_INET6_ADDR_GEN_MODE, as a number of linux/if_link.h.
    pub addr_gen_mode: u8,
    pub addresses: Vec<Assigned>,
    pub routes: Vec<Route>,
}

/// An address that somebody set; those that the kernel makes up by itself are not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    pub ip: IpAddr,
    /// Of the peer's network where there is a peer.
    pub prefix_len: u8,
    /// The other end of a point-to-point link.
    pub peer: Option<IpAddr>,
    pub broadcast: Option<Ipv4Addr>,
    /// IFA_F_NODAD.
    pub nodad: bool,
    /// IFA_F_NOPREFIXROUTE.
    pub noprefixroute: bool,
}

/// A unicast route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub destination: IpNet,
    pub gateway: Option<IpAddr>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    pub metric: u32,
    /// RTPROT_* of linux/rtnetlink.h.
    pub protocol: u8,
    /// RT_SCOPE_*.
    pub scope: u8,
    /// RTNH_F_ONLINK: the gateway is on the link though no address says so.
    pub onlink: bool,
    /// The gateway's link-local address, where it has been found; see [`crate::find_routers`].
    pub link_local: Option<Ipv6Addr>,
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

    fn usual_metric(&self) -> u32 {
        if self.destination.addr().is_ipv6() {
            METRIC_V6
        } else {
            0
        }
    }

    fn usual_scope(&self) -> u8 {
        if self.gateway.is_none() && self.destination.addr().is_ipv4() {
            SCOPE_LINK
        } else {
            SCOPE_UNIVERSE
        }
    }
}

impl Original {
    /// As the kernel tells it of an interface that has not moved. Absent without a MAC.
    pub(crate) fn of(link: &Link) -> Option<Self> {
        Some(Self {
            mac: link.mac?,
            mtu: link.mtu,
            addr_gen_mode: link.addr_gen_mode,
            addresses: link.assigned.clone(),
            routes: link.routes.clone(),
        })
    }

    /// The alias of the interface: all but the routes.
    pub(crate) fn interface_alias(&self) -> String {
        let mac: Vec<_> = self.mac.iter().map(|byte| format!("{byte:02x}")).collect();
        let head = format!("{INTERFACE}{} {} {}", mac.join(":"), self.mtu, self.addr_gen_mode);
        words(head, self.addresses.iter().map(Assigned::word))
    }

    /// The alias of the bridge: the routes.
    pub(crate) fn routes_alias(&self) -> String {
        words(ROUTES.to_owned(), self.routes.iter().map(Route::word))
    }

    /// Reads both aliases. Absent where they are not what this crate writes.
    pub(crate) fn from_aliases(interface: &str, bridge: &str) -> Option<Self> {
        let mut words = interface.strip_prefix(INTERFACE)?.split(' ');
        let mut mac = [0; 6];
        let mut pairs = words.next()?.split(':');
        for byte in &mut mac {
            *byte = u8::from_str_radix(pairs.next()?, 16).ok()?;
        }
        Some(Self {
            mac,
            mtu: words.next()?.parse().ok()?,
            addr_gen_mode: words.next()?.parse().ok()?,
            addresses: words.map(Assigned::parse).collect::<Option<_>>()?,
            routes: bridge
                .strip_prefix(ROUTES)?
                .split_whitespace()
                .map(Route::parse)
                .collect::<Option<_>>()?,
        })
    }

    /// Whether an alias is that of an interface that is about to move, or has.
    pub(crate) fn is_interface_alias(alias: &str) -> bool {
        alias.starts_with(INTERFACE)
    }
}

fn words(head: String, rest: impl Iterator<Item = String>) -> String {
    rest.fold(head, |text, word| text + " " + &word)
}

impl Assigned {
    /// The network's broadcast address, as nearly everybody sets it.
    fn usual_broadcast(&self) -> Option<Ipv4Addr> {
        match IpNet::new(self.ip, self.prefix_len).ok()? {
            IpNet::V4(net) => Some(net.broadcast()),
            IpNet::V6(_) => None,
        }
    }

    fn word(&self) -> String {
        let mut word = format!("{}/{}", self.ip, self.prefix_len);
        if let Some(peer) = self.peer {
            word += &format!(",p={peer}");
        }
        match self.broadcast {
            Some(_) if self.broadcast == self.usual_broadcast() => word += ",b",
            Some(other) => word += &format!(",b={other}"),
            None => {}
        }
        word += if self.nodad { ",d" } else { "" };
        word += if self.noprefixroute { ",n" } else { "" };
        word
    }

    fn parse(word: &str) -> Option<Self> {
        let mut parts = word.split(',');
        let (ip, prefix_len) = parts.next()?.split_once('/')?;
        let mut assigned = Self {
            ip: ip.parse().ok()?,
            prefix_len: prefix_len.parse().ok()?,
            peer: None,
            broadcast: None,
            nodad: false,
            noprefixroute: false,
        };
        for part in parts {
            match part.split_once('=') {
                Some(("p", peer)) => assigned.peer = Some(peer.parse().ok()?),
                Some(("b", broadcast)) => assigned.broadcast = Some(broadcast.parse().ok()?),
                None if part == "b" => assigned.broadcast = assigned.usual_broadcast(),
                None if part == "d" => assigned.nodad = true,
                None if part == "n" => assigned.noprefixroute = true,
                _ => return None,
            }
        }
        Some(assigned)
    }
}

impl Route {
    fn word(&self) -> String {
        let mut word = self.destination.to_string();
        if let Some(gateway) = self.gateway {
            word += &format!(",g={gateway}");
        }
        if let Some(router) = self.link_local {
            word += &format!(",l={router}");
        }
        if let Some(source) = self.source {
            word += &format!(",s={source}");
        }
        for (key, value, usual) in [
            ("m", self.metric, self.usual_metric()),
            ("p", self.protocol.into(), PROTO_BOOT.into()),
            ("c", self.scope.into(), self.usual_scope().into()),
        ] {
            if value != usual {
                word += &format!(",{key}={value}");
            }
        }
        word += if self.onlink { ",o" } else { "" };
        word
    }

    fn parse(word: &str) -> Option<Self> {
        fn value<T: FromStr>(text: &str) -> Option<T> {
            text.parse().ok()
        }
        let mut parts = word.split(',');
        let mut route = Self {
            destination: value(parts.next()?)?,
            gateway: None,
            source: None,
            metric: 0,
            protocol: PROTO_BOOT,
            scope: SCOPE_UNIVERSE,
            onlink: false,
            link_local: None,
        };
        route.metric = route.usual_metric();
        let mut scope = None;
        for part in parts {
            match part.split_once('=') {
                Some(("g", text)) => route.gateway = Some(value(text)?),
                Some(("l", text)) => route.link_local = Some(value(text)?),
                Some(("s", text)) => route.source = Some(value(text)?),
                Some(("m", text)) => route.metric = value(text)?,
                Some(("p", text)) => route.protocol = value(text)?,
                Some(("c", text)) => scope = Some(value(text)?),
                None if part == "o" => route.onlink = true,
                _ => return None,
            }
        }
        route.scope = scope.unwrap_or_else(|| route.usual_scope());
        Some(route)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn some_assigned()(
            v6: bool, bits: u128, prefix in 0_u8..=32, peer: Option<u128>, broadcast: Option<u32>, usual: bool,
            nodad: bool, noprefixroute: bool,
        ) -> Assigned {
            let ip = |bits: u128| -> IpAddr {
                if v6 { std::net::Ipv6Addr::from(bits).into() } else { Ipv4Addr::from(bits as u32).into() }
            };
            let mut assigned = Assigned {
                ip: ip(bits), prefix_len: prefix, peer: peer.map(ip), broadcast: None, nodad, noprefixroute,
            };
            if !v6 {
                assigned.broadcast = if usual { assigned.usual_broadcast() } else { broadcast.map(Into::into) };
            }
            assigned
        }
    }

    prop_compose! {
        fn some_route()(
            v6: bool, bits: u128, prefix in 0_u8..=32, gateway: Option<u128>, source: Option<u128>, metric: u32,
            protocol: u8, scope: u8, onlink: bool, router: Option<u128>,
        ) -> Route {
            let ip = |bits: u128| -> IpAddr {
                if v6 { std::net::Ipv6Addr::from(bits).into() } else { Ipv4Addr::from(bits as u32).into() }
            };
            Route {
                destination: IpNet::new(ip(bits), prefix).unwrap().trunc(),
                gateway: gateway.map(ip), source: source.map(ip), metric, protocol, scope, onlink,
                link_local: router.map(Ipv6Addr::from),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn aliases_read_back_are_what_was_written(
            mac: [u8; 6], mtu: u32, addr_gen_mode in 0_u8..4,
            addresses in prop::collection::vec(some_assigned(), 0..4),
            routes in prop::collection::vec(some_route(), 0..4),
        ) {
            let original = Original { mac, mtu, addr_gen_mode, addresses, routes };
            let read = Original::from_aliases(&original.interface_alias(), &original.routes_alias());
            prop_assert_eq!(read, Some(original));
        }

        #[test]
        fn any_alias_is_read_or_refused(interface: String, bridge: String) {
            let _ = Original::from_aliases(&format!("hawser was {interface}"), &format!("hawser routes{bridge}"));
        }
    }

    #[test]
    fn a_usual_pod_is_short() {
        let original = Original::from_aliases(
            "hawser was 02:00:00:12:34:56 1450 0 10.244.0.5/24,b fd00:10:244::5/64",
            "hawser routes 0.0.0.0/0,g=10.244.0.1 ::/0,g=fd00:10:244::1",
        )
        .unwrap();
        assert_eq!(
            original.addresses[0].broadcast,
            Some(Ipv4Addr::new(10, 244, 0, 255))
        );
        assert_eq!(original.routes[1].metric, 1024);
        assert!(original.interface_alias().len() < 80);
        assert!(original.routes_alias().len() < 80);
    }
}
