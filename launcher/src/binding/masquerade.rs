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

#[cfg(test)]
mod tests {
    use hawser_netsetup::{FamilyPlan, GATEWAY_MAC};

    use super::*;
    use crate::resolv;

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
            tap: "tap0".into(),
            server_tap: "srv0".into(),
            queue_pairs: 8,
            guest_mac: [2, 0, 0, 0, 0, 9],
            gateway_mac: GATEWAY_MAC,
            mtu: 1400,
            v4: Some(FamilyPlan {
                network: V4,
                gateway: "10.0.2.1".parse().unwrap(),
                guest: "10.0.2.2".parse().unwrap(),
                pod: "10.244.0.7".parse().unwrap(),
            }),
            v6: Some(FamilyPlan {
                network: V6,
                gateway: "fd10:0:2::1".parse().unwrap(),
                guest: "fd10:0:2::2".parse().unwrap(),
                pod: "fd00::7".parse().unwrap(),
            }),
        }
    }

    #[test]
    fn eight_queue_pairs_at_most_and_one_where_the_manifest_says_so() {
        let mut spec = guest("");
        assert_eq!(nic(&spec, &spec.interfaces[0]).unwrap().queue_pairs, 8);
        spec.network_interface_multiqueue = Some(false);
        assert_eq!(nic(&spec, &spec.interfaces[0]).unwrap().queue_pairs, 1);
    }

    #[test]
    fn what_cloud_hypervisor_cannot_do_is_refused_by_its_field() {
        let spec = guest(", acpiIndex: 3, pciAddress: '0000:01:00.0', state: down");
        let refusals = nic(&spec, &spec.interfaces[0]).unwrap_err();
        assert_eq!(refusals.len(), 3, "{refusals:?}");
        for (refusal, field) in refusals.iter().zip(["acpiIndex", "pciAddress", "state"]) {
            assert!(
                refusal.starts_with(&format!("spec.domain.devices.interfaces[0].{field}: ")),
                "{refusal}"
            );
        }
    }

    #[test]
    fn each_family_is_told_its_own_dns_and_the_subdomain_comes_first() {
        let spec = guest(", dhcpOptions: {ntpServers: [192.0.2.1]}");
        let resolv = resolv::parse(
            "search shop.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\nnameserver fd00::a\n",
        );
        let lease = lease(&spec, &spec.interfaces[0], &nic_plan(), &resolv);
        let v4 = lease.v4.unwrap();
        assert_eq!(v4.dns, ["10.96.0.10".parse::<Ipv4Addr>().unwrap()]);
        assert_eq!(v4.ntp_servers, ["192.0.2.1".parse::<Ipv4Addr>().unwrap()]);
        assert_eq!(lease.v6.unwrap().dns, ["fd00::a".parse::<Ipv6Addr>().unwrap()]);
        assert_eq!(lease.search[0], "back.shop.svc.cluster.local");
        assert_eq!(lease.domain.as_deref(), Some("back.shop.svc.cluster.local"));
        assert_eq!((lease.mtu, lease.hostname.as_deref()), (1400, Some("web")));
    }

    #[test]
    fn nothing_is_said_of_a_family_that_the_guest_has_not() {
        let spec = guest("");
        let plan = GuestNic {
            v6: None,
            ..nic_plan()
        };
        let lease = lease(&spec, &spec.interfaces[0], &plan, &Resolv::default());
        assert!(lease.v6.is_none() && lease.v4.is_some());
    }
}
