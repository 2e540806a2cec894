//! Bridge: the guest takes the pod's place on the pod's network.
//!
//! - From the pod: its interface becomes the port of a bridge, with the guest's TAP as the only other one. Between them
//!   frames pass as over a wire. The interface keeps its name, MAC, addresses and routes, but processes in the pod have
//!   no network by it any more.
//! - From the VMM: the TAP by name, with as many queue pairs as vCPUs.
//! - From DHCP: what the pod's interface had, address, mask, routes and MTU, and the pod's own DNS. The frames of the
//!   guest's client are taken between its TAP and the bridge, and answered there: nothing of this server leaves by the
//!   pod's wire. If the interface has no address of a family, hawser neither answers nor intercepts that family; the
//!   guest then uses the network's own server or router.
//! - The guest's IPv6 default route: from the network's own router if it advertises itself. One that does not is
//!   announced to the guest in its own name, with the link-local address that the pod's route has, or, where that is
//!   by a global address, with the one that follows from the router's MAC, if the router is seen to have it. If not, hawser
//!   advertises an address of its own, and its rules address what the guest sends there to the router's MAC.
//! - Who gives the IP: the CNI plugin, which gave the pod its own; hawser offers that. Others use the same address.
//! - Migration: not on the pod network, because the target's pod has another address, unless the manifest
//!   has KubeVirt's annotation for that. On a secondary network it is possible where both pods have the same of it: no
//!   address, or, with persistent address management, the same one.

use std::net::Ipv4Addr;

use hawser_dhcp::{Lease, LeaseV4, LeaseV6, Route4};
use hawser_netsetup::{GuestNic, Router6, Wiring, bridge_name};

use super::explain::{Explanation, Hop};
use super::lease::{dns_v4, dns_v6, reaches, search_list};
use super::{Attachment, Context, Kind, Source, own_mac, tap};
use crate::may_migrate::MayMigrate;
use crate::pod::networks::{PodInterface, pod_interface};
use crate::pod::resolv::Resolv;
use crate::spec::{GuestSpec, Interface};

pub(super) static ROW: Kind = Kind {
    name: "bridge",
    needs_tap: true,
    pod_interface: PodInterface::Wanted,
    device: Source::Wired {
        nic: |guest, interface| tap::nic(guest, interface, Wiring::Bridge),
        attach,
    },
    has_pods_addresses: true,
    daemon: None,
    notes: super::no_notes,
    may_migrate: |guest, interface, _| may_migrate(guest, interface),
    explain: |guest, interface, _| explain(guest, interface),
};

/// The server's identifier and the source of its replies, as in KubeVirt. It is on no interface: a guest sends what is
/// for it by its default route, and it is taken before the bridge whatever hardware address it is sent to.
const SERVER_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 75, 10);

fn attach(context: &Context<'_>, interface: &Interface, nic: &GuestNic) -> Attachment {
    tap::attachment(nic, lease(context.guest, interface, nic, context.resolv))
}

/// What the guest is offered; nothing where the pod's interface has no address.
fn lease(guest: &GuestSpec, interface: &Interface, nic: &GuestNic, resolv: &Resolv) -> Option<Lease> {
    let bridged = nic.bridged().filter(|bridged| bridged.is_served())?;
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
        dns: dns_v4(resolv, None)
            .into_iter()
            .filter(|server| reaches(v4, *server))
            .collect(),
        ntp_servers: options.ntp_servers.clone(),
        tftp_server_name: options.tftp_server_name.clone(),
        boot_file_name: options.boot_file_name.clone(),
        private_options: options.private_options.clone(),
        ipv6_only_wait: None,
    });
    let v6 = bridged.v6.as_ref().map(|v6| {
        let silent = match v6.router {
            Router6::Silent(router) => Some(router),
            Router6::Advertises | Router6::By(_) | Router6::Unknown => None,
        };
        LeaseV6 {
            address: v6.address,
            on_link: v6.on_link,
            // A short one, such as fe80::1, may well be a router's on this network.
            server: silent.unwrap_or_else(|| bridged.mac.link_local()),
            default_router: silent.is_some() || matches!(v6.router, Router6::By(_)),
            router_on_link: silent.is_some(),
            dns: dns_v6(resolv, None),
        }
    });
    let search = search_list(guest, resolv);
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

