//! What an operator has done to a real guest, and what it does then.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::lifecycle::END;
use super::masquerade::{BOOT, SERVE, wait_for_both_families};
use super::migration::{expect_state, status, wait_for_it};
use super::vmi;
use crate::lab::node::Lab;
use crate::lab::node::guest::{self, PORT};
use crate::lab::node::pod::{Extra, FORWARD_IPV6, Launcher, Pod, ROOT};

/// One verb, its exit code, and what it prints.
fn verb(launcher: &Launcher<'_>, words: &[&str], code: i32, printed: &str) -> Result<()> {
    let mut asked = launcher.exec(&[&["hawser"], words].concat())?;
    asked.expect_exit(code, SERVE)?;
    let said = asked.console.last(1000);
    ensure!(said.contains(printed), "hawser {words:?} printed: {said}");
    Ok(())
}

/// Which boot of the guest this is.
fn boot_id(pod: &Pod<'_>) -> Result<String> {
    guest::execute(pod.ipv4.into(), "cat /proc/sys/kernel/random/boot_id")
}

/// What is known of a guest that runs: its lease, in KubeVirt's form and as a table.
fn reported(launcher: &Launcher<'_>) -> Result<()> {
    let status = status(launcher)?;
    let at = |pointer: &str| status.pointer(pointer).cloned().unwrap_or_default();
    for (pointer, wanted) in [
        ("/phase", json!("Running")),
        ("/conditions/0", json!({"type": "Ready", "status": "True"})),
        ("/interfaces/0/ipAddresses", json!(["10.0.2.2", "fd10:0:2::2"])),
        ("/interfaces/0/infoSource", json!("domain, dhcp")),
        ("/interfaces/0/podInterfaceName", json!("eth0")),
        ("/interfaces/0/linkState", json!("up")),
    ] {
        ensure!(at(pointer) == wanted, "{pointer} is not {wanted}: {status}");
    }
    verb(
        launcher,
        &["status", "-o", "table"],
        0,
        "10.0.2.2 fd10:0:2::2 (dhcp)",
    )
}

pub(super) fn verbs(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "verbs", &[FORWARD_IPV6])?;
    pod.set_manifest(&vmi::masquerade("verbs", &[]))?;
    let mut launcher = pod.launch("run", ROOT)?;
    wait_for_both_families(&launcher)?;
    launcher.console.wait_for("guest: ready", BOOT)?;
    guest::greet_within(pod.ipv4.into(), PORT, SERVE)?;
    let first = boot_id(&pod)?;

    reported(&launcher)?;

    verb(&launcher, &["resume"], 6, "not paused")?;
    verb(&launcher, &["pause"], 0, "the guest is paused")?;
    expect_state(&status(&launcher)?, "paused")?;
    verb(&launcher, &["status", "--live"], 0, "")?;
    verb(&launcher, &["status", "--ready"], 6, "paused")?;
    ensure!(
        guest::greet(pod.ipv4.into(), PORT).is_err(),
        "a paused guest answers"
    );
    for refused in ["pause", "reset", "nmi"] {
        verb(&launcher, &[refused], 6, "hawser resume runs it again")?;
    }
    let migrate = ["migrate", "--to", "tcp:127.0.0.1:1", "--insecure-plain-tcp"];
    verb(&launcher, &migrate, 9, "hawser resume runs it again")?;
    verb(&launcher, &["resume"], 0, "the guest runs again")?;
    guest::greet_within(pod.ipv4.into(), PORT, SERVE)?;
    ensure!(boot_id(&pod)? == first, "the guest booted again");

    verb(&launcher, &["nmi"], 0, "NMI")?;
    // As its kernel says it.
    launcher.console.wait_for("NMI received", SERVE)?;

    verb(&launcher, &["reset"], 0, "boots again")?;
    launcher.console.wait_for_nth(&["guest: ready"], 2, BOOT)?;
    guest::greet_within(pod.ipv4.into(), PORT, SERVE)?;
    ensure!(boot_id(&pod)? != first, "the guest did not boot again");

    // SIGTERM of a paused guest: it runs again, and shuts down.
    verb(&launcher, &["pause"], 0, "the guest is paused")?;
    verb(&launcher, &["stop"], 0, "power button")?;
    launcher.console.wait_for("guest: power button", END)?;
    launcher.expect_exit(0, END)?;
    target(lab)
}

/// A launcher whose guest is still to come.
fn target(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "verbs-target", &[FORWARD_IPV6])?;
    pod.set_manifest(&vmi::masquerade("verbs", &[]))?;
    let mut launcher = wait_for_it(&pod, &["--insecure-plain-tcp"])?;
    for refused in ["pause", "resume", "reset", "nmi"] {
        verb(&launcher, &[refused], 6, "the guest is not running")?;
    }
    verb(&launcher, &["stop"], 0, "")?;
    launcher.expect_exit(0, END)
}

