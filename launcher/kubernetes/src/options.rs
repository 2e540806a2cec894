//! What is rendered by, besides the manifest.

use std::collections::{BTreeMap, BTreeSet};

/// What the user asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Reference of the image that has hawser.
    pub image: String,
    /// The text of the file with the binding plugins, for the pod to have too.
    pub bindings: Option<String>,
    /// In place of the manifest's.
    pub namespace: Option<String>,
    pub workload: Workload,
    /// For `podman kube play` in place of a cluster.
    pub podman: bool,
    /// Whether the cluster's nodes have user namespaces (Kubernetes 1.33 and newer, on by default).
    pub user_namespaces: bool,
    /// One container that holds NET_ADMIN, where the pod has no user namespace.
    pub one_container: bool,
    /// Whether the kubelet allows the sysctl `net.ipv6.conf.all.forwarding`.
    pub ipv6_sysctl: bool,
    pub devices: DeviceResources,
    /// Volumes whose claim is a block device (`volumeMode: Block`).
    pub block_volumes: BTreeSet<String>,
    /// Secret of the type `kubernetes.io/tls` with the certificates of live migration.
    pub tls_secret: Option<String>,
    /// A NetworkPolicy that lets the guest's own pods reach the port of live migration.
    pub network_policy: bool,
    /// Name of the pod where it is to be the target of a live migration.
    pub target: Option<String>,
    /// The device plugin's resource of a network, by the network's name.
    pub network_resources: BTreeMap<String, String>,
}

/// What stands over the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// Nothing: a pod that is lost with its node stays lost.
    Pod,
    /// At most one pod at a time: a lost node's pod is made again only once the API server knows that the first is gone.
    StatefulSet,
    /// A new pod five minutes after its node was lost, whether or not the first still runs.
    Deployment,
}

/// Names under which device plugins offer the node's devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceResources {
    /// /dev/kvm
    pub kvm: String,
    /// /dev/net/tun
    pub tun: String,
}

impl Default for DeviceResources {
    /// Those of hawser's own device plugin, which are KubeVirt's too.
    fn default() -> Self {
        Self {
            kvm: "devices.kubevirt.io/kvm".to_owned(),
            tun: "devices.kubevirt.io/tun".to_owned(),
        }
    }
}

/// What the launcher knows of the guest by its manifest alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whether hawser makes devices or rules in the pod's network namespace for it.
    pub needs_net_admin: bool,
    /// Whether any NIC has a TAP.
    pub needs_tap: bool,
    /// The TAPs of the masqueraded NICs: where the guest's own traffic enters the pod.
    pub masqueraded_taps: Vec<String>,
    /// Why the guest cannot migrate, if it cannot.
    pub migration_obstacle: Option<String>,
}
