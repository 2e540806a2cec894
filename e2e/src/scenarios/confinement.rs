//! What the processes of a pod can still do, read off /proc and tried out.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, symlink};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, chown};
use serde_json::{Value, json};

use super::Context;
use super::bridge;
use super::migration_passt::{self, put_passt};
use super::plugins;
use super::running::{Running, WAIT, exit_code, expect_exit, processes, status_field};
use super::traffic::TcpServer;
use crate::guests::Guest;
use crate::pods::{Pod, PodSpec, Privileges, VMM_UID, vmi};
use crate::process::Process;
use crate::report::Scenario;
use crate::standin_script::{Attempt, Script};

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "a VMM that its guest has taken over reaches no file, process or port that its guest does not need",
        run: taken_over,
    },
    Scenario {
        name: "a kernel without landlock is noted by check and at the start",
        run: without_landlock,
    },
    Scenario {
        name: "what each process of each binding holds",
        run: every_process,
    },
    Scenario {
        name: "no process of the guest's user looks into the launcher's memory",
        run: memory_is_private,
    },
    Scenario {
        name: "who shows passt-repair sockets without end has it started a bounded number of times",
        run: repairs_are_bounded,
    },
    Scenario {
        name: "a VMM that writes without end does not fill the log",
        run: log_is_bounded,
    },
];

const PORT: u16 = 7070;
const CAP_NET_ADMIN: u64 = 1 << 12;

/// hawser and its VMM are the same user here, so that no file's mode stands in the way.
fn one_user() -> PodSpec {
    PodSpec {
        privileges: Privileges::NetAdmin,
        ..PodSpec::default()
    }
}

fn to_vmm(path: &std::path::Path) -> Result<()> {
    Ok(chown(path, Some(VMM_UID.into()), Some(VMM_UID.into()))?)
}

/// What a VMM says of its attempts, each by itself.
fn outcomes(running: &Running, attempts: &[Attempt]) -> Result<Vec<(Attempt, bool)>> {
    let of = |attempt: &Attempt| {
        let said = running
            .hawser
            .wait_for(&format!("attempt: {attempt:?}: "), 1, WAIT)?;
        Ok((attempt.clone(), said.contains(": done")))
    };
    attempts.iter().map(of).collect()
}

fn attempting(context: &Context, attempts: &[Attempt], no_landlock: bool) -> Result<Running> {
    let pod = Pod::new(&context.programs, one_user())?;
    attempting_in(pod, attempts, no_landlock)
}

fn attempting_in(pod: Pod, attempts: &[Attempt], no_landlock: bool) -> Result<Running> {
    pod.script(&Script {
        attempts: attempts.to_vec(),
        ..Script::default()
    })?;
    let mut guest = Guest::new(&pod)?;
    let mut entry = pod.entry();
    entry.no_landlock = no_landlock;
    let hawser = pod.hawser_as(&entry, "run", &vmi(json!([{"port": 80}])), &[])?;
    guest.booted_by(&hawser)?;
    Ok(Running { hawser, guest, pod })
}

fn taken_over(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, one_user())?;
    let kernel = pod.path("image/vmlinux");
    let claim = pod.path("another-claim.img");
    fs::write(&claim, "another guest's")?;
    for path in [&claim, &kernel] {
        to_vmm(path)?;
    }
    let link = pod.path("image/link");
    symlink(&claim, &link)?;
    let _server = TcpServer::start(&pod.netns, "a sidecar's", (Ipv4Addr::LOCALHOST, PORT))?;
    let refused = [
        Attempt::Read("/etc/passwd".into()),
        Attempt::Read(claim.clone()),
        Attempt::Read(link),
        Attempt::Write(claim),
        Attempt::Write(kernel.clone()),
        Attempt::Read(pod.path("state")),
        Attempt::Read(pod.path("state/vmm/console.log")),
        Attempt::Create(pod.path("state/vmm/planted")),
        Attempt::Create(pod.path("state/planted")),
        Attempt::Execute(pod.path("hawser")),
        Attempt::SignalLauncher,
        Attempt::ReadLauncher,
        Attempt::Keys,
        Attempt::Connect(PORT),
    ];
    let all = [&refused[..], &[Attempt::Read(kernel.clone())]].concat();
    let mut running = attempting_in(pod, &all, false)?;
    let outcomes = outcomes(&running, &all)?;
    let done: Vec<_> = outcomes
        .into_iter()
        .filter_map(|(attempt, done)| done.then_some(attempt))
        .collect();
    ensure!(
        done == [Attempt::Read(kernel)],
        "done, beside reading the guest's kernel: {done:?}:\n{}",
        running.hawser.transcript()
    );
    running.stop_cleanly()
}