/// Metrics of a guest that has sent and received, at the pod's port and nowhere else; and the events that led there.
pub(super) fn measured(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "measured", &[FORWARD_IPV6])?;
    pod.set_manifest(&vmi::masquerade("measured", &[]))?;
    let extra = Extra {
        hawser: vec!["--metrics".to_owned(), "--log-format=json".to_owned()],
        ..Extra::default()
    };
    let mut launcher = pod.launch_with("run", ROOT, &extra)?;
    launcher.console.wait_for("guest: ready", BOOT)?;
    guest::greet_within(pod.ipv4.into(), PORT, SERVE)?;
    // The log, as it is told to be.
    launcher
        .console
        .wait_for(r#""level":"info","event":"guest-running""#, SERVE)?;

    let received = r#"kubevirt_vmi_network_receive_bytes_total{namespace="default",name="measured",interface="default"}"#;
    let before = metric(&pod, received)?;
    guest::greet(pod.ipv4.into(), PORT)?;
    let after = metric(&pod, received)?;
    ensure!(before > 0.0 && after > before, "received: {before}, then {after}");
    for (name, least) in [
        (
            r#"hawser_guest_state{namespace="default",name="measured",state="running"}"#,
            1.0,
        ),
        (
            r#"hawser_dhcp_events_total{namespace="default",name="measured",interface="default",event="dhcpv4-acknowledged"}"#,
            1.0,
        ),
        (
            r#"hawser_events_total{namespace="default",name="measured",event="guest-running"}"#,
            1.0,
        ),
        (
            r#"kubevirt_vmi_memory_resident_bytes{namespace="default",name="measured"}"#,
            1e7,
        ),
        (
            r#"kubevirt_vmi_vcpu_seconds_total{namespace="default",name="measured",id="0",state="running"}"#,
            0.1,
        ),
        (
            r#"process_resident_memory_bytes{namespace="default",name="measured"}"#,
            1e6,
        ),
    ] {
        let value = metric(&pod, name)?;
        ensure!(value >= least, "{name} is {value}");
    }
    verb(&launcher, &["events"], 0, r#""event":"guest-running""#)?;
    let mut following = launcher.exec(&["hawser", "events", "--follow"])?;
    following.console.wait_for("guest-running", SERVE)?;
    verb(&launcher, &["stop"], 0, "power button")?;
    following
        .console
        .wait_for(r#""event":"power-button-pressed""#, SERVE)?;
    launcher.expect_exit(0, END)?;
    following.expect_exit(0, END)
}

/// One value of those at the pod's port.
fn metric(pod: &Pod<'_>, sample: &str) -> Result<f64> {
    let mut stream = TcpStream::connect((pod.ipv4, 49154))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: pod\r\n\r\n")?;
    stream.shutdown(Shutdown::Write)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(sample))
        .with_context(|| format!("no {sample} in {text}"))?;
    Ok(line.trim().parse()?)
}

/// A guest whose NIC is limited takes as long as the limit says, in both directions.
pub(super) fn limited(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "limited", &[FORWARD_IPV6])?;
    let mut manifest = vmi::masquerade("limited", &[]);
    vmi::set(
        &mut manifest,
        "/metadata/annotations",
        json!({"hawser.dev/interface-rates": "default: 64Ki"}),
    );
    pod.set_manifest(&manifest)?;
    let mut launcher = pod.launch("run", ROOT)?;
    launcher.console.wait_for("guest: ready", BOOT)?;
    guest::greet_within(pod.ipv4.into(), PORT, SERVE)?;
    let begun = Instant::now();
    let sent = guest::execute(pod.ipv4.into(), "head -c 524288 /dev/zero | tr '\\0' x")?;
    let took = begun.elapsed();
    ensure!(sent.len() == 524_288, "{} bytes came", sent.len());
    // Eight seconds, less what the buckets had at first and a frame that is not counted ten times a second: 6.5. Without the
    // limit it takes a fraction of one.
    ensure!(
        took > Duration::from_secs(5),
        "512 KiB took {took:?} at 64 KiB a second"
    );
    launcher.signal("TERM")?;
    launcher.expect_exit(0, END)
}

/// `startStrategy: Paused`: everything is there, and the guest's first instruction waits for an operator.
pub(super) fn starts_paused(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "held", &[FORWARD_IPV6])?;
    let mut manifest = vmi::masquerade("held", &[]);
    vmi::set(&mut manifest, "/spec/startStrategy", json!("Paused"));
    pod.set_manifest(&manifest)?;
    let mut launcher = pod.launch("run", ROOT)?;
    launcher.console.wait_for("event=\"guest-held\"", BOOT)?;
    expect_state(&status(&launcher)?, "paused")?;
    verb(&launcher, &["status", "--ready"], 6, "paused")?;
    verb(&launcher, &["reset"], 6, "not running")?;
    ensure!(
        !launcher.console.last(1000).contains("guest: "),
        "the guest runs before anybody starts it"
    );
    verb(&launcher, &["resume"], 0, "the guest runs again")?;
    wait_for_both_families(&launcher)?;
    guest::greet_within(pod.ipv4.into(), PORT, SERVE)?;
    expect_state(&status(&launcher)?, "running")?;
    launcher.signal("TERM")?;
    launcher.expect_exit(0, END)
}
