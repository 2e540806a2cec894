//! The text is held against the rules of the format and of `promtool check metrics`: help and type of each family once and before
//! its samples, samples of a family together and each once, `_total` for counters and for nothing else, base units.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::*;
use crate::status::{Direction, Identity, MigrationStatus, NicDescription};

pub(crate) fn snapshot() -> Snapshot {
    let guest = Identity {
        namespace: "vms".into(),
        name: "we\"b\\".into(),
        uid: None,
    };
    let nic = NicDescription {
        name: "default".into(),
        binding: "masquerade".into(),
        tap: "lo".into(),
        tap_mac: None,
        mac: "02:00:5e:00:53:07".into(),
        mtu: 1500,
        queue_pairs: 1,
        addresses: Vec::new(),
        passt: None,
        pod: None,
        addresses_may_change: false,
        vf: None,
    };
    let mut status = Status::new(guest, Phase::Running, 1_700_000_000, vec![nic]);
    status.migration = Some(MigrationStatus {
        direction: Direction::Out,
        address: "tcp:b:1".into(),
        step: Step::Failed,
        since: 1_700_000_060,
        started: 1_700_000_000,
        rounds: Some(3),
        sent: Some(1 << 30),
        why: Some("broken".into()),
    });
    status.refresh();
    Snapshot {
        status,
        dhcp: vec![("default".into(), "dhcpv4-acknowledged", 2)],
        logged: [("guest-running".to_owned(), 1), ("passt-restarted".to_owned(), 4)].into(),
        vmm: Some(std::process::id()),
        counters: Some(json!({
            "default": {"rx_bytes": 10, "rx_frames": 1, "tx_bytes": 20, "tx_frames": 2},
            "disk.root": {"read_bytes": 4096, "read_ops": 1, "write_bytes": 512, "write_ops": 1},
            "__rng": {},
        })),
    }
}

/// Of one text: its families, and its samples with their values. Panics where a rule is broken.
fn check(text: &str) -> BTreeMap<String, f64> {
    let mut families: BTreeMap<String, (bool, Option<String>)> = BTreeMap::new();
    let mut finished = BTreeSet::new();
    let mut current = String::new();
    let mut samples = BTreeMap::new();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!help.trim().is_empty(), "{line}");
            let before = families.insert(name.to_owned(), (true, None));
            assert!(before.is_none(), "a second help: {line}");
            finished.insert(std::mem::replace(&mut current, name.to_owned()));
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, current, "{line}");
            let before = families.get_mut(name).unwrap().1.replace(kind.to_owned());
            assert!(before.is_none(), "a second type: {line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            let base = name.trim_end_matches("_total");
            for unit in [
                "_ms",
                "_milliseconds",
                "_kilobytes",
                "_mebibytes",
                "_minutes",
                "_percent",
            ] {
                assert!(!base.ends_with(unit), "not a base unit: {line}");
            }
            continue;
        }
        let (name, rest) = line.split_once('{').unwrap();
        let (labels, value) = rest.rsplit_once("} ").unwrap();
        assert!(
            name.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'),
            "{line}"
        );
        assert_eq!(name, current, "a sample outside of its family: {line}");
        assert!(!finished.contains(name) && families[name].1.is_some(), "{line}");
        for label in ["namespace=\"", "name=\""] {
            assert!(labels.contains(label), "{line}");
        }
        // A quotation mark in a value is escaped: without the escapes there are two for each label.
        let plain = labels.replace("\\\\", "").replace("\\\"", "");
        assert_eq!(
            plain.matches('"').count(),
            2 * plain.matches("=\"").count(),
            "{line}"
        );
        let before = samples.insert(format!("{name}{{{labels}}}"), value.parse().unwrap());
        assert!(before.is_none(), "a second sample: {line}");
    }
    samples
}

#[test]
fn the_text_keeps_the_rules_of_the_format() {
    let samples = check(&snapshot().text());
    let value = |name: &str, label: &str| {
        let found = samples
            .iter()
            .find(|(sample, _)| sample.starts_with(&format!("{name}{{")) && sample.contains(label));
        *found
            .unwrap_or_else(|| panic!("no {name} {label}: {samples:?}"))
            .1
    };
    for (name, label, wanted) in [
        ("kubevirt_vmi_info", "phase=\"Running\"", 1.0),
        ("kubevirt_vmi_info", r#"name="we\"b\\""#, 1.0),
        ("hawser_guest_state", "state=\"running\"", 1.0),
        ("hawser_guest_state", "state=\"paused\"", 0.0),
        (
            "kubevirt_vmi_network_receive_bytes_total",
            "interface=\"default\"",
            10.0,
        ),
        (
            "kubevirt_vmi_network_transmit_packets_total",
            "interface=\"default\"",
            2.0,
        ),
        (
            "kubevirt_vmi_network_receive_packets_dropped_total",
            "interface=\"default\"",
            0.0,
        ),
        (
            "kubevirt_vmi_storage_read_traffic_bytes_total",
            "drive=\"root\"",
            4096.0,
        ),
        ("kubevirt_vmi_migration_failed", "", 1.0),
        ("kubevirt_vmi_migration_data_processed_bytes", "", 1_073_741_824.0),
        ("hawser_migration_rounds", "", 3.0),
        ("hawser_dhcp_events_total", "event=\"dhcpv4-acknowledged\"", 2.0),
        ("hawser_passt_restarts_total", "", 4.0),
        ("hawser_virtiofsd_exits_total", "", 0.0),
        ("hawser_events_total", "event=\"guest-running\"", 1.0),
    ] {
        assert_eq!(value(name, label), wanted, "{name} {label}");
    }
    assert!(value("process_resident_memory_bytes", "") > 0.0);
}

#[test]
fn a_guest_that_is_not_there_yet_has_a_state_and_no_traffic() {
    let mut snapshot = snapshot();
    snapshot.counters = None;
    snapshot.vmm = None;
    snapshot.status.migration = None;
    let samples = check(&snapshot.text());
    assert!(
        !samples
            .keys()
            .any(|name| name.contains("traffic") || name.contains("migration"))
    );
    assert!(samples.keys().any(|name| name.starts_with("hawser_guest_state{")));
}

#[test]
fn docs_list_the_metrics_and_no_others() {
    let page = include_str!("../../../docs/operate.md");
    let documented: BTreeSet<&str> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .flat_map(|line| {
            line.split('|')
                .nth(1)
                .unwrap_or_default()
                .split('`')
                .skip(1)
                .step_by(2)
        })
        .filter(|name| {
            ["kubevirt_", "hawser_", "process_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        })
        .collect();
    let text = snapshot().text();
    let mut families: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next())
        .collect();
    // No thread of this process is a vCPU.
    families.insert("kubevirt_vmi_vcpu_seconds_total");
    assert_eq!(documented, families);
}
