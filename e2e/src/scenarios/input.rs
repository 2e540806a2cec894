//! Command lines and manifests: what is shown, what is refused, with which code, and that nothing is touched.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::Context;
use super::running::{exit_code, expect_exit};
use crate::pods::{Pod, PodSpec, Privileges, set, vmi};
use crate::process::Process;
use crate::report::Scenario;

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "plan needs no privileges and changes nothing",
        run: plan,
    },
    Scenario {
        name: "check in a fit pod",
        run: check_fit,
    },
    Scenario {
        name: "check in an unfit pod names what is missing",
        run: check_unfit,
    },
    Scenario {
        name: "usage errors: exit code 2",
        run: usage,
    },
    Scenario {
        name: "all refusals of a manifest at once: exit code 3",
        run: refusals,
    },
    Scenario {
        name: "what is not a manifest: exit code 3",
        run: not_a_manifest,
    },
    Scenario {
        name: "no manifest: a usage error",
        run: no_manifest,
    },
    Scenario {
        name: "a pod without eth0: exit code 4",
        run: no_interface,
    },
    Scenario {
        name: "a port range is of TCP by default",
        run: range_protocol,
    },
    Scenario {
        name: "missing guest image",
        run: no_image,
    },
    Scenario {
        name: "version",
        run: version,
    },
];

fn plan(context: &Context) -> Result<()> {
    let spec = PodSpec {
        privileges: Privileges::Nothing,
        ..PodSpec::default()
    };
    let pod = Pod::new(&context.programs, spec)?;
    let before = pod.netns.snapshot()?;
    for format in ["text", "json", "dot"] {
        let mut hawser = pod.hawser_as(&pod.entry(), "plan", &vmi(json!([{"port": 80}])), &["-o", format])?;
        expect_exit(exit_code(&mut hawser)?, 0, &hawser)?;
        let out = hawser.stdout();
        ensure!(out.contains("tap0"), "{format}: {out}");
        match format {
            "json" => drop(serde_json::from_str::<Value>(&out)?),
            "dot" => ensure!(out.trim_start().contains("graph"), "dot: {out}"),
            _ => ensure!(out.contains("10.0.2.1"), "text: {out}"),
        }
    }
    let changes = before.changes(&pod.netns.snapshot()?);
    ensure!(changes.is_empty(), "plan changed: {changes:#?}");
    Ok(())
}

fn check(pod: &Pod) -> Result<(i32, Process)> {
    let mut hawser = Process::spawn(
        "hawser check",
        &mut pod.hawser_command(&pod.entry(), "check", &[])?,
    )?;
    Ok((exit_code(&mut hawser)?, hawser))
}

fn check_fit(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let (code, hawser) = check(&pod)?;
    let said = hawser.transcript();
    ensure!(said.contains("/dev/net/tun") && said.contains("nft"), "{said}");
    // Without KVM on this machine the answer is no, and has to say so.
    if pod_has_kvm() {
        expect_exit(code, 0, &hawser)
    } else {
        expect_exit(code, 4, &hawser)
    }
}

fn pod_has_kvm() -> bool {
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok()
}

fn check_unfit(context: &Context) -> Result<()> {
    let spec = PodSpec {
        privileges: Privileges::Nothing,
        ..PodSpec::default()
    };
    let pod = Pod::new(&context.programs, spec)?;
    let before = pod.netns.snapshot()?;
    let (code, hawser) = check(&pod)?;
    expect_exit(code, 4, &hawser)?;
    ensure!(
        hawser.transcript().contains("NET_ADMIN"),
        "{}",
        hawser.transcript()
    );
    let changes = before.changes(&pod.netns.snapshot()?);
    ensure!(changes.is_empty(), "check changed: {changes:#?}");
    Ok(())
}

fn usage(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    for args in [
        &["--no-such-option"][..],
        &["--vmi"],
        &["--image", "nonsense", "--vmi", "-"],
    ] {
        let mut hawser = Process::spawn("hawser", &mut pod.hawser_command(&pod.entry(), "run", args)?)?;
        let _ = hawser.feed(&vmi(Value::Null).to_string());
        expect_exit(exit_code(&mut hawser)?, 2, &hawser)?;
        ensure!(
            hawser.stdout().is_empty() && !hawser.stderr().is_empty(),
            "{}",
            hawser.transcript()
        );
    }
    Ok(())
}

