//! Guests that have a virtual function of the node's NIC. The NIC is an emulated 82576; what is between its functions is
//! the card's own switch, which the pods' kernels have no part in.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::lifecycle::{END, compare};
use super::masquerade::{BOOT, SERVE, wait_for_both_families};
use super::sriov_card::{Card, Function, PF_ADDRESSES, extra, ip};
use super::vmi;
use crate::lab::node::Lab;
use crate::lab::node::guest::{self, PORT};
use crate::lab::node::pod::{FORWARD_IPV6, Launcher, Pod, Privileges, ROOT, UNPRIVILEGED};

/// Enough for one guest.
pub(super) const MEMLOCK: u64 = 192 + 64;

/// What the guest's interfaces are, with the address that the guest gives itself on each function.
pub(super) fn manifest(name: &str, functions: &[(&Function, &str, Value)]) -> Value {
    let mut manifest = vmi::masquerade(name, &[]);
    let mut interfaces = Vec::new();
    let mut networks = Vec::new();
    let mut arguments = String::from("console=ttyS0 quiet panic=-1 mitigations=off");
    for (index, (function, address, more)) in functions.iter().enumerate() {
        let name = format!("vf{index}");
        let mut interface = json!({"name": name, "sriov": {}});
        if let (Some(interface), Some(more)) = (interface.as_object_mut(), more.as_object()) {
            interface.extend(more.clone());
        }
        interfaces.push(interface);
        networks.push(json!({"name": name, "multus": {"networkName": "vfs"}}));
        arguments.push_str(&format!(" guest.ip.{}={address}/24", function.mac));
    }
    for (pointer, value) in [
        ("/spec/domain/devices/interfaces", json!(interfaces)),
        ("/spec/networks", json!(networks)),
        ("/spec/domain/firmware/kernelBoot/kernelArgs", json!(arguments)),
    ] {
        vmi::set(&mut manifest, pointer, value);
    }
    manifest
}

/// The guest's interface that has the function, by its name in the guest.
fn nic_of(launcher: &Launcher<'_>, function: &Function) -> Result<String> {
    let line = launcher
        .console
        .wait_for(&format!(" mac {} ", function.mac), BOOT)?;
    let name = line.split_whitespace().nth(2);
    name.map(str::to_owned)
        .with_context(|| format!("no name: {line}"))
}

/// KubeVirt's user without a capability is enough: there is nothing to wire.
pub(super) fn reaches_the_physical_function(lab: &Lab) -> Result<()> {
    let card = Card::with_functions()?;
    let [function, _] = card.functions.as_slice() else {
        anyhow::bail!("two functions were wanted");
    };
    let pod = Pod::create(lab, "vf", &[])?;
    let before = pod.snapshot()?;
    let mac = json!({"macAddress": function.mac});
    pod.set_manifest(&manifest("vf", &[(function, "10.91.0.2", mac)]))?;
    // What Multus writes, as the downward API mounts it.
    let status = pod.write(
        "network-status",
        &json!([{"name": "default/vfs", "interface": "net1", "mac": function.mac, "dns": {},
            "device-info": {"type": "pci", "version": "1.1.0", "pci": {"pci-address": function.address}}}]),
    )?;
    let mut extra = extra(&[function], MEMLOCK);
    extra.podman.retain(|option| !option.starts_with("--env"));
    extra
        .podman
        .push(format!("--volume={}:/etc/status:ro", status.display()));
    extra.hawser = vec!["--network-status=/etc/status".to_owned()];

    let mut check = pod.launch_with("check", ROOT, &extra)?;
    check.expect_exit(0, END)?;
    check.console.wait_for(
        "ok    VFIO: the kernel gives the groups to the guest's user, with a type-1 IOMMU",
        END,
    )?;
    let mut launcher = pod.launch_with("run", UNPRIVILEGED, &extra)?;
    nic_of(&launcher, function).context("the MAC that was set on the physical function")?;
    launcher.console.wait_for("guest: ready", BOOT)?;
    let address = "10.91.0.2".parse()?;
    guest::greet_within(address, PORT, SERVE)?;
    guest::execute(address, &format!("ping -c 3 -w 20 {}", PF_ADDRESSES[0]))?;
    launcher.signal("TERM")?;
    launcher.expect_exit(0, END)?;
    compare(&before, &pod.snapshot()?)
}

