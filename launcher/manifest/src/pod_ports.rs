//! TCP ports that stay in the pod: no guest has them, whatever its binding is and whichever ports its interface lists.

/// The target of a live migration listens here, as in KubeVirt.
pub const MIGRATION: u16 = 49152;

/// The VMM and hawser's relay meet here, on the loopback interface. KubeVirt migrates disks by it.
pub const MIGRATION_RELAY: u16 = 49153;

/// Reserved for metrics.
pub const METRICS: u16 = 49154;

/// What stays in every pod.
pub const ALWAYS: [u16; 3] = [MIGRATION, MIGRATION_RELAY, METRICS];

/// Ports of an Istio sidecar.
const ISTIO: [u16; 10] = [
    15000, 15001, 15004, 15006, 15008, 15009, 15020, 15021, 15053, 15090,
];

/// Ports of a Linkerd proxy: outbound, inbound, tap and admin.
const LINKERD: [u16; 4] = [4140, 4143, 4190, 4191];

/// The ports of a mesh's sidecar, by the mesh's name in the annotation.
pub(crate) fn preset(mesh: &str) -> Option<&'static [u16]> {
    match mesh {
        "istio" => Some(&ISTIO),
        "linkerd" => Some(&LINKERD),
        _ => None,
    }
}

/// What stays in a pod with or without an Istio sidecar.
pub fn kept(istio: bool) -> Vec<u16> {
    let sidecars = ISTIO.into_iter().filter(|_| istio);
    ALWAYS.into_iter().chain(sidecars).collect()
}
