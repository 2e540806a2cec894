//! Sidecars of binding plugins: real gRPC between hawser and a double (`standin-sidecar`) that behaves, hangs, lies or
//! dies, with the stand-in VMM.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::Context;
use super::double::request;
use super::running::{WAIT, exit_code, expect_exit, processes};
use crate::guests::Guest;
use crate::pods::{Pod, PodSpec, VMM_UID, vmi};
use crate::process::{Process, output};
use crate::programs;
use crate::report::Scenario;
use crate::standin_script::Script;

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "a TAP of the sidecar's becomes the guest's NIC, and the sidecar is told of the end",
        run: a_tap,
    },
    Scenario {
        name: "a vhost-user NIC makes the guest's memory shared",
        run: shared_memory,
    },
    Scenario {
        name: "a sidecar that comes up later is waited for",
        run: late,
    },
    Scenario {
        name: "a sidecar that dies is reported and the guest goes on",
        run: dies,
    },
    Scenario {
        name: "a stop does not wait for a sidecar",
        run: stop_while_asking,
    },
    Scenario {
        name: "no sidecar, a silent one, one that hangs, one that says too much: exit code 4",
        run: unfit,
    },
    Scenario {
        name: "the wrong name, the wrong version: exit code 4",
        run: strangers,
    },
    Scenario {
        name: "a change of anything else is refused by path: exit code 4",
        run: lies,
    },
    Scenario {
        name: "a NIC that hawser attached may be tuned, and keeps its device: exit code 4",
        run: attached,
    },
    Scenario {
        name: "a farewell that is not answered is only logged",
        run: stays,
    },
    Scenario {
        name: "explain says that the sidecar decides",
        run: explained,
    },
];

const NAME: &str = "proxy";

/// A pod with a directory to share and a file of plugins.
fn pod(context: &Context) -> Result<Pod> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let hooks = pod.path("hooks");
    std::fs::create_dir(&hooks)?;
    std::fs::set_permissions(&hooks, std::fs::Permissions::from_mode(0o777))?;
    std::fs::write(
        pod.path("bindings.yaml"),
        format!("{NAME}: {{sidecarImage: registry.example/proxy}}\n"),
    )?;
    Ok(pod)
}

/// In the pod, as the user that the guest's processes are.
fn sidecar(pod: &Pod, fault: &str, tap: Option<&str>) -> Result<Process> {
    let mut entry = pod.entry();
    (entry.uid, entry.capabilities) = (Some(VMM_UID), Some(Vec::new()));
    let hooks = pod.path("hooks").display().to_string();
    let mut args = vec![NAME, &hooks, fault];
    args.extend(tap);
    let program = pod.path("vmm/standin-sidecar");
    if !program.exists() {
        programs::copy(&pod.programs().sidecar, &program)?;
    }
    let process = Process::spawn("sidecar", &mut pod.command_as(&entry, &program, &args)?)?;
    process.wait_for("listening", 1, WAIT)?;
    Ok(process)
}

fn manifest() -> Value {
    let mut manifest = vmi(Value::Null);
    if let Some(interface) = manifest.pointer_mut("/spec/domain/devices/interfaces/0") {
        *interface = json!({"name": "default", "binding": {"name": NAME}});
    }
    manifest
}

fn hawser(pod: &Pod, more: &[&str]) -> Result<Process> {
    let bindings = pod.path("bindings.yaml").display().to_string();
    let hooks = pod.path("hooks").display().to_string();
    let mut args = vec!["--bindings", &bindings, "--hooks-dir", &hooks];
    args.extend(more);
    pod.hawser_as(&pod.entry(), "run", &manifest(), &args)
}