fn without_landlock(context: &Context) -> Result<()> {
    let attempts = [Attempt::Read("/etc/passwd".into())];
    let mut running = attempting(context, &attempts, true)?;
    running.explain(running.hawser.wait_for("event=\"landlock-lacking\"", 1, WAIT))?;
    let outcomes = outcomes(&running, &attempts)?;
    ensure!(
        outcomes.iter().all(|(_, done)| *done),
        "landlock is there: {outcomes:?}"
    );
    let check = |no_landlock| -> Result<bool> {
        let mut entry = running.pod.entry();
        entry.no_landlock = no_landlock;
        let output = running.pod.hawser_command(&entry, "check", &[])?.output()?;
        Ok(String::from_utf8_lossy(&output.stdout).contains("note  landlock: the kernel does not have it"))
    };
    ensure!(check(true)? && !check(false)?, "check notes it otherwise");
    running.stop_cleanly()
}

/// Starts hawser in a pod of a binding.
pub(super) type Start = fn(&Pod) -> Result<Process>;

/// A pod for each binding, and what starts its guest.
pub(super) fn pods_of_each_binding(
    context: &Context,
    privileges: Privileges,
) -> Result<Vec<(&'static str, Start, Pod)>> {
    let pod = || -> Result<Pod> {
        let spec = PodSpec {
            privileges,
            ..PodSpec::default()
        };
        let pod = Pod::new(&context.programs, spec)?;
        // Nobody is at the other end of the guest's NIC.
        let mut script = Script::default();
        script.ports.insert("none".into(), "/none".into());
        pod.script(&script)?;
        Ok(pod)
    };
    let wire = pod()?;
    wire.node.ip(&format!(
        "link add up0 type veth peer name {} netns {}",
        plugins::INTERFACE,
        wire.netns.name()
    ))?;
    wire.netns.ip(&format!("link set {} up", plugins::INTERFACE))?;
    let passt = pod()?;
    put_passt(&passt)?;
    Ok(vec![
        ("masquerade", |pod| pod.hawser("run", &vmi(Value::Null)), pod()?),
        ("bridge", |pod| pod.hawser("run", &bridge::manifest()), pod()?),
        (
            "managedTap",
            |pod| plugins::hawser(pod, "run", &plugins::manifest("wire"), &[]),
            wire,
        ),
        ("passt", |pod| migration_passt::run(pod, &[]), passt),
    ])
}

/// One binding in a pod, with what runs there.
fn each_binding(context: &Context, privileges: Privileges) -> Result<Vec<(&'static str, Process, Pod)>> {
    let start = |(name, start, pod): (&'static str, Start, Pod)| Ok((name, start(&pod)?, pod));
    pods_of_each_binding(context, privileges)?
        .into_iter()
        .map(start)
        .collect()
}

/// The hard limit of core files, in bytes.
fn core_limit(pid: Pid) -> Result<String> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max core file size"))
        .context("no limit of core files")?;
    Ok(line.split_whitespace().nth(1).unwrap_or_default().to_owned())
}

