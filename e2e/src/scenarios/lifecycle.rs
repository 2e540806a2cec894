//! From the manifest to the exit code, with a VMM that does as it is told.

use std::io::Read;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::Context;
use super::running::{Running, WAIT, exit_code, expect_exit, processes, status_field};
use super::traffic::{TcpServer, reaches};
use crate::guests::{Client, GUEST4, Guest};
use crate::pods::{POD4, Pod, PodSpec, set, vmi};
use crate::process::{Process, output, until};
use crate::report::Scenario;
use crate::standin_script::Script;

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "SIGTERM: power button, exit code 0, namespace as found",
        run: sigterm,
    },
    Scenario {
        name: "the guest shuts itself down: exit code 0",
        run: guest_shutdown,
    },
    Scenario {
        name: "a slow guest is waited for",
        run: slow_guest,
    },
    Scenario {
        name: "a guest that ignores the power button: exit code 7",
        run: deaf_guest,
    },
    Scenario {
        name: "a second SIGTERM changes nothing",
        run: sigterm_twice,
    },
    Scenario {
        name: "SIGINT is SIGTERM",
        run: sigint,
    },
    Scenario {
        name: "SIGTERM before the guest is up",
        run: early_sigterm,
    },
    Scenario {
        name: "the console goes to stdout, the log to stderr",
        run: console,
    },
    Scenario {
        name: "a guest that reboots keeps its address",
        run: reboot,
    },
    Scenario {
        name: "as the first process it reaps what it did not start",
        run: first_process,
    },
    Scenario {
        name: "a log and a console that nothing reads stop neither DHCP nor SIGTERM",
        run: unread,
    },
    Scenario {
        name: "manifest from STANDALONE_VMI",
        run: standalone,
    },
    Scenario {
        name: "manifest from a file, as YAML",
        run: from_file,
    },
];

fn start(context: &Context, script: &Script) -> Result<Running> {
    Running::start_with(context, PodSpec::default(), script, &vmi(json!([{"port": 80}])))
}

fn sigterm(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let before = pod.netns.snapshot()?;
    let mut guest = Guest::new(&pod)?;
    let hawser = pod.hawser("run", &vmi(json!([{"port": 80}])))?;
    guest.booted_by(&hawser)?;
    let mut running = Running { hawser, guest, pod };
    running.stop_cleanly()?;
    as_found(&running, &before)
}

fn as_found(running: &Running, before: &crate::netns::Snapshot) -> Result<()> {
    let changes = before.changes(&running.pod.netns.snapshot()?);
    ensure!(
        changes.is_empty(),
        "left behind: {changes:#?}\n{}",
        running.hawser.transcript()
    );
    let left = processes(&running.pod)?;
    ensure!(left.is_empty(), "processes left behind: {left:?}");
    Ok(())
}

/// The VMM's own SIGTERM is the end of a guest that shut down: events and code 0.
fn guest_shutdown(context: &Context) -> Result<()> {
    let mut running = start(context, &Script::default())?;
    for (pid, name) in processes(&running.pod)? {
        if name == "standin-vmm" {
            nix::sys::signal::kill(pid, Signal::SIGTERM)?;
        }
    }
    expect_exit(exit_code(&mut running.hawser)?, 0, &running.hawser)
}

fn slow_guest(context: &Context) -> Result<()> {
    let mut running = start(
        context,
        &Script {
            shutdown_ms: 1000,
            ..Script::default()
        },
    )?;
    let started = Instant::now();
    running.stop_cleanly()?;
    let took = started.elapsed();
    ensure!(
        took >= Duration::from_millis(1000) && took < Duration::from_millis(2500),
        "{took:?}"
    );
    Ok(())
}

