//! RLIMIT_MEMLOCK (setrlimit(2)). VFIO locks all of the guest's memory, and the kernel holds that against the VMM's limit
//! unless it has CAP_IPC_LOCK, which it has not.

use caps::{CapSet, Capability};
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

use crate::error::{ExitCode, Failure};

/// Beyond the guest's memory: what the VMM itself may lock, and firmware that is mapped beside it. Bytes.
pub(super) const HEADROOM: u64 = 64 << 20;

/// What is to be done about a limit.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Enough,
    /// Anybody may raise the soft limit to the hard one.
    RaiseSoft,
    /// Needs CAP_SYS_RESOURCE.
    RaiseBoth,
}

fn step(soft: rlim_t, hard: rlim_t, needed: u64, may_raise: bool) -> Option<Step> {
    if soft >= needed {
        Some(Step::Enough)
    } else if hard >= needed {
        Some(Step::RaiseSoft)
    } else {
        may_raise.then_some(Step::RaiseBoth)
    }
}

/// Raises the limit of this process, which the VMM inherits, as far as it is needed and allowed.
pub(super) fn ensure(guest_memory: u64) -> Result<String, Failure> {
    let fail = |what: &'static str| {
        move |errno: nix::errno::Errno| Failure::new(ExitCode::Internal, what).because(errno)
    };
    let needed = guest_memory.saturating_add(HEADROOM);
    let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK).map_err(fail("read RLIMIT_MEMLOCK"))?;
    let may_raise = caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_RESOURCE).unwrap_or(false);
    let set = |hard| setrlimit(Resource::RLIMIT_MEMLOCK, needed, hard).map_err(fail("raise RLIMIT_MEMLOCK"));
    match step(soft, hard, needed, may_raise) {
        Some(Step::Enough) => {}
        Some(Step::RaiseSoft) => set(hard)?,
        Some(Step::RaiseBoth) => set(needed)?,
        None => return Err(too_low(hard, needed)),
    }
    Ok(format!("locked memory: {} can be locked", amount(needed)))
}

fn too_low(hard: rlim_t, needed: u64) -> Failure {
    Failure::unfit(
        format!(
            "locked memory: the limit is {}, and the guest's memory with headroom is {}",
            amount(hard),
            amount(needed)
        ),
        format!(
            "raise RLIMIT_MEMLOCK: podman run --ulimit memlock={needed}:{needed}; in Kubernetes the container runtime's \
             (LimitMEMLOCK= in its systemd unit); or start hawser as root with the capability SYS_RESOURCE"
        ),
    )
}

fn amount(bytes: u64) -> String {
    match bytes {
        bytes if bytes < 1 << 20 => format!("{} KiB", bytes >> 10),
        bytes => format!("{} MiB", bytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_raised_only_where_it_has_to_be_and_may_be() {
        assert_eq!(step(100, 100, 100, false), Some(Step::Enough));
        assert_eq!(step(99, 100, 100, false), Some(Step::RaiseSoft));
        assert_eq!(step(99, 99, 100, false), None);
        assert_eq!(step(99, 99, 100, true), Some(Step::RaiseBoth));
        assert_eq!(
            step(rlim_t::MAX, rlim_t::MAX, u64::MAX, false),
            Some(Step::Enough)
        );
    }

    #[test]
    fn a_limit_that_is_too_low_is_said_with_both_amounts() {
        let failure = too_low(64 << 10, (192 << 20) + HEADROOM);
        assert_eq!(failure.code(), ExitCode::PodUnfit);
        let text = failure.to_string();
        assert!(
            text.contains("the limit is 64 KiB, and the guest's memory with headroom is 256 MiB\n"),
            "{text}"
        );
        assert!(text.contains("memlock=268435456:268435456"), "{text}");
    }
}
