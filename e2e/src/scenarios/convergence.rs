//! Killed anywhere, started again: it converges, and then leaves nothing. What is not hawser's it does not touch.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::Context;
use super::migration_pair::SOON;
use super::running::{Running, exit_code, expect_exit};
use super::traffic::{TcpServer, reaches};
use crate::guests::Guest;
use crate::netns::Snapshot;
use crate::pods::{POD4, POD6, Pod, PodSpec, vmi};
use crate::report::Scenario;

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "killed at many points of its start, then run again",
        run: kill_sweep,
    },
    Scenario {
        name: "killed while the guest runs, then run again",
        run: killed_running,
    },
    Scenario {
        name: "killed at many points of its end, then run again",
        run: kill_teardown,
    },
    Scenario {
        name: "killed and its state directory lost, then run again",
        run: lost_state,
    },
    Scenario {
        name: "set up twice",
        run: setup_twice,
    },
    Scenario {
        name: "ten times in the same namespace",
        run: again_and_again,
    },
    Scenario {
        name: "a link of someone else that is called tap0 is left alone",
        run: foreign_tap,
    },
    Scenario {
        name: "a table of someone else is left alone",
        run: foreign_table,
    },
];

fn manifest() -> Value {
    vmi(json!([{"port": 80}]))
}

/// A clean run to its end: the guest is reached, and the namespace is then as it was `before`.
fn converges(pod: Pod, mut guest: Guest, before: &Snapshot) -> Result<(Pod, Guest)> {
    let hawser = pod.hawser("run", &manifest())?;
    guest.booted_by(&hawser)?;
    let mut running = Running { hawser, guest, pod };
    running.explain(running.guest.configure())?;
    {
        let _server = TcpServer::start(&running.guest.netns, "guest", ([0_u16; 8], 80))?;
        running.explain(reaches(&running.pod.node, (POD4, 80), "guest"))?;
        running.explain(reaches(&running.pod.node, (POD6, 80), "guest"))?;
    }
    running.stop_cleanly()?;
    let changes = before.changes(&running.pod.netns.snapshot()?);
    ensure!(
        changes.is_empty(),
        "left behind: {changes:#?}\n{}",
        running.hawser.transcript()
    );
    Ok((running.pod, running.guest))
}

/// The same without a look at the traffic, for sweeps.
fn comes_and_goes(pod: Pod, mut guest: Guest, before: &Snapshot) -> Result<(Pod, Guest)> {
    let hawser = pod.hawser("run", &manifest())?;
    guest.booted_by(&hawser)?;
    let mut running = Running { hawser, guest, pod };
    running.stop_cleanly()?;
    let changes = before.changes(&running.pod.netns.snapshot()?);
    ensure!(
        changes.is_empty(),
        "left behind: {changes:#?}\n{}",
        running.hawser.transcript()
    );
    Ok((running.pod, running.guest))
}

fn fresh(context: &Context) -> Result<(Pod, Guest, Snapshot)> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let guest = Guest::new(&pod)?;
    let before = pod.netns.snapshot()?;
    Ok((pod, guest, before))
}

fn kill_sweep(context: &Context) -> Result<()> {
    let (mut pod, mut guest, before) = fresh(context)?;
    // How long a start takes decides where the points lie.
    let started = Instant::now();
    let mut running = {
        let hawser = pod.hawser("run", &manifest())?;
        guest.booted_by(&hawser)?;
        Running { hawser, guest, pod }
    };
    let whole = started.elapsed();
    running.stop_cleanly()?;
    (pod, guest) = (running.pod, running.guest);
    for point in 0..12_u32 {
        let delay = whole * (point + 1) / 11;
        let hawser = pod.hawser("run", &manifest())?;
        std::thread::sleep(delay);
        hawser.signal(Signal::SIGKILL)?;
        drop(hawser);
        pod.netns.kill_all()?;
        // Whether the cut start got as far as the guest is not known, so the count of boots starts afresh.
        drop(guest);
        let _ = std::fs::remove_file(pod.port());
        guest = Guest::new(&pod)?;
        (pod, guest) = comes_and_goes(pod, guest, &before)
            .with_context(|| format!("killed after {delay:?} of {whole:?}"))?;
    }
    converges(pod, guest, &before)?;
    Ok(())
}

fn killed_running(context: &Context) -> Result<()> {
    let (pod, mut guest, before) = fresh(context)?;
    let hawser = pod.hawser("run", &manifest())?;
    guest.booted_by(&hawser)?;
    hawser.signal(Signal::SIGKILL)?;
    drop(hawser);
    pod.netns.kill_all()?;
    converges(pod, guest, &before).map(drop)
}

