//! A guest with a virtual function that moves from one pod to another: it lets go of the function before, and is given
//! the one of its new pod after. Both functions are of one card, as the lab has no second node.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::lifecycle::{END, compare};
use super::masquerade::{BOOT, SERVE, wait_for_both_families};
use super::migration::{TLS, TRANSFER, expect_state, migrate, status, url, vmms, wait_with};
use super::sriov::{MEMLOCK, manifest};
use super::sriov_card::{Card, Function, PF_ADDRESSES, extra};
use super::vmi;
use crate::certificates::Authority;
use crate::lab::node::Lab;
use crate::lab::node::guest::{self, PORT};
use crate::lab::node::pace;
use crate::lab::node::pod::{FORWARD_IPV6, Launcher, Pod, ROOT};

/// What the guest has on the first function at its boot, and gives itself on the second.
const ADDRESSES: [&str; 2] = ["10.91.0.2", "10.91.0.3"];

/// Masquerade and one function; the same in both pods, with what the guest is to do on either function.
fn guest(functions: [&Function; 2], more: &str) -> Result<Value> {
    let [one, two] = functions;
    let mut manifest = manifest("mover", &[(one, ADDRESSES[0], json!({}))]);
    for (list, first) in [
        (
            "/spec/domain/devices/interfaces",
            json!({"name": "default", "masquerade": {}, "macAddress": "02:00:5e:00:53:17"}),
        ),
        ("/spec/networks", json!({"name": "default", "pod": {}})),
    ] {
        let list = manifest.pointer_mut(list).and_then(Value::as_array_mut);
        list.context("no list")?.insert(0, first);
    }
    let arguments = "/spec/domain/firmware/kernelBoot/kernelArgs";
    let told = manifest.pointer(arguments).and_then(Value::as_str);
    let told = format!(
        "{} guest.ip.{}={}/24 {more}",
        told.context("no arguments")?,
        two.mac,
        ADDRESSES[1]
    );
    vmi::set(&mut manifest, arguments, json!(told));
    Ok(manifest)
}

fn two_pods<'a>(lab: &'a Lab, name: &str, manifest: &Value) -> Result<(Pod<'a>, Pod<'a>)> {
    let source = Pod::create(lab, &format!("{name}-a"), &[FORWARD_IPV6])?;
    let target = Pod::create(lab, &format!("{name}-b"), &[FORWARD_IPV6])?;
    let authority = Authority::new("migration")?;
    for pod in [&source, &target] {
        pod.set_manifest(manifest)?;
        authority.issue(&pod.certificates()?, vmi::LAUNCHERS, &pod.addresses())?;
    }
    Ok((source, target))
}

fn wait_for_it<'a>(target: &'a Pod<'_>, function: &Function) -> Result<Launcher<'a>> {
    wait_with(target, ROOT, extra(&[function], MEMLOCK), &TLS)
}

/// The guest's NIC with the function's MAC, once its kernel has found it.
fn nic_of(address: std::net::IpAddr, function: &Function) -> Result<String> {
    let script = format!("grep -l {} /sys/class/net/*/address || true", function.mac);
    let end = pace::deadline(SERVE);
    loop {
        let found = guest::execute(address, &script)?;
        if let Some(name) = found.split('/').nth(4) {
            return Ok(name.to_owned());
        }
        ensure!(Instant::now() < end, "the guest has no NIC {}", function.mac);
        thread::sleep(Duration::from_millis(200));
    }
}

/// Over the function, both ways, after the guest was given it while it ran. `address`: where it is asked.
fn talks_over(address: std::net::IpAddr, function: &Function, own: &str) -> Result<()> {
    let nic = nic_of(address, function)?;
    let script = format!(
        "echo 1 > /proc/sys/net/ipv4/conf/{nic}/arp_ignore; ip link set {nic} up; ip address add {own}/24 dev {nic}; \
         ping -c 3 -w 20 -I {nic} {}",
        PF_ADDRESSES[0]
    );
    guest::execute(address, &script)?;
    guest::greet_within(own.parse()?, PORT, SERVE)
}

fn expect_vf(status: &Value, function: &Function, attached: bool) -> Result<()> {
    let vf = json!({"address": function.address, "attached": attached});
    let nics = status.get("nics").and_then(Value::as_array).context("no nics")?;
    ensure!(
        nics.iter().any(|nic| nic.get("vf") == Some(&vf)),
        "not {vf}: {status}"
    );
    Ok(())
}

