//! The scenarios that need a real guest. Each has pods of its own and leaves nothing behind.

mod bare;
mod bridge;
mod image;
mod lifecycle;
mod masquerade;
mod migration;
mod privileges;
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
        name: "setup_in_an_init_container",
        run: privileges::init_container,
    },
    Scenario {
        name: "migration_masquerade_with_tls",
        run: migration::masquerade_with_tls,
    },
    Scenario {
        name: "migration_wrong_certificate_and_plain_tcp",
        run: migration::wrong_certificate,
    },
    Scenario {
        name: "migration_target_killed",
        run: migration::target_killed,
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
