//! Binding plugins and devices that cannot be used: each refused with its reason, its exit code and nothing touched.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::Context;
use super::plugins::{INTERFACE, NETWORK, TAP, hawser, macvtap, manifest, status};
use super::running::{exit_code, expect_exit};
use crate::cni_tap;
use crate::pods::{Pod, PodSpec, Privileges, VMM_UID, set};
use crate::process::Process;
use crate::report::Scenario;

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "a plugin that is not registered: exit code 3",
        run: not_registered,
    },
    Scenario {
        name: "a file of plugins with faults: exit code 3",
        run: faulty_file,
    },
    Scenario {
        name: "no device, and one of another kind: exit code 4",
        run: no_device,
    },
    Scenario {
        name: "a macvtap that is down, or of another MAC: exit code 4",
        run: unusable_macvtap,
    },
    Scenario {
        name: "a macvtap whose device node is missing, or not for this user: exit code 4",
        run: no_node,
    },
    Scenario {
        name: "a TAP of somebody else's, or of another queue mode: exit code 4",
        run: unusable_tap,
    },
    Scenario {
        name: "a network-status without the network: exit code 4",
        run: not_in_status,
    },
];

fn nobody() -> PodSpec {
    PodSpec {
        privileges: Privileges::Nothing,
        ..PodSpec::default()
    }
}

/// hawser must end with `code`, say `parts`, and leave the pod as it is.
fn refused(pod: &Pod, mut hawser: Process, code: i32, parts: &[&str]) -> Result<()> {
    expect_exit(exit_code(&mut hawser)?, code, &hawser)?;
    let said = hawser.stderr();
    for part in parts {
        ensure!(said.contains(part), "no {part:?} in: {said}");
    }
    let links = pod.netns.ip("link show")?;
    for ours in ["tap0", "srv", "k6t-"] {
        ensure!(!links.contains(ours), "{ours} is there: {links}");
    }
    Ok(())
}

fn not_registered(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, nobody())?;
    for verb in ["run", "setup", "plan", "explain"] {
        let hawser = hawser(&pod, verb, &manifest("other"), &[])?;
        let why = "interfaces[0].binding.name: binding plugin \"other\" is not registered";
        refused(&pod, hawser, 3, &[why, "registers device, wire"])?;
    }
    let without = pod.hawser("run", &manifest("device"))?;
    refused(&pod, without, 3, &["pass --bindings FILE"])
}

fn faulty_file(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, nobody())?;
    let file = pod.path("faulty.yaml");
    std::fs::write(&file, "binding: {a: {domainAttachmentType: tun, slots: 1}}")?;
    let file = file.display().to_string();
    let start = |file: &str| pod.hawser_as(&pod.entry(), "run", &manifest("a"), &["--bindings", file]);
    refused(
        &pod,
        start(&file)?,
        3,
        &[
            "binding.a.domainAttachmentType: unsupported value \"tun\": expected \"tap\" or \"managedTap\"",
            "binding.a.slots: unknown field",
        ],
    )?;
    refused(
        &pod,
        start("/nowhere")?,
        3,
        &["read the binding plugins /nowhere"],
    )
}

fn no_device(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, nobody())?;
    let run = || hawser(&pod, "run", &manifest("device"), &[]);
    refused(
        &pod,
        run()?,
        4,
        &[&format!(
            "network {NETWORK}: the pod has no TAP or macvtap for it: hawser looked for {TAP} or tap1 or {INTERFACE} or net1 \
             and found only "
        )],
    )?;
    pod.netns.ip(&format!("link add {INTERFACE} type bridge"))?;
    refused(&pod, run()?, 4, &["it is a bridge, not a TAP or a macvtap"])?;
    pod.netns.ip(&format!("link del {INTERFACE}"))?;
    let managed = hawser(&pod, "run", &manifest("wire"), &[])?;
    let why = format!("spec.networks[0]: the pod has no interface {INTERFACE} or net1, only");
    refused(
        &pod,
        managed,
        4,
        &[&why, "remedy: attach the pod to each network"],
    )
}

fn unusable_macvtap(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    macvtap(&pod)?;
    pod.netns.ip(&format!("link set {INTERFACE} down"))?;
    let run = |vmi: &Value| hawser(&pod, "run", vmi, &[]);
    refused(
        &pod,
        run(&manifest("device"))?,
        4,
        &[&format!(
            "the device is down: its CNI plugin must bring it up (ip link set {INTERFACE} up)"
        )],
    )?;
    pod.netns.ip(&format!("link set {INTERFACE} up"))?;
    let mut other = manifest("device");
    set(
        &mut other,
        "/spec/domain/devices/interfaces/0/macAddress",
        json!("02:00:00:00:00:77"),
    );
    refused(
        &pod,
        run(&other)?,
        4,
        &["receives no frames for 02:00:00:00:00:77", "omit macAddress"],
    )
}

fn no_node(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, nobody())?;
    let index = macvtap(&pod)?;
    // The kernel makes it for root alone.
    refused(
        &pod,
        hawser(&pod, "run", &manifest("device"), &[])?,
        4,
        &[
            &format!("open /dev/tap{index}: Permission denied"),
            &format!("remedy: let user {VMM_UID} read and write /dev/tap{index}"),
        ],
    )?;
    let mut entry = pod.entry();
    entry
        .binds
        .push(("/dev/null".into(), format!("/dev/tap{index}").into()));
    let file = pod.path("bindings.yaml").display().to_string();
    let hawser = pod.hawser_as(&entry, "run", &manifest("device"), &["--bindings", &file])?;
    refused(
        &pod,
        hawser,
        4,
        &[
            &format!(
                "the pod has no device node for the macvtap {INTERFACE}: expected /dev/tap{index}, character device "
            ),
            "remedy: give the pod the device",
        ],
    )
}

fn unusable_tap(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, nobody())?;
    let namespace = pod.netns.path();
    for (configuration, why) in [
        (
            json!({"owner": 1}),
            "the TAP belongs to user 1, so hawser as 107:107 cannot open it",
        ),
        (
            json!({"group": 5}),
            "the TAP belongs to group 5, so hawser as 107:107 cannot open it",
        ),
        (
            json!({"owner": VMM_UID, "multiQueue": true}),
            "the TAP is multi-queue, but the guest's NIC has one queue pair",
        ),
    ] {
        cni_tap::call("ADD", &namespace, INTERFACE, &configuration)?;
        refused(
            &pod,
            hawser(&pod, "run", &manifest("device"), &[])?,
            4,
            &[INTERFACE, why],
        )?;
        cni_tap::call("DEL", &namespace, INTERFACE, &configuration)?;
    }
    Ok(())
}

fn not_in_status(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, nobody())?;
    let file = status(&pod, "ens7")?;
    let mut vmi = manifest("wire");
    set(
        &mut vmi,
        "/spec/networks/0/multus/networkName",
        json!("elsewhere/l2-net"),
    );
    let run = || hawser(&pod, "run", &vmi, &["--network-status", &file]);
    refused(
        &pod,
        run()?,
        4,
        &[
            "spec.networks[0]: ",
            "does not list this network, only cbr0 (eth0), ns/l2-net (ens7)",
        ],
    )?;
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, text.replace("ens7", "../ens7"))?;
    refused(
        &pod,
        run()?,
        4,
        &["interface \"../ens7\": not a valid interface name"],
    )
}
