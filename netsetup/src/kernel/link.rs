//! rtnetlink's answers as this crate's own types.

use std::net::IpAddr;

use rtnetlink::packet_core::Nla;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecUnspec, InfoData, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use crate::observe::{Address, Devconf, Link, TapFacts};

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
