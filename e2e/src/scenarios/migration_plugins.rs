//! Guests with NICs of binding plugins that move, with the stand-in VMM: by the method that a plugin declares, and not
//! without one.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::Context;
use super::migration_pair::{
    Pair, RED, SOON, expect_runs, expect_state, explain, migrate, quick, run, status,
};
use super::plugins::{NETWORK, macvtap};
use super::running::expect_exit;
use crate::cni_tap;
use crate::pods::{Pod, PodSpec, VMM_UID, set, vmi};
use crate::report::Scenario;

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "a managedTap and a CNI plugin's TAP go along where their plugins declare it",
        run: declared,
    },
    Scenario {
        name: "a CNI plugin's TAP with another MAC at the target is refused",
        run: another_mac,
    },
    Scenario {
        name: "plugins that declare no migration, with a sidecar or with a macvtap do not let a guest go",
        run: undeclared,
    },
];

const BINDINGS: &str = "
wire: {domainAttachmentType: managedTap, migration: {method: link-refresh}}
device: {domainAttachmentType: tap, migration: {}}
still: {domainAttachmentType: managedTap}
tuned: {domainAttachmentType: managedTap, sidecarImage: i, migration: {}}
";
/// Where a pod sees it, and what the launchers are told.
const OPTIONS: [&str; 2] = ["--bindings", "/srv/bindings.yaml"];
/// printf blue | sha256sum
const BLUE_TAP: &str = "tap16477688c0e";

/// A masqueraded NIC, and one of each of these plugins on the networks red and blue.
fn manifest(red: &str, blue: Option<&str>) -> Value {
    let mut interfaces = vec![
        json!({"name": "default", "masquerade": {}, "macAddress": "02:11:aa:33:44:55"}),
        json!({"name": "red", "binding": {"name": red}, "macAddress": "02:11:aa:33:44:66"}),
    ];
    let mut networks = vec![
        json!({"name": "default", "pod": {}}),
        json!({"name": "red", "multus": {"networkName": "red"}}),
    ];
    if let Some(plugin) = blue {
        interfaces
            .push(json!({"name": "blue", "binding": {"name": plugin}, "macAddress": "02:11:aa:33:44:77"}));
        networks.push(json!({"name": "blue", "multus": {"networkName": "blue"}}));
    }
    let mut vmi = vmi(Value::Null);
    set(&mut vmi, "/spec/domain/devices/interfaces", json!(interfaces));
    set(&mut vmi, "/spec/networks", json!(networks));
    vmi
}

fn bindings(pod: &Pod) -> Result<()> {
    Ok(std::fs::write(pod.path("bindings.yaml"), BINDINGS)?)
}

fn tap(pod: &Pod, mac: &str) -> Result<()> {
    let namespace = pod.netns.path();
    let wanted = json!({"owner": VMM_UID, "group": VMM_UID, "mac": mac});
    cni_tap::call("ADD", &namespace, BLUE_TAP, &wanted).map(drop)
}

fn declared(context: &Context) -> Result<()> {
    let guest = manifest("wire", Some("device"));
    let (here, there) = (quick(), quick());
    let mut pair = Pair::prepared(
        context,
        (&here, &guest),
        (&there, &guest),
        &OPTIONS,
        |from, to| {
            for pod in [from, to] {
                bindings(pod)?;
                tap(pod, "02:00:00:00:00:31")?;
            }
            Ok(())
        },
    )?;
    let mut moving = pair.migrate()?;
    let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
    explain(&pair, "hawser migrate", expect_exit(code, 0, &moving))?;
    let code = pair.source.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 0, &pair.source)?;
    expect_runs(&pair.target)?;
    let status = status(&pair.to)?;
    expect_state(&status, "running")?;
    let nics = status.get("nics").and_then(Value::as_array).context("no nics")?;
    ensure!(
        nics.iter().any(|nic| nic.get("tap") == Some(&json!(BLUE_TAP))),
        "{status}"
    );
    Ok(())
}

fn another_mac(context: &Context) -> Result<()> {
    let guest = manifest("wire", Some("device"));
    let script = quick();
    let pair = Pair::prepared(
        context,
        (&script, &guest),
        (&script, &guest),
        &OPTIONS,
        |from, to| {
            for (pod, mac) in [(from, "02:00:00:00:00:31"), (to, "02:00:00:00:00:32")] {
                bindings(pod)?;
                tap(pod, mac)?;
            }
            Ok(())
        },
    )?;
    let mut moving = pair.migrate()?;
    let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 9, &moving)?;
    ensure!(
        moving.stderr().contains(
            "interface blue: TAP's MAC 02:00:00:00:00:31 at the source, 02:00:00:00:00:32 at the target"
        ),
        "{}",
        moving.transcript()
    );
    expect_runs(&pair.source)?;
    expect_state(&status(&pair.to)?, "receiving")
}

fn undeclared(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    pod.node.ip(&format!(
        "link add red0 type veth peer name {RED} netns {}",
        pod.netns.name()
    ))?;
    pod.netns.ip(&format!("link set {RED} up"))?;
    bindings(&pod)?;
    pod.script(&quick())?;
    let mut source = run(&pod, &manifest("still", None), &OPTIONS)?;
    source.wait_for(r#"event="guest-running""#, 1, SOON)?;
    let mut moving = migrate(&pod, &["--insecure-plain-tcp"])?;
    let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 9, &moving)?;
    let said = moving.stderr();
    ensure!(
        said.contains("interface red (plugin still): the plugin still declares no migration"),
        "{said}"
    );
    expect_runs(&source)?;
    source.signal(Signal::SIGTERM)?;
    expect_exit(source.wait_exit(SOON)?.code().unwrap_or(-1), 0, &source)?;

    // A target says so before it touches anything.
    macvtap(&pod)?;
    let before = pod.netns.snapshot()?;
    let mut of_macvtap = manifest("still", None);
    for (list, item) in [
        (
            "/spec/domain/devices/interfaces",
            json!([{"name": NETWORK, "binding": {"name": "device"}}]),
        ),
        (
            "/spec/networks",
            json!([{"name": NETWORK, "multus": {"networkName": NETWORK}}]),
        ),
    ] {
        set(&mut of_macvtap, list, item);
    }
    for (guest, why) in [
        (
            manifest("tuned", None),
            "interface red (plugin tuned): not in this version of hawser",
        ),
        (
            of_macvtap,
            "interface l2 (plugin device): cloud-hypervisor gets a macvtap as a file descriptor",
        ),
    ] {
        let options = [&OPTIONS[..], &["--incoming", "--insecure-plain-tcp"]].concat();
        let mut target = run(&pod, &guest, &options)?;
        let code = target.wait_exit(SOON)?.code().unwrap_or(-1);
        expect_exit(code, 3, &target)?;
        ensure!(target.stderr().contains(why), "no {why}: {}", target.transcript());
    }
    let changes = before.changes(&pod.netns.snapshot()?);
    ensure!(changes.is_empty(), "touched: {changes:#?}");
    Ok(())
}