fn refused(context: &Context, vmi: &Value, paths: &[&str]) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let before = pod.netns.snapshot()?;
    let mut hawser = pod.hawser("run", vmi)?;
    expect_exit(exit_code(&mut hawser)?, 3, &hawser)?;
    let said = hawser.stderr();
    for path in paths {
        ensure!(said.contains(path), "{path} is not named:\n{said}");
    }
    let changes = before.changes(&pod.netns.snapshot()?);
    ensure!(changes.is_empty(), "a refused manifest changed: {changes:#?}");
    Ok(())
}

fn refusals(context: &Context) -> Result<()> {
    let mut vmi = vmi(json!([{"port": 0}, {"port": 70000}, {"port": 80, "protocol": "SCTP"}]));
    let interface = "/spec/domain/devices/interfaces/0";
    set(
        &mut vmi,
        &format!("{interface}/macAddress"),
        json!("02:00:00:00:00:00"),
    );
    set(&mut vmi, &format!("{interface}/model"), json!("ne3000"));
    set(
        &mut vmi,
        "/spec/domain/devices/disks",
        json!([{"name": "d", "cdrom": {"bus": "sata"}}]),
    );
    set(
        &mut vmi,
        "/spec/networks/0/pod",
        json!({"vmNetworkCIDR": "10.0.2.0/31"}),
    );
    refused(
        context,
        &vmi,
        &[
            "spec.domain.devices.interfaces[0].ports[0]",
            "spec.domain.devices.interfaces[0].ports[1]",
            "spec.domain.devices.interfaces[0].ports[2]",
            "spec.domain.devices.interfaces[0].macAddress",
            "spec.domain.devices.interfaces[0].model",
            "spec.domain.devices.disks",
            "spec.networks[0].pod.vmNetworkCIDR",
        ],
    )
}

fn not_a_manifest(context: &Context) -> Result<()> {
    refused(context, &json!({"apiVersion": "v1", "kind": "Pod"}), &["kind"])?;
    refused(context, &json!([1, 2, 3]), &[])?;
    refused(context, &json!("\u{1b}[31m"), &[])
}

fn no_manifest(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let mut hawser = Process::spawn("hawser", &mut pod.hawser_command(&pod.entry(), "run", &[])?)?;
    expect_exit(exit_code(&mut hawser)?, 2, &hawser)?;
    ensure!(hawser.stderr().contains("--vmi"), "{}", hawser.transcript());
    Ok(())
}

fn no_interface(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    pod.netns.ip("link delete eth0")?;
    let before = pod.netns.snapshot()?;
    let mut hawser = pod.hawser("run", &vmi(Value::Null))?;
    expect_exit(exit_code(&mut hawser)?, 4, &hawser)?;
    ensure!(hawser.stderr().contains("eth0"), "{}", hawser.transcript());
    let changes = before.changes(&pod.netns.snapshot()?);
    ensure!(changes.is_empty(), "{changes:#?}");
    Ok(())
}

fn range_protocol(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let mut vmi = vmi(Value::Null);
    set(
        &mut vmi,
        "/spec/domain/devices/interfaces/0/portRanges",
        json!([{"start": 8000, "end": 8999}]),
    );
    let mut hawser = pod.hawser("plan", &vmi)?;
    expect_exit(exit_code(&mut hawser)?, 0, &hawser)
}

fn no_image(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let before = pod.netns.snapshot()?;
    std::fs::remove_file(pod.path("image/vmlinux"))?;
    let mut hawser = pod.hawser("run", &vmi(Value::Null))?;
    let code = exit_code(&mut hawser)?;
    ensure!(
        matches!(code, 3 | 4),
        "exit code {code}:\n{}",
        hawser.transcript()
    );
    ensure!(hawser.stderr().contains("vmlinux"), "{}", hawser.transcript());
    let changes = before.changes(&pod.netns.snapshot()?);
    ensure!(changes.is_empty(), "{changes:#?}");
    Ok(())
}

fn version(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let mut hawser = Process::spawn("hawser", &mut pod.hawser_command(&pod.entry(), "version", &[])?)?;
    expect_exit(exit_code(&mut hawser)?, 0, &hawser)?;
    ensure!(hawser.stdout().starts_with("hawser"), "{}", hawser.transcript());
    Ok(())
}
