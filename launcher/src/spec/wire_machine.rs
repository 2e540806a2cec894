//! The machine that the guest is to find itself on, as written: memory pages, features, clock.

use schemars::JsonSchema;
use serde::Deserialize;

use super::wire::{Empty, Off, On, wire};

wire! {
    Hugepages {
        #[schemars(required)] page_size: Option<PageSize>,
    } accepted {}
}

/// The sizes that x86-64 has (Linux, Documentation/admin-guide/mm/hugetlbpage.rst).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub(crate) enum PageSize {
    #[serde(rename = "2Mi")]
    TwoMebi,
    #[serde(rename = "1Gi")]
    OneGibi,
}

wire! {
    Features {
        acpi: Option<Always>,
        apic: Option<Always>,
        hyperv: Option<HyperV>,
        pvspinlock: Option<Never>,
        hyperv_passthrough: Option<Never>,
    } accepted {
        // It keeps the guest's kernel away from what secure boot trusts, and there is no secure boot.
        smm,
    }
}

wire! {
    /// An x86 guest of cloud-hypervisor has it.
    Always {
        enabled: Option<On>,
    } accepted {}
}

wire! {
    /// cloud-hypervisor has it not. KubeVirt's `enabled` is true where it is absent.
    Never {
        #[schemars(required)] enabled: Option<Off>,
    } accepted {}
}

wire! {
    /// Hints that a guest can do without. Those that pretend to be something (`evmcs`, `vendorid`) are no hints.
    HyperV {} accepted {
        relaxed, vapic, spinlocks, vpindex, runtime, synic, synictimer, reset, frequencies, reenlightenment, tlbflush,
        ipi,
    }
}

wire! {
    /// cloud-hypervisor has one machine, whatever its name is elsewhere.
    Machine {
        r#type: Option<String>,
    } accepted {}
}

wire! {
    /// A pointer on the guest's screen, of which there is none.
    Input {
        #[schemars(required)] name: Option<String>,
    } accepted { r#type, bus, }
}

wire! {
    Clock {
        utc: Option<Empty>,
        timer: Option<Timer>,
    } accepted {}
}

wire! {
    /// The guest's clocks are the TSC and kvmclock; what is said of the others cannot matter to it.
    Timer {} accepted { hpet, kvm, pit, rtc, hyperv, }
}
