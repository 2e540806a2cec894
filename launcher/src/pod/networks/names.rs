//! Which of the pod's interfaces is on which network.
//!
//! - The one that Multus' network-status names, where that was passed.
//! - Else the one that KubeVirt has Multus call so: `eth0` on the primary network, `pod` and the first 11 hex digits of
//!   the SHA-256 of the network's name on another.
//! - Else, where there is none of that name, on a secondary network the one that Multus calls so by default: `net1` on the
//!   first, and so on; and on the primary network the only one that has a default route: podman's `tap0`, or one that has the
//!   name of the host's interface.

use std::collections::BTreeMap;

use hawser_netsetup::Interface as PodsInterface;

use super::{Error, Form, PodNetworks, shown};
use crate::spec::{GuestSpec, Interface, Network};

/// linux/if.h: IFNAMSIZ, without the end of the string.
const MAX_NAME_BYTES: usize = 15;

/// The name that Kubernetes gives it.
const PRIMARY: &str = "eth0";

/// The pod's interface of a network: the one that the pod was found to have, else KubeVirt's name for it.
pub(crate) fn pod_interface(network: &Network) -> String {
    match &network.pod_interface {
        Some(name) => name.clone(),
        None => network.conventional_interface(),
    }
}

/// All that the pod's interface may be called, the likeliest first.
pub(crate) fn possible_names(network: &Network) -> Vec<String> {
    if let Some(known) = &network.pod_interface {
        return vec![known.clone()];
    }
    let ordinal = network.ordinal.map(|place| format!("net{place}"));
    [network.conventional_interface()]
        .into_iter()
        .chain(ordinal)
        .collect()
}

/// What linux/net/core/dev.c (`dev_valid_name`) takes.
pub(super) fn is_interface_name(name: &str) -> bool {
    let bad = |character: char| {
        matches!(character, '/' | ':') || character.is_whitespace() || character.is_control()
    };
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && !matches!(name, "." | "..") && !name.contains(bad)
}

/// Whether the pod has an interface of a NIC's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PodInterface {
    /// Not while the guest has the NIC.
    None,
    /// Its name is needed.
    Wanted,
    /// A CNI plugin has made a device of it, which is looked for by all of its possible names.
    MadeByCni,
}

/// The guest with each network's interface known, as far as it can be. `there` are the pod's interfaces, and
/// `pod_interface` says of which NICs one is needed.
///
/// # Errors
/// A network that is not in the status, or that no interface of the pod could be on; two networks that would have
/// the same interface.
pub(crate) fn named(
    mut guest: GuestSpec,
    status: Option<&PodNetworks>,
    there: &[PodsInterface],
    pod_interface: impl Fn(&Interface) -> PodInterface,
) -> Result<GuestSpec, Error> {
    let needs_one = |interface: &Interface| pod_interface(interface) != PodInterface::None;
    let mut by_status = BTreeMap::new();
    if let Some(status) = status.filter(|status| status.form == Form::Multus) {
        let found = status.of_guest(&guest, Network::conventional_interface);
        for interface in guest.interfaces.iter().filter(|interface| needs_one(interface)) {
            let network = &interface.network;
            match found.get(&network.name).map(|entry| entry.interface.clone()) {
                Some(Some(name)) => drop(by_status.insert(network.name.clone(), name)),
                // A pod is on its primary network whether or not Multus says so.
                None if network.ordinal.is_none() => {}
                _ => {
                    return Err(Error::NotThere {
                        field: network.path.clone(),
                        path: status.path.clone(),
                        there: list(status),
                    });
                }
            }
        }
    }
    let mut taken: BTreeMap<String, String> = BTreeMap::new();
    for interface in &mut guest.interfaces {
        if !needs_one(interface) {
            continue;
        }
        let made_by_cni = pod_interface(interface) == PodInterface::MadeByCni;
        let network = &mut interface.network;
        match by_status.remove(&network.name) {
            Some(name) => network.pod_interface = Some(name),
            None if made_by_cni => continue,
            None => network.pod_interface = by_convention(network, there)?,
        }
        let Some(name) = network.pod_interface.clone() else {
            continue;
        };
        if let Some(other) = taken.insert(name.clone(), network.name.clone()) {
            return Err(Error::SameInterface {
                field: network.path.clone(),
                interface: name,
                other,
            });
        }
    }
    Ok(guest)
}

/// By the names that KubeVirt and Multus give interfaces.
fn by_convention(network: &Network, there: &[PodsInterface]) -> Result<Option<String>, Error> {
    let names = possible_names(network);
    let is_there = |name: &&String| there.iter().any(|interface| interface.name == **name);
    if let Some(name) = names.iter().find(is_there) {
        return Ok(Some(name.clone()));
    }
    if there.is_empty() {
        return Ok(None);
    }
    let list = |list: &mut dyn Iterator<Item = &PodsInterface>| -> String {
        let names: Vec<_> = list.map(|interface| interface.name.as_str()).collect();
        names.join(", ")
    };
    if network.ordinal.is_some() {
        return Err(Error::NoInterface {
            field: network.path.clone(),
            wanted: names.join(" or "),
            there: list(&mut there.iter()),
        });
    }
    if let Some(name) = by_default_route(there) {
        return Ok(Some(name.to_owned()));
    }
    let defaults = list(&mut there.iter().filter(|interface| interface.has_default_route));
    Err(Error::NoPrimary {
        field: network.path.clone(),
        wanted: names.join(" or "),
        there: list(&mut there.iter()),
        defaults: match defaults.as_str() {
            "" => "none has".to_owned(),
            several => format!("{several} have"),
        },
    })
}

