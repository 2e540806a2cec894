//! Masquerade: the guest sits on a network of its own behind the pod's addresses.
//!
//! - From the pod: a TAP that is the guest's gateway, NAT rules, forwarding. The pod's interface is not touched, so
//!   nothing else in the pod is affected.
//! - From the VMM: the TAP by name, with as many queue pairs as vCPUs.
//! - From DHCP: the second address of the guest network in each family, the first as router, the pod's own DNS.
//! - Who gives the IP: hawser does, always the same one; others use the pod's address.
//! - Migration: possible, since nothing that the guest sees depends on the pod it is in.

use std::net::{Ipv4Addr, Ipv6Addr};

use hawser_dhcp::{Lease, LeaseV4, LeaseV6};
use hawser_netsetup::{
    GATEWAY_LINK_LOCAL, GATEWAY_MAC, GuestNic, Masquerade, Nic, PortRange, Ports, Protocol, Wiring,
};
use ipnet::{Ipv4Net, Ipv6Net};

use super::explain::{Explanation, Hop, ports_text};
use super::kept_tcp;
use super::lease::{dns_v4, dns_v6, search_list};
use super::{Attachment, Context, Kind, Source, guest_networks, own_mac, tap};
use crate::may_migrate::MayMigrate;
use crate::pod::networks::{PodInterface, pod_interface};
use crate::pod::resolv::Resolv;
use crate::spec::{self, GuestSpec, Interface, NetworkSource};

pub(super) static ROW: Kind = Kind {
    name: "masquerade",
    needs_tap: true,
    pod_interface: PodInterface::Wanted,
    device: Source::Wired { nic, attach },
    has_pods_addresses: false,
    daemon: None,
    notes: super::no_notes,
    may_migrate: |_, _, _| may_migrate(),
    explain: |guest, interface, _| explain(guest, interface),
};

/// KubeVirt's guest networks.
const V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 2, 0), 24);
const V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd10, 0, 2, 0, 0, 0, 0, 0), 120);

/// What this interface wants from the pod's namespace.
fn nic(guest: &GuestSpec, interface: &Interface) -> Nic {
    let (v4, v6) = networks(interface);
    let v6_required = matches!(
        interface.network.source,
        NetworkSource::Pod {
            vm_ipv6_network_cidr: Some(_),
            ..
        }
    );
    let v4_named = matches!(
        interface.network.source,
        NetworkSource::Pod {
            vm_network_cidr: Some(_),
            ..
        }
    );
    let wiring = Wiring::Masquerade(Masquerade {
        v4,
        v6,
        v4_else: if v4_named {
            Vec::new()
        } else {
            guest_networks::v4(guest)
        },
        v6_else: if v6_required {
            Vec::new()
        } else {
            guest_networks::v6(guest)
        },
        v6_required,
        ports: ports(&interface.ports),
        kept_tcp: kept_tcp(guest),
        istio: guest.istio,
    });
    tap::nic(guest, interface, wiring)
}

/// The manifest's guest networks, else KubeVirt's.
fn networks(interface: &Interface) -> (Ipv4Net, Ipv6Net) {
    match &interface.network.source {
        NetworkSource::Pod {
            vm_network_cidr,
            vm_ipv6_network_cidr,
        } => (vm_network_cidr.unwrap_or(V4), vm_ipv6_network_cidr.unwrap_or(V6)),
        NetworkSource::Multus { .. } | NetworkSource::ResourceClaim(_) => (V4, V6),
    }
}

fn ports(ports: &spec::Ports) -> Ports {
    let spec::Ports::Listed(list) = ports else {
        return Ports::All;
    };
    let range = |range: &spec::PortRange| PortRange {
        protocol: match range.protocol {
            spec::Protocol::Tcp => Protocol::Tcp,
            spec::Protocol::Udp => Protocol::Udp,
        },
        first: range.first,
        last: range.last,
    };
    Ports::Listed(list.iter().map(range).collect())
}

fn attach(context: &Context<'_>, interface: &Interface, nic: &GuestNic) -> Attachment {
    tap::attachment(nic, lease(context.guest, interface, nic, context.resolv))
}

/// What the guest is offered; nothing where the plan is of another kind.
fn lease(guest: &GuestSpec, interface: &Interface, nic: &GuestNic, resolv: &Resolv) -> Option<Lease> {
    let masqueraded = nic.masqueraded()?;
    let options = &interface.dhcp_options;
    let v4 = masqueraded.v4.map(|v4| LeaseV4 {
        address: v4.guest,
        prefix_len: v4.network.prefix_len(),
        server: v4.gateway,
        routers: vec![v4.gateway],
        routes: Vec::new(),
        dns: dns_v4(resolv, v4.resolver.map(|_| v4.gateway)),
        ntp_servers: options.ntp_servers.clone(),
        tftp_server_name: options.tftp_server_name.clone(),
        boot_file_name: options.boot_file_name.clone(),
        private_options: options.private_options.clone(),
        ipv6_only_wait: None,
    });
    let v6 = masqueraded.v6.map(|v6| LeaseV6 {
        address: v6.guest,
        on_link: Some(v6.network),
        server: GATEWAY_LINK_LOCAL,
        default_router: true,
        router_on_link: false,
        dns: dns_v6(resolv, v6.resolver.map(|_| v6.gateway)),
    });
    let search = search_list(guest, resolv);
    Some(Lease {
        guest_mac: nic.guest_mac,
        server_mac: GATEWAY_MAC,
        mtu: u16::try_from(nic.mtu).unwrap_or(u16::MAX),
        hostname: Some(guest.hostname.clone()),
        // KubeVirt sends the first name of the search list.
        domain: search.first().cloned(),
        search,
        v4,
        v6,
    })
}

