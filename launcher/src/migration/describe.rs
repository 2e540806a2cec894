//! What the two sides compare before anything moves, and every reason against it at once.
//!
//! Both launchers have the manifest and have planned their pods. The source's VM configuration is what the target's VMM
//! will act on, with its paths, TAP names and MACs; so the target compares it, field by field, with the one that it would
//! have made itself. What is not in there (whose VM it is, what the guest was told by DHCP) is compared beside it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::disks::{self, DiskDescription, For, MigratingDisk};
use super::shared::TokenFile;
use crate::status::{Identity, NicDescription};

/// Of this comparison and of the messages around it; it changes whenever an older launcher could misunderstand.
pub(crate) const VERSION: u32 = 1;

/// One launcher's guest, as it is in its pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Description {
    pub(crate) identity: Identity,
    /// cloud-hypervisor's own words.
    pub(crate) vmm_version: String,
    pub(crate) nics: Vec<NicDescription>,
    #[serde(default)]
    pub(crate) disks: Vec<DiskDescription>,
    /// Body of `vm.create`.
    pub(crate) config: Value,
    /// Why the guest cannot leave its pod.
    pub(crate) obstacles: Vec<String>,
    /// Year, month and day of the pod's passt as one number, where it has one that says it.
    #[serde(default)]
    pub(crate) passt_version: Option<u32>,
}

impl Description {
    /// With the disks, for the target to compare. It reads them, so it takes its time. The files are to be kept until the target
    /// has looked.
    pub(crate) fn with_disks(mut self, disks: &[MigratingDisk]) -> (Self, Vec<TokenFile>) {
        let described = disks::describe(disks, For::Target);
        self.disks = described.disks;
        self.obstacles.extend(described.problems);
        (self, described.tokens)
    }
}

/// Everything that speaks against giving the source's guest to this target.
pub(crate) fn reasons(version: u32, source: &Description, target: &Description) -> Vec<String> {
    if version != VERSION {
        return vec![format!(
            "the launchers use different versions of the migration protocol: {version} at the source, {VERSION} at the target"
        )];
    }
    let mut reasons: Vec<String> = source
        .obstacles
        .iter()
        .chain(&target.obstacles)
        .cloned()
        .collect();
    // The same of both, mostly: it is of the manifest.
    let mut seen = std::collections::HashSet::new();
    reasons.retain(|reason| seen.insert(reason.clone()));
    if source.identity != target.identity {
        reasons.push(format!(
            "metadata: the source runs {}, the target waits for {}",
            source.identity.text(),
            target.identity.text()
        ));
    }
    if let Some(reason) = versions(&source.vmm_version, &target.vmm_version) {
        reasons.push(reason);
    }
    nics(&source.nics, &target.nics, &mut reasons);
    // What a passt says of its state, only itself and those after it understand.
    if let (Some(from), Some(to)) = (source.passt_version, target.passt_version)
        && to < from
    {
        reasons.push(format!(
            "passt is of {from} at the source and of {to} at the target: the target's has to be the same or newer"
        ));
    }
    disks::differences(&source.disks, &target.disks, &mut reasons);
    differences("config", &source.config, &target.config, &mut reasons);
    reasons
}

/// cloud-hypervisor takes a guest from its own release or the one before.
fn versions(source: &str, target: &str) -> Option<String> {
    let major = |text: &str| -> Option<u32> {
        let text = text.trim_start_matches('v');
        text.split('.').next()?.parse().ok()
    };
    let fits = match (major(source), major(target)) {
        (Some(from), Some(to)) => to == from || Some(to) == from.checked_add(1),
        _ => source == target,
    };
    (!fits).then(|| {
        format!(
            "cloud-hypervisor is {source} at the source and {target} at the target: the target's has to be the same \
             release or the next"
        )
    })
}

