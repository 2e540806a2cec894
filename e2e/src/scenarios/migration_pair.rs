//! Two pods with a launcher each, one guest, and what a hand-off between them takes. The VMM is the stand-in.
//!
//! The pods are joined by a wire of their own and see their files at the same paths, as two pods of one template do.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::Context;
use super::running::{expect_exit, processes};
use crate::certificates::Authority;
use crate::pods::{Pod, PodSpec, vmi};
use crate::process::{Process, until};
use crate::standin_script::Script;

pub(super) const SOON: Duration = Duration::from_secs(10);
/// Beyond the longest that a launcher waits for a step.
pub(super) const PATIENCE: Duration = Duration::from_secs(40);
/// Where each pod sees its files.
pub(super) const FILES: &str = "/srv";
/// The interface of a network called red, as KubeVirt has it called.
pub(super) const RED: &str = "podb1f51a511f1";
pub(super) const TO: &str = "tcp:10.99.0.2:49152";
pub(super) const TLS: [&str; 2] = ["--tls-dir", "/srv/certificates"];

/// In the order in which they are to be dropped.
pub(super) struct Pair {
    pub(super) source: Process,
    pub(super) target: Process,
    pub(super) from: Pod,
    pub(super) to: Pod,
}

pub(super) fn quick() -> Script {
    Script {
        // Frames go nowhere: there is no guest port.
        ports: [("none".to_owned(), "/none".into())].into(),
        migration_rounds: 2,
        migration_round_ms: 5,
        ..Script::default()
    }
}

pub(super) fn hawser(pod: &Pod, args: &[&str]) -> Result<Process> {
    by(pod, &pod.path("hawser"), args)
}

/// With another program, which may start hawser.
pub(super) fn by(pod: &Pod, program: &Path, args: &[&str]) -> Result<Process> {
    Process::spawn("hawser", &mut by_entry(pod, program, args)?)
}

/// The same, not started.
pub(super) fn by_entry(pod: &Pod, program: &Path, args: &[&str]) -> Result<Command> {
    let mut entry = pod.entry();
    entry.binds.push((pod.path(""), FILES.into()));
    // It may be a file system of its own.
    entry
        .binds
        .push((pod.path("state"), Path::new(FILES).join("state")));
    pod.command_as(&entry, program, args)
}

pub(super) fn run(pod: &Pod, vmi: &Value, options: &[&str]) -> Result<Process> {
    let mut process = hawser(pod, &run_args(options))?;
    let _ = process.feed(&vmi.to_string());
    Ok(process)
}

pub(super) fn run_args<'a>(options: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec![
        "run",
        "--vmi",
        "-",
        "--state-dir",
        "/srv/state",
        "--image",
        "kernel-boot=/srv/image",
        "--cloud-hypervisor",
        "/srv/vmm/standin-vmm",
    ];
    args.extend(options);
    args
}

pub(super) fn migrate(pod: &Pod, options: &[&str]) -> Result<Process> {
    let mut args = vec!["migrate", "--state-dir", "/srv/state", "--to", TO];
    args.extend(options);
    hawser(pod, &args)
}

pub(super) fn status(pod: &Pod) -> Result<Value> {
    let mut asked = hawser(pod, &["status", "--state-dir", "/srv/state"])?;
    let status = asked.wait_exit(SOON)?;
    ensure!(status.success(), "hawser status: {}", asked.transcript());
    Ok(serde_json::from_str(&asked.stdout())?)
}

pub(super) fn expect_state(status: &Value, wanted: &str) -> Result<()> {
    ensure!(
        status.get("state") == Some(&json!(wanted)),
        "not {wanted}: {status}"
    );
    Ok(())
}

impl Pair {
    pub(super) fn new(context: &Context, here: &Script, there: &Script) -> Result<Self> {
        let guest = vmi(Value::Null);
        Self::with(context, (here, &guest), (there, &guest))
    }

    pub(super) fn with(context: &Context, here: (&Script, &Value), there: (&Script, &Value)) -> Result<Self> {
        Self::prepared(context, here, there, &[], |_, _| Ok(()))
    }

