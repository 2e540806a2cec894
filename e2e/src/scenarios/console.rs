//! `hawser console`: what the guest prints comes out, what is typed goes in.

use std::fs::File;
use std::io::{Read, Write};
use std::process::Stdio;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::Context;
use super::migration_pair::{Pair, SOON, by_entry, expect_runs, hawser, quick, run};
use super::running::expect_exit;
use crate::pods::{Pod, PodSpec, set, vmi};
use crate::process::{Process, until};
use crate::report::Scenario;

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "what is printed is shown, what is typed arrives, and one at a time types",
        run: attached,
    },
    Scenario {
        name: "at a terminal: every key but the one that detaches",
        run: at_a_terminal,
    },
    Scenario {
        name: "a console that is not logged is shown to whoever attaches",
        run: not_logged,
    },
    Scenario {
        name: "a guest that has migrated can be typed at",
        run: after_a_migration,
    },
];

fn guest(context: &Context) -> Result<(Pod, Process)> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    pod.script(&quick())?;
    let launcher = run(&pod, &vmi(Value::Null), &[])?;
    launcher.wait_for(r#"event="guest-running""#, 1, SOON)?;
    expect_runs(&launcher)?;
    Ok((pod, launcher))
}

fn console(pod: &Pod, options: &[&str]) -> Result<Process> {
    hawser(
        pod,
        &[&["console", "--state-dir", "/srv/state"], options].concat(),
    )
}

fn attached(context: &Context) -> Result<()> {
    let (pod, mut launcher) = guest(context)?;
    let mut first = console(&pod, &[])?;
    // Printed before it came.
    first.wait_for("standin-vmm: the guest runs", 1, SOON)?;
    first.tell("one")?;
    first.wait_for("standin-vmm: typed: one", 1, SOON)?;
    // In the container's log too.
    launcher.wait_for("standin-vmm: typed: one", 1, SOON)?;

    let mut second = console(&pod, &[])?;
    second.wait_for("somebody else types there", 1, SOON)?;
    second.wait_for("standin-vmm: typed: one", 1, SOON)?;
    let watching = console(&pod, &["--read-only"])?;
    watching.wait_for("only shown", 1, SOON)?;
    second.tell("nobody reads this")?;
    first.tell("two")?;
    for viewer in [&first, &second, &watching] {
        viewer.wait_for("standin-vmm: typed: two", 1, SOON)?;
    }
    ensure!(
        !launcher.transcript().contains("nobody reads this"),
        "{}",
        launcher.transcript()
    );

    drop(first);
    let mut third = until("the keyboard is free", SOON, || {
        let next = console(&pod, &[])?;
        next.wait_for("hawser: the guest's console", 1, SOON)?;
        let free = !next.stderr().contains("somebody else");
        Ok(free.then_some(next))
    })?;
    third.tell("three")?;
    third.wait_for("standin-vmm: typed: three", 1, SOON)?;

    // A guest that ends takes its viewers along.
    launcher.signal(Signal::SIGTERM)?;
    let code = launcher.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 0, &launcher)?;
    for mut viewer in [second, watching, third] {
        let code = viewer.wait_exit(SOON)?.code().unwrap_or(-1);
        expect_exit(code, 0, &viewer)?;
        ensure!(
            viewer.stderr().contains("the console has ended"),
            "{}",
            viewer.transcript()
        );
    }
    let mut late = console(&pod, &[])?;
    let code = late.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 4, &late)
}

fn at_a_terminal(context: &Context) -> Result<()> {
    let (pod, launcher) = guest(context)?;
    let ends = nix::pty::openpty(None, None)?;
    let mut command = by_entry(
        &pod,
        &pod.path("hawser"),
        &["console", "--state-dir", "/srv/state"],
    )?;
    let mut child = command
        .stdin(Stdio::from(ends.slave.try_clone()?))
        .stdout(Stdio::from(ends.slave.try_clone()?))
        .stderr(Stdio::from(ends.slave))
        .spawn()
        .context("start hawser console")?;
    // Its copies of the terminal.
    drop(command);
    let mut keys = File::from(ends.master.try_clone()?);
    let screen = thread::spawn(move || {
        let (mut all, mut buffer) = (Vec::new(), [0; 1024]);
        let mut master = File::from(ends.master);
        // An error is how the end of the last one at the terminal shows.
        while let Ok(read @ 1..) = master.read(&mut buffer) {
            all.extend(buffer.iter().take(read));
        }
        String::from_utf8_lossy(&all).into_owned()
    });
    // Once a key has arrived, the terminal is set; a Ctrl-C before that would end it.
    keys.write_all(b"\r")?;
    launcher.wait_for("standin-vmm: typed:", 1, SOON)?;
    keys.write_all(b"\x03\x04login\r")?;
    launcher.wait_for(r"standin-vmm: typed: \x03\x04login", 1, SOON)?;
    keys.write_all(b"ls\x1d")?;
    let ended = until("it detaches", SOON, || Ok(child.try_wait()?))?;
    ensure!(ended.code() == Some(0), "hawser console ended with {ended}");
    drop(keys);
    let shown = screen.join().map_err(|_| anyhow::anyhow!("the screen"))?;
    for part in [
        "Ctrl-] detaches",
        r"typed: \x03\x04login",
        "detached; the guest runs on",
    ] {
        ensure!(shown.contains(part), "no {part:?} on the screen: {shown:?}");
    }
    expect_runs(&launcher)
}

fn not_logged(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    pod.script(&quick())?;
    let mut guest = vmi(Value::Null);
    set(&mut guest, "/spec/domain/devices/logSerialConsole", json!(false));
    let launcher = run(&pod, &guest, &[])?;
    launcher.wait_for(r#"event="guest-running""#, 1, SOON)?;
    let mut viewer = console(&pod, &[])?;
    viewer.wait_for("standin-vmm: the guest runs", 1, SOON)?;
    viewer.tell("a secret")?;
    viewer.wait_for("standin-vmm: typed: a secret", 1, SOON)?;
    let logged = launcher.stdout();
    ensure!(!logged.contains("standin-vmm"), "on standard output: {logged}");
    ensure!(
        !pod.path("state/vmm/console.log").exists(),
        "there is a console.log"
    );
    Ok(())
}

fn after_a_migration(context: &Context) -> Result<()> {
    let mut pair = Pair::new(context, &quick(), &quick())?;
    let mut viewer = console(&pair.from, &[])?;
    viewer.wait_for("standin-vmm: the guest runs", 1, SOON)?;
    let mut moving = pair.migrate()?;
    let code = moving.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 0, &moving)?;
    let code = pair.source.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 0, &pair.source)?;
    let code = viewer.wait_exit(SOON)?.code().unwrap_or(-1);
    expect_exit(code, 0, &viewer)?;
    let mut viewer = console(&pair.to, &[])?;
    viewer.tell("here")?;
    viewer.wait_for("standin-vmm: typed: here", 1, SOON).map(drop)
}
