//! Masquerade: the guest sits on a network of its own behind the pod's addresses.
//!
//! - From the pod: a TAP that is the guest's gateway, NAT rules, forwarding. The pod's interface is not touched, so
//!   everything else in the pod goes on as it was.
//! - From the VMM: the TAP by name, with as many queue pairs as vCPUs.
//! - From DHCP: the second address of the guest network in each family, the first as router, the pod's own DNS.
//! - Who gives the IP: hawser does, always the same one; others use the pod's address.
//! - Migration: possible, since nothing that the guest sees depends on the pod it is in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hawser_dhcp::{Lease, LeaseV4, LeaseV6};
use hawser_netsetup::{GATEWAY_LINK_LOCAL, GuestNic, Masquerade, Nic, PortRange, Ports, Protocol, Wiring};
use ipnet::{Ipv4Net, Ipv6Net};

use super::{refuse_unheeded, tap_nic};
use crate::resolv::Resolv;
use crate::spec::{self, GuestSpec, Interface, NetworkSource};
use crate::vmm::config::NetConfig;

/// KubeVirt's guest networks.
const V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 2, 0), 24);
const V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd10, 0, 2, 0, 0, 0, 0, 0), 120);

/// What this interface wants from the pod's namespace.
pub(super) fn nic(guest: &GuestSpec, interface: &Interface) -> Result<Nic, Vec<String>> {
    let refusals = refuse_unheeded(interface);
    if !refusals.is_empty() {
        return Err(refusals);
    }
    let (v4, v6) = match &interface.network.source {
        NetworkSource::Pod {
            vm_network_cidr,
            vm_ipv6_network_cidr,
        } => (*vm_network_cidr, *vm_ipv6_network_cidr),
        NetworkSource::Multus { .. } => (None, None),
    };
    let wiring = Wiring::Masquerade(Masquerade {
        v4: v4.unwrap_or(V4),
        v6: v6.unwrap_or(V6),
        v6_required: v6.is_some(),
        ports: ports(&interface.ports),
        istio: guest.istio,
    });
    Ok(tap_nic(guest, interface, wiring))
}

fn ports(ports: &spec::Ports) -> Ports {
    if ports.all {
        return Ports::All;
    }
    let range = |range: &spec::PortRange| PortRange {
        protocol: match range.protocol {
            spec::Protocol::Tcp => Protocol::Tcp,
            spec::Protocol::Udp => Protocol::Udp,
        },
        first: range.first,
        last: range.last,
    };
    Ports::Listed(ports.list.iter().map(range).collect())
}

/// What the guest is told.
pub(super) fn lease(guest: &GuestSpec, interface: &Interface, nic: &GuestNic, resolv: &Resolv) -> Lease {
    let options = &interface.dhcp_options;
    let v4 = nic.v4.map(|v4| LeaseV4 {
        address: v4.guest,
        prefix_len: v4.network.prefix_len(),
        server: v4.gateway,
        routers: vec![v4.gateway],
        routes: Vec::new(),
        dns: resolv.nameservers.iter().filter_map(only_v4).collect(),
        ntp_servers: options.ntp_servers.clone(),
        tftp_server_name: options.tftp_server_name.clone(),
        boot_file_name: options.boot_file_name.clone(),
        private_options: options.private_options.clone(),
        ipv6_only_wait: None,
    });
    let v6 = nic.v6.map(|v6| LeaseV6 {
        address: v6.guest,
        on_link: Some(v6.network),
        server: GATEWAY_LINK_LOCAL,
        default_router: true,
        dns: resolv.nameservers.iter().filter_map(only_v6).collect(),
    });
    let search = search_list(guest, &resolv.search);
    Lease {
        guest_mac: nic.guest_mac,
        server_mac: nic.gateway_mac,
        mtu: u16::try_from(nic.mtu).unwrap_or(u16::MAX),
        hostname: Some(guest.hostname.clone()),
        // KubeVirt sends the first name of the search list.
        domain: search.first().cloned(),
        search,
        v4,
        v6,
    }
}

/// With a subdomain, the guest's own domain comes first: `<subdomain>.<namespace>.svc.<cluster domain>`.
fn search_list(guest: &GuestSpec, pods: &[String]) -> Vec<String> {
    let mut search = pods.to_vec();
    let Some(subdomain) = &guest.subdomain else {
        return search;
    };
    let prefix = format!("{}.svc.", guest.namespace);
    if let Some(services) = pods.iter().find(|name| name.starts_with(&prefix)) {
        let own = format!("{subdomain}.{services}");
        if !search.contains(&own) {
            search.insert(0, own);
        }
    }
    search
}

fn only_v4(ip: &IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    }
}

fn only_v6(ip: &IpAddr) -> Option<Ipv6Addr> {
    match ip {
        IpAddr::V6(ip) => Some(*ip),
        IpAddr::V4(_) => None,
    }
}

/// What the VMM is told.
pub(super) fn vmm_nic(nic: &GuestNic) -> NetConfig {
    NetConfig::tap(nic)
}