fn may_migrate() -> MayMigrate {
    MayMigrate::yes("nothing that the guest sees depends on the pod that it is in")
}

/// What is asked about this interface.
fn explain(guest: &GuestSpec, interface: &Interface) -> Explanation {
    let (v4, v6) = networks(interface);
    let second = |first: u128| Ipv6Addr::from(first.saturating_add(2));
    let v4_guest = Ipv4Addr::from(u32::from(v4.network()).saturating_add(2));
    let pod = pod_interface(&interface.network);
    Explanation {
        interface: interface.name.clone(),
        binding: ROW.label(interface),
        ip_from: "hawser, by DHCP (IPv4), DHCPv6 and router advertisement (IPv6)".into(),
        guest_address: format!(
            "{v4_guest}/{} and {}/{}, of each family that the pod has an address of{}",
            v4.prefix_len(),
            second(v6.network().into()),
            v6.prefix_len(),
            match &interface.network.source {
                NetworkSource::Pod {
                    vm_network_cidr: Some(_),
                    vm_ipv6_network_cidr: Some(_),
                } => "",
                _ => "; of another network where the pod's own has addresses of that one",
            }
        ),
        mac: own_mac::text(guest, interface),
        others_use: format!("the pod's addresses on {pod}"),
        ports: ports_text(&interface.ports),
        mtu: format!("that of {pod}, by DHCP option 26, router advertisement and virtio-net"),
        queue_pairs: tap::queue_pairs(guest),
        migration: may_migrate(),
        privileges: vec![
            "NET_ADMIN for hawser; the processes that face the guest have no capability".into(),
            "net.ipv6.conf.all.forwarding=1, set by the pod where /proc/sys is read-only, for IPv6".into(),
        ],
        devices: vec!["/dev/net/tun".into(), "/dev/kvm".into()],
        cost: "NAT and forwarding in the pod's kernel for each packet; the guest's own address is not seen by others"
            .into(),
        path: vec![
            Hop::new(&pod, "NAT"),
            Hop::new(&hawser_netsetup::tap_name(&pod), "virtio-net"),
        ],
        pod_interface: pod,
    }
}

#[cfg(test)]
mod tests {
    use hawser_netsetup::{FamilyPlan, Joined, Mac, Masqueraded};

    use super::*;
    use crate::pod::resolv;

    fn guest(extra: &str) -> GuestSpec {
        let manifest = format!(
            "{{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {{name: web, namespace: shop}}, spec: {{
               domain: {{memory: {{guest: 256Mi}}, cpu: {{cores: 12}},
                 firmware: {{kernelBoot: {{container: {{image: g, kernelPath: /k}}}}}},
                 devices: {{interfaces: [{{name: default, masquerade: {{}} {extra}}}]}}}},
               subdomain: back, networks: [{{name: default, pod: {{}}}}]}}}}"
        );
        crate::spec::load(&manifest).unwrap().spec
    }

    fn nic_plan() -> GuestNic {
        GuestNic {
            name: "default".into(),
            pod_interface: "eth0".into(),
            queue_pairs: 8,
            guest_mac: Mac([2, 0, 0, 0, 0, 9]),
            mtu: 1400,
            joined: Joined::Masquerade(Masqueraded {
                tap: "tap0".into(),
                server_tap: "srv0".into(),
                v4: Some(FamilyPlan {
                    network: V4,
                    gateway: "10.0.2.1".parse().unwrap(),
                    guest: "10.0.2.2".parse().unwrap(),
                    pod: "10.244.0.7".parse().unwrap(),
                    resolver: None,
                }),
                v6: Some(FamilyPlan {
                    network: V6,
                    gateway: "fd10:0:2::1".parse().unwrap(),
                    guest: "fd10:0:2::2".parse().unwrap(),
                    pod: "fd00::7".parse().unwrap(),
                    resolver: None,
                }),
            }),
        }
    }

    #[test]
    fn eight_queue_pairs_at_most_and_one_where_the_manifest_says_so() {
        let mut spec = guest("");
        assert_eq!(nic(&spec, &spec.interfaces[0]).queue_pairs, 8);
        spec.network_interface_multiqueue = Some(false);
        assert_eq!(nic(&spec, &spec.interfaces[0]).queue_pairs, 1);
    }

    #[test]
    fn each_family_has_its_own_dns_and_the_subdomain_comes_first() {
        let spec = guest(", dhcpOptions: {ntpServers: [192.0.2.1]}");
        let resolv = resolv::parse(
            "search shop.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\nnameserver fd00::a\n",
        );
        let lease = lease(&spec, &spec.interfaces[0], &nic_plan(), &resolv).unwrap();
        let v4 = lease.v4.unwrap();
        assert_eq!(v4.dns, ["10.96.0.10".parse::<Ipv4Addr>().unwrap()]);
        assert_eq!(v4.ntp_servers, ["192.0.2.1".parse::<Ipv4Addr>().unwrap()]);
        assert_eq!(lease.v6.unwrap().dns, ["fd00::a".parse::<Ipv6Addr>().unwrap()]);
        assert_eq!(lease.search[0], "back.shop.svc.cluster.local");
        assert_eq!(lease.domain.as_deref(), Some("back.shop.svc.cluster.local"));
        assert_eq!((lease.mtu, lease.hostname.as_deref()), (1400, Some("web")));
    }

    #[test]
    fn a_family_that_the_guest_lacks_is_not_offered() {
        let spec = guest("");
        let mut plan = nic_plan();
        let Joined::Masquerade(masqueraded) = &mut plan.joined else {
            panic!("{plan:?}");
        };
        masqueraded.v6 = None;
        let lease = lease(&spec, &spec.interfaces[0], &plan, &Resolv::default()).unwrap();
        assert!(lease.v6.is_none() && lease.v4.is_some());
    }
}
