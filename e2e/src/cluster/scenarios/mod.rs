//! The scenarios of the cluster. Each has a namespace of its own and leaves nothing behind.

mod bindings;
mod block;
mod controllers;
mod crowd;
mod dns;
mod examples;
mod forms;
mod kubectl_hawser;
mod lives;
mod masquerade;
mod migration;
mod policy;
mod probes;
mod quota;
mod restarts;
mod security;
mod service;
mod sriov;
mod volumes;

use super::api::Cluster;
use crate::report::Scenario;

/// What the API server answers by itself: no node is needed.
pub(super) const API: &[Scenario<Cluster>] = &[
    Scenario {
        name: "pod_security_baseline_refuses_net_admin_alone",
        run: security::baseline,
    },
    Scenario {
        name: "kubevirts_examples_are_taken_by_the_api_server",
        run: examples::are_taken,
    },
];

/// What `cargo e2e cluster` runs on one node, in this order.
pub(super) const USUAL: &[Scenario<Cluster>] = &[
    Scenario {
        name: "masquerade_over_a_restart_of_the_kubelet",
        run: masquerade::over_a_restart_of_the_kubelet,
    },
    Scenario {
        name: "bridge_dual_stack",
        run: bindings::bridge,
    },
    Scenario {
        name: "passt_dual_stack_in_a_restricted_namespace",
        run: bindings::passt,
    },
    Scenario {
        name: "service_follows_the_guests_readiness",
        run: service::follows_readiness,
    },
];

/// Between two nodes.
pub(super) const BETWEEN_NODES: &[Scenario<Cluster>] = &[Scenario {
    name: "migration_between_nodes",
    run: migration::between_nodes,
}];

/// What `--all` runs too, between two nodes.
pub(super) const LONGER_BETWEEN_NODES: &[Scenario<Cluster>] = &[Scenario {
    name: "kubectl_hawser_migrates_a_guest",
    run: kubectl_hawser::migrates_a_guest,
}];

/// What `--all` runs too, on one node.
pub(super) const LONGER: &[Scenario<Cluster>] = &[
    Scenario {
        name: "two_containers_over_a_restart_of_the_kubelet",
        run: forms::two_containers,
    },
    Scenario {
        name: "one_container_over_a_restart_of_the_kubelet",
        run: forms::one_container,
    },
    Scenario {
        name: "volumes_of_every_kind",
        run: volumes::of_every_kind,
    },
    Scenario {
        name: "launcher_killed_and_started_again",
        run: restarts::launcher_killed,
    },
    Scenario {
        name: "device_plugin_killed_and_back",
        run: restarts::device_plugin_killed,
    },
    Scenario {
        name: "kubelet_restarted_without_the_device_plugin",
        run: restarts::kubelet_without_device_plugin,
    },
    Scenario {
        name: "probes_by_run_strategy",
        run: probes::of_the_guest,
    },
    Scenario {
        name: "quota_refuses_in_the_apis_words",
        run: quota::refused_by_quota,
    },
    Scenario {
        name: "limit_range_does_not_evict",
        run: quota::default_storage,
    },
    Scenario {
        name: "memory_all_touched",
        run: quota::all_memory_touched,
    },
    Scenario {
        name: "block_claim",
        run: block::written,
    },
    Scenario {
        name: "controllers_make_another_pod",
        run: controllers::make_another_pod,
    },
    Scenario {
        name: "dns_of_the_cluster",
        run: dns::asked_by_guests,
    },
    Scenario {
        name: "network_policy_lets_one_port_in",
        run: policy::lets_one_port_in,
    },
    Scenario {
        name: "sriov_two_functions_and_masquerade",
        run: sriov::masquerade_and_two_functions,
    },
    Scenario {
        name: "ten_guests_on_a_node",
        run: crowd::ten_guests,
    },
    Scenario {
        name: "containerd_killed_and_back",
        run: lives::containerd_restarted,
    },
    Scenario {
        name: "launcher_out_of_memory",
        run: lives::out_of_memory,
    },
    Scenario {
        name: "deleted_without_grace",
        run: lives::deleted_without_grace,
    },
    Scenario {
        name: "node_rebooted",
        run: lives::node_rebooted,
    },
];

/// Names of those that `cargo e2e test` runs: what the API server answers by itself, and that a kubelet runs a guest
/// in the pod that `hawser pod` makes. A machine that is half as fast skips those with nodes if --within leaves too little time for them.
pub(super) const MAIN: &[&str] = &[
    "pod_security_baseline_refuses_net_admin_alone",
    "kubevirts_examples_are_taken_by_the_api_server",
    "masquerade_over_a_restart_of_the_kubelet",
];
