//! The manifest as written: what hawser accepts of the `kubevirt.io/v1` VirtualMachineInstance.
//!
//! These types are the one list of what is accepted. The JSON Schema is made from them, the structural check
//! (`check`) holds manifests against that schema, and only what passed is read into them. Names and meanings are
//! those of KubeVirt's API reference.
//!
//! Every field is optional for serde, also those that the schema requires: the check has reported a missing or
//! a malformed one already, and what remains is looked through all the same.
//!
//! A field of the type [`Accepted`](crate::document::fields::Accepted) is accepted by name with any value, and never read:
//! `support` has a rule for it.

pub(crate) mod credentials;
pub(crate) mod devices;
pub(crate) mod net;
pub(crate) mod storage;
pub(crate) mod template;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::document::fields::{Empty, List, Off, On, Quantity, fields};

use credentials::AccessCredential;
use devices::{Filesystem, HostDevice, PanicDevice, Status, Tpm};
use net::{Interface, Network, ResourceClaim};
use storage::{Bootloader, Disks, Volumes};

fields! {
    /// A KubeVirt VirtualMachineInstance, as far as hawser runs it.
    VirtualMachineInstance {
        #[schemars(required)] api_version: Option<ApiVersion>,
        #[schemars(required)] kind: Option<Kind>,
        #[schemars(required)] metadata: Option<Metadata>,
        #[schemars(required)] spec: Option<Spec>,
        status: Option<Status>,
    } accepted {}
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) enum ApiVersion {
    #[serde(rename = "kubevirt.io/v1")]
    V1,
    // KubeVirt serves the same types under this older name.
    #[serde(rename = "kubevirt.io/v1alpha3")]
    V1Alpha3,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) enum Kind {
    VirtualMachineInstance,
}

fields! {
    Metadata {
        #[schemars(required)] name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        #[serde(default)] labels: BTreeMap<String, String>,
        #[serde(default)] annotations: BTreeMap<String, String>,
    } accepted {
        generate_name, creation_timestamp, deletion_timestamp, deletion_grace_period_seconds,
        owner_references, managed_fields, finalizers, generation, resource_version, self_link,
    }
}

fields! {
    Spec {
        #[schemars(required)] domain: Option<Domain>,
        #[serde(default)] networks: List<Network>,
        #[serde(default)] resource_claims: List<ResourceClaim>,
        #[serde(default)] volumes: Volumes,
        hostname: Option<String>,
        subdomain: Option<String>,
        termination_grace_period_seconds: Option<i64>,
        architecture: Option<Architecture>,
        readiness_probe: Option<Probe>,
        liveness_probe: Option<Probe>,
        #[serde(default)] access_credentials: List<AccessCredential>,
        eviction_strategy: Option<String>,
        start_strategy: Option<StartStrategy>,
    } accepted {
        // Where the pod runs, and as whom: decided before this program starts. DNS settings reach it as the
        // pod's resolv.conf.
        node_selector, affinity, tolerations, topology_spread_constraints, scheduler_name, priority_class_name,
        service_account_name, dns_policy, dns_config,
    }
}

/// cloud-hypervisor's guests have the machine's own architecture.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Architecture {
    Amd64,
}

fields! {
    /// The kubelet asks the guest's ports through the pod's address. Probes that run inside the guest (`exec`,
    /// `guestAgentPing`) need an agent and are not accepted.
    Probe {} accepted {
        tcp_socket, http_get, initial_delay_seconds, timeout_seconds, period_seconds, success_threshold,
        failure_threshold,
    }
}