pub(super) fn two_guests(lab: &Lab) -> Result<()> {
    let card = Card::with_functions()?;
    let [one, two] = card.functions.as_slice() else {
        anyhow::bail!("two functions were wanted");
    };
    let mut pods = Vec::new();
    for (name, function, address) in [("vf-one", one, "10.91.0.2"), ("vf-two", two, "10.91.0.3")] {
        let pod = Pod::create(lab, name, &[])?;
        pod.set_manifest(&manifest(name, &[(function, address, json!({}))]))?;
        pods.push((pod, function));
    }
    let mut launchers = Vec::new();
    for (pod, function) in &pods {
        launchers.push(pod.launch_with("run", ROOT, &extra(&[function], MEMLOCK))?);
    }
    for (launcher, address) in launchers.iter().zip(["10.91.0.2", "10.91.0.3"]) {
        launcher.console.wait_for("guest: ready", BOOT)?;
        guest::greet_within(address.parse()?, PORT, SERVE)?;
    }
    for (from, to) in [("10.91.0.2", "10.91.0.3"), ("10.91.0.3", "10.91.0.2")] {
        let script = format!("wget -q -T 20 -O - http://{to}:{PORT}/");
        let page = guest::execute(from.parse()?, &script).with_context(|| format!("from {from} to {to}"))?;
        ensure!(page.trim() == guest::GREETING, "{to} answered {page:?} to {from}");
    }
    // A function that a guest has is nobody else's.
    let third = Pod::create(lab, "vf-third", &[])?;
    third.set_manifest(&manifest("vf-third", &[(one, "10.91.0.4", json!({}))]))?;
    let mut launcher = third.launch_with("run", ROOT, &extra(&[one], MEMLOCK))?;
    launcher.expect_exit(4, END)?;
    launcher.console.wait_for("another VMM holds it", END)?;
    for mut launcher in launchers {
        launcher.signal("TERM")?;
        launcher.expect_exit(0, END)?;
    }
    Ok(())
}

/// At the guest's PCI addresses that the manifest asks for, one of them on a segment of its own.
pub(super) fn two_functions(lab: &Lab) -> Result<()> {
    let card = Card::with_functions()?;
    let [one, two] = card.functions.as_slice() else {
        anyhow::bail!("two functions were wanted");
    };
    let pod = Pod::create(lab, "vfs", &[])?;
    let at = |address: &str| json!({"pciAddress": address});
    // The first slot that is free, and one of another segment.
    let places = ["0000:00:02.0", "0001:00:05.0"];
    pod.set_manifest(&manifest(
        "vfs",
        &[
            (one, "10.91.0.2", at(places[0])),
            (two, "10.92.0.2", at(places[1])),
        ],
    ))?;
    // One resource, two networks: in the plugin's order.
    let mut launcher = pod.launch_with("run", ROOT, &extra(&[one, two], MEMLOCK))?;
    launcher.console.wait_for("guest: ready", BOOT)?;
    let [pf_one, pf_two] = PF_ADDRESSES;
    for (function, address, pf, place) in [
        (one, "10.91.0.2", pf_one, places[0]),
        (two, "10.92.0.2", pf_two, places[1]),
    ] {
        let nic = nic_of(&launcher, function)?;
        let address = address.parse()?;
        guest::greet_within(address, PORT, SERVE)?;
        guest::execute(address, &format!("ping -c 2 -w 20 -I {nic} {pf}"))?;
        let found = guest::execute(
            address,
            &format!("basename $(readlink -f /sys/class/net/{nic}/device)"),
        )?;
        ensure!(
            found.trim() == place,
            "{nic} is at {found:?} in the guest, not at {place}"
        );
    }
    launcher.signal("TERM")?;
    launcher.expect_exit(0, END)
}

