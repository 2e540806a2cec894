//! What hawser assumes of cloud-hypervisor beyond its documented interface.
//!
//! Each assumption was read in the source of v53.0 and is checked against the real program by a scenario of the lab. A
//! release with another first number may differ in any of them: hawser starts it, and logs a warning. Whoever raises
//! [`NEWEST_TESTED`] reads the named places in the new release's source, and runs the scenarios.
//!
//! One assumption is a constant of `hawser-vhost-relay`, which knows no VMM: the size of the reply to
//! VHOST_USER_SET_LOG_BASE (`LOG_BASE_REPLY` there).

/// The oldest release that is not known to crash (#7766) or to be exploitable by its guest (CVE-2026-45782). The first
/// number of the version.
pub const OLDEST: u32 = 52;
/// The newest release that the scenarios below were run with. The first number of the version.
pub const NEWEST_TESTED: u32 = 53;

/// One assumption, for whoever tests a new release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assumption {
    pub what: &'static str,
    /// Where it is in the source of v53.0.
    pub source: &'static str,
    /// The scenario of the lab that fails where it does not hold.
    pub scenario: &'static str,
}

pub const ASSUMPTIONS: [Assumption; 9] = [
    Assumption {
        what: "a request to change a VM that is being sent is refused with the text MIGRATING",
        source: "vmm/src/vm.rs: Error::VmMigrating; vmm/src/lib.rs: VmOwnership::Migration",
        scenario: "migration_sriov_with_the_targets_own_vf",
    },
    Assumption {
        what: "a guest that ends while it is sent ends the process with a chain of errors on standard error that says \
               whether it powered off or rebooted",
        source: "vmm/src/lib.rs: control_loop, Error::VmmShutdown, Error::VmReboot",
        scenario: "migration_guest_that_ends_in_the_middle",
    },
    Assumption {
        what: "each vCPU is a thread named vcpuN, and a receiving VMM starts them, paused, after the request with the \
               guest's last state and before it answers that request",
        source: "vmm/src/cpu.rs: CpuManager::start_vcpu; vmm/src/vm.rs: Vm::restore, whose event `restored` another thread writes later",
        scenario: "migration_masquerade_with_tls",
    },
    Assumption {
        what: "requests and answers of a migration alternate on its first connection; whatever follows the answer to the \
               guest's last state is the instruction to run",
        source: "vm-migration/src/protocol.rs",
        scenario: "migration_cut_and_killed_in_the_middle",
    },
    Assumption {
        what: "while it sends, the API does not answer once the guest has ended; a vCPU's thread that KVM or a triple \
               fault has ended is gone",
        source: "vmm/src/lib.rs: control_loop",
        scenario: "migration_guest_that_ends_in_the_middle",
    },
    Assumption {
        what: "SIGSTOP stops every thread, and a process that is stopped has neither resumed the guest nor ended",
        source: "signal(7); no handler of SIGCONT",
        scenario: "migration_target_killed",
    },
    Assumption {
        what: "a vCPU's thread in KVM_RUN holds no lock that others wait for before the pause; for the pause it is sent a signal, \
               again every 10 ms, and has a second to answer",
        source: "vmm/src/cpu.rs: signal_thread, wait_until_signal_acknowledged",
        scenario: "migration_of_a_restless_guest_given_up_and_allowed_more_downtime",
    },
    Assumption {
        what: "the reply to VHOST_USER_SET_LOG_BASE has the form of the request, 16 bytes",
        source: "the vhost crate: vhost_user/frontend.rs, set_log_base",
        scenario: "migration_passt_to_other_addresses",
    },
    Assumption {
        what: "the thread that writes events may not open files, which glibc does for the ninth heap (MALLOC_ARENAS)",
        source: "vmm/src/seccomp_filters.rs: event_monitor_thread_rules",
        scenario: "blackout",
    },
];

/// What a version means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    TooOld,
    Tested,
    /// Newer than [`NEWEST_TESTED`].
    NotTested,
    /// Without a number: somebody's own build.
    Unknown,
}