fn kill_teardown(context: &Context) -> Result<()> {
    let (mut pod, mut guest, before) = fresh(context)?;
    for delay in [0, 2, 5, 10, 20, 40] {
        let hawser = pod.hawser("run", &manifest())?;
        guest.booted_by(&hawser)?;
        hawser.signal(Signal::SIGTERM)?;
        std::thread::sleep(Duration::from_millis(delay));
        // It may have ended by itself, which is as good.
        let _ = hawser.signal(Signal::SIGKILL);
        drop(hawser);
        pod.netns.kill_all()?;
        (pod, guest) =
            converges(pod, guest, &before).with_context(|| format!("killed {delay} ms after SIGTERM"))?;
    }
    Ok(())
}

/// An emptyDir outlives a container, but not a pod whose namespace is kept; what is found must be enough.
fn lost_state(context: &Context) -> Result<()> {
    let (pod, mut guest, before) = fresh(context)?;
    let hawser = pod.hawser("run", &manifest())?;
    guest.booted_by(&hawser)?;
    hawser.signal(Signal::SIGKILL)?;
    drop(hawser);
    pod.netns.kill_all()?;
    std::fs::remove_dir_all(pod.path("state"))?;
    std::fs::create_dir(pod.path("state"))?;
    let hawser = pod.hawser("run", &manifest())?;
    guest.booted_by(&hawser)?;
    let mut running = Running { hawser, guest, pod };
    running.stop_cleanly()?;
    // What the values of sysctls were cannot be known any more, and a forwarding kernel answers to the subnets' anycast
    // addresses (RFC 4291, section 2.6.1). Links, addresses, routes and rules can be known.
    let changes = before.changes(&running.pod.netns.snapshot()?);
    let changes: Vec<&String> = changes
        .iter()
        .filter(|change| !change.starts_with("sysctl") && !change.starts_with("route6 + anycast"))
        .collect();
    ensure!(changes.is_empty(), "left behind: {changes:#?}");
    Ok(())
}

fn setup_twice(context: &Context) -> Result<()> {
    let (pod, guest, before) = fresh(context)?;
    let mut after = Vec::new();
    for _ in 0..2 {
        let mut setup = pod.hawser("setup", &manifest())?;
        expect_exit(exit_code(&mut setup)?, 0, &setup)?;
        after.push(pod.netns.snapshot()?);
    }
    if let [first, second] = after.as_slice() {
        let changes = first.changes(second);
        ensure!(changes.is_empty(), "the second set-up changed: {changes:#?}");
    }
    converges(pod, guest, &before).map(drop)
}

fn again_and_again(context: &Context) -> Result<()> {
    let (mut pod, mut guest, before) = fresh(context)?;
    for round in 0..10 {
        (pod, guest) = comes_and_goes(pod, guest, &before).with_context(|| format!("round {round}"))?;
    }
    converges(pod, guest, &before).map(drop)
}

fn foreign_tap(context: &Context) -> Result<()> {
    for arrange in [
        &[
            "tuntap add dev tap0 mode tap",
            "address add 192.168.1.1/24 dev tap0",
            "link set tap0 up",
        ][..],
        &["tuntap add dev tap0 mode tap user 1000"][..],
        &["link add tap0 type bridge"][..],
        &["link add tap0 type veth peer name elsewhere"][..],
    ] {
        let (pod, _guest, _) = fresh(context)?;
        for command in arrange {
            pod.netns.ip(command)?;
        }
        let before = pod.netns.snapshot()?;
        let theirs = || pod.netns.ip("-details -oneline address show dev tap0");
        let untouched = theirs()?;
        let mut hawser = pod.hawser("run", &manifest())?;
        hawser.wait_for(r#"event="guest-running""#, 1, SOON)?;
        ensure!(
            theirs()? == untouched,
            "{arrange:?}: touched while the guest runs"
        );
        hawser.signal(Signal::SIGTERM)?;
        expect_exit(exit_code(&mut hawser)?, 0, &hawser).with_context(|| format!("{arrange:?}"))?;
        let changes = before.changes(&pod.netns.snapshot()?);
        ensure!(changes.is_empty(), "{arrange:?}: touched: {changes:#?}");
    }
    Ok(())
}

/// Other tables, chains and routes of the pod are nobody's business but their owner's.
fn foreign_table(context: &Context) -> Result<()> {
    let (pod, guest, _) = fresh(context)?;
    pod.netns
        .nft("add table inet theirs; add chain inet theirs c { type filter hook input priority 10; }")?;
    pod.netns.ip("route add 198.51.100.0/24 via 10.244.0.1")?;
    let before = pod.netns.snapshot()?;
    converges(pod, guest, &before).map(drop)
}
