//! The names that join interfaces to networks: well formed, unique, and on both sides.

use std::collections::BTreeSet;

use serde_json::Value;

use super::paths;
use crate::document::report::{FieldPath, Report, quoted};
use crate::document::text::given;
use crate::v1;

/// One of the two lists.
struct Side<'a> {
    /// What an entry is called in messages.
    what: &'static str,
    /// Why a name may be used once only.
    once: &'static str,
    named: Vec<(FieldPath, &'a str)>,
    /// Whether every entry as written has its name here. Otherwise one of them may be the one that is missed.
    whole: bool,
}

pub(crate) fn check(spec: &v1::Spec, domain: &v1::Domain, raw: &Value, report: &mut Report) {
    let interfaces = domain.devices.interfaces.iter();
    let interfaces = Side::new(
        "interface",
        "a network takes one interface",
        interfaces
            .filter_map(|(i, f)| Some((paths::interface(i), given(&f.name)?)))
            .collect(),
        raw.pointer("/spec/domain/devices/interfaces"),
    );
    let networks = spec.networks.iter();
    let networks = Side::new(
        "network",
        "every network needs its own",
        networks
            .filter_map(|(i, n)| Some((paths::network(i), given(&n.name)?)))
            .collect(),
        raw.pointer("/spec/networks"),
    );
    interfaces.compare(&networks, report);
    networks.compare(&interfaces, report);
}

impl<'a> Side<'a> {
    fn new(
        what: &'static str,
        once: &'static str,
        named: Vec<(FieldPath, &'a str)>,
        written: Option<&Value>,
    ) -> Self {
        let whole = match written {
            None | Some(Value::Null) => true,
            Some(Value::Array(items)) => items.len() == named.len(),
            Some(_) => false,
        };
        Self {
            what,
            once,
            named,
            whole,
        }
    }

    fn compare(&self, other: &Self, report: &mut Report) {
        let others: BTreeSet<&str> = other.named.iter().map(|(_, name)| *name).collect();
        let mut seen = BTreeSet::new();
        for (path, name) in &self.named {
            let problem = if !is_name(name) {
                format!("expected letters, digits, '-' and '_', found {}", quoted(name))
            } else if !seen.insert(*name) {
                format!("duplicate name {}: {}", quoted(name), self.once)
            } else if other.whole && !others.contains(name) {
                format!("no {} is named {}", other.what, quoted(name))
            } else {
                continue;
            };
            report.refuse(path.key("name"), problem);
        }
    }
}

/// KubeVirt's rule for the names of interfaces, and so for their networks.
fn is_name(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}
