//! Sidecars of service meshes: which of the pod's ports are theirs, and which meshes hawser does not know what to do about.

use crate::document::report::{FieldPath, Report, quoted};
use crate::pod_ports;
use crate::v1;

/// A label or an annotation. Istio's injector goes by the label where there is one, and KubeVirt's masquerade too.
const ISTIO: &str = "sidecar.istio.io/inject";
const LINKERD: &str = "linkerd.io/inject";
/// Ports, ranges of ports and names of meshes, with commas between them.
pub(super) const KEEP_PORTS: &str = "hawser.dev/keep-ports";
/// More would be a mistake.
const MAX_PORTS: usize = 1024;

/// Meshes that hawser does nothing about: the label or annotation, the values that ask for them, and the name.
const OTHERS: [(&str, &[&str], &str); 4] = [
    ("istio.io/dataplane-mode", &["ambient"], "Istio's ambient mode"),
    ("kuma.io/sidecar-injection", &["enabled", "true"], "Kuma"),
    ("consul.hashicorp.com/connect-inject", &["true"], "Consul"),
    (
        "openservicemesh.io/sidecar-injection",
        &["enabled", "true"],
        "Open Service Mesh",
    ),
];

pub(super) struct Mesh {
    pub(super) istio: bool,
    /// Ports that stay in the pod besides Istio's and hawser's own.
    pub(super) keep_ports: Vec<u16>,
}

pub(super) fn resolve(metadata: &v1::Metadata, report: &mut Report) -> Mesh {
    let (labels, annotations) = (&metadata.labels, &metadata.annotations);
    let asked = |name: &str, values: &[&str]| {
        let value = labels.get(name).or_else(|| annotations.get(name));
        value.is_some_and(|value| values.iter().any(|wanted| value.eq_ignore_ascii_case(wanted)))
    };
    let path = |name: &str| {
        let place = if labels.contains_key(name) {
            "metadata.labels"
        } else {
            "metadata.annotations"
        };
        FieldPath::of(place).key(name)
    };
    let mut keep_ports = annotations
        .get(KEEP_PORTS)
        .map(|text| ports(text, report))
        .unwrap_or_default();
    if asked(LINKERD, &["enabled", "ingress"]) {
        keep_ports.extend(pod_ports::preset("linkerd").unwrap_or_default());
        report.note(
            path(LINKERD),
            "hawser keeps the ports of Linkerd's proxy in the pod, and does nothing else for it: what its rules redirect is not \
             tested with hawser's",
        );
    }
    for (name, values, mesh) in OTHERS {
        if asked(name, values) {
            let message = format!(
                "hawser does nothing for {mesh}: name the ports of its sidecar in the annotation {KEEP_PORTS}, or leave the \
                 guest out of the mesh"
            );
            report.note(path(name), message);
        }
    }
    keep_ports.sort_unstable();
    keep_ports.dedup();
    Mesh {
        istio: asked(ISTIO, &["true"]),
        keep_ports,
    }
}

fn ports(text: &str, report: &mut Report) -> Vec<u16> {
    let mut all = Vec::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        if let Some(preset) = pod_ports::preset(&word.to_ascii_lowercase()) {
            all.extend_from_slice(preset);
            continue;
        }
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
            (Ok(first), Ok(last)) if first > 0 && first <= last => all.extend(first..=last),
            _ => report.refuse(
                FieldPath::of("metadata.annotations").key(KEEP_PORTS),
                format!("expected ports, ranges such as 9000-9010, istio or linkerd, with commas between them, found {}", quoted(word)),
            ),
        }
    }
    if all.len() > MAX_PORTS {
        report.refuse(
            FieldPath::of("metadata.annotations").key(KEEP_PORTS),
            format!("at most {MAX_PORTS} ports, found {}", all.len()),
        );
        all.clear();
    }
    all
}