/// `v53.0`, `53.0.0` or `v53.0-dirty`: the first number counts.
pub fn release(version: &str) -> Release {
    match number(version) {
        Ok(..OLDEST) => Release::TooOld,
        Ok(OLDEST..=NEWEST_TESTED) => Release::Tested,
        Ok(_) => Release::NotTested,
        Err(_) => Release::Unknown,
    }
}

/// Release 52 knows the platform's serial number and UUID by other names than those after it (`PlatformConfig` in
/// vmm/src/vm_config.rs).
pub fn is_52(version: &str) -> bool {
    number(version) == Ok(52)
}

fn number(version: &str) -> Result<u32, std::num::ParseIntError> {
    let digits: String = version
        .trim_start_matches('v')
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse()
}

/// glibc lets a process have eight heaps for its threads before it asks how many processors there are, by reading a file
/// of /sys in whichever thread happens to want the ninth. Where that is the one that writes events, cloud-hypervisor
/// ends by SIGSYS and the guest with it: its seccomp filter does not let this thread open files. With a limit glibc does
/// not ask. musl has one heap and does not know the variable.
pub(crate) const MALLOC_ARENAS: (&str, &str) = ("MALLOC_ARENA_MAX", "8");

/// `VmError::VmMigrating`, as an answer of the API has it and as the process prints it at its end.
pub(crate) const MIGRATING: &str = "VM is currently migrating and can't be modified";

/// How the name of each vCPU's thread begins.
pub(crate) const VCPU_THREAD: &str = "vcpu";

/// What the guest did that cloud-hypervisor could not carry out, because it was sending it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestEnd {
    ShutDown,
    Reboot,
}

/// Read from the end of standard error: `Error::VmmShutdown` or `Error::VmReboot`, because of `VmError::VmMigrating`.
pub(crate) fn guest_end(last_lines: &str) -> Option<GuestEnd> {
    let mut before = "";
    for line in last_lines.lines() {
        if line
            .strip_suffix(MIGRATING)
            .is_some_and(|rest| rest.ends_with(": "))
        {
            if before.ends_with(": Error shutting down VMM") {
                return Some(GuestEnd::ShutDown);
            }
            if before.ends_with(": Error rebooting VM") {
                return Some(GuestEnd::Reboot);
            }
        }
        before = line;
    }
    None
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Seen with cloud-hypervisor 53.
    pub(crate) fn chain(what: &str) -> String {
        format!(
            "cloud-hypervisor:  14.911577s: <migration-worker> WARN:vmm/src/cpu.rs:823 -- vCPU thread did not respond in 990ms to signal - retrying\n\
             Error: Cloud Hypervisor exited with the following chain of errors:\n  0: VMM thread exited with error\n  1: {what}\n  \
             2: VM is currently migrating and can't be modified\n"
        )
    }

    #[test]
    fn the_guests_end_is_distinguished_from_failures() {
        assert_eq!(
            guest_end(&chain("Error shutting down VMM")),
            Some(GuestEnd::ShutDown)
        );
        assert_eq!(guest_end(&chain("Error rebooting VM")), Some(GuestEnd::Reboot));
        assert_eq!(guest_end(&chain("Error activating virtio devices")), None);
        let refused = "[\"Error from API\",\"VM is currently migrating and can't be modified\"]\n";
        assert_eq!(guest_end(refused), None, "an answer to a request");
        assert_eq!(guest_end(""), None);
    }

    #[test]
    fn the_first_number_of_a_version_decides() {
        for (version, expected) in [
            ("v51.1", Release::TooOld),
            ("v9.0", Release::TooOld),
            ("51.2.0", Release::TooOld),
            ("v52.0", Release::Tested),
            ("53.0.0", Release::Tested),
            ("v53.0-dirty", Release::Tested),
            ("v54.0", Release::NotTested),
            ("v100.1", Release::NotTested),
            ("unknown", Release::Unknown),
            ("", Release::Unknown),
        ] {
            assert_eq!(release(version), expected, "{version:?}");
        }
    }

    #[test]
    fn every_assumption_names_a_scenario_of_the_lab() {
        let scenarios = include_str!("../../../e2e/src/lab/scenarios/mod.rs");
        for assumption in ASSUMPTIONS {
            let name = format!("name: \"{}\"", assumption.scenario);
            assert!(scenarios.contains(&name), "{assumption:?}");
        }
    }
}
