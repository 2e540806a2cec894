//! Rules for the objects that have an instance as their template, for metadata, and for annotations.

use super::When::{Given, True};
use super::{Rule, anyway, noted, object, reduced, refused};

/// Only the cluster knows them.
const EXPAND: &str =
    "hawser does not ask the cluster: write out what it stands for (virtctl expand --file FILE does)";
const ONE_INSTANCE: &str = "one instance is run, as the note of its kind says";
const NO_CONTROLLER: &str = "hawser has no controller that migrates guests by itself";

pub(super) const RULES: &[Rule] = &[
    object("metadata.generateName"),
    object("metadata.creationTimestamp"),
    object("metadata.deletionTimestamp"),
    object("metadata.deletionGracePeriodSeconds"),
    object("metadata.ownerReferences"),
    object("metadata.managedFields"),
    object("metadata.finalizers"),
    object("metadata.generation"),
    object("metadata.resourceVersion"),
    object("metadata.selfLink"),
    object("metadata.name"),
    object("metadata.namespace"),
    object("spec.virtualMachineTemplate.metadata"),
    object("status"),
    // A VirtualMachine, also that of a pool.
    refused("spec.instancetype", EXPAND),
    refused("spec.preference", EXPAND),
    reduced(
        "spec.running",
        "hawser pod makes a pod that is running; the guest runs as long as the launcher does",
    ),
    reduced(
        "spec.runStrategy",
        "hawser pod makes it the pod's restartPolicy; the guest runs as long as the launcher does",
    ),
    noted(
        "spec.dataVolumeTemplates",
        Given,
        "hawser makes no DataVolume: the claim of this name has to be there before the pod",
    ),
    noted(
        "spec.updateVolumesStrategy",
        Given,
        "the volumes of a running guest are not replaced: it keeps those that it boots with",
    ),
    // A replica set and a pool.
    reduced("spec.replicas", ONE_INSTANCE),
    anyway("spec.selector", ONE_INSTANCE),
    noted("spec.paused", True, ONE_INSTANCE),
    anyway("spec.maxUnavailable", ONE_INSTANCE),
    anyway("spec.updateStrategy", ONE_INSTANCE),
    anyway("spec.scaleInStrategy", ONE_INSTANCE),
    noted(
        "spec.autohealing",
        Given,
        "a guest that fails to start is started again by its pod's restartPolicy alone",
    ),
    noted(
        "spec.nameGeneration",
        Given,
        "names of configMaps and secrets are taken as they are written",
    ),
];

/// Whose annotations ask a hypervisor for something.
pub(super) const KUBEVIRTS: &[&str] = &[
    "kubevirt.io/",
    "alpha.kubevirt.io/",
    "hooks.kubevirt.io/",
    "smbios.vm.kubevirt.io/",
];

/// By their names. What KubeVirt itself writes into an instance that it runs asks for nothing.
pub(super) const ANNOTATIONS: &[Rule] = &[
    refused(
        "hooks.kubevirt.io/hookSidecars",
        "a hook changes libvirt's domain, and there is none; the sidecar of a binding plugin can change a NIC",
    ),
    refused(
        "kubevirt.io/ignitiondata",
        "cloud-hypervisor has no device from which Ignition reads it: write it as userData of cloudInitConfigDrive, which \
         Ignition reads in an image for KubeVirt",
    ),
    noted(
        "kubevirt.io/disablePCIHole64",
        True,
        "ignored: cloud-hypervisor puts the memory of PCI devices above 4 GiB, where a guest without 64-bit PCI does not find it",
    ),
    anyway(
        "kubevirt.io/allow-pod-bridge-network-live-migration",
        "a guest on a bridge to the pod network may migrate",
    ),
    anyway(
        "kubevirt.io/placePCIDevicesOnRootComplex",
        "every device is on the root complex",
    ),
    anyway(
        "kubevirt.io/free-page-reporting-disabled",
        "the guest has no balloon",
    ),
    anyway("kubevirt.io/nonroot", "no process of a guest is root"),
    noted(
        "kubevirt.io/memfd",
        Given,
        "ignored: cloud-hypervisor decides how it allocates the guest's memory",
    ),
    noted(
        "kubevirt.io/vga-display-efi-x86",
        Given,
        "ignored: cloud-hypervisor has no screen",
    ),
    noted(
        "kubevirt.io/keep-launcher-alive-after-failure",
        True,
        "ignored: the launcher ends when its guest does",
    ),
    noted(
        "kubevirt.io/libvirt-log-filters",
        Given,
        "ignored: there is no libvirt; HAWSER_LOG sets the level of hawser's log",
    ),
    noted(
        "kubevirt.io/create-migration-target",
        True,
        "ignored: hawser run --incoming waits for a guest",
    ),
    noted(
        "kubevirt.io/migrationUnschedulablePodTimeoutSeconds",
        Given,
        NO_CONTROLLER,
    ),
    noted(
        "kubevirt.io/migrationPendingPodTimeoutSeconds",
        Given,
        NO_CONTROLLER,
    ),
    noted(
        "kubevirt.io/migrationUtilityVolumesTimeoutSeconds",
        Given,
        NO_CONTROLLER,
    ),
    object("kubevirt.io/latest-observed-api-version"),
    object("kubevirt.io/storage-observed-api-version"),
    object("kubevirt.io/instancetype-name"),
    object("kubevirt.io/cluster-instancetype-name"),
    object("kubevirt.io/preference-name"),
    object("kubevirt.io/cluster-preference-name"),
    object("kubevirt.io/vm-generation"),
    object("kubevirt.io/vm-pool-revision-name"),
    object("kubevirt.io/memory-overhead-bytes"),
    object("kubevirt.io/pci-topology-version"),
    object("kubevirt.io/pci-interface-slot-count"),
    object("kubevirt.io/migrationTransportUnix"),
    object("kubevirt.io/migrationJobName"),
    object("kubevirt.io/migration-target-ready-timestamp"),
    object("kubevirt.io/eviction-source"),
    object("kubevirt.io/immediate-data-volume-creation"),
    object("kubevirt.io/restore-run-strategy"),
    object("kubevirt.io/domain"),
    object("kubevirt.io/created-by"),
];
