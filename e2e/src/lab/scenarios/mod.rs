//! The scenarios that need a real guest. Each has pods of its own and leaves nothing behind.

mod bare;
pub(crate) mod blackout;
mod bridge;
mod console;
pub(crate) mod datapath;
mod debian;
mod debian_vsock;
mod devices;
mod disks;
mod disks_load;
mod flowtable;
mod image;
mod leases;
mod lifecycle;
mod machine;
mod masquerade;
mod migration;
mod migration_convergence;
mod migration_disks;
mod migration_faults;
mod migration_network;
mod migration_passt;
mod migration_plugins;
mod migration_sriov;
mod operate;
mod passt;
mod plugins;
mod pod_networks;
mod podman_pods;
mod privileges;
mod secondary;
mod sidecar;
mod sriov;
mod sriov_card;
mod sriov_unfit;
mod vmi;

use crate::lab::node::Lab;
use crate::report::Scenario;

/// One or two for each capability. The lab itself first, so that a lab that is broken is not taken for a launcher that is.
const CORE: &[Scenario<Lab>] = &[
    Scenario {
        name: "bare_guest_boots_and_powers_off",
        run: bare::guest_boots_and_powers_off,
    },
    Scenario {
        name: "image_is_complete_and_small",
        run: image::is_complete_and_small,
    },
    Scenario {
        name: "masquerade_dual_stack",
        run: masquerade::dual_stack,
    },
    Scenario {
        name: "console_of_a_real_guest",
        run: console::typed_at,
    },
    Scenario {
        name: "operate_pause_nmi_reset_and_stop",
        run: operate::verbs,
    },
    Scenario {
        name: "operate_guest_that_starts_paused",
        run: operate::starts_paused,
    },
    Scenario {
        name: "operate_metrics_and_events",
        run: operate::measured,
    },
    Scenario {
        name: "operate_rate_of_a_nic_is_limited",
        run: operate::limited,
    },
    Scenario {
        name: "bridge_dual_stack_killed_and_taken_down",
        run: bridge::dual_stack,
    },
    Scenario {
        name: "passt_dual_stack_without_a_capability",
        run: passt::dual_stack,
    },
    Scenario {
        name: "sriov_guest_reaches_the_physical_function",
        run: sriov::reaches_the_physical_function,
    },
    Scenario {
        name: "migration_masquerade_with_tls",
        run: migration::masquerade_with_tls,
    },
    Scenario {
        name: "migration_while_writing_to_nfs",
        run: migration_disks::on_nfs,
    },
    Scenario {
        name: "migration_while_writing_to_an_empty_disk",
        run: migration_disks::on_an_empty_disk,
    },
    Scenario {
        name: "migration_while_writing_to_a_container_disk",
        run: migration_disks::on_a_container_disk,
    },
    Scenario {
        name: "migration_bridge_on_a_shared_network",
        run: migration_network::bridge_on_a_shared_network,
    },
    Scenario {
        name: "migration_passt_to_other_addresses",
        run: migration_passt::to_other_addresses,
    },
    Scenario {
        name: "migration_sriov_with_the_targets_own_vf",
        run: migration_sriov::moves,
    },
    Scenario {
        name: "migration_plugin_managed_tap_by_link_refresh",
        run: migration_plugins::managed_tap,
    },
    Scenario {
        name: "plugin_tap_a_macvtap",
        run: plugins::macvtap,
    },
    Scenario {
        name: "sidecar_gives_a_vhost_user_nic",
        run: sidecar::vhost_user,
    },
    Scenario {
        name: "disks_of_every_source_and_a_kill",
        run: disks::every_source,
    },
    Scenario {
        name: "disks_written_by_several_queues",
        run: disks_load::written_and_discarded_under_load,
    },
    Scenario {
        name: "devices_host_functions_shared_file_systems_and_vsock",
        run: devices::all,
    },
    Scenario {
        name: "debian_networkd_from_a_disk_with_cloud_init",
        run: debian::networkd,
    },
];

