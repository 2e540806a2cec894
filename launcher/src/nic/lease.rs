//! What the leases of several kinds have in common: the pod's DNS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::pod::resolv::Resolv;
use crate::spec::GuestSpec;

/// With a subdomain, the guest's own domain comes first: `<subdomain>.<namespace>.svc.<cluster domain>`.
pub(super) fn search_list(guest: &GuestSpec, resolv: &Resolv) -> Vec<String> {
    let mut search = resolv.search.clone();
    let Some(subdomain) = &guest.subdomain else {
        return search;
    };
    let prefix = format!("{}.svc.", guest.namespace);
    if let Some(services) = resolv.search.iter().find(|name| name.starts_with(&prefix)) {
        let own = format!("{subdomain}.{services}");
        if !search.contains(&own) {
            search.insert(0, own);
        }
    }
    search
}

pub(super) fn dns_v4(resolv: &Resolv) -> Vec<Ipv4Addr> {
    let v4 = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    };
    resolv.nameservers.iter().filter_map(v4).collect()
}

pub(super) fn dns_v6(resolv: &Resolv) -> Vec<Ipv6Addr> {
    let v6 = |ip: &IpAddr| match ip {
        IpAddr::V6(ip) => Some(*ip),
        IpAddr::V4(_) => None,
    };
    resolv.nameservers.iter().filter_map(v6).collect()
}
