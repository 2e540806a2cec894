//! Interfaces and networks: each joined to its other half, and every rule of KubeVirt's admission applied.
//!
//! KubeVirt checks most of this at admission and the rest only at set-up; here all of it is checked before
//! anything is touched.

use std::collections::{BTreeMap, HashMap};

use hawser_mac::Mac;
use serde_json::Value;

use super::one_of::exactly_one;
use super::{limits, names, networks, paths, ports};
use crate::document::report::{FieldPath, Report, quoted};
use crate::document::text::given;
use crate::guest::{Binding, DhcpOptions, Interface, LinkState, Model, Network, NetworkSource, Ports};
use crate::plugins::Registry;
use crate::v1::{self, net};

/// KubeVirt's fields for a binding, of which an interface has exactly one.
const BINDING_FIELDS: &[&str] = &[
    "masquerade",
    "bridge",
    "passt",
    "passtBinding",
    "sriov",
    "binding",
    "slirp",
    "macvtap",
];

/// The interfaces in the manifest's order.
///
/// A VMI that names neither interfaces nor networks gets KubeVirt's default one on the pod network, unless
/// `autoattachPodInterface` is false. There the cluster's configuration picks bridge or masquerade; here it is
/// masquerade, which works on every CNI and can migrate.
pub(crate) fn resolve(
    spec: &v1::Spec,
    domain: &v1::Domain,
    raw: &Value,
    registry: &Registry,
    report: &mut Report,
) -> Option<Vec<Interface>> {
    let written = &domain.devices.interfaces;
    let absent = |name: &str| {
        let mut named = written.iter().filter(|(_, one)| given(&one.name) == Some(name));
        named.any(|(_, one)| one.state == Some(net::State::Absent))
    };
    let networks = networks::resolve(&spec.networks, &spec.resource_claims, &absent, raw, report);
    if written.is_empty() && spec.networks.is_empty() {
        let attach = domain.devices.autoattach_pod_interface.unwrap_or(true);
        return Some(if attach {
            vec![default_interface(report)]
        } else {
            Vec::new()
        });
    }
    names::check(spec, domain, raw, report);
    let mut seen = Seen::default();
    let mut complete = true;
    let mut list = Vec::new();
    for (index, interface) in written.iter() {
        match one(index, interface, &networks, raw, registry, &mut seen, report) {
            // As in KubeVirt: its pod is not on the network, and its guest has no NIC there.
            Some(interface) if interface.state == LinkState::Absent => {
                let note = "the guest gets no such NIC, and the pod need not be on its network";
                report.note(paths::interface(index).key("state"), note);
            }
            Some(interface) => list.push(interface),
            None => complete = false,
        }
    }
    note_networks_without_effect(spec, &list, report);
    complete.then_some(list)
}

/// Only masquerade makes a network of its own for the guest.
fn note_networks_without_effect(spec: &v1::Spec, interfaces: &[Interface], report: &mut Report) {
    for interface in interfaces.iter().filter(|one| one.binding != Binding::Masquerade) {
        let mut networks = spec.networks.iter();
        let named = networks.find(|(_, network)| network.name.as_ref() == Some(&interface.name));
        let Some((index, _)) = named else { continue };
        let NetworkSource::Pod {
            vm_network_cidr,
            vm_ipv6_network_cidr,
        } = &interface.network.source
        else {
            continue;
        };
        let written = [
            ("vmNetworkCIDR", vm_network_cidr.is_some()),
            ("vmIPv6NetworkCIDR", vm_ipv6_network_cidr.is_some()),
        ];
        for (field, _) in written.into_iter().filter(|(_, is_written)| *is_written) {
            let path = paths::network(index).key("pod").key(field);
            report.note(
                path,
                "without effect: only masquerade gives the guest a network of its own",
            );
        }
    }
}

fn default_interface(report: &Report) -> Interface {
    let name = "default".to_owned();
    let source = NetworkSource::Pod {
        vm_network_cidr: None,
        vm_ipv6_network_cidr: None,
    };
    Interface {
        index: 0,
        path: report.in_place(paths::interface(0)).to_string(),
        network: Network {
            name: name.clone(),
            path: report.in_place(paths::network(0)).to_string(),
            source,
            ordinal: None,
            pod_interface: None,
        },
        name,
        binding: Binding::Masquerade,
        mac: None,
        ports: Ports::All,
        model: Model::Virtio,
        pci_address: None,
        boot_order: None,
        acpi_index: None,
        tag: None,
        state: LinkState::Up,
        dhcp_options: DhcpOptions::default(),
    }
}