/// What else there is to each of them.
const MORE: &[Scenario<Lab>] = &[
    Scenario {
        name: "masquerade_two_cpus_multi_queue",
        run: masquerade::multi_queue,
    },
    Scenario {
        name: "masquerade_lease_renewed_released_and_rebooted",
        run: leases::masquerade,
    },
    Scenario {
        name: "masquerade_and_bridge_on_a_secondary_network_by_cni",
        run: secondary::masquerade_and_bridge,
    },
    Scenario {
        name: "migration_while_writing_to_a_block_device",
        run: migration_disks::on_a_block_device,
    },
    Scenario {
        name: "passt_given_up_takes_the_nic_out",
        run: passt::given_up,
    },
    Scenario {
        name: "passt_without_a_user_namespace",
        run: passt::without_user_namespace,
    },
    Scenario {
        name: "sriov_beside_masquerade",
        run: sriov::beside_masquerade,
    },
    Scenario {
        name: "sriov_what_is_unfit_is_said_and_nothing_touched",
        run: sriov_unfit::each_thing,
    },
    Scenario {
        name: "plugin_managed_tap_and_the_networks_own_server",
        run: plugins::managed_tap,
    },
    Scenario {
        name: "sigterm_shuts_the_guest_down",
        run: lifecycle::sigterm,
    },
    Scenario {
        name: "restart_after_kill_converges",
        run: lifecycle::restart_after_kill,
    },
    Scenario {
        name: "net_admin_only_and_proc_sys_read_only",
        run: privileges::net_admin_only,
    },
    Scenario {
        name: "virtual_machine_with_huge_pages",
        run: machine::hugepages,
    },
    Scenario {
        name: "setup_in_an_init_container",
        run: privileges::init_container,
    },
    Scenario {
        name: "sidecar_that_lies_is_refused",
        run: sidecar::lies,
    },
    Scenario {
        name: "migration_passt_at_the_same_address",
        run: migration_passt::at_the_same_address,
    },
    Scenario {
        name: "migration_target_killed",
        run: migration::target_killed,
    },
    Scenario {
        name: "migration_bridge_on_the_pod_network",
        run: migration_network::bridge_on_the_pod_network,
    },
    Scenario {
        name: "migration_cut_and_killed_in_the_middle",
        run: migration_faults::each,
    },
    Scenario {
        name: "migration_sriov_guest_that_refuses",
        run: migration_sriov::refuses,
    },
];

/// What the names of scenarios with a whole Debian begin with: their images are made, and part of the payload, only where one
/// of them is run.
pub(crate) const DEBIAN: &str = "debian_";

