//! Whether the kernel confines what this launcher starts (landlock(7)).

use super::finding::Finding;

/// cloud-hypervisor's own ruleset takes no less: where the kernel has less, it creates no VM with it.
const VMM_NEEDS: u32 = 3;

/// What the kernel offers to this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Landlock {
    abi: Option<u32>,
}

impl Landlock {
    pub(crate) fn of_kernel() -> Self {
        Self {
            abi: hawser_linux::landlock::abi(),
        }
    }

    /// Whether cloud-hypervisor can be asked to confine itself besides.
    pub(crate) fn suffices_for_vmm(self) -> bool {
        self.abi >= Some(VMM_NEEDS)
    }

    /// What is missing, and what can be done about it.
    pub(crate) fn lack(self) -> Option<String> {
        match self.abi {
            None => Some(
                "landlock: the kernel does not have it, or the container's seccomp profile forbids it: cloud-hypervisor and \
                 virtiofsd can open every file that their user can; run on a kernel with landlock among its security modules \
                 (CONFIG_SECURITY_LANDLOCK, lsm=), with a seccomp profile that allows landlock_create_ruleset, \
                 landlock_add_rule and landlock_restrict_self"
                    .into(),
            ),
            Some(abi) if abi < VMM_NEEDS => Some(format!(
                "landlock: the kernel has ABI {abi}, and cloud-hypervisor's own ruleset needs ABI {VMM_NEEDS} (Linux 6.2): \
                 hawser's ruleset confines cloud-hypervisor alone, and cannot keep it from truncating files"
            )),
            Some(_) => None,
        }
    }

    /// For `hawser check`; nothing where all is well.
    pub(crate) fn finding(self) -> Option<Finding> {
        self.lack().map(Finding::Note)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_noted() {
        let of = |abi| Landlock { abi };
        assert!(of(None).lack().unwrap().contains("does not have it"));
        assert!(of(Some(2)).lack().unwrap().contains("ABI 2"));
        for (abi, suffices) in [(None, false), (Some(1), false), (Some(2), false), (Some(3), true)] {
            assert_eq!(of(abi).suffices_for_vmm(), suffices);
            assert_eq!(of(abi).finding().is_some(), !suffices);
        }
    }
}