fn nics(source: &[NicDescription], target: &[NicDescription], reasons: &mut Vec<String>) {
    for theirs in source {
        let name = &theirs.name;
        let Some(ours) = target.iter().find(|nic| nic.name == *name) else {
            reasons.push(format!(
                "interface {name}: the target has no interface of this name"
            ));
            continue;
        };
        let mut compare = |what: &str, source: String, target: String, remedy: &str| {
            if source != target {
                reasons.push(format!(
                    "interface {name}: {what} {source} at the source, {target} at the target{remedy}"
                ));
            }
        };
        compare("binding", theirs.binding.clone(), ours.binding.clone(), "");
        // Each node has its own, and the guest does not take it along.
        if theirs.vf.is_some() && ours.vf.is_some() {
            continue;
        }
        compare("TAP", theirs.tap.clone(), ours.tap.clone(), "");
        compare(
            "TAP's MAC",
            theirs.tap_mac.clone().unwrap_or_default(),
            ours.tap_mac.clone().unwrap_or_default(),
            ": have the CNI plugin make both with the same",
        );
        compare(
            "MAC",
            theirs.mac.clone(),
            ours.mac.clone(),
            ": give the target's manifest the source's as macAddress",
        );
        compare("MTU", theirs.mtu.to_string(), ours.mtu.to_string(), "");
        compare(
            "queue pairs",
            theirs.queue_pairs.to_string(),
            ours.queue_pairs.to_string(),
            "",
        );
        match (&theirs.passt, &ours.passt) {
            (Some(theirs), Some(ours)) => {
                let families = [
                    ("IPv4", theirs.v4.is_some(), ours.v4.is_some()),
                    ("IPv6", theirs.v6.is_some(), ours.v6.is_some()),
                ];
                for (family, has, can) in families {
                    if has && !can {
                        reasons.push(format!(
                            "interface {name}: the guest has {family}, and the target's pod does not"
                        ));
                    }
                }
            }
            _ if theirs.addresses_may_change && ours.addresses_may_change => {}
            _ => compare(
                "guest's addresses",
                theirs.addresses.join(" "),
                ours.addresses.join(" "),
                "",
            ),
        }
    }
    for nic in target {
        if !source.iter().any(|other| other.name == nic.name) {
            reasons.push(format!(
                "interface {}: the source has no interface of this name",
                nic.name
            ));
        }
    }
}

/// Whether others reach the guest at the same addresses in both pods, as far as passt has to do with them.
pub(crate) fn same_pod_addresses(source: &NicDescription, target: &NicDescription) -> bool {
    let addresses = |nic: &NicDescription| {
        let pod = nic.pod.as_ref()?;
        Some((pod.v4.map(|v4| v4.address), pod.v6))
    };
    let (theirs, ours) = (addresses(source), addresses(target));
    theirs.is_some() && theirs == ours
}

/// What the guest will find changed although it may go.
pub(crate) fn notes(source: &Description, target: &Description) -> Vec<String> {
    let changed = |ours: &NicDescription| {
        let theirs = source.nics.iter().find(|nic| nic.name == ours.name)?;
        let known = ours.vf.is_some() && !ours.mac.is_empty() && !theirs.mac.is_empty();
        (known && ours.mac != theirs.mac).then(|| {
            format!(
                "interface {}: the VF at the source has the MAC {}, the one here {}: to the guest it is another NIC",
                ours.name, theirs.mac, ours.mac
            )
        })
    };
    target.nics.iter().filter_map(changed).collect()
}