fn running(hawser: &Process) -> Result<()> {
    hawser.wait_for(r#"event="guest-running""#, 1, WAIT).map(drop)
}

fn stop(hawser: &mut Process) -> Result<()> {
    hawser.signal(Signal::SIGTERM)?;
    expect_exit(exit_code(hawser)?, 0, hawser)
}

/// What the VM was created with.
fn created(pod: &Pod) -> Result<Value> {
    let (status, body) = request(&pod.path("state/vmm/api.sock"), "GET", "vm.info", "")?;
    ensure!(status == 200, "{status}: {body}");
    Ok(serde_json::from_str(&body)?)
}

fn a_tap(context: &Context) -> Result<()> {
    let pod = pod(context)?;
    pod.netns.ip(&format!(
        "tuntap add dev proxy0 mode tap user {VMM_UID} group {VMM_UID} vnet_hdr"
    ))?;
    // Its routes of IPv6 would come and go with the carrier.
    pod.netns.set_sysctl("net.ipv6.conf.proxy0.disable_ipv6", "1")?;
    pod.netns.ip("address add 192.0.2.1/24 dev proxy0")?;
    pod.netns.ip("link set proxy0 up")?;
    pod.script(&Script {
        ports: [("proxy0".to_owned(), pod.port())].into(),
        ..Script::default()
    })?;
    let before = pod.netns.snapshot()?;
    let mut guest = Guest::new(&pod)?;
    let sidecar = sidecar(&pod, "none", Some("proxy0"))?;
    let mut hawser = hawser(&pod, &[])?;
    guest.booted_by(&hawser)?;
    guest.netns.ip("address add 192.0.2.2/24 dev eth0")?;
    pod.netns.run(|| {
        output(std::process::Command::new("ping").args(["-c", "1", "-W", "5", "192.0.2.2"])).map(drop)
    })?;
    stop(&mut hawser)?;
    sidecar.wait_for("Shutdown", 1, WAIT)?;
    sidecar.wait_for("disconnected", 1, WAIT)?;
    let changes = before.changes(&pod.netns.snapshot()?);
    ensure!(changes.is_empty(), "left behind: {changes:#?}");
    Ok(())
}

fn shared_memory(context: &Context) -> Result<()> {
    let pod = pod(context)?;
    let _sidecar = sidecar(&pod, "none", None)?;
    let mut hawser = hawser(&pod, &[])?;
    running(&hawser)?;
    let info = created(&pod)?;
    let at = |pointer| info.pointer(pointer).cloned().unwrap_or_default();
    ensure!(at("/config/memory/shared") == true, "{info:#}");
    let socket = pod.path("hooks/backend").display().to_string();
    ensure!(at("/config/net/0/vhost_socket") == socket.as_str(), "{info:#}");
    stop(&mut hawser)
}

fn late(context: &Context) -> Result<()> {
    let pod = pod(context)?;
    let mut hawser = hawser(&pod, &[])?;
    hawser.wait_for(r#"event="waiting-for-sidecar" plugin=proxy"#, 1, WAIT)?;
    let _sidecar = sidecar(&pod, "none", None)?;
    running(&hawser)?;
    stop(&mut hawser)
}

fn dies(context: &Context) -> Result<()> {
    let pod = pod(context)?;
    let sidecar = sidecar(&pod, "none", None)?;
    let mut hawser = hawser(&pod, &[])?;
    running(&hawser)?;
    sidecar.signal(Signal::SIGKILL)?;
    let line = hawser.wait_for(r#"event="sidecar-exited" plugin=proxy"#, 1, WAIT)?;
    ensure!(line.contains("NIC default"), "{line}");
    ensure!(!hawser.has_ended(), "{}", hawser.transcript());
    stop(&mut hawser)?;
    ensure!(
        hawser.stderr().matches("event=\"sidecar-exited\"").count() == 1
            && !hawser.stderr().contains("Shutdown"),
        "{}",
        hawser.transcript()
    );
    Ok(())
}

fn stop_while_asking(context: &Context) -> Result<()> {
    let pod = pod(context)?;
    let sidecar = sidecar(&pod, "hang", None)?;
    let mut hawser = hawser(&pod, &[])?;
    sidecar.wait_for("OnDefineVm default", 1, WAIT)?;
    let began = Instant::now();
    stop(&mut hawser)?;
    ensure!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    sidecar.wait_for("Shutdown", 1, WAIT)?;
    Ok(())
}

fn refused(context: &Context, fault: Option<&str>, said: &[&str]) -> Result<()> {
    refused_in(&pod(context)?, fault, said)
}

/// hawser ends with 4, says all of `said`, and the pod is as before.
fn refused_in(pod: &Pod, fault: Option<&str>, said: &[&str]) -> Result<()> {
    let before = pod.netns.snapshot()?;
    let sidecar = fault.map(|fault| sidecar(pod, fault, None)).transpose()?;
    let mut hawser = hawser(pod, &["--hooks-timeout", "1"])?;
    let status = hawser.wait_exit(Duration::from_secs(20))?;
    expect_exit(status.code().unwrap_or(-1), 4, &hawser)?;
    let text = hawser.stderr();
    for what in said.iter().chain(&["binding plugin proxy", "remedy: "]) {
        ensure!(text.contains(what), "no word of {what:?}:\n{text}");
    }
    drop(sidecar);
    let left = processes(pod)?;
    ensure!(left.is_empty(), "processes left behind: {left:?}");
    let changes = before.changes(&pod.netns.snapshot()?);
    ensure!(changes.is_empty(), "left behind: {changes:#?}");
    Ok(())
}

fn unfit(context: &Context) -> Result<()> {
    let cases: [(_, &[&str]); 4] = [
        (None, &["/hooks/proxy.sock within 1 s", "No such file"]),
        (Some("half-open"), &["Info: no answer within 10 s"]),
        (Some("hang"), &["OnDefineVm: no answer within 10 s"]),
        (Some("huge"), &["OnDefineVm: OutOfRange"]),
    ];
    // At once: two of them take as long as hawser waits for an answer.
    std::thread::scope(|scope| {
        let runs = cases.map(|(fault, said)| scope.spawn(move || refused(context, fault, said)));
        runs.into_iter().try_for_each(|run| match run.join() {
            Ok(result) => result,
            Err(_) => bail!("panicked"),
        })
    })
}

fn strangers(context: &Context) -> Result<()> {
    refused(context, Some("name"), &["\"somebody-else\""])?;
    refused(context, Some("version"), &["\"v9\"", "v1alpha1"])
}

fn lies(context: &Context) -> Result<()> {
    refused(
        context,
        Some("lie"),
        &[
            "\nmemory.size: the sidecar changed it from 134217728 to 1073741824",
            "\npayload.cmdline: the sidecar changed it from \"console=ttyS0\"",
            "\nnet[1]: the sidecar added an object",
        ],
    )?;
    refused(
        context,
        Some("escape"),
        &["net[0].vhost_socket: \"/etc/passwd\": not in the shared directory"],
    )
}

/// The pod is wired while the sidecar is asked: what was done is taken back.
fn attached(context: &Context) -> Result<()> {
    let attached = |pod: &Pod| {
        std::fs::write(
            pod.path("bindings.yaml"),
            format!("{NAME}: {{domainAttachmentType: managedTap, sidecarImage: registry.example/proxy}}\n"),
        )
    };
    let tuned = pod(context)?;
    attached(&tuned)?;
    let before = tuned.netns.snapshot()?;
    let _guest = Guest::new(&tuned)?;
    let _sidecar = sidecar(&tuned, "tune", None)?;
    let mut hawser = hawser(&tuned, &[])?;
    running(&hawser)?;
    let info = created(&tuned)?;
    let at = |pointer| info.pointer(pointer).cloned().unwrap_or_default();
    ensure!(
        at("/config/net/0/queue_size") == 512 && at("/config/net/0/tap") == "tap0",
        "{info:#}"
    );
    stop(&mut hawser)?;
    let changes = before.changes(&tuned.netns.snapshot()?);
    ensure!(changes.is_empty(), "left behind: {changes:#?}");

    let taken = pod(context)?;
    attached(&taken)?;
    refused_in(
        &taken,
        Some("none"),
        &["net[0].vhost_user: true: hawser has attached this NIC to a device"],
    )
}

fn stays(context: &Context) -> Result<()> {
    let pod = pod(context)?;
    let _sidecar = sidecar(&pod, "stay", None)?;
    let mut hawser = hawser(&pod, &[])?;
    running(&hawser)?;
    stop(&mut hawser)?;
    let said = "the sidecar of binding plugin proxy: Shutdown: no answer within 2 s";
    ensure!(hawser.stderr().contains(said), "{}", hawser.transcript());
    Ok(())
}

fn explained(context: &Context) -> Result<()> {
    let pod = pod(context)?;
    let bindings = pod.path("bindings.yaml").display().to_string();
    let mut hawser = pod.hawser_as(&pod.entry(), "explain", &manifest(), &["--bindings", &bindings])?;
    expect_exit(exit_code(&mut hawser)?, 0, &hawser)?;
    ensure!(
        hawser
            .stdout()
            .contains("IP given by  the sidecar of plugin proxy decides"),
        "{}",
        hawser.transcript()
    );
    Ok(())
}