fn may_migrate(guest: &GuestSpec, interface: &Interface) -> MayMigrate {
    if !interface.network.is_primary() {
        MayMigrate::yes("the guest's address is of a network that does not end with the pod")
    } else if guest.pod_bridge_may_migrate {
        MayMigrate::yes(
            "the manifest's annotation kubevirt.io/allow-pod-bridge-network-live-migration says so. Where the target's pod \
             has another address, the guest has that only when it asks for a lease again",
        )
    } else {
        MayMigrate::no("the guest has this pod's address, and the target's pod has another")
    }
}

/// What is asked about this interface.
fn explain(guest: &GuestSpec, interface: &Interface) -> Explanation {
    let pod = pod_interface(&interface.network);
    Explanation {
        interface: interface.name.clone(),
        binding: ROW.label(interface),
        ip_from: format!(
            "the CNI plugin that addressed {pod}; hawser offers the same address by DHCP and DHCPv6. Where {pod} has no \
             address, the network's own server does"
        ),
        guest_address: format!("that of {pod}, with its mask and routes"),
        mac: own_mac::pods_text(interface, &pod),
        others_use: "the same address".into(),
        ports: "all: every frame is the guest's".into(),
        mtu: format!("that of {pod}, by DHCP option 26, router advertisement and virtio-net"),
        queue_pairs: tap::queue_pairs(guest),
        migration: may_migrate(guest, interface),
        privileges: vec!["NET_ADMIN for hawser; the processes that face the guest have no capability".into()],
        devices: vec!["/dev/net/tun".into(), "/dev/kvm".into()],
        cost: format!(
            "processes in the pod, sidecars and probes among them, have no network by {pod}; the kernel only passes frames on"
        ),
        path: vec![
            Hop::new(&pod, "port of"),
            Hop::new(&bridge_name(&pod), "port of"),
            Hop::new(&hawser_netsetup::tap_name(&pod), "virtio-net"),
        ],
        pod_interface: pod,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use hawser_netsetup::{Bridged, BridgedV4, BridgedV6, GATEWAY_MAC, Joined, Mac};

    use super::*;

    fn guest() -> GuestSpec {
        let manifest =
            "{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {name: web}, spec: {
            domain: {memory: {guest: 256Mi}, firmware: {kernelBoot: {container: {image: g, kernelPath: /k}}},
              devices: {interfaces: [{name: default, bridge: {}, dhcpOptions: {ntpServers: [192.0.2.1]}},
                {name: red, bridge: {}}]}},
            networks: [{name: default, pod: {}}, {name: red, multus: {networkName: red}}]}}";
        crate::spec::load(manifest).unwrap().spec
    }

    fn nic_plan(router: Router6) -> GuestNic {
        GuestNic {
            name: "default".into(),
            pod_interface: "eth0".into(),
            queue_pairs: 1,
            guest_mac: Mac([2, 0, 0, 0, 0, 9]),
            mtu: 1400,
            joined: Joined::Bridge(Bridged {
                tap: "tap0".into(),
                server_tap: "srv0".into(),
                bridge: "k6t-eth0".into(),
                mac: Mac([0x0a, 1, 2, 3, 4, 5]),
                pod_mac: Mac([2, 0, 0, 0, 0, 9]),
                v4: Some(BridgedV4 {
                    address: "10.1.2.3".parse().unwrap(),
                    prefix_len: 32,
                    router: Some("169.254.1.1".parse().unwrap()),
                    routes: vec![("169.254.1.1/32".parse().unwrap(), Ipv4Addr::UNSPECIFIED)],
                }),
                v6: Some(BridgedV6 {
                    address: "fd00::3".parse().unwrap(),
                    on_link: None,
                    router,
                }),
            }),
        }
    }

    fn offered(plan: &GuestNic) -> Option<Lease> {
        let spec = guest();
        lease(&spec, &spec.interfaces[0], plan, &Resolv::default())
    }

    #[test]
    fn the_guest_is_offered_what_the_pod_had() {
        let lease = offered(&nic_plan(Router6::Unknown)).unwrap();
        let v4 = lease.v4.unwrap();
        assert_eq!((v4.address.to_string(), v4.prefix_len), ("10.1.2.3".into(), 32));
        assert_eq!(v4.server, SERVER_V4);
        assert_eq!(v4.routers, ["169.254.1.1".parse::<Ipv4Addr>().unwrap()]);
        assert_eq!(v4.routes.len(), 1);
        assert_eq!(v4.ntp_servers.len(), 1);
        assert_eq!(lease.mtu, 1400);
        assert_ne!(
            lease.server_mac, GATEWAY_MAC,
            "that may be a TAP's on the same network"
        );
    }

    #[test]
    fn only_a_silent_router_is_announced_and_in_its_own_name() {
        let router: Ipv6Addr = "fe80::99".parse().unwrap();
        let v6 = offered(&nic_plan(Router6::Silent(router))).unwrap().v6.unwrap();
        assert_eq!(
            (v6.server, v6.default_router, v6.router_on_link),
            (router, true, true)
        );
        for router in [Router6::Advertises, Router6::Unknown] {
            let v6 = offered(&nic_plan(router)).unwrap().v6.unwrap();
            assert_eq!(v6.server.to_string(), "fe80::801:2ff:fe03:405");
            assert!(!v6.default_router && !v6.router_on_link);
        }
    }

    #[test]
    fn for_a_router_without_a_name_hawser_gives_its_own() {
        let router = Router6::By(Mac([2, 0, 0, 0, 0, 0x77]));
        let v6 = offered(&nic_plan(router)).unwrap().v6.unwrap();
        assert_eq!(v6.server.to_string(), "fe80::801:2ff:fe03:405");
        assert!(v6.default_router && !v6.router_on_link);
    }

    #[test]
    fn a_pod_without_addresses_has_nothing_to_offer() {
        let mut plan = nic_plan(Router6::Unknown);
        let Joined::Bridge(bridged) = &mut plan.joined else {
            panic!("{plan:?}");
        };
        (bridged.v4, bridged.v6) = (None, None);
        assert_eq!(offered(&plan), None);
    }

    #[test]
    fn a_guest_moves_with_its_address_only_off_the_pod_network() {
        let spec = guest();
        let answers: Vec<_> = spec.interfaces.iter().map(|i| explain(&spec, i)).collect();
        let text = crate::nic::explanation_text(&answers);
        assert!(text.contains("interface default: bridge on eth0\n"), "{text}");
        assert!(
            text.contains("can migrate  no: the guest has this pod's address"),
            "{text}"
        );
        assert!(
            text.contains("interface red: bridge on podb1f51a511f1\n"),
            "{text}"
        );
        assert!(text.contains("can migrate  yes: "), "{text}");
    }

    #[test]
    fn a_guest_in_the_pods_place_migrates_only_where_the_manifest_says_so() {
        let mut spec = guest();
        let verdicts = |spec: &GuestSpec| -> Vec<bool> {
            let decisions = spec
                .interfaces
                .iter()
                .map(|interface| may_migrate(spec, interface));
            decisions.map(|decision| decision.obstacle().is_none()).collect()
        };
        assert_eq!(
            verdicts(&spec),
            [false, true],
            "the second is on a secondary network"
        );
        spec.pod_bridge_may_migrate = true;
        assert_eq!(verdicts(&spec), [true, true]);
    }
}