/// Each leaf that is not the same, by its path. The NICs have been compared by name, and a VF has another address on each
/// node.
fn differences(path: &str, source: &Value, target: &Value, reasons: &mut Vec<String>) {
    // The guest keeps what it was told when it booted.
    if path == "config.platform.oem_strings" {
        return;
    }
    if path == "config.net" || (path.starts_with("config.devices[") && path.ends_with("].path")) {
        return;
    }
    match (source, target) {
        (Value::Object(from), Value::Object(to)) => {
            let keys = from
                .keys()
                .chain(to.keys().filter(|key| !from.contains_key(*key)));
            for key in keys {
                let side =
                    |object: &serde_json::Map<String, Value>| object.get(key).cloned().unwrap_or_default();
                differences(&format!("{path}.{key}"), &side(from), &side(to), reasons);
            }
        }
        (Value::Array(from), Value::Array(to)) if from.len() == to.len() => {
            for (index, (from, to)) in from.iter().zip(to).enumerate() {
                differences(&format!("{path}[{index}]"), from, to, reasons);
            }
        }
        (from, to) if from != to => {
            reasons.push(format!("{path}: {from} at the source, {to} at the target"));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn description() -> Description {
        Description {
            identity: Identity {
                namespace: "ns".into(),
                name: "web".into(),
                uid: Some("u1".into()),
            },
            vmm_version: "v53.0".into(),
            nics: vec![NicDescription {
                name: "default".into(),
                binding: "masquerade".into(),
                tap: "tap0".into(),
                tap_mac: None,
                mac: "02:00:00:00:00:07".into(),
                mtu: 1450,
                queue_pairs: 1,
                addresses: vec!["10.0.2.2/24".into(), "fd10:0:2::2".into()],
                passt: None,
                pod: None,
                addresses_may_change: false,
                vf: None,
            }],
            disks: Vec::new(),
            config: json!({"cpus": {"boot_vcpus": 1}, "memory": {"size": 1024}, "net": [{"mac": "x"}], "rules": [{"p": 1}]}),
            obstacles: Vec::new(),
            passt_version: None,
        }
    }

    fn behind_passt(v4: &str, v6: Option<&str>) -> Description {
        let mut description = description();
        description.passt_version = Some(20_250_503);
        let nic = &mut description.nics[0];
        nic.binding = "passt".into();
        nic.addresses = vec![v4.into()];
        nic.passt = Some(hawser_netsetup::Handed {
            v4: Some(hawser_netsetup::HandedV4 {
                address: v4.parse().unwrap(),
                prefix_len: 24,
                gateway: None,
            }),
            v6: v6.map(|v6| v6.parse().unwrap()),
        });
        nic.pod.clone_from(&nic.passt);
        description
    }

    #[test]
    fn connections_go_along_only_to_a_pod_with_the_same_addresses_whatever_the_guest_has() {
        let same =
            |source: &Description, target: &Description| same_pod_addresses(&source.nics[0], &target.nics[0]);
        let source = behind_passt("10.1.0.7", Some("fd00::7"));
        let mut twin = source.clone();
        let pod = twin.nics[0].pod.as_mut().unwrap();
        pod.v4.as_mut().unwrap().prefix_len = 16;
        twin.nics[0].passt = None;
        assert!(same(&source, &twin));
        assert!(!same(&source, &behind_passt("10.1.0.8", Some("fd00::7"))));
        assert!(!same(&source, &behind_passt("10.1.0.7", None)));
        assert!(!same(&description(), &description()), "not of passt");
    }

    #[test]
    fn a_guest_of_passts_brings_its_addresses_along_but_not_a_family_or_an_older_passt() {
        let source = behind_passt("10.1.0.7", None);
        let mut target = behind_passt("10.2.0.9", Some("fd00::9"));
        target.passt_version = Some(20_260_101);
        assert_eq!(reasons(VERSION, &source, &target), Vec::<String>::new());
        let back = reasons(VERSION, &target, &source);
        assert_eq!(back.len(), 2, "{back:#?}");
        assert!(
            back[0].contains("interface default: the guest has IPv6"),
            "{back:#?}"
        );
        assert!(
            back[1].contains("passt is of 20260101 at the source and of 20250503"),
            "{back:#?}"
        );
        let text = serde_json::to_string(&source).unwrap();
        let read: Description = serde_json::from_str(&text).unwrap();
        assert_eq!(read, source);
        // Behind anything else they have to be the same.
        target.nics[0].passt = None;
        let all = reasons(VERSION, &source, &target);
        assert!(
            all.iter()
                .any(|reason| reason.contains("guest's addresses 10.1.0.7")),
            "{all:#?}"
        );
    }

    #[test]
    fn the_same_guest_in_the_same_kind_of_pod_may_go() {
        assert_eq!(
            reasons(VERSION, &description(), &description()),
            Vec::<String>::new()
        );
        let mut next = description();
        next.vmm_version = "v54.1".into();
        assert_eq!(reasons(VERSION, &description(), &next), Vec::<String>::new());
        assert_eq!(
            reasons(VERSION, &next, &description()).len(),
            1,
            "never to an older one"
        );
    }

    #[test]
    fn every_reason_is_told_at_once() {
        let mut other = description();
        other.identity.uid = Some("u2".into());
        other.vmm_version = "v52.0".into();
        let nic = &mut other.nics[0];
        nic.binding = "bridge".into();
        nic.tap = "tap1".into();
        nic.mac = "02:00:00:00:00:08".into();
        nic.mtu = 1500;
        nic.queue_pairs = 2;
        nic.addresses.pop();
        other.nics.push(NicDescription {
            name: "red".into(),
            ..other.nics[0].clone()
        });
        other.config = json!({"cpus": {"boot_vcpus": 2}, "memory": {"size": 1024}, "net": [], "rules": [{"p": 2}], "more": 1});
        let mut source = description();
        source.obstacles.push("interface default: no".into());
        let all = reasons(VERSION, &source, &other);
        for part in [
            "interface default: no",
            "ns/web (u1)",
            "v53.0 at the source and v52.0",
            "binding masquerade",
            "TAP tap0",
            "MAC 02:00:00:00:00:07",
            "MTU 1450",
            "queue pairs 1",
            "fd10:0:2::2",
            "interface red: the source has no interface",
            "config.cpus.boot_vcpus: 1",
            "config.rules[0].p: 1",
            "config.more: null",
        ] {
            assert!(
                all.iter().any(|reason| reason.contains(part)),
                "{part} in {all:#?}"
            );
        }
        assert_eq!(all.len(), 13, "{all:#?}");
    }

    fn with_vf(address: &str, mac: &str) -> Description {
        let mut this = description();
        this.nics.push(NicDescription {
            name: "red".into(),
            binding: "sriov".into(),
            tap: String::new(),
            mac: mac.into(),
            mtu: 0,
            queue_pairs: 0,
            addresses: Vec::new(),
            vf: Some(crate::status::VfDescription {
                address: address.into(),
                attached: false,
            }),
            ..this.nics[0].clone()
        });
        let path = format!("/sys/bus/pci/devices/{address}");
        this.config["devices"] = json!([{"id": "red", "path": path, "pci_device_id": 5}]);
        this
    }

    #[test]
    fn each_node_has_its_own_vf_and_another_mac_is_told() {
        let (source, mut target) = (
            with_vf("0000:01:10.0", "02:00:00:00:00:08"),
            with_vf("0000:81:02.4", "02:00:00:00:00:09"),
        );
        assert_eq!(reasons(VERSION, &source, &target), Vec::<String>::new());
        let told = notes(&source, &target);
        assert!(
            told.len() == 1 && told[0].contains("02:00:00:00:00:08, the one here 02:00:00:00:00:09"),
            "{told:?}"
        );
        target.nics[1].mac = String::new();
        assert!(notes(&source, &target).is_empty(), "not known");
        // What the guest sees of it is no node's own.
        target.config["devices"][0]["pci_device_id"] = json!(6);
        assert_eq!(
            reasons(VERSION, &source, &target),
            ["config.devices[0].pci_device_id: 5 at the source, 6 at the target"]
        );
        let all = reasons(VERSION, &source, &description());
        assert!(
            all.contains(&"interface red: the target has no interface of this name".to_owned()),
            "{all:?}"
        );
    }

    #[test]
    fn the_tap_of_a_cni_plugin_has_one_mac() {
        let of_cni = |mac: &str| {
            let mut this = description();
            this.nics[0].tap_mac = Some(mac.into());
            this
        };
        let (one, other) = (of_cni("02:00:00:00:00:31"), of_cni("02:00:00:00:00:32"));
        assert!(reasons(VERSION, &one, &one).is_empty());
        let all = reasons(VERSION, &one, &other);
        assert!(
            all.len() == 1 && all[0].contains("TAP's MAC 02:00:00:00:00:31 at the source"),
            "{all:?}"
        );
    }

    #[test]
    fn other_addresses_are_borne_where_both_manifests_say_so() {
        let (mut source, mut target) = (description(), description());
        target.nics[0].addresses = vec!["10.0.2.9/24".into()];
        source.nics[0].addresses_may_change = true;
        assert_eq!(reasons(VERSION, &source, &target).len(), 1, "only one of them");
        target.nics[0].addresses_may_change = true;
        assert_eq!(reasons(VERSION, &source, &target), Vec::<String>::new());
    }

    #[test]
    fn a_launcher_of_another_version_is_told_so_and_nothing_else() {
        let mut other = description();
        other.nics.clear();
        let all = reasons(VERSION + 1, &description(), &other);
        assert_eq!(all.len(), 1);
        assert!(all[0].contains("version"), "{all:?}");
    }
}