/// What no two interfaces may share.
#[derive(Default)]
struct Seen {
    macs: HashMap<Mac, usize>,
    boot_orders: HashMap<u32, usize>,
    pci_addresses: HashMap<crate::guest::PciAddress, usize>,
}

fn one(
    index: usize,
    interface: &net::Interface,
    networks: &BTreeMap<String, Network>,
    raw: &Value,
    registry: &Registry,
    seen: &mut Seen,
    report: &mut Report,
) -> Option<Interface> {
    let path = paths::interface(index);
    if interface.name.as_deref() == Some("") {
        report.refuse(path.key("name"), "required");
    }
    let network = given(&interface.name).and_then(|name| networks.get(name));
    let binding = binding(interface, network, index, raw, registry, report);
    let mac = mac(interface, binding.as_ref(), &path, report);
    if let Some(mac) = mac {
        unique(&mut seen.macs, mac, index, path.key("macAddress"), report);
    }
    if let Some(order) = interface.boot_order {
        unique(&mut seen.boot_orders, order, index, path.key("bootOrder"), report);
    }
    let pci_address = given(&interface.pci_address).and_then(|text| {
        let refuse = |form| report.refuse(path.key("pciAddress"), format!("{form}, found {}", quoted(text)));
        text.parse().map_err(refuse).ok()
    });
    if let Some(address) = pci_address {
        unique(
            &mut seen.pci_addresses,
            address,
            index,
            path.key("pciAddress"),
            report,
        );
    }
    if interface.model.is_some_and(|model| model != net::Model::Virtio) {
        report.note(
            path.key("model"),
            "cloud-hypervisor has no such NIC: the guest gets virtio instead",
        );
    }
    let state = state(interface, network, &path, report);
    let ports = ports::resolve(interface, &path, report);
    let dhcp_options = dhcp_options(interface.dhcp_options.as_ref(), &path.key("dhcpOptions"), report);
    let interface = Interface {
        index,
        path: report.in_place(path.clone()).to_string(),
        name: interface.name.clone()?,
        network: network?.clone(),
        binding: binding?,
        mac,
        ports,
        model: Model::Virtio,
        pci_address,
        boot_order: interface.boot_order,
        acpi_index: interface.acpi_index.filter(|index| *index > 0),
        tag: given(&interface.tag).map(str::to_owned),
        state,
        dhcp_options,
    };
    limits::check(&interface, &path, report);
    Some(interface)
}

fn unique<T: std::hash::Hash + Eq>(
    seen: &mut HashMap<T, usize>,
    value: T,
    index: usize,
    path: FieldPath,
    report: &mut Report,
) {
    match seen.entry(value) {
        std::collections::hash_map::Entry::Occupied(first) => {
            report.refuse(path, format!("the same as that of interfaces[{}]", first.get()));
        }
        std::collections::hash_map::Entry::Vacant(entry) => {
            entry.insert(index);
        }
    }
}

fn binding(
    interface: &net::Interface,
    network: Option<&Network>,
    index: usize,
    raw: &Value,
    registry: &Registry,
    report: &mut Report,
) -> Option<Binding> {
    let path = paths::interface(index);
    let entry = ("/spec/domain/devices/interfaces", index);
    exactly_one(raw, entry, BINDING_FIELDS, "binding", &path, report);
    let mut found = Vec::new();
    let simple = [
        ("masquerade", &interface.masquerade, Binding::Masquerade),
        ("bridge", &interface.bridge, Binding::Bridge),
        ("passt", &interface.passt, Binding::Passt),
        ("passtBinding", &interface.passt_binding, Binding::Passt),
        ("sriov", &interface.sriov, Binding::Sriov),
    ];
    found.extend(
        simple
            .into_iter()
            .filter(|(_, set, _)| set.is_some())
            .map(|(name, _, binding)| (name, binding)),
    );
    if let Some(plugin) = &interface.binding {
        match given(&plugin.name) {
            Some(name) => match registry.find(name) {
                Ok(plugin) => {
                    let (name, plugin) = (name.to_owned(), Box::new(plugin.clone()));
                    found.push(("binding", Binding::Plugin { name, plugin }));
                }
                Err(why) => report.refuse(path.key("binding").key("name"), why),
            },
            None if plugin.name.is_some() => report.refuse(path.key("binding").key("name"), "required"),
            None => {}
        }
    }
    for (name, binding) in &found {
        let pod = network.is_none_or(|network| matches!(network.source, NetworkSource::Pod { .. }));
        if !pod && matches!(binding, Binding::Masquerade | Binding::Passt) {
            report.refuse(path.key(name), "only on the pod network");
        }
        match network.map(|network| &network.source) {
            Some(NetworkSource::Pod { .. }) if *binding == Binding::Sriov => {
                report.refuse(
                    path.key(name),
                    "not on the pod network: a VF is of a Multus network or of a resource claim",
                );
            }
            Some(NetworkSource::ResourceClaim(_)) if *binding == Binding::Bridge => {
                report.refuse(
                    path.key(name),
                    "not on a claimed device: only sriov or a binding plugin",
                );
            }
            _ => {}
        }
    }
    found.into_iter().next().map(|(_, binding)| binding)
}