fn every_process(context: &Context) -> Result<()> {
    for privileges in [Privileges::Root, Privileges::FewRoot, Privileges::NetAdmin] {
        for (binding, mut hawser, pod) in each_binding(context, privileges)? {
            hawser.wait_for("event=\"guest-running\"", 1, WAIT)?;
            let launcher = hawser_itself(&pod)?;
            let mut names = Vec::new();
            for (pid, name) in processes(&pod)? {
                let at = format!("{binding}, {privileges:?}: {name}");
                // Helpers of the stand-ins, such as the cat in passt's, are not the launcher's.
                let is_keeper = pid == launcher;
                let has_capability =
                    is_keeper || status_field(pid, "PPid")? == launcher.to_string() && name != "hawser";
                let capabilities = u64::from_str_radix(&status_field(pid, "CapEff")?, 16)?;
                let allowed = if has_capability { CAP_NET_ADMIN } else { 0 };
                ensure!(capabilities & !allowed == 0, "{at}: CapEff {capabilities:x}");
                ensure!(
                    status_field(pid, "NoNewPrivs")? == "1",
                    "{at}: no_new_privs is not set"
                );
                let uids = status_field(pid, "Uid")?;
                let only_vmm = uids.split_whitespace().all(|uid| uid == VMM_UID.to_string());
                ensure!(has_capability || only_vmm, "{at}: Uid {uids}");
                let seccomp = status_field(pid, "Seccomp")?;
                ensure!(
                    has_capability || seccomp == "2",
                    "{at}: no seccomp filter ({seccomp})"
                );
                let core = core_limit(pid)?;
                ensure!(core == "1" || core == "0", "{at}: core files of {core} bytes");
                if name == "hawser" {
                    let owner = fs::metadata(format!("/proc/{pid}/environ"))?.uid();
                    ensure!(owner == 0, "{at}: dumpable, since /proc/{pid} is user {owner}'s");
                }
                names.push(name);
            }
            names.sort();
            ensure!(
                names.iter().filter(|name| *name == "hawser").count() == 2
                    && names.iter().any(|name| name == "standin-vmm"),
                "{binding}: {names:?}"
            );
            hawser.signal(Signal::SIGTERM)?;
            expect_exit(exit_code(&mut hawser)?, 0, &hawser)?;
        }
    }
    Ok(())
}

/// The privileged process: hawser whose parent is none.
pub(super) fn hawser_itself(pod: &Pod) -> Result<Pid> {
    let all = processes(pod)?;
    let hawsers: Vec<_> = all.iter().filter(|(_, name)| name == "hawser").collect();
    let is_child = |pid: &Pid| -> Result<bool> {
        let parent = status_field(*pid, "PPid")?;
        Ok(hawsers.iter().any(|(other, _)| other.to_string() == parent))
    };
    for (pid, _) in &hawsers {
        if !is_child(pid)? {
            return Ok(*pid);
        }
    }
    anyhow::bail!("no hawser among {all:?}")
}

fn memory_is_private(context: &Context) -> Result<()> {
    let mut running = Running::start(context, one_user(), &vmi(Value::Null))?;
    let mut entry = running.pod.entry();
    entry.capabilities = Some(Vec::new());
    let opens = |pid: Pid| -> Result<bool> {
        let script = format!("exec 3< /proc/{pid}/mem");
        let mut command = running
            .pod
            .command_as(&entry, "/bin/sh".as_ref(), &["-c", &script])?;
        Ok(command.output()?.status.success())
    };
    let mut seen = 0;
    for (pid, name) in processes(&running.pod)? {
        if name == "hawser" {
            seen += 1;
            ensure!(!opens(pid)?, "process {pid} of hawser can be looked into");
        }
    }
    ensure!(seen == 2, "{seen} processes of hawser");
    running.stop_cleanly()
}

/// Comes to every helper, and goes again.
fn repairs_are_bounded(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, one_user())?;
    put_passt(&pod)?;
    // Each ends at once, as one does whose connection was closed, and says so.
    crate::programs::write_script(
        &pod.path("bin/passt-repair"),
        "#!/bin/sh\necho started >> /srv/repairs\n",
    )?;
    let mut hawser = migration_passt::run(&pod, &[])?;
    hawser.wait_for("event=\"passt-repair-given-up\"", 1, WAIT)?;
    let count = || -> Result<usize> { Ok(fs::read_to_string(pod.path("repairs"))?.lines().count()) };
    let before = count()?;
    ensure!(before <= 40, "started {before} times");
    hawser.wait_for("event=\"guest-running\"", 1, WAIT)?;
    ensure!(count()? == before, "started again");
    hawser.signal(Signal::SIGTERM)?;
    expect_exit(exit_code(&mut hawser)?, 0, &hawser)
}

fn log_is_bounded(context: &Context) -> Result<()> {
    let script = Script {
        log_lines: 20_000,
        ..Script::default()
    };
    let mut running = Running::start_with(context, PodSpec::default(), &script, &vmi(Value::Null))?;
    running.explain(running.hawser.wait_for("event=\"vmm-log-omitted\"", 1, WAIT))?;
    let said = running.hawser.stderr();
    let shown = said.lines().filter(|line| line.contains("surprised")).count();
    ensure!(shown < 1000, "{shown} lines");
    ensure!(!said.contains("\u{1b}[7m"), "a control character reaches the log");
    running.stop_cleanly()
}