/// The longer set: run by `cargo e2e lab`, and not by `cargo e2e test`, where time is short and these prove little that
/// the others do not.
pub(crate) const LONGER: &[Scenario<Lab>] = &[
    Scenario {
        name: "pods_as_networks_make_them",
        run: pod_networks::as_the_page_says,
    },
    Scenario {
        name: "podman_kube_play_of_each_binding",
        run: podman_pods::of_each_binding,
    },
    Scenario {
        name: "masquerade_connections_past_the_rules",
        run: flowtable::carries_what_the_filter_has_seen,
    },
    Scenario {
        name: "masquerade_listed_ports_only",
        run: masquerade::listed_ports_only,
    },
    Scenario {
        name: "bridge_two_cpus_multi_queue",
        run: bridge::multi_queue,
    },
    Scenario {
        name: "bridge_lease_renewed_released_and_rebooted",
        run: leases::bridge,
    },
    Scenario {
        name: "passt_killed_lease_released_and_rebooted",
        run: passt::killed_released_rebooted,
    },
    Scenario {
        name: "passt_all_ports",
        run: passt::all_ports,
    },
    Scenario {
        name: "passt_refuses_a_low_port",
        run: passt::low_port_refused,
    },
    Scenario {
        name: "sriov_two_guests_reach_one_another",
        run: sriov::two_guests,
    },
    Scenario {
        name: "sriov_two_functions_in_one_guest",
        run: sriov::two_functions,
    },
    Scenario {
        name: "sriov_vlan_of_the_physical_function",
        run: sriov::vlan,
    },
    Scenario {
        name: "plugin_tap_by_a_cni_plugin",
        run: plugins::cni_tap,
    },
    Scenario {
        name: "guest_powers_off",
        run: lifecycle::guest_powers_off,
    },
    Scenario {
        name: "teardown_leaves_the_pod_as_found",
        run: lifecycle::teardown,
    },
    Scenario {
        name: "sidecar_killed_is_reported",
        run: sidecar::killed,
    },
    Scenario {
        name: "migration_wrong_certificate_and_plain_tcp",
        run: migration::wrong_certificate,
    },
    Scenario {
        name: "migration_of_a_restless_guest_given_up_and_allowed_more_downtime",
        run: migration_convergence::given_up_and_allowed_more,
    },
    Scenario {
        name: "migration_of_a_restless_guest_paused",
        run: migration_convergence::paused,
    },
    Scenario {
        name: "migration_of_a_restless_guest_slowed_down",
        run: migration_convergence::slowed_down,
    },
    Scenario {
        name: "migration_over_many_connections",
        run: migration::many_connections,
    },
    Scenario {
        name: "migration_passt_that_fails",
        run: migration_passt::failures,
    },
    Scenario {
        name: "migration_masquerade_at_the_same_address",
        run: migration_network::masquerade_at_the_same_address,
    },
    Scenario {
        name: "migration_guest_that_ends_in_the_middle",
        run: migration_faults::guest_ends,
    },
    Scenario {
        name: "migration_plugin_tap_of_the_same_name_and_mac",
        run: migration_plugins::tap,
    },
    Scenario {
        name: "migration_plugin_that_declares_none",
        run: migration_plugins::undeclared,
    },
    Scenario {
        name: "debian_dhcpcd_from_a_disk",
        run: debian::dhcpcd,
    },
    Scenario {
        name: "debian_ifupdown_and_dhclient_from_a_disk",
        run: debian::ifupdown,
    },
    Scenario {
        name: "debian_networkmanager_from_a_disk",
        run: debian::network_manager,
    },
    Scenario {
        name: "debian_dhcpcd_bridged",
        run: debian::bridged,
    },
    Scenario {
        name: "debian_boots_by_uefi_with_cloud_init",
        run: debian::boots_by_uefi,
    },
    Scenario {
        name: "debian_without_a_network_reached_by_vsock",
        run: debian_vsock::reached,
    },
];

/// Shown by `cargo e2e demo`.
pub(crate) const DEMO: &Scenario<Lab> = &Scenario {
    name: "demo",
    run: masquerade::demo,
};

/// Run by `cargo e2e bench --datapath`.
pub(crate) const BENCH: &Scenario<Lab> = &Scenario {
    name: "datapath",
    run: datapath::compare,
};

/// Run by `cargo e2e bench --migration`.
pub(crate) const BLACKOUT: &Scenario<Lab> = &Scenario {
    name: "blackout",
    run: blackout::compare,
};

/// Scenarios that nobody has yet made steady, each with what is known of the reason. They run where they are given by
/// name, and are skipped elsewhere: a pass that may as well be a failure says nothing.
const UNSTEADY: &[(&str, &str)] = &[];

/// Why a scenario cannot be relied upon, where that is so.
pub(crate) fn unsteady(name: &str) -> Option<&'static str> {
    UNSTEADY
        .iter()
        .find(|(unsteady, _)| *unsteady == name)
        .map(|(_, reason)| *reason)
}

/// What `cargo e2e test` runs, in this order.
pub(crate) fn usual() -> impl Iterator<Item = &'static Scenario<Lab>> {
    CORE.iter().chain(MORE)
}

pub(crate) fn find(name: &str) -> Option<&'static Scenario<Lab>> {
    usual()
        .chain(LONGER)
        .chain([DEMO, BENCH, BLACKOUT])
        .find(|scenario| scenario.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_scenarios_and_the_unsteady_ones_exist() {
        let mut names: Vec<_> = usual().chain(LONGER).map(|scenario| scenario.name).collect();
        for (name, reason) in UNSTEADY {
            assert!(names.contains(name), "{name}");
            assert!(!reason.is_empty(), "{name}");
        }
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