fn deaf_guest(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    pod.script(&Script {
        ignore_power_button: true,
        ..Script::default()
    })?;
    let before = pod.netns.snapshot()?;
    let mut guest = Guest::new(&pod)?;
    let mut vmi = vmi(Value::Null);
    set(&mut vmi, "/spec/terminationGracePeriodSeconds", json!(1));
    let hawser = pod.hawser("run", &vmi)?;
    guest.booted_by(&hawser)?;
    let mut running = Running { hawser, guest, pod };
    let started = Instant::now();
    expect_exit(running.stop()?, 7, &running.hawser)?;
    let took = started.elapsed();
    ensure!(
        took >= Duration::from_millis(990) && took < Duration::from_millis(2500),
        "{took:?} for a grace of 1 s"
    );
    as_found(&running, &before)
}

fn sigterm_twice(context: &Context) -> Result<()> {
    let mut running = start(
        context,
        &Script {
            shutdown_ms: 500,
            ..Script::default()
        },
    )?;
    running.hawser.signal(Signal::SIGTERM)?;
    running.hawser.signal(Signal::SIGTERM)?;
    running.stop_cleanly()
}

fn sigint(context: &Context) -> Result<()> {
    let mut running = start(context, &Script::default())?;
    running.hawser.signal(Signal::SIGINT)?;
    expect_exit(exit_code(&mut running.hawser)?, 0, &running.hawser)
}

/// While the VMM's API is not there yet: nothing runs, so nothing has failed, but the set-up is to be undone.
fn early_sigterm(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    pod.script(&Script {
        api: crate::standin_script::Api::Never,
        ..Script::default()
    })?;
    let before = pod.netns.snapshot()?;
    let guest = Guest::new(&pod)?;
    let hawser = pod.hawser("run", &vmi(Value::Null))?;
    until("the VMM", WAIT, || {
        Ok(processes(&pod)?
            .iter()
            .any(|(_, name)| name == "standin-vmm")
            .then_some(()))
    })?;
    let mut running = Running { hawser, guest, pod };
    running.hawser.signal(Signal::SIGTERM)?;
    let code = exit_code(&mut running.hawser)?;
    ensure!(
        matches!(code, 0 | 6 | 7),
        "exit code {code}:\n{}",
        running.hawser.transcript()
    );
    as_found(&running, &before)
}

fn console(context: &Context) -> Result<()> {
    let mut running = start(context, &Script::default())?;
    running.explain(running.hawser.wait_for("standin-vmm: this is no guest", 1, WAIT))?;
    running.guest.say("login: \u{1b}[31mred")?;
    running.explain(running.hawser.wait_for("login: ", 1, WAIT))?;
    running.stop_cleanly()?;
    let (out, err) = (running.hawser.stdout(), running.hawser.stderr());
    ensure!(
        out.contains("login: ") && out.contains("this is no guest"),
        "stdout: {out}"
    );
    ensure!(!err.contains("login: "), "the console is in the log: {err}");
    ensure!(!err.is_empty(), "no log");
    Ok(())
}

fn reboot(context: &Context) -> Result<()> {
    let mut running = start(
        context,
        &Script {
            reboot_after_ms: Some(300),
            ..Script::default()
        },
    )?;
    running.guest.booted_by(&running.hawser)?;
    let _clients = running.guest.client(Client::Udhcpc)?;
    running.explain(running.guest.wait_address(&format!("{GUEST4}/24")))?;
    let _server = TcpServer::start(&running.guest.netns, "guest", ([0, 0, 0, 0], 80))?;
    reaches(&running.pod.node, (POD4, 80), "guest")?;
    running.stop_cleanly()
}

