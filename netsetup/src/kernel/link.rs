//! rtnetlink's answers as this crate's own types.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rtnetlink::packet_core::Nla;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, InfoData, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType,
};

use crate::observe::{Address, Devconf, Link, TapFacts};
use crate::original::{Assigned, Route};

// linux/if_link.h; the crate leaves a TUN device's data undecoded.
const IFLA_TUN_OWNER: u16 = 1;
const IFLA_TUN_GROUP: u16 = 2;
const IFLA_TUN_PERSIST: u16 = 6;
const IFLA_TUN_MULTI_QUEUE: u16 = 7;

pub(super) fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::Controller(index) => link.controller = Some(*index),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| link_info(&mut link, info)),
            LinkAttribute::AfSpecUnspec(families) => {
                for family in families {
                    match family {
                        AfSpecUnspec::Inet(settings) => link.devconf = devconf(settings),
                        AfSpecUnspec::Inet6(settings) => {
                            link.addr_gen_mode = settings.iter().find_map(addr_gen_mode).unwrap_or_default();
                        }
                        _ => {}
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

fn addr_gen_mode(setting: &AfSpecInet6) -> Option<u8> {
    match setting {
        AfSpecInet6::AddrGenMode(mode) => Some(mode.into()),
        _ => None,
    }
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

/// An address that somebody set: not one that is only lent, and not one that the kernel makes up.
pub(super) fn assigned(message: &AddressMessage, mac: Option<[u8; 6]>) -> Option<Assigned> {
    let Address { ip, prefix_len } = address(message)?;
    let mut assigned = Assigned {
        ip,
        prefix_len,
        peer: None,
        broadcast: None,
        nodad: false,
        noprefixroute: false,
    };
    let mut by_kernel = mac.is_some_and(|mac| ip == IpAddr::V6(link_local(mac)));
    let mut permanent = true;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(other) if *other != ip => assigned.peer = Some(*other),
            AddressAttribute::Broadcast(broadcast) => assigned.broadcast = Some(*broadcast),
            AddressAttribute::Flags(flags) => {
                permanent = flags.contains(AddressFlags::Permanent);
                assigned.nodad = flags.contains(AddressFlags::Nodad);
                assigned.noprefixroute = flags.contains(AddressFlags::Noprefixroute);
            }
            AddressAttribute::Protocol(protocol) => by_kernel |= u8::from(*protocol) == IFAPROT_KERNEL_LL,
            _ => {}
        }
    }
    (permanent && !by_kernel).then_some(assigned)
}

/// The modified EUI-64 (RFC 4291, appendix A) below fe80::/64.
pub(super) fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    let pair = u16::from_be_bytes;
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        pair([a ^ 2, b]),
        pair([c, 0xff]),
        pair([0xfe, d]),
        pair([e, f]),
    )
}

/// A unicast route of the main table with one next hop, and the interface that it leads out of.
pub(super) fn route(message: &RouteMessage) -> Option<(u32, Route)> {
    let header = &message.header;
    let v6 = match header.address_family {
        AddressFamily::Inet => false,
        AddressFamily::Inet6 => true,
        _ => return None,
    };
    if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
        return None;
    }
    let any: IpAddr = if v6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    let mut destination = any;
    let mut out = None;
    let mut route = Route {
        destination: any.into(),
        gateway: None,
        source: None,
        metric: 0,
        protocol: header.protocol.into(),
        scope: header.scope.into(),
        onlink: header.flags.contains(RouteFlags::Onlink),
        link_local: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => destination = ip(to)?,
            RouteAttribute::Gateway(gateway) => route.gateway = Some(ip(gateway)?),
            RouteAttribute::PrefSource(source) => route.source = Some(ip(source)?),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Oif(index) => out = Some(*index),
            _ => {}
        }
    }
    route.destination = IpNet::new(destination, header.destination_prefix_length).ok()?;
    Some((out?, route))
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}
