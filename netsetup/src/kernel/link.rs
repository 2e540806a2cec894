//! rtnetlink's answers as this crate's own types.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hawser_mac::Mac;
use ipnet::IpNet;
use rtnetlink::packet_core::Nla;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecUnspec, InfoData, InfoMacVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
    MacVlanMode,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType, RouteVia,
};

use crate::addressing::{Assigned, Route};
use crate::observed::{Address, Devconf, Link, TapFacts};

// linux/if_link.h; the crate leaves a TUN device's data undecoded.
const IFLA_TUN_OWNER: u16 = 1;
const IFLA_TUN_GROUP: u16 = 2;
const IFLA_TUN_PERSIST: u16 = 6;
const IFLA_TUN_MULTI_QUEUE: u16 = 7;

pub(super) fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        no_arp: message.header.flags.contains(LinkFlags::Noarp),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok().map(Mac),
            LinkAttribute::Controller(index) => link.controller = Some(*index),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| link_info(&mut link, info)),
            LinkAttribute::AfSpecUnspec(families) => {
                for family in families {
                    if let AfSpecUnspec::Inet(settings) = family {
                        link.devconf = devconf(settings);
                    }
                }
            }
            _ => {}
        }
    }
    link
}

fn link_info(link: &mut Link, info: &LinkInfo) {
    match info {
        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
        LinkInfo::Data(InfoData::Tun(facts)) => {
            let mut tap = TapFacts::default();
            for fact in facts {
                let mut value = vec![0; fact.value_len()];
                fact.emit_value(&mut value);
                let id = value.as_slice().try_into().ok().map(u32::from_ne_bytes);
                let set = value.first().is_some_and(|byte| *byte != 0);
                match fact.kind() {
                    IFLA_TUN_OWNER => tap.owner = id,
                    IFLA_TUN_GROUP => tap.group = id,
                    IFLA_TUN_PERSIST => tap.persistent = set,
                    IFLA_TUN_MULTI_QUEUE => tap.multi_queue = set,
                    _ => {}
                }
            }
            link.tap = Some(tap);
        }
        LinkInfo::Data(InfoData::MacVlan(facts)) => {
            link.own_mac_only = !facts.contains(&InfoMacVlan::Mode(MacVlanMode::Passthrough));
        }
        _ => {}
    }
}

fn devconf(settings: &[AfSpecInet]) -> Devconf {
    let mut devconf = Devconf::default();
    for setting in settings {
        if let AfSpecInet::DevConf(values) = setting {
            devconf.forwarding = values.forwarding != 0;
            devconf.route_localnet = values.route_localnet != 0;
        }
    }
    devconf
}

/// On a point-to-point link IFA_ADDRESS is the peer's and IFA_LOCAL our own; elsewhere IPv6 has only IFA_ADDRESS.
pub(super) fn address(message: &AddressMessage) -> Option<Address> {
    let mut own: Option<IpAddr> = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => own = Some(*ip),
            AddressAttribute::Address(ip) => own = own.or(Some(*ip)),
            _ => {}
        }
    }
    Some(Address {
        ip: own?,
        prefix_len: message.header.prefix_len,
    })
}

/// linux/if_addr.h: the kernel made this link-local address up (since 5.18).
const IFAPROT_KERNEL_LL: u8 = 2;

/// An address that was set: not a temporary one, and not one that the kernel has made up.
pub(super) fn assigned(message: &AddressMessage, mac: Option<Mac>) -> Option<Assigned> {
    let Address { ip, prefix_len } = address(message)?;
    let mut assigned = Assigned {
        ip,
        prefix_len,
        peer: None,
        on_link: false,
    };
    let mut by_kernel = mac.is_some_and(|mac| ip == IpAddr::V6(mac.link_local()));
    let mut permanent = true;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(other) if *other != ip => assigned.peer = Some(*other),
            AddressAttribute::Flags(flags) => {
                permanent = flags.contains(AddressFlags::Permanent);
            }
            AddressAttribute::Protocol(protocol) => by_kernel |= u8::from(*protocol) == IFAPROT_KERNEL_LL,
            _ => {}
        }
    }
    (permanent && !by_kernel).then_some(assigned)
}

/// The routes of a message by the interface that they lead out of: none, one, or as many as it has next hops. Only
/// unicast routes of the main table.
pub(super) fn routes(message: &RouteMessage) -> Vec<(u32, Route)> {
    let header = &message.header;
    let Some(any) = any_of(header.address_family) else {
        return Vec::new();
    };
    if table(message) != u32::from(RouteHeader::RT_TABLE_MAIN) || header.kind != RouteType::Unicast {
        return Vec::new();
    }
    let mut destination = any;
    let mut route = Route {
        destination: any.into(),
        gateway: None,
        metric: 0,
        mtu: None,
        protocol: header.protocol.into(),
        link_local: None,
        router_mac: None,
    };
    let mut hops = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => destination = ip(to).unwrap_or(any),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Metrics(metrics) => route.mtu = metrics.iter().find_map(mtu),
            RouteAttribute::MultiPath(several) => {
                hops.extend(
                    several
                        .iter()
                        .map(|hop| (hop.interface_index, gateway(&hop.attributes))),
                );
            }
            RouteAttribute::Oif(index) => hops.push((*index, gateway(&message.attributes))),
            _ => {}
        }
    }
    let Ok(destination) = IpNet::new(destination, header.destination_prefix_length) else {
        return Vec::new();
    };
    route.destination = destination;
    hops.into_iter()
        .map(|(index, gateway)| (index, Route { gateway, ..route }))
        .collect()
}

fn mtu(metric: &RouteMetric) -> Option<u32> {
    match metric {
        RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
        _ => None,
    }
}

/// Of a unicast route in another table than the main one and the kernel's own: the table, and the interfaces.
pub(super) fn other_table(message: &RouteMessage) -> Option<(u32, Vec<u32>)> {
    let table = table(message);
    let kernels = [nix::libc::RT_TABLE_MAIN, nix::libc::RT_TABLE_LOCAL].map(u32::from);
    if kernels.contains(&table) || message.header.kind != RouteType::Unicast {
        return None;
    }
    let indexes = message.attributes.iter().flat_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => vec![*index],
        RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
        _ => Vec::new(),
    });
    Some((table, indexes.collect()))
}

/// The attribute has those above 255 as well.
fn table(message: &RouteMessage) -> u32 {
    let attribute = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    attribute.unwrap_or_else(|| message.header.table.into())
}

fn any_of(family: AddressFamily) -> Option<IpAddr> {
    match family {
        AddressFamily::Inet => Some(Ipv4Addr::UNSPECIFIED.into()),
        AddressFamily::Inet6 => Some(Ipv6Addr::UNSPECIFIED.into()),
        _ => None,
    }
}

/// RTA_VIA is a gateway of the other family than the route's: an IPv4 route by an IPv6 router (RFC 8950).
fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(gateway) => ip(gateway),
        RouteAttribute::Via(RouteVia::Inet6(gateway)) => Some((*gateway).into()),
        _ => None,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}
