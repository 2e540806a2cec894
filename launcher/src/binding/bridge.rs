//! Bridge: the guest takes the pod's place on the pod's network.
//!
//! - From the pod: its interface becomes the port of a bridge, with the guest's TAP as the only other one. Between them
//!   frames pass as over a wire. What is left under the interface's name is a stand-in that is down; processes in the
//!   pod have no network by this interface any more.
//! - From the VMM: the TAP by name, with as many queue pairs as vCPUs.
//! - From DHCP: what the pod's interface had, address, mask, routes and MTU, and the pod's own DNS. The frames of the
//!   guest's client are taken between its TAP and the bridge, and answered there: nothing of this server leaves by the
//!   pod's wire. Of a family that the interface has no address of nothing is told and nothing taken, and a server or
//!   router on the network itself has the guest to itself.
//! - The guest's IPv6 default route: from the network's own router if it advertises itself. One that does not is
//!   announced to the guest in its own name, with the link-local address that the pod's route has, or, where that is
//!   by a global address, with the one that follows from the router's MAC, if the router is seen to have it. Otherwise
//!   nothing that a guest reads could name it: there is then no IPv6 default route, and hawser says so.
//! - Who gives the IP: whoever gave the pod its own (the CNI plugin); hawser hands it on. Others use the same address.
//! - Migration: not on the pod network, because the target's pod has another address. On a secondary network nothing of
//!   the binding stands in the way.

use std::net::{Ipv4Addr, Ipv6Addr};

use hawser_dhcp::{Lease, LeaseV4, LeaseV6, Route4};
use hawser_netsetup::{Bridged, GuestNic, Nic, Router6, Wiring};

use super::explain::{Explanation, Migration};
use super::{only_v4, only_v6, pod_interface, queue_pairs, refuse_unheeded, search_list, tap_nic};
use crate::resolv::Resolv;
use crate::spec::{GuestSpec, Interface, NetworkSource};
use crate::vmm::config::NetConfig;

/// The server's identifier and the source of its replies, as in KubeVirt. It is on no interface: a guest sends what is
/// for it by its default route, and it is taken before the bridge whatever hardware address it is sent to.
const SERVER_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 75, 10);

/// What this interface wants from the pod's namespace.
pub(super) fn nic(guest: &GuestSpec, interface: &Interface) -> Result<Nic, Vec<String>> {
    let refusals = refuse_unheeded(interface);
    if !refusals.is_empty() {
        return Err(refusals);
    }
    Ok(tap_nic(guest, interface, Wiring::Bridge))
}

/// What the guest is told; nothing where the pod's interface has no address.
pub(super) fn lease(
    guest: &GuestSpec,
    interface: &Interface,
    nic: &GuestNic,
    resolv: &Resolv,
) -> Option<Lease> {
    let bridged = nic.bridge.as_ref().filter(|bridged| bridged.is_served())?;
    let options = &interface.dhcp_options;
    let v4 = bridged.v4.as_ref().map(|v4| LeaseV4 {
        address: v4.address,
        prefix_len: v4.prefix_len,
        server: SERVER_V4,
        routers: v4.router.into_iter().collect(),
        routes: v4
            .routes
            .iter()
            .map(|(destination, via)| Route4 {
                destination: *destination,
                via: *via,
            })
            .collect(),
        dns: resolv.nameservers.iter().filter_map(only_v4).collect(),
        ntp_servers: options.ntp_servers.clone(),
        tftp_server_name: options.tftp_server_name.clone(),
        boot_file_name: options.boot_file_name.clone(),
        private_options: options.private_options.clone(),
        ipv6_only_wait: None,
    });
    let v6 = bridged.v6.as_ref().map(|v6| {
        let silent = match v6.router {
            Router6::Silent(router) => Some(router),
            Router6::Advertises | Router6::Unknown => None,
        };
        LeaseV6 {
            address: v6.address,
            on_link: v6.on_link,
            server: silent.unwrap_or_else(|| server_v6(bridged)),
            default_router: silent.is_some(),
            router_on_link: silent.is_some(),
            dns: resolv.nameservers.iter().filter_map(only_v6).collect(),
        }
    });
    let search = search_list(guest, &resolv.search);
    Some(Lease {
        guest_mac: nic.guest_mac,
        server_mac: bridged.mac,
        mtu: u16::try_from(nic.mtu).unwrap_or(u16::MAX),
        hostname: Some(guest.hostname.clone()),
        domain: search.first().cloned(),
        search,
        v4,
        v6,
    })
}

/// The link-local address that the bridge's MAC would have (RFC 4291, appendix A). A short one, such as fe80::1, may
/// well be a router's on this network.
fn server_v6(bridged: &Bridged) -> Ipv6Addr {
    let [a, b, c, d, e, f] = bridged.mac;
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

/// What the VMM is told.
pub(super) fn vmm_nic(nic: &GuestNic) -> NetConfig {
    NetConfig::tap(nic)
}

/// What is asked about this interface.
pub(super) fn explain(guest: &GuestSpec, interface: &Interface) -> Explanation {
    let pod = pod_interface(&interface.network);
    let primary = matches!(
        interface.network.source,
        NetworkSource::Pod { .. } | NetworkSource::Multus { default: true, .. }
    );
    Explanation {
        interface: interface.name.clone(),
        binding: "bridge",
        ip_from: format!(
            "whoever addressed {pod} (the CNI plugin); hawser hands it on by DHCP and DHCPv6, or leaves the guest to the \
             network's own server where {pod} has no address"
        ),
        guest_address: format!("that of {pod}, with its mask and routes"),
        others_use: "the same address".into(),
        ports: "all: every frame is the guest's".into(),
        mtu: format!("that of {pod}, by DHCP option 26, router advertisement and virtio-net"),
        queue_pairs: queue_pairs(guest),
        migration: if primary {
            Migration::impossible("the guest has this pod's address, and the target's pod has another")
        } else {
            Migration::possible("the guest's address is of a network that does not end with the pod")
        },
        privileges: vec!["NET_ADMIN for hawser; the processes that face the guest have no capability".into()],
        devices: vec!["/dev/net/tun".into(), "/dev/kvm".into()],
        cost: format!(
            "processes in the pod, sidecars and probes among them, have no network by {pod}; the kernel only passes frames on"
        ),
        pod_interface: pod,
    }
}
