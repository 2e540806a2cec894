//! The pod drawn for Graphviz ("The DOT Language"): the paths that `hawser explain` prints, with the addresses that the
//! plan has found for them.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use hawser_netsetup::{GuestNic, Joined, Plan};

use crate::launch::Layout;
use crate::nic::Explanation;
use crate::spec::GuestSpec;

pub(super) fn dot(guest: &GuestSpec, plan: &Plan, layout: &Layout) -> String {
    let mut nodes = BTreeSet::new();
    let mut edges = Vec::new();
    for explanation in &layout.explanations.interfaces {
        let nic = plan.nics.iter().find(|nic| nic.name == explanation.interface);
        draw(explanation, nic, &mut nodes, &mut edges);
        if let Some(nic) = nic {
            let server = layout
                .attachments
                .iter()
                .filter_map(|attachment| attachment.server.as_ref())
                .find(|server| Some(server.tap.as_str()) == nic.server_tap());
            if let Some((server, tap)) = server.zip(nic.tap()) {
                nodes.insert(node(&server.tap, "\nDHCP and RA server"));
                edges.push(edge(&server.tap, tap, "frames"));
            }
        }
    }
    let mut out =
        String::from("digraph pod {\n  rankdir=LR;\n  node [shape=box];\n  others [shape=plaintext];\n");
    out.push_str("  subgraph cluster_pod {\n    label=\"pod\";\n");
    // The guest's own name is no node's, or a guest called like an interface would be drawn as it.
    let _ = writeln!(
        out,
        "    guest [label={}];",
        quoted(&format!("guest {}", guest.name))
    );
    for line in &nodes {
        let _ = writeln!(out, "    {line}");
    }
    out.push_str("  }\n");
    for line in &edges {
        let _ = writeln!(out, "  {line}");
    }
    out.push_str("}\n");
    out
}

fn draw(
    explanation: &Explanation,
    nic: Option<&GuestNic>,
    nodes: &mut BTreeSet<String>,
    edges: &mut Vec<String>,
) {
    let mut from = ("others".to_owned(), "");
    for hop in &explanation.path {
        nodes.insert(node(
            &hop.name,
            &nic.map(|nic| addresses(nic, &hop.name)).unwrap_or_default(),
        ));
        edges.push(edge(&from.0, &hop.name, from.1));
        from = (hop.name.clone(), hop.then);
    }
    let label = format!(
        "{} ({}), {}{}",
        explanation.interface,
        explanation.binding,
        from.1,
        nic.map(guest_addresses).unwrap_or_default()
    );
    edges.push(edge(&from.0, "guest", &label));
}

/// What a NIC's neighbours are addressed by at this hop, one to a line.
fn addresses(nic: &GuestNic, hop: &str) -> String {
    let all: Vec<_> = match &nic.joined {
        Joined::Masquerade(masqueraded) => {
            let of = |is_pod: bool| {
                let v4 = masqueraded.v4.map(|v4| if is_pod { v4.pod } else { v4.gateway });
                let v6 = masqueraded.v6.map(|v6| if is_pod { v6.pod } else { v6.gateway });
                texts(v4, v6)
            };
            match hop {
                _ if hop == nic.pod_interface => of(true),
                _ if hop == masqueraded.tap => of(false),
                _ => Vec::new(),
            }
        }
        Joined::Passt(_) if hop == nic.pod_interface => of_guest(nic),
        Joined::Passt(_) | Joined::Bridge(_) | Joined::Down { .. } => Vec::new(),
    };
    lines(&all)
}

fn guest_addresses(nic: &GuestNic) -> String {
    lines(&of_guest(nic))
}

fn of_guest(nic: &GuestNic) -> Vec<String> {
    match &nic.joined {
        Joined::Masquerade(masqueraded) => texts(
            masqueraded.v4.map(|v4| v4.guest),
            masqueraded.v6.map(|v6| v6.guest),
        ),
        Joined::Bridge(bridged) => texts(
            bridged.v4.as_ref().map(|v4| v4.address),
            bridged.v6.as_ref().map(|v6| v6.address),
        ),
        // The pod's own.
        Joined::Passt(handed) => texts(handed.v4.map(|v4| v4.address), handed.v6),
        Joined::Down { .. } => Vec::new(),
    }
}

fn texts(v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) -> Vec<String> {
    let v4 = v4.map(|ip| ip.to_string());
    v4.into_iter().chain(v6.map(|ip| ip.to_string())).collect()
}

fn lines(all: &[String]) -> String {
    all.iter().map(|line| format!("\n{line}")).collect()
}

fn node(name: &str, more: &str) -> String {
    format!("{} [label={}];", quoted(name), quoted(&format!("{name}{more}")))
}

fn edge(from: &str, to: &str, label: &str) -> String {
    format!(
        "{} -> {} [dir=both, label={}];",
        quoted(from),
        quoted(to),
        quoted(label)
    )
}

/// Quotes and backslashes escaped, line breaks as \n.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::Explanations;

    #[test]
    fn the_paths_of_explain_are_what_is_drawn() {
        let manifest = r#"{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {name: web}, spec: {
            domain: {memory: {guest: 256Mi}, firmware: {kernelBoot: {container: {image: g, kernelPath: /k}}},
              devices: {interfaces: [{name: default, masquerade: {}}, {name: red, bridge: {}}]}},
            networks: [{name: default, pod: {}}, {name: red, multus: {networkName: red}}]}}"#;
        let guest = crate::spec::load(manifest).unwrap().spec;
        let plan = Plan {
            steps: Vec::new(),
            offloading: None,
            nics: Vec::new(),
            notes: Vec::new(),
            journal: hawser_netsetup::Journal::default(),
        };
        let layout = Layout {
            attachments: Vec::new(),
            explanations: Explanations::new(&guest, &[]),
            notes: Vec::new(),
        };
        insta::assert_snapshot!(dot(&guest, &plan, &layout));
    }

    #[test]
    fn no_name_ends_a_string() {
        assert_eq!(quoted("a\"b\\c\nd"), r#""a\"b\\c\nd""#);
    }
}