    /// `prepare` has the pods, the source's first, before anything runs in them; `options` are for both launchers.
    pub(super) fn prepared(
        context: &Context,
        (here, ours): (&Script, &Value),
        (there, theirs): (&Script, &Value),
        options: &[&str],
        prepare: impl FnOnce(&Pod, &Pod) -> Result<()>,
    ) -> Result<Self> {
        let from = Pod::new(&context.programs, PodSpec::default())?;
        let to = Pod::new(&context.programs, PodSpec::default())?;
        // The wire that the launchers meet on, and a network that a bridged guest may have in both pods.
        for link in ["mig0", RED] {
            from.netns.ip(&format!(
                "link add {link} type veth peer name {link} netns {}",
                to.netns.name()
            ))?;
        }
        let authority = Authority::new("migration")?;
        for (pod, address, script) in [(&from, "10.99.0.1", here), (&to, "10.99.0.2", there)] {
            pod.netns.ip(&format!("address add {address}/24 dev mig0"))?;
            for link in ["mig0", RED] {
                pod.netns.ip(&format!("link set {link} up"))?;
            }
            pod.script(script)?;
            certify(&authority, pod, address)?;
        }
        prepare(&from, &to)?;
        let source = run(&from, ours, options)?;
        let target = run(&to, theirs, &[options, &["--incoming", TLS[0], TLS[1]]].concat())?;
        source.wait_for(r#"event="guest-running""#, 1, SOON)?;
        target.wait_for(r#"event="waiting-for-guest""#, 1, SOON)?;
        Ok(Self {
            source,
            target,
            from,
            to,
        })
    }

    pub(super) fn transcript(&self) -> String {
        format!(
            "source:\n{}target:\n{}",
            self.source.transcript(),
            self.target.transcript()
        )
    }

    pub(super) fn migrate(&self) -> Result<Process> {
        migrate(&self.from, &TLS)
    }

    /// The guest goes on at the source, answers there, and ends well; the target has ended and left nothing.
    pub(super) fn stays(&mut self, mut moving: Process) -> Result<()> {
        let code = moving.wait_exit(PATIENCE)?.code();
        ensure!(
            code == Some(9),
            "hawser migrate ended with {code:?}:\n{}",
            moving.transcript()
        );
        ensure!(
            moving.stderr().contains("stays here"),
            "not said that it stays:\n{}",
            moving.transcript()
        );
        // The VMM resumes it in its own time.
        until("the guest runs at the source", SOON, || {
            Ok(runs(&self.source).then_some(()))
        })?;
        expect_state(&status(&self.from)?, "running")?;
        self.target_has_gone(9)?;
        self.source.signal(Signal::SIGTERM)?;
        let code = self.source.wait_exit(SOON)?.code().unwrap_or(-1);
        expect_exit(code, 0, &self.source)
    }

    pub(super) fn target_has_gone(&mut self, wanted: i32) -> Result<()> {
        let code = self.target.wait_exit(PATIENCE)?.code().unwrap_or(-1);
        expect_exit(code, wanted, &self.target)?;
        let left = processes(&self.to)?;
        ensure!(left.is_empty(), "left at the target: {left:?}");
        let links = self.to.netns.ip("-o link")?;
        ensure!(!links.contains("tap0"), "left at the target: {links}");
        ensure!(!runs(&self.target), "the target's guest ran last");
        Ok(())
    }
}

pub(super) fn certify(authority: &Authority, pod: &Pod, address: &str) -> Result<()> {
    let directory = pod.path("certificates");
    std::fs::create_dir_all(&directory)?;
    authority.issue(&directory, "*.ns.vmi", &[address.parse::<IpAddr>()?])
}

/// What the stand-in said last of its guest, as long as its launcher lives.
pub(super) fn runs(launcher: &Process) -> bool {
    let said = launcher.stdout();
    let last = said
        .lines()
        .rfind(|line| line.contains("the guest runs") || line.contains("the guest is paused"));
    last.is_some_and(|line| line.contains("runs")) && !launcher.has_ended()
}

/// The console comes by a pipe and a thread of its own, after whatever the launcher has answered or logged.
pub(super) fn expect_runs(launcher: &Process) -> Result<()> {
    until("the guest runs", SOON, || Ok(runs(launcher).then_some(())))
}

pub(super) fn explain<T>(pair: &Pair, what: &str, result: Result<T>) -> Result<T> {
    result.with_context(|| format!("{what}\n{}", pair.transcript()))
}