fn mac(
    interface: &net::Interface,
    binding: Option<&Binding>,
    path: &FieldPath,
    report: &mut Report,
) -> Option<Mac> {
    let text = given(&interface.mac_address)?;
    let path = path.key("macAddress");
    let mac = match text.parse::<Mac>() {
        Ok(mac) => mac,
        Err(form) => {
            report.refuse(path, format!("{form}, found {}", quoted(text)));
            return None;
        }
    };
    let [first, ..] = mac.0;
    let problem = if mac == Mac::default() {
        "must not be all zero"
    } else if first & 1 == 1 {
        "must not be a multicast address"
    } else if binding == Some(&Binding::Masquerade) && mac.0 == [2, 0, 0, 0, 0, 0] {
        // KubeVirt gives it to the gateway's side; refused here too, so that a manifest runs in both.
        "reserved for the gateway of masquerade"
    } else {
        return Some(mac);
    };
    report.refuse(path, format!("{problem}, found {mac}"));
    None
}

fn state(
    interface: &net::Interface,
    network: Option<&Network>,
    path: &FieldPath,
    report: &mut Report,
) -> LinkState {
    let path = path.key("state");
    let default = network.is_some_and(|network| match network.source {
        NetworkSource::Pod { .. } => true,
        NetworkSource::Multus { default, .. } => default,
        NetworkSource::ResourceClaim(_) => false,
    });
    match interface.state {
        Some(net::State::Up | net::State::Down) if interface.sriov.is_some() => {
            report.refuse(path, "up and down are not possible on SR-IOV");
        }
        Some(net::State::Absent) if interface.bridge.is_none() => {
            report.refuse(path, "absent is only possible on a bridge binding");
        }
        Some(net::State::Absent) if default => {
            report.refuse(path, "absent is not possible on the default network");
        }
        Some(net::State::Down) => report.note(
            path,
            "no frame passes, in or out; the guest sees a link that is up, since cloud-hypervisor can show it no other",
        ),
        _ => {}
    }
    match interface.state {
        None | Some(net::State::Up) => LinkState::Up,
        Some(net::State::Down) => LinkState::Down,
        Some(net::State::Absent) => LinkState::Absent,
    }
}

fn dhcp_options(options: Option<&net::DhcpOptions>, path: &FieldPath, report: &mut Report) -> DhcpOptions {
    let Some(options) = options else {
        return DhcpOptions::default();
    };
    let mut resolved = DhcpOptions {
        tftp_server_name: given(&options.tftp_server_name).map(str::to_owned),
        boot_file_name: given(&options.boot_file_name).map(str::to_owned),
        ..DhcpOptions::default()
    };
    for (index, server) in options.ntp_servers.iter() {
        match server.parse() {
            Ok(server) => resolved.ntp_servers.push(server),
            Err(_) => {
                let path = path.key("ntpServers").index(index);
                report.refuse(
                    path,
                    format!("expected an IPv4 address, found {}", quoted(server)),
                );
            }
        }
    }
    for (index, private) in options.private_options.iter() {
        let Some(code) = private.option else { continue };
        // The value goes out as the bytes of its text, as KubeVirt's server sends it.
        let value = private.value.clone().unwrap_or_default().into_bytes();
        if resolved.private_options.insert(code, value).is_some() {
            let path = path.key("privateOptions").index(index).key("option");
            report.refuse(path, format!("duplicate option {code}"));
        }
    }
    resolved
}
