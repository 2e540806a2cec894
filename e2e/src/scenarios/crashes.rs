//! kill -9 of each process of each binding: the launcher ends with a code that says so or goes on, and a start afterwards boots
//! and leaves nothing. What a kill in the middle of the wiring leaves is the matrix of hawser-netsetup's namespace tests
//! (`crashes`).

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};

use super::Context;
use super::confinement::{Start, hawser_itself, pods_of_each_binding};
use super::running::{WAIT, exit_code, expect_exit, processes};
use crate::netns::Snapshot;
use crate::pods::{Pod, Privileges};
use crate::process::{Process, until};
use crate::report::Scenario;

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "each process of each binding is killed while the guest runs, then run again",
        run: each_process,
    },
    Scenario {
        name: "killed at points of the start of each binding, then run again",
        run: each_start,
    },
];

const UP: &str = r#"event="guest-running""#;
/// The codes of a launcher one of whose processes was killed: its own half's, or the VMM's.
const KILLED: [i32; 2] = [1, 6];

fn unchanged(pod: &Pod, before: &Snapshot, hawser: &Process) -> Result<()> {
    let changes = before.changes(&pod.netns.snapshot()?);
    ensure!(
        changes.is_empty(),
        "left behind: {changes:#?}\n{}",
        hawser.transcript()
    );
    Ok(())
}

fn boots_and_leaves_nothing(pod: &Pod, start: Start, before: &Snapshot) -> Result<()> {
    let mut hawser = start(pod)?;
    hawser.wait_for(UP, 1, WAIT)?;
    hawser.signal(Signal::SIGTERM)?;
    expect_exit(exit_code(&mut hawser)?, 0, &hawser)?;
    unchanged(pod, before, &hawser)
}

fn each_process(context: &Context) -> Result<()> {
    for (binding, start, pod) in pods_of_each_binding(context, Privileges::Root)? {
        let before = pod.netns.snapshot()?;
        // They come in the same order each time, by their numbers.
        for index in 0.. {
            let mut hawser = start(&pod)?;
            hawser.wait_for(UP, 1, WAIT)?;
            let launcher = hawser_itself(&pod)?;
            let mut all = processes(&pod)?;
            all.sort();
            let Some((victim, name)) = all.get(index).cloned() else {
                hawser.signal(Signal::SIGTERM)?;
                expect_exit(exit_code(&mut hawser)?, 0, &hawser)?;
                break;
            };
            let at = format!("{binding}: {name} killed");
            kill(victim, Signal::SIGKILL)?;
            if victim == launcher {
                // As for the first process of a container: the rest ends with it.
                hawser.wait_exit(WAIT)?;
                pod.netns.kill_all()?;
            } else if name == "hawser" || name == "standin-vmm" {
                let code = hawser.wait_exit(WAIT)?.code().unwrap_or(-1);
                ensure!(
                    KILLED.contains(&code),
                    "{at}: exit code {code}:\n{}",
                    hawser.transcript()
                );
                ensure!(
                    hawser.stderr().contains("ERROR"),
                    "{at}: nothing says why:\n{}",
                    hawser.transcript()
                );
                unchanged(&pod, &before, &hawser).context(at.clone())?;
            } else {
                // What serves the guest beside the VMM is started again, or done without.
                until("it is seen", WAIT, || {
                    let gone = !processes(&pod)?.iter().any(|(pid, _)| *pid == victim);
                    Ok(gone.then_some(()))
                })?;
                ensure!(
                    !hawser.has_ended(),
                    "{at}: hawser ended:\n{}",
                    hawser.transcript()
                );
                hawser.signal(Signal::SIGTERM)?;
                expect_exit(exit_code(&mut hawser)?, 0, &hawser).context(at.clone())?;
                unchanged(&pod, &before, &hawser).context(at.clone())?;
            }
            boots_and_leaves_nothing(&pod, start, &before).with_context(|| format!("after {at}"))?;
        }
    }
    Ok(())
}

fn each_start(context: &Context) -> Result<()> {
    const POINTS: u32 = 6;
    for (binding, start, pod) in pods_of_each_binding(context, Privileges::Root)? {
        let before = pod.netns.snapshot()?;
        let began = Instant::now();
        let mut hawser = start(&pod)?;
        hawser.wait_for(UP, 1, WAIT)?;
        let whole: Duration = began.elapsed();
        hawser.signal(Signal::SIGTERM)?;
        expect_exit(exit_code(&mut hawser)?, 0, &hawser)?;
        for point in 0..POINTS {
            let delay = whole * (point + 1) / POINTS;
            let hawser = start(&pod)?;
            std::thread::sleep(delay);
            // It may have ended by itself, which is as good.
            let _ = hawser.signal(Signal::SIGKILL);
            drop(hawser);
            pod.netns.kill_all()?;
            boots_and_leaves_nothing(&pod, start, &before)
                .with_context(|| format!("{binding}: killed after {delay:?} of {whole:?}"))?;
        }
    }
    Ok(())
}
