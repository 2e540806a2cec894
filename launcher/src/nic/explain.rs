//! The answer to "who gives the IP", as data and as text. Each kind of NIC gives its own.

use std::fmt::Write;

use serde::Serialize;

use crate::may_migrate::MayMigrate;
use crate::spec::{Ports, Protocol};

/// What is asked about an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explanation {
    pub(crate) interface: String,
    pub(crate) binding: String,
    pub(crate) pod_interface: String,
    /// What a packet for the guest passes, from the pod's network on.
    pub(crate) path: Vec<Hop>,
    pub(crate) ip_from: String,
    pub(crate) guest_address: String,
    pub(crate) mac: String,
    pub(crate) others_use: String,
    pub(crate) ports: String,
    pub(crate) mtu: String,
    pub(crate) queue_pairs: u16,
    pub(crate) migration: MayMigrate,
    pub(crate) privileges: Vec<String>,
    pub(crate) devices: Vec<String>,
    pub(crate) cost: String,
}

/// An interface, a socket or a process on the way to the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Hop {
    pub(crate) name: String,
    /// How it is joined to what comes next, the guest after the last.
    pub(crate) then: &'static str,
}

impl Hop {
    pub(super) fn new(name: &str, then: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            then,
        }
    }
}

/// One table an interface.
pub(crate) fn text(explanations: &[Explanation]) -> String {
    let mut out = String::new();
    for (index, explanation) in explanations.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        let _ = writeln!(
            out,
            "interface {}: {} on {}",
            explanation.interface, explanation.binding, explanation.pod_interface
        );
        let rows = [
            ("IP given by", explanation.ip_from.clone()),
            ("guest sees", explanation.guest_address.clone()),
            ("MAC", explanation.mac.clone()),
            ("others use", explanation.others_use.clone()),
            ("ports", explanation.ports.clone()),
            ("MTU", explanation.mtu.clone()),
            ("queue pairs", explanation.queue_pairs.to_string()),
            ("can migrate", explanation.migration.text()),
            ("privileges", explanation.privileges.join("; ")),
            ("devices", explanation.devices.join(", ")),
            ("costs", explanation.cost.clone()),
        ];
        for (question, answer) in rows {
            let _ = writeln!(out, "  {question:<12} {answer}");
        }
    }
    out
}

/// Which of the pod's ports are the guest's.
pub(crate) fn ports_text(ports: &Ports) -> String {
    let Ports::Listed(list) = ports else {
        return "all but those kept for migration and metrics".to_owned();
    };
    let text = |range: &crate::spec::PortRange| {
        let protocol = match range.protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        };
        if range.first == range.last {
            format!("{protocol} {}", range.first)
        } else {
            format!("{protocol} {}-{}", range.first, range.last)
        }
    };
    let list: Vec<_> = list.iter().map(text).collect();
    list.join(", ")
}
