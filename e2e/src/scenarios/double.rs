//! The stand-in itself, wired by hand: what the other scenarios rest on.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Context;
use crate::guests::{GATEWAY4, GUEST4, Guest};
use crate::pods::{GUEST_MAC, Pod, PodSpec, VMM_UID};
use crate::process::{Process, output, until};
use crate::report::Scenario;

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "speaks the API",
        run: speaks_the_api,
    },
    Scenario {
        name: "refuses what the real one refuses",
        run: refuses,
    },
    Scenario {
        name: "carries frames without a capability",
        run: carries_frames,
    },
];

const WAIT: Duration = Duration::from_secs(5);

/// One request; the status and the body.
pub(super) fn request(socket: &Path, method: &str, name: &str, body: &str) -> Result<(u16, String)> {
    let mut stream = until("the API socket", WAIT, || Ok(UnixStream::connect(socket).ok()))?;
    stream.set_read_timeout(Some(WAIT))?;
    let length = body.len();
    write!(
        stream,
        "{method} /api/v1/{name} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split_whitespace().nth(1).context("no status")?.parse()?;
    Ok((
        status,
        answer
            .split_once("\r\n\r\n")
            .map(|(_, body)| body.to_owned())
            .unwrap_or_default(),
    ))
}

fn config(pod: &Pod, tap_mac: &str, num_queues: usize) -> Value {
    json!({
        "cpus": {"boot_vcpus": 2, "max_vcpus": 2},
        "memory": {"size": 128 << 20},
        "payload": {"kernel": pod.path("image/vmlinux")},
        "serial": {"mode": "Tty"},
        "console": {"mode": "Off"},
        "net": [{"tap": "tap0", "mac": GUEST_MAC, "host_mac": tap_mac, "num_queues": num_queues}],
    })
}

/// The stand-in as uid 107 without capabilities.
fn start(pod: &Pod) -> Result<Process> {
    let mut entry = pod.entry();
    (entry.uid, entry.capabilities) = (Some(VMM_UID), Some(Vec::new()));
    let api = format!("path={}", pod.path("state/api.sock").display());
    let events = format!("path={}", pod.path("state/events").display());
    let args = [
        "--api-socket",
        &api,
        "--event-monitor",
        &events,
        "--seccomp",
        "true",
        "--landlock",
    ];
    Process::spawn(
        "stand-in",
        &mut pod.command_as(&entry, &pod.path("vmm/standin-vmm"), &args)?,
    )
}

fn pod(context: &Context) -> Result<Pod> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    output(
        std::process::Command::new("chown")
            .arg(VMM_UID.to_string())
            .arg(pod.path("state")),
    )?;
    Ok(pod)
}

fn make_tap(pod: &Pod, multi_queue: bool) -> Result<String> {
    let queues = if multi_queue { "multi_queue" } else { "" };
    pod.netns.ip(&format!(
        "tuntap add dev tap0 mode tap user {VMM_UID} group {VMM_UID} vnet_hdr {queues}"
    ))?;
    pod.netns.ip(&format!("address add {GATEWAY4}/24 dev tap0"))?;
    pod.netns.ip("link set tap0 mtu 1450 up")?;
    let links = pod.netns.ip_json("link show dev tap0")?;
    Ok(links
        .pointer("/0/address")
        .and_then(Value::as_str)
        .context("no MAC")?
        .to_owned())
}