pub(super) fn beside_masquerade(lab: &Lab) -> Result<()> {
    let card = Card::with_functions()?;
    let [function, _] = card.functions.as_slice() else {
        anyhow::bail!("two functions were wanted");
    };
    let pod = Pod::create(lab, "mixed", &[FORWARD_IPV6])?;
    let before = pod.snapshot()?;
    let mut manifest = manifest("mixed", &[(function, "10.91.0.2", json!({}))]);
    for (list, first) in [
        (
            "/spec/domain/devices/interfaces",
            json!({"name": "default", "masquerade": {}}),
        ),
        ("/spec/networks", json!({"name": "default", "pod": {}})),
    ] {
        let list = manifest.pointer_mut(list).and_then(Value::as_array_mut);
        list.context("no list")?.insert(0, first);
    }
    pod.set_manifest(&manifest)?;
    // A limit that is too low, and the capability to raise it.
    let mut capabilities = ROOT.capabilities.to_vec();
    capabilities.push("SYS_RESOURCE");
    let root = Privileges {
        capabilities: &capabilities,
        ..ROOT
    };
    let mut launcher = pod.launch_with("run", root, &extra(&[function], 1))?;
    wait_for_both_families(&launcher)?;
    for address in pod.addresses() {
        guest::greet_within(address, PORT, SERVE).context("behind the pod's address")?;
    }
    guest::greet_within("10.91.0.2".parse()?, PORT, SERVE).context("over the function")?;
    guest::execute(pod.ipv4.into(), &format!("ping -c 2 -w 20 {}", PF_ADDRESSES[0]))?;
    launcher.signal("TERM")?;
    launcher.expect_exit(0, END)?;
    compare(&before, &pod.snapshot()?)
}

/// A VLAN of the function's is the card's doing: the guest's frames have no tag, and only that VLAN hears them.
pub(super) fn vlan(lab: &Lab) -> Result<()> {
    let card = Card::with_functions()?;
    let [function, _] = card.functions.as_slice() else {
        anyhow::bail!("two functions were wanted");
    };
    card.set(0, &["vlan", "7"])?;
    let tagged = format!("{}.7", card.pf);
    ip(&[
        "link", "add", "link", &card.pf, "name", &tagged, "type", "vlan", "id", "7",
    ])?;
    let result = in_vlan(lab, &card, function, &tagged);
    ip(&["link", "delete", &tagged])?;
    card.set(0, &["vlan", "0"])?;
    result
}

fn in_vlan(lab: &Lab, card: &Card, function: &Function, tagged: &str) -> Result<()> {
    ip(&["address", "add", "10.97.0.1/24", "dev", tagged])?;
    ip(&["link", "set", tagged, "up"])?;
    let pod = Pod::create(lab, "vlan", &[])?;
    pod.set_manifest(&manifest("vlan", &[(function, "10.97.0.2", json!({}))]))?;
    let mut launcher = pod.launch_with("run", ROOT, &extra(&[function], MEMLOCK))?;
    launcher.console.wait_for("guest: ready", BOOT)?;
    let address = "10.97.0.2".parse()?;
    guest::greet_within(address, PORT, SERVE).context("in the VLAN")?;
    // The same guest, asked for where there is no tag.
    ip(&["address", "add", "10.97.1.1/24", "dev", &card.pf])?;
    guest::execute(address, "ip address add 10.97.1.2/24 dev eth0; true")?;
    ensure!(
        guest::greet("10.97.1.2".parse()?, PORT).is_err(),
        "the guest is reached outside its VLAN"
    );
    launcher.signal("TERM")?;
    launcher.expect_exit(0, END)
}