/// A transfer that fails, after which the guest has its function again; then one that does not.
pub(super) fn moves(lab: &Lab) -> Result<()> {
    let card = Card::with_functions()?;
    let [one, two] = card.functions.as_slice() else {
        anyhow::bail!("two functions were wanted");
    };
    let manifest = guest([one, two], "")?;
    let (from, to) = two_pods(lab, "vf-mover", &manifest)?;
    let before = to.snapshot()?;
    let mut source = from.launch_with("run", ROOT, &extra(&[one], MEMLOCK))?;
    wait_for_both_families(&source)?;
    guest::greet_within(ADDRESSES[0].parse()?, PORT, SERVE).context("before")?;
    expect_vf(&status(&source)?, one, true)?;
    guest::execute(from.ipv4.into(), "echo here > /tmp/mark")?;

    let mut target = wait_for_it(&to, two)?;
    expect_vf(&status(&target)?, two, false)?;
    let mut moving = source.exec(&migrate(&url(&to), &TLS))?;
    moving.console.wait_for("detaching: ", TRANSFER)?;
    moving.console.wait_for("sending: ", TRANSFER)?;
    let let_go = format!(r#"event="vf-unplugged" nic=vf0 vf={}"#, one.address);
    source.console.wait_for(&let_go, SERVE)?;
    target.signal("KILL")?;
    moving.expect_exit(9, TRANSFER)?;
    moving.console.wait_for("stays here", SERVE)?;
    ensure!(target.exit_code(END)? != 0, "a killed launcher ended with 0");
    // It has the function again before it is said to stay.
    let given = format!(r#"event="vf-plugged" nic=vf0 vf={}"#, one.address);
    source.console.wait_for(&given, Duration::ZERO)?;
    expect_vf(&status(&source)?, one, true)?;
    talks_over(from.ipv4.into(), one, ADDRESSES[0]).context("the guest that stayed")?;

    let mut target = wait_for_it(&to, two)?;
    let mut moving = source.exec(&migrate(&url(&to), &TLS))?;
    moving.expect_exit(0, TRANSFER)?;
    source.console.wait_for_nth(&[&let_go], 2, SERVE)?;
    source.expect_exit(0, END)?;
    ensure!(vmms()? == 1, "{} VMMs", vmms()?);
    let given = format!(r#"event="vf-plugged" nic=vf0 vf={}"#, two.address);
    target.console.wait_for(&given, SERVE)?;
    expect_state(&status(&target)?, "running")?;
    expect_vf(&status(&target)?, two, true)?;
    for address in to.addresses() {
        guest::greet_within(address, PORT, SERVE).context("masquerade at the target")?;
    }
    let address = to.ipv4.into();
    talks_over(address, two, ADDRESSES[1]).context("the guest that moved")?;
    let seen = guest::execute(address, "cat /tmp/mark; cat /sys/class/net/*/address")?;
    ensure!(seen.contains("here"), "another guest: {seen}");
    ensure!(
        !seen.contains(&one.mac),
        "the guest still has what it let go of: {seen}"
    );

    // It is the guest's from now on, also when that starts anew.
    guest::execute(address, "(sleep 1; reboot -f) > /dev/null 2>&1 &")?;
    target
        .console
        .wait_for("guest: init, Linux", BOOT)
        .context("reboot")?;
    target
        .console
        .wait_for(&format!(" mac {} ", two.mac), BOOT)
        .context("reboot")?;
    guest::greet_within(ADDRESSES[1].parse()?, PORT, SERVE).context("after a reboot")?;
    target.signal("TERM")?;
    target.expect_exit(0, END)?;
    compare(&before, &to.snapshot()?)
}

/// A guest whose kernel does not answer when it is asked to let go keeps its function, and goes on where it is.
pub(super) fn refuses(lab: &Lab) -> Result<()> {
    let card = Card::with_functions()?;
    let [one, two] = card.functions.as_slice() else {
        anyhow::bail!("two functions were wanted");
    };
    let (from, to) = two_pods(lab, "vf-stayer", &guest([one, two], "acpiphp.disable=1")?)?;
    let before = to.snapshot()?;
    let mut source = from.launch_with("run", ROOT, &extra(&[one], MEMLOCK))?;
    wait_for_both_families(&source)?;
    let over_vf = ADDRESSES[0].parse()?;
    guest::greet_within(over_vf, PORT, SERVE).context("before")?;

    let mut target = wait_for_it(&to, two)?;
    let start = Instant::now();
    let mut moving = source.exec(&migrate(&url(&to), &TLS))?;
    moving.expect_exit(9, TRANSFER)?;
    let waited = start.elapsed();
    moving
        .console
        .wait_for("did not release its VFs within 30 s, and keeps them: vf0", SERVE)?;
    ensure!(
        waited >= Duration::from_secs(30),
        "given up after {} s",
        waited.as_secs()
    );
    lab.record(
        "sriov-refused",
        &format!("given up after {:.1} s", waited.as_secs_f64()),
    )?;
    // What the target had ready is of no use, and it leaves nothing.
    target.expect_exit(9, END)?;
    compare(&before, &to.snapshot()?)?;
    expect_state(&status(&source)?, "running")?;
    expect_vf(&status(&source)?, one, true)?;
    guest::greet_within(over_vf, PORT, SERVE).context("over the function that it kept")?;
    let ping = format!("ping -c 3 -w 20 {}", PF_ADDRESSES[0]);
    guest::execute(over_vf, &ping).context("over the function that it kept")?;

    // cloud-hypervisor would not ask a second time.
    let mut again = source.exec(&migrate(&url(&to), &TLS))?;
    again.expect_exit(9, SERVE)?;
    again
        .console
        .wait_for("an earlier hot-unplug of the VF is still pending", SERVE)?;

    // To cloud-hypervisor the function is gone since it was asked for, so a guest that starts anew would have none.
    guest::execute(over_vf, "(sleep 1; reboot -f) > /dev/null 2>&1 &")?;
    source
        .console
        .wait_for_nth(&["guest: init, Linux"], 2, BOOT)
        .context("reboot")?;
    source
        .console
        .wait_for(&format!(r#"event="vf-plugged" nic=vf0 vf={}"#, one.address), BOOT)?;
    guest::greet_within(over_vf, PORT, BOOT).context("after a reboot")?;
    source.signal("TERM")?;
    source.expect_exit(0, END)
}