/// The interface of the pod network, by its usual name or by its default route.
pub(crate) fn primary_interface(there: &[PodsInterface]) -> Option<&str> {
    let usual = there.iter().find(|interface| interface.name == PRIMARY);
    usual
        .map(|interface| interface.name.as_str())
        .or_else(|| by_default_route(there))
}

/// The only one that the pod's own packets leave by.
fn by_default_route(there: &[PodsInterface]) -> Option<&str> {
    let mut with_route = there.iter().filter(|interface| interface.has_default_route);
    match (with_route.next(), with_route.next()) {
        (Some(only), None) => Some(&only.name),
        _ => None,
    }
}

fn list(status: &PodNetworks) -> String {
    let entries = status.list.iter().map(|entry| match &entry.interface {
        Some(interface) => format!("{} ({interface})", shown(&entry.name)),
        None => format!("{} (without an interface)", shown(&entry.name)),
    });
    let all: Vec<String> = entries.collect();
    if all.is_empty() {
        "none".to_owned()
    } else {
        all.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const MULTUS: &str = r#"[
      {"name":"cbr0","interface":"eth0","default":true},
      {"name":"default/red-net","interface":"ens7"},
      {"name":"other/blue-net","interface":"net2"}]"#;

    fn guest(red: &str) -> GuestSpec {
        let manifest = format!(
            "{{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {{name: web}}, spec: {{domain: {{
            memory: {{guest: 256Mi}}, firmware: {{kernelBoot: {{container: {{image: g, kernelPath: /k}}}}}}, devices: {{
            interfaces: [{{name: default, masquerade: {{}}}}, {{name: blue, bridge: {{}}}}, {{name: red, {red}}}]}}}},
            networks: [{{name: default, pod: {{}}}}, {{name: red, multus: {{networkName: red-net}}}},
              {{name: blue, multus: {{networkName: other/blue-net}}}}]}}}}"
        );
        crate::spec::load(&manifest).unwrap().spec
    }

    fn of_kind(interface: &Interface) -> PodInterface {
        crate::nic::Kind::of(interface).pod_interface
    }

    /// Names; one that a default route leads out of ends in `>`.
    fn interfaces(names: &[&str]) -> Vec<PodsInterface> {
        let interface = |name: &&str| PodsInterface {
            name: name.trim_end_matches('>').to_owned(),
            has_default_route: name.ends_with('>'),
        };
        names.iter().map(interface).collect()
    }

    #[test]
    fn the_pod_network_is_where_the_default_route_is_unless_there_is_an_eth0() {
        let primary = |there: &[&str]| {
            let guest = guest("sriov: {}");
            let guest = GuestSpec {
                interfaces: guest.interfaces.into_iter().take(1).collect(),
                ..guest
            };
            let named = named(guest, None, &interfaces(there), of_kind).map_err(|error| error.to_string())?;
            Ok::<_, String>(named.interfaces[0].network.pod_interface.clone())
        };
        assert_eq!(primary(&["lo", "tap0>"]).unwrap().as_deref(), Some("tap0"));
        assert_eq!(
            primary(&["lo", "eth0", "net1>"]).unwrap().as_deref(),
            Some("eth0")
        );
        assert_eq!(primary(&[]).unwrap(), None);
        assert_eq!(
            primary(&["lo", "ens3>", "wlan0>"]).unwrap_err(),
            "spec.networks[0]: the pod has no interface eth0, and of its interfaces (lo, ens3, wlan0) ens3, wlan0 have a default \
             route, by which hawser would know the one of the pod network"
        );
        assert!(
            primary(&["lo", "ens3"])
                .unwrap_err()
                .contains("(lo, ens3) none has a default route")
        );
        assert_eq!(primary_interface(&interfaces(&["lo", "tap0>"])), Some("tap0"));
        assert_eq!(primary_interface(&interfaces(&["lo"])), None);
    }

    fn names(status: Option<&str>, there: &[&str]) -> Result<Vec<String>, String> {
        let status = status.map(|text| PodNetworks::parse(text, Path::new("/status")).unwrap());
        let there = interfaces(there);
        let guest = named(guest("bridge: {}"), status.as_ref(), &there, of_kind)
            .map_err(|error| error.to_string())?;
        let mut all: Vec<_> = guest.interfaces.iter().map(|i| &i.network).collect();
        all.sort_by_key(|network| network.path.clone());
        Ok(all
            .iter()
            .map(|network| {
                network
                    .pod_interface
                    .clone()
                    .unwrap_or_else(|| network.conventional_interface())
            })
            .collect())
    }

    #[test]
    fn kubevirts_names_and_those_of_multus_itself() {
        // printf red | sha256sum; printf blue | sha256sum
        let (red, blue) = ("podb1f51a511f1", "pod16477688c0e");
        let elsewhere = names(None, &[]).unwrap();
        assert_eq!(elsewhere, ["eth0", red, blue]);
        assert_eq!(
            names(None, &["lo", "eth0", red, blue]).unwrap(),
            ["eth0", red, blue]
        );
        assert_eq!(
            names(None, &["lo", "eth0", "net1", "net2"]).unwrap(),
            ["eth0", "net1", "net2"]
        );
        assert_eq!(
            names(None, &["eth0", "net1", red, "net2"]).unwrap(),
            ["eth0", red, "net2"]
        );
        assert_eq!(
            names(None, &["eth0", "net1"]).unwrap_err(),
            format!("spec.networks[2]: the pod has no interface {blue} or net2, only eth0, net1")
        );
    }

    #[test]
    fn the_status_comes_before_any_convention() {
        let there = ["eth0", "net1", "net2", "podb1f51a511f1"];
        assert_eq!(names(Some(MULTUS), &there).unwrap(), ["eth0", "ens7", "net2"]);
        let primary = MULTUS.replace("\"eth0\"", "\"ovn-udn1\"");
        assert_eq!(names(Some(&primary), &there).unwrap()[0], "ovn-udn1");
        // Older than Multus' `default`, or a pod network that Multus leaves out.
        let without = MULTUS.replace("\"default\":true", "\"default\":false");
        assert_eq!(names(Some(&without), &there).unwrap()[0], "eth0");
        // KubeVirt's own form names no interface.
        let info = r#"{"interfaces":[{"network":"red"}]}"#;
        assert_eq!(names(Some(info), &there).unwrap()[1], "podb1f51a511f1");
    }

    #[test]
    fn what_the_status_does_not_tell_of_and_what_cannot_be() {
        assert_eq!(
            names(Some(&MULTUS.replace("default/red-net", "elsewhere/red-net")), &[]).unwrap_err(),
            "spec.networks[1]: /status does not list this network, only cbr0 (eth0), elsewhere/red-net (ens7), \
             other/blue-net (net2)"
        );
        let without = MULTUS.replace("\"interface\":\"ens7\"", "\"interface\":\"\"");
        assert!(
            names(Some(&without), &[])
                .unwrap_err()
                .contains("default/red-net (without an interface)")
        );
        assert!(names(Some("[]"), &[]).unwrap_err().ends_with("only none"));
        assert_eq!(
            names(Some(&MULTUS.replace("ens7", "net2")), &[]).unwrap_err(),
            "spec.networks[1]: the pod's interface net2 is that of the network blue already"
        );
        for name in ["a/b", "..", "sixteen-letters-", "a b", "a:b", "a\\u0007"] {
            let text = MULTUS.replace("ens7", name);
            let error = PodNetworks::parse(&text, Path::new("/status"))
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with("/status: network default/red-net: interface "),
                "{error}"
            );
        }
    }

    #[test]
    fn only_secondary_networks_are_counted_and_a_default_is_none() {
        let manifest = "{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {name: web}, spec: {domain: {
            memory: {guest: 256Mi}, firmware: {kernelBoot: {container: {image: g, kernelPath: /k}}}, devices: {
            interfaces: [{name: main, bridge: {}}, {name: red, bridge: {}}]}},
            networks: [{name: main, multus: {networkName: net, default: true}}, {name: red, multus: {networkName: net}}]}}";
        let guest = || crate::spec::load(manifest).unwrap().spec;
        let there = interfaces(&["eth0", "net1"]);
        let names = |guest: GuestSpec| -> Vec<Option<String>> {
            guest
                .interfaces
                .iter()
                .map(|i| i.network.pod_interface.clone())
                .collect()
        };
        let expected = [Some("eth0".to_owned()), Some("net1".to_owned())];
        assert_eq!(names(named(guest(), None, &there, of_kind).unwrap()), expected);
        // Both are of one NetworkAttachmentDefinition, and their order does not distinguish them.
        let status = r#"[{"name":"default/net","interface":"net1"},
          {"name":"default/net","interface":"ens3","default":true}]"#;
        let status = PodNetworks::parse(status, Path::new("/status")).unwrap();
        let expected = [Some("ens3".to_owned()), Some("net1".to_owned())];
        assert_eq!(
            names(named(guest(), Some(&status), &there, of_kind).unwrap()),
            expected
        );
    }

    #[test]
    fn a_vf_has_no_interface_to_be_found() {
        let status =
            PodNetworks::parse(&MULTUS.replace("default/red-net", "gone"), Path::new("/status")).unwrap();
        let guest = named(guest("sriov: {}"), Some(&status), &interfaces(&["eth0"]), of_kind).unwrap();
        assert!(
            guest
                .interfaces
                .iter()
                .any(|i| i.name == "red" && i.network.pod_interface.is_none())
        );
    }
}