/// An orphan of the pod becomes hawser's child; dead, it must not stay a zombie.
fn first_process(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let mut guest = Guest::new(&pod)?;
    let mut entry = pod.entry();
    entry.first_process = true;
    let manifest = vmi(json!([{"port": 80}]));
    let hawser = pod.hawser_as(&entry, "run", &manifest, &[])?;
    guest.booted_by(&hawser)?;
    let mut running = Running { hawser, guest, pod };
    let own = processes(&running.pod)?;
    let first = own.iter().find(|(pid, name)| {
        name == "hawser" && status_field(*pid, "NSpid").is_ok_and(|ids| ids.ends_with("\t1"))
    });
    let Some(&(first, _)) = first else {
        bail!("no first process among {own:?}")
    };
    let target = first.to_string();
    let has_orphan = || -> Result<bool> {
        let children = std::fs::read_to_string(format!("/proc/{first}/task/{first}/children"))?;
        let mut children = children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .map(Pid::from_raw);
        Ok(children.any(|pid| status_field(pid, "Name").is_ok_and(|name| name == "sleep")))
    };
    // The shell ends at once, and its child belongs to the first process from then on.
    let shell = [
        "--target",
        &target,
        "--pid",
        "--net",
        "sh",
        "-c",
        "sleep 0.3 >/dev/null 2>&1 &",
    ];
    output(Command::new("nsenter").args(shell))?;
    until("an orphan", WAIT, || Ok(has_orphan()?.then_some(())))?;
    until(
        "the orphan is reaped",
        WAIT,
        || Ok((!has_orphan()?).then_some(())),
    )?;
    // One that does not end by itself, as a shell that was left behind, is not waited for.
    let shell = shell.map(|word| word.replace("sleep 0.3", "sleep 600"));
    output(Command::new("nsenter").args(shell))?;
    until("an orphan", WAIT, || Ok(has_orphan()?.then_some(())))?;
    nix::sys::signal::kill(first, Signal::SIGTERM)?;
    expect_exit(exit_code(&mut running.hawser)?, 0, &running.hawser)
}

/// As with a container runtime that hangs: both pipes are full before hawser writes its first byte.
fn unread(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let mut guest = Guest::new(&pod)?;
    let mut command = pod.hawser_command(&pod.entry(), "run", &[])?;
    command.env("STANDALONE_VMI", vmi(Value::Null).to_string());
    let (hawser, mut streams) = Process::spawn_unread("hawser", &mut command)?;
    // It has the pipes' other ends too.
    drop(command);
    guest.booted()?;
    for _ in 0..100 {
        guest.say(&"x".repeat(1000))?;
    }
    let clients = guest.client(Client::Udhcpc)?;
    guest.wait_address(&format!("{GUEST4}/24"))?;
    drop(clients);
    let mut running = Running { hawser, guest, pod };
    running.hawser.signal(Signal::SIGTERM)?;
    expect_exit(exit_code(&mut running.hawser)?, 0, &running.hawser)?;
    // It said nothing of it to anybody, and left what was in the pipes.
    let mut text = String::new();
    for stream in &mut streams {
        stream.read_to_string(&mut text)?;
    }
    ensure!(text.chars().all(|char| char == '.'), "written to a full pipe");
    Ok(())
}

fn standalone(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let mut guest = Guest::new(&pod)?;
    let mut command = pod.hawser_command(&pod.entry(), "run", &[])?;
    command.env("STANDALONE_VMI", vmi(Value::Null).to_string());
    let hawser = Process::spawn("hawser", &mut command)?;
    guest.booted_by(&hawser)?;
    Running { hawser, guest, pod }.stop_cleanly()
}

fn from_file(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let yaml = format!(
        "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {{name: guest}}\nspec:\n  domain:\n    \
         memory: {{guest: 128Mi}}\n    firmware:\n      kernelBoot:\n        container:\n          image: i\n          \
         kernelPath: /vmlinux\n    devices:\n      interfaces:\n      - name: default\n        masquerade: {{}}\n        \
         macAddress: {}\n  networks:\n  - name: default\n    pod: {{}}\n",
        crate::pods::GUEST_MAC
    );
    std::fs::write(pod.path("vmi.yaml"), yaml)?;
    let mut guest = Guest::new(&pod)?;
    let path = pod.path("vmi.yaml").display().to_string();
    let hawser = Process::spawn(
        "hawser",
        &mut pod.hawser_command(&pod.entry(), "run", &["--vmi", &path])?,
    )?;
    guest.booted_by(&hawser)?;
    Running { hawser, guest, pod }.stop_cleanly()
}
