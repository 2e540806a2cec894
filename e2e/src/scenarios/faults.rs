//! A VMM that is late, hangs, fails or dies. Whatever it does, hawser ends with the right code and cleans up.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use super::Context;
use super::running::{Running, expect_exit, processes};
use crate::guests::Guest;
use crate::pods::{Pod, PodSpec, vmi};
use crate::report::Scenario;
use crate::standin_script::{Api, Death, Failure, Point, Script};

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "the API comes late",
        run: late,
    },
    Scenario {
        name: "the API never comes, vm.create hangs, vm.boot hangs",
        run: silence,
    },
    Scenario {
        name: "vm.create fails",
        run: |c| fails(c, refuses("vm.create"), "out of order"),
    },
    Scenario {
        name: "vm.boot fails",
        run: |c| fails(c, refuses("vm.boot"), "out of order"),
    },
    Scenario {
        name: "vm.power-button fails",
        run: power_button_fails,
    },
    Scenario {
        name: "the TAP cannot be opened",
        run: |c| {
            fails(
                c,
                Script {
                    tap_open_fails: true,
                    ..Script::default()
                },
                "tap",
            )
        },
    },
    Scenario {
        name: "dies at once",
        run: |c| fails(c, dies(Point::Start, 0, None), ""),
    },
    Scenario {
        name: "dies on vm.create",
        run: |c| fails(c, dies(Point::Create, 0, None), ""),
    },
    Scenario {
        name: "dies on vm.boot",
        run: |c| fails(c, dies(Point::Boot, 0, None), ""),
    },
    Scenario {
        name: "dies while the guest runs",
        run: |c| fails(c, dies(Point::Booted, 300, None), ""),
    },
    Scenario {
        name: "is killed while the guest runs",
        run: |c| fails(c, dies(Point::Booted, 300, Some(9)), ""),
    },
    Scenario {
        name: "junk among the events",
        run: junk,
    },
    Scenario {
        name: "no VMM at all",
        run: no_vmm,
    },
];

fn hangs(request: &str) -> Script {
    Script {
        hang: vec![request.to_owned()],
        ..Script::default()
    }
}

fn refuses(request: &str) -> Script {
    let failure = Failure {
        status: 500,
        body: r#"["Error from API", "out of order"]"#.to_owned(),
    };
    Script {
        fail: [(request.to_owned(), failure)].into(),
        ..Script::default()
    }
}

fn dies(at: Point, after_ms: u64, signal: Option<i32>) -> Script {
    let death = Death {
        at,
        after_ms,
        exit: signal.is_none().then_some(3),
        signal,
    };
    Script {
        die: Some(death),
        ..Script::default()
    }
}

fn fails(context: &Context, script: Script, said: &str) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    pod.script(&script)?;
    let before = pod.netns.snapshot()?;
    let _guest = Guest::new(&pod)?;
    let mut hawser = pod.hawser("run", &vmi(Value::Null))?;
    // The longest that hawser may wait for an API that says nothing.
    let status = hawser.wait_exit(Duration::from_secs(45))?;
    expect_exit(status.code().unwrap_or(-1), 6, &hawser)?;
    ensure!(
        hawser.stderr().contains(said),
        "no word of {said:?}:\n{}",
        hawser.transcript()
    );
    let changes = before.changes(&pod.netns.snapshot()?);
    ensure!(changes.is_empty(), "left behind: {changes:#?}");
    let left = processes(&pod)?;
    ensure!(left.is_empty(), "processes left behind: {left:?}");
    Ok(())
}

/// Three pods at once: each takes as long as hawser waits for an answer.
fn silence(context: &Context) -> Result<()> {
    let never = Script {
        api: Api::Never,
        ..Script::default()
    };
    let cases = [
        (never, ""),
        (hangs("vm.create"), "vm.create"),
        (hangs("vm.boot"), "vm.boot"),
    ];
    std::thread::scope(|scope| {
        let runs = cases.map(|(script, said)| scope.spawn(move || fails(context, script, said)));
        runs.into_iter().try_for_each(|run| match run.join() {
            Ok(result) => result,
            Err(_) => bail!("panicked"),
        })
    })
}

fn late(context: &Context) -> Result<()> {
    let script = Script {
        api: Api::LateMs(1500),
        ..Script::default()
    };
    let mut running = Running::start_with(context, PodSpec::default(), &script, &vmi(Value::Null))?;
    running.stop_cleanly()
}

fn power_button_fails(context: &Context) -> Result<()> {
    let script = refuses("vm.power-button");
    let mut vmi = vmi(Value::Null);
    crate::pods::set(&mut vmi, "/spec/terminationGracePeriodSeconds", json!(1));
    let mut running = Running::start_with(context, PodSpec::default(), &script, &vmi)?;
    let started = Instant::now();
    expect_exit(running.stop()?, 7, &running.hawser)?;
    ensure!(
        started.elapsed() < Duration::from_secs(4),
        "{:?}",
        started.elapsed()
    );
    Ok(())
}

fn junk(context: &Context) -> Result<()> {
    let script = Script {
        event_junk: true,
        ..Script::default()
    };
    let mut running = Running::start_with(context, PodSpec::default(), &script, &vmi(Value::Null))?;
    running.explain(running.guest.configure())?;
    running.stop_cleanly()
}

fn no_vmm(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let before = pod.netns.snapshot()?;
    std::fs::remove_file(pod.path("vmm/standin-vmm"))?;
    let mut hawser = pod.hawser("run", &vmi(Value::Null))?;
    let status = hawser.wait_exit(Duration::from_secs(10))?;
    ensure!(
        matches!(status.code(), Some(4 | 6)),
        "{status}:\n{}",
        hawser.transcript()
    );
    ensure!(
        hawser.stderr().contains("standin-vmm"),
        "the path is not named:\n{}",
        hawser.transcript()
    );
    let changes = before.changes(&pod.netns.snapshot()?);
    ensure!(changes.is_empty(), "left behind: {changes:#?}");
    Ok(())
}
