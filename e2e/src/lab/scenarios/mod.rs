//! The scenarios that need a real guest. Each has pods of its own and leaves nothing behind.

mod bare;
mod bridge;
mod image;
mod lifecycle;
mod machine;
mod masquerade;
mod plugins;
mod privileges;
mod sidecar;
mod vmi;

use crate::lab::node::Lab;
use crate::report::Scenario;

/// In the order in which they run: the lab itself first, so that a lab that is broken is not taken for a launcher that is.
pub(crate) const ALL: &[Scenario<Lab>] = &[
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
        name: "masquerade_listed_ports_only",
        run: masquerade::listed_ports_only,
    },
    Scenario {
        name: "masquerade_two_cpus_multi_queue",
        run: masquerade::multi_queue,
    },
    Scenario {
        name: "bridge_dual_stack_killed_and_taken_down",
        run: bridge::dual_stack,
    },
    Scenario {
        name: "plugin_tap_a_macvtap",
        run: plugins::macvtap,
    },
    Scenario {
        name: "plugin_tap_by_a_cni_plugin",
        run: plugins::cni_tap,
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
        name: "guest_powers_off",
        run: lifecycle::guest_powers_off,
    },
    Scenario {
        name: "restart_after_kill_converges",
        run: lifecycle::restart_after_kill,
    },
    Scenario {
        name: "teardown_leaves_the_pod_as_found",
        run: lifecycle::teardown,
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
        name: "sidecar_gives_a_vhost_user_nic",
        run: sidecar::vhost_user,
    },
    Scenario {
        name: "sidecar_killed_is_reported",
        run: sidecar::killed,
    },
    Scenario {
        name: "sidecar_that_lies_is_refused",
        run: sidecar::lies,
    },
];

/// Shown by `cargo e2e demo`.
pub(crate) const DEMO: &Scenario<Lab> = &Scenario {
    name: "demo",
    run: masquerade::demo,
};

pub(crate) fn find(name: &str) -> Option<&'static Scenario<Lab>> {
    ALL.iter()
        .chain(std::iter::once(DEMO))
        .find(|scenario| scenario.name == name)
}