fields! {
    Domain {
        cpu: Option<Cpu>,
        memory: Option<Memory>,
        #[serde(default)] resources: Resources,
        firmware: Option<Firmware>,
        #[serde(default)] devices: Devices,
        features: Option<Features>,
        clock: Option<Clock>,
        machine: Option<Machine>,
        reboot_policy: Option<RebootPolicy>,
    } accepted {
        // Every disk of a cloud-hypervisor guest has a thread of its own.
        io_threads_policy, io_threads,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub(crate) enum StartStrategy {
    Paused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub(crate) enum RebootPolicy {
    Reboot,
    Terminate,
}

fields! {
    Cpu {
        sockets: Option<u32>,
        cores: Option<u32>,
        threads: Option<u32>,
        model: Option<CpuModel>,
        dedicated_cpu_placement: Option<bool>,
        isolate_emulator_thread: Option<bool>,
        // How far CPUs could be plugged later. KubeVirt writes it into every object.
        max_sockets: Option<u32>,
    } accepted {}
}

/// cloud-hypervisor passes the host's CPU on, so both names mean the same.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CpuModel {
    HostPassthrough,
    HostModel,
}

fields! {
    Memory {
        guest: Option<Quantity>,
        hugepages: Option<Hugepages>,
        // How far memory could be plugged later. KubeVirt writes it into every object.
        max_guest: Option<Quantity>,
    } accepted {}
}

fields! {
    /// Only `cpu` and `memory` say anything about the guest; other resources are the scheduler's.
    Resources {
        #[serde(default)] requests: BTreeMap<String, Quantity>,
        #[serde(default)] limits: BTreeMap<String, Quantity>,
    } accepted { overcommit_guest_overhead, }
}

fields! {
    Firmware {
        uuid: Option<String>,
        serial: Option<String>,
        kernel_boot: Option<KernelBoot>,
        bootloader: Option<Bootloader>,
    } accepted {}
}

fields! {
    KernelBoot {
        kernel_args: Option<String>,
        #[schemars(required)] container: Option<KernelBootContainer>,
    } accepted {}
}

fields! {
    /// The pod has pulled and mounted the image already.
    KernelBootContainer {
        #[schemars(required)] image: Option<String>,
        kernel_path: Option<String>,
        initrd_path: Option<String>,
    } accepted { image_pull_policy, image_pull_secret, }
}

fields! {
    Devices {
        #[serde(default)] interfaces: List<Interface>,
        #[serde(default)] disks: Disks,
        block_multi_queue: Option<bool>,
        #[serde(rename = "networkInterfaceMultiqueue")] network_interface_multiqueue: Option<bool>,
        autoattach_pod_interface: Option<bool>,
        autoattach_graphics_device: Option<Off>,
        autoattach_input_device: Option<Off>,
        inputs: Option<List<Input>>,
        #[serde(rename = "autoattachVSOCK")] autoattach_vsock: Option<bool>,
        #[serde(default)] gpus: List<HostDevice>,
        #[serde(default)] host_devices: List<HostDevice>,
        #[serde(default)] filesystems: List<Filesystem>,
        tpm: Option<Tpm>,
        use_virtio_transitional: Option<Off>,
        #[serde(default)] panic_devices: List<PanicDevice>,
        autoattach_serial_console: Option<bool>,
        log_serial_console: Option<bool>,
    } accepted {
        // A cloud-hypervisor guest always has an entropy device.
        rng,
        // The balloon is KubeVirt's source of statistics; nothing in the guest depends on it.
        autoattach_mem_balloon,
        // Nothing is plugged at run time yet.
        disable_hotplug,
    }
}

fields! {
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

fields! {
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

fields! {
    /// An x86 guest of cloud-hypervisor has it.
    Always {
        enabled: Option<On>,
    } accepted {}
}

fields! {
    /// cloud-hypervisor has it not. KubeVirt's `enabled` is true where it is absent.
    Never {
        #[schemars(required)] enabled: Option<Off>,
    } accepted {}
}

fields! {
    /// Hints that a guest can do without. Those that pretend to be something (`evmcs`, `vendorid`) are no hints.
    HyperV {} accepted {
        relaxed, vapic, spinlocks, vpindex, runtime, synic, synictimer, reset, frequencies, reenlightenment, tlbflush,
        ipi,
    }
}

fields! {
    /// cloud-hypervisor has one machine, whatever its name is elsewhere.
    Machine {
        r#type: Option<String>,
    } accepted {}
}

fields! {
    /// A pointer on the guest's screen, of which there is none.
    Input {
        #[schemars(required)] name: Option<String>,
    } accepted { r#type, bus, }
}

fields! {
    Clock {
        utc: Option<Empty>,
        timer: Option<Timer>,
    } accepted {}
}

fields! {
    Timer {
        kvm: Option<KvmClock>,
    } accepted { hpet, pit, rtc, hyperv, }
}

fields! {
    /// Every guest of cloud-hypervisor has it.
    KvmClock {
        present: Option<On>,
    } accepted {}
}