fn speaks_the_api(context: &Context) -> Result<()> {
    let pod = pod(context)?;
    let mut vmm = start(&pod)?;
    let socket = pod.path("state/api.sock");
    let (status, ping) = request(&socket, "GET", "vmm.ping", "")?;
    let ping: Value = serde_json::from_str(&ping)?;
    ensure!(
        status == 200 && ping.get("version") == Some(&json!("v53.0")),
        "{status} {ping}"
    );
    ensure!(
        request(&socket, "GET", "vm.info", "")?.0 == 404,
        "info before create"
    );
    ensure!(
        request(&socket, "PUT", "vm.boot", "")?.0 == 404,
        "boot before create"
    );
    ensure!(request(&socket, "PUT", "vmm.ping", "")?.0 == 400, "wrong method");
    ensure!(
        request(&socket, "GET", "nothing", "")?.0 == 404,
        "unknown request"
    );
    ensure!(
        request(&socket, "PUT", "vm.create", &" ".repeat(51_201))?.0 == 400,
        "oversized body"
    );
    ensure!(
        request(
            &socket,
            "PUT",
            "vm.create",
            r#"{"payload": {"kernel": "/k"}, "nets": []}"#
        )?
        .0 == 400,
        "typo"
    );
    let created = request(&socket, "PUT", "vm.create", r#"{"payload": {"kernel": "/none"}}"#)?;
    ensure!(created.0 == 204, "create: {created:?}");
    ensure!(
        request(&socket, "PUT", "vm.create", r#"{"payload": {"kernel": "/none"}}"#)?.0 == 500,
        "created twice"
    );
    let booted = request(&socket, "PUT", "vm.boot", "")?;
    ensure!(
        booted.0 == 500 && booted.1.contains("The VM could not boot"),
        "no kernel: {booted:?}"
    );
    ensure!(request(&socket, "PUT", "vmm.shutdown", "")?.0 == 204, "shutdown");
    ensure!(vmm.wait_exit(WAIT)?.code() == Some(0), "exit code");
    let events = std::fs::read_to_string(pod.path("state/events"))?;
    let events: Vec<Value> = events
        .split("\n\n")
        .filter(|text| !text.is_empty())
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let names: Vec<String> = events
        .iter()
        .map(|event| format!("{} {}", text(event, "source"), text(event, "event")))
        .collect();
    ensure!(
        names
            == [
                "vmm starting",
                "vm booting",
                "vm booting",
                "vm deleted",
                "vmm shutdown"
            ],
        "{names:?}"
    );
    Ok(())
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn refuses(context: &Context) -> Result<()> {
    let pod = pod(context)?;
    let mac = make_tap(&pod, true)?;
    let cases = [
        (config(&pod, &mac, 2), "multi-queue"),
        (config(&pod, "02:00:00:00:00:09", 4), "MAC address"),
    ];
    for (config, why) in cases {
        let vmm = start(&pod)?;
        let socket = pod.path("state/api.sock");
        let created = request(&socket, "PUT", "vm.create", &config.to_string())?;
        ensure!(created.0 == 204, "{created:?}");
        let (status, body) = request(&socket, "PUT", "vm.boot", "")?;
        ensure!(
            status == 500 && body.contains(why),
            "wanted {why}: {status} {body}"
        );
        drop(vmm);
        std::fs::remove_file(socket)?;
    }
    Ok(())
}

fn carries_frames(context: &Context) -> Result<()> {
    for (multi_queue, queues) in [(false, 2), (true, 4)] {
        let pod = pod(context)?;
        let mac = make_tap(&pod, multi_queue)?;
        let mut guest = Guest::new(&pod)?;
        let vmm = start(&pod)?;
        let socket = pod.path("state/api.sock");
        let created = request(
            &socket,
            "PUT",
            "vm.create",
            &config(&pod, &mac, queues).to_string(),
        )?;
        ensure!(created.0 == 204, "{created:?}");
        let booted = request(&socket, "PUT", "vm.boot", "")?;
        ensure!(booted.0 == 204, "{booted:?}");
        guest.booted()?;
        vmm.wait_for("frames of tap0 go to", 1, WAIT)?;
        guest.say("hello from the guest")?;
        vmm.wait_for("hello from the guest", 1, WAIT)?;
        guest.netns.ip(&format!("address add {GUEST4}/24 dev eth0"))?;
        output(&mut guest.command("ping", &["-c1", "-W2", &GATEWAY4.to_string()])?)?;
        let (_, counters) = request(&socket, "GET", "vm.counters", "")?;
        ensure!(counters.contains("_net0"), "{counters}");
        ensure!(
            request(&socket, "PUT", "vm.power-button", "")?.0 == 204,
            "power button"
        );
        drop(vmm);
    }
    Ok(())
}
