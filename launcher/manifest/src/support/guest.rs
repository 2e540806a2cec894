//! Rules for the fields of an instance's `spec`, besides those of its devices.

use super::When::{Code, Given, On, True};
use super::{Fate, Rule, anyway, noted, of_the_pod, reduced, refused};

const ONE_TIMER: &str = "not passed on: the guest's clocks are the TSC, the local APIC's timer and kvmclock";

pub(super) const RULES: &[Rule] = &[
    // The pod.
    of_the_pod("spec.nodeSelector", ""),
    of_the_pod("spec.affinity", ""),
    of_the_pod("spec.tolerations", ""),
    of_the_pod("spec.topologySpreadConstraints", ""),
    of_the_pod("spec.schedulerName", ""),
    of_the_pod("spec.priorityClassName", ""),
    of_the_pod("spec.serviceAccountName", ""),
    of_the_pod("spec.dnsPolicy", ""),
    of_the_pod("spec.dnsConfig", ""),
    reduced(
        "spec.evictionStrategy",
        "with LiveMigrate and LiveMigrateIfPossible the guest's container disks can migrate; a drain ends the pod unless a \
         PodDisruptionBudget stands in its way, as the one that hawser pod prints does",
    ),
    of_the_pod("spec.readinessProbe", "the kubelet asks the pod's probes alone"),
    of_the_pod("spec.livenessProbe", "the kubelet asks the pod's probes alone"),
    refused(
        "spec.readinessProbe.exec",
        "hawser has no agent in the guest: write tcpSocket or httpGet",
    ),
    refused(
        "spec.readinessProbe.guestAgentPing",
        "hawser has no agent in the guest: write tcpSocket or httpGet",
    ),
    refused(
        "spec.livenessProbe.exec",
        "hawser has no agent in the guest: write tcpSocket or httpGet",
    ),
    refused(
        "spec.livenessProbe.guestAgentPing",
        "hawser has no agent in the guest: write tcpSocket or httpGet",
    ),
    // The guest's life.
    refused(
        "spec.accessCredentials.userPassword",
        "hawser has no agent in the guest: write the password into cloud-init's user data",
    ),
    reduced(
        "spec.accessCredentials.sshPublicKey.propagationMethod.qemuGuestAgent",
        "for the user root alone, by a credential of systemd's and without an agent; other users are refused",
    ),
    refused(
        "spec.utilityVolumes",
        "nothing is attached to a running guest's pod",
    ),
    // CPUs and memory.
    noted(
        "spec.domain.cpu.maxSockets",
        Code,
        "no CPUs are added to a running guest: it keeps those that it boots with",
    ),
    refused(
        "spec.domain.cpu.features",
        "cloud-hypervisor passes on what the host's CPU has",
    ),
    refused("spec.domain.cpu.numa", "the guest has one NUMA node"),
    refused("spec.domain.cpu.realtime", ""),
    reduced("spec.domain.memory.guest", "rounded down to whole 2 MiB"),
    noted(
        "spec.domain.memory.maxGuest",
        Code,
        "no memory is added to a running guest: it keeps what it boots with",
    ),
    refused("spec.domain.memory.reservedOverhead", ""),
    Rule {
        path: "spec.domain.resources.overcommitGuestOverhead",
        fate: Fate::Pod(True),
        why: "",
    },
    noted(
        "spec.domain.ioThreadsPolicy",
        Given,
        "not passed on: each queue of a disk has a thread of its own",
    ),
    noted(
        "spec.domain.ioThreads",
        Given,
        "not passed on: each queue of a disk has a thread of its own",
    ),
    // The machine.
    noted(
        "spec.domain.machine.type",
        Code,
        "ignored: cloud-hypervisor has one machine type",
    ),
    refused("spec.domain.chassis", ""),
    refused("spec.domain.launchSecurity", ""),
    refused("spec.domain.firmware.acpi", ""),
    refused(
        "spec.domain.firmware.bootloader.bios",
        "cloud-hypervisor has no BIOS: for an image that boots by UEFI too, write efi: {secureBoot: false}",
    ),
    reduced(
        "spec.domain.firmware.bootloader.efi.secureBoot",
        "false alone; true is refused, and so is efi without it, which means true",
    ),
    of_the_pod("spec.domain.firmware.kernelBoot.container.imagePullPolicy", ""),
    of_the_pod("spec.domain.firmware.kernelBoot.container.imagePullSecret", ""),
    refused("spec.domain.features.kvm", ""),
    noted(
        "spec.domain.features.smm",
        On,
        "not passed on: cloud-hypervisor has no system management mode, and the guest has no secure boot that needs it",
    ),
    noted(
        "spec.domain.features.hyperv",
        Given,
        "not passed on: the guest finds KVM, without Hyper-V's enlightenments",
    ),
    refused("spec.domain.features.hyperv.evmcs", ""),
    refused("spec.domain.features.hyperv.vendorid", ""),
    refused("spec.domain.features.apic.endOfInterrupt", ""),
    refused("spec.domain.clock.timezone", ""),
    refused("spec.domain.clock.utc.offsetSeconds", ""),
    noted("spec.domain.clock.timer.hpet", On, ONE_TIMER),
    noted("spec.domain.clock.timer.pit", On, ONE_TIMER),
    noted("spec.domain.clock.timer.rtc", On, ONE_TIMER),
    noted("spec.domain.clock.timer.hyperv", On, ONE_TIMER),
    // Volumes.
    of_the_pod("spec.volumes.containerDisk.imagePullPolicy", ""),
    of_the_pod("spec.volumes.containerDisk.imagePullSecret", ""),
    noted(
        "spec.volumes.persistentVolumeClaim.hotpluggable",
        True,
        "the disk is there from the start, and cannot be taken from the running guest",
    ),
    noted(
        "spec.volumes.dataVolume.hotpluggable",
        True,
        "the disk is there from the start, and cannot be taken from the running guest",
    ),
    anyway(
        "spec.volumes.ephemeral.persistentVolumeClaim.readOnly",
        "what the guest writes goes to an overlay, never to the claim",
    ),
    of_the_pod("spec.volumes.downwardAPI.fields", ""),
    refused("spec.volumes.downwardMetrics", ""),
    refused("spec.volumes.memoryDump", ""),
    refused("spec.volumes.sysprep", ""),
    refused("spec.volumes.containerPath", ""),
    // Networks.
    refused("spec.networks.genie", ""),
];
