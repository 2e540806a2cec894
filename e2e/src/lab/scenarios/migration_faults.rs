//! A migration that is disturbed in the middle, with real VMMs; the whole table is in `scenarios/migration_faults.rs`.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::lifecycle::{END, compare};
use super::masquerade::{SERVE, wait_for_both_families};
use super::migration::{
    TLS, TRANSFER, at_home_in, expect_state, migrate, status, two_pods, url, vmms, wait_for_it,
};
use super::migration_network::{ip, plug};
use crate::lab::node::Lab;
use crate::lab::node::guest;
use crate::lab::node::pace;
use crate::lab::node::pod::{Executed, Launcher, Pod, ROOT};

/// Slow enough that a transfer is disturbed in its middle: the guest's 192 MiB take most of a minute.
const SLOW: &str = "tc qdisc add dev eth0 root tbf rate 40mbit burst 256kb latency 200ms";
/// Bytes of the guest's memory after which a transfer is in its middle.
const MIDDLE: u64 = 32 << 20;
/// Silence of the other launcher (10 s), and what comes after it.
const NOTICE: Duration = Duration::from_secs(60);

/// One pair of pods, one fault after the other.
pub(super) fn each(lab: &Lab) -> Result<()> {
    let (from, to) = two_pods(lab, "faults")?;
    let clean = to.snapshot()?;
    from.run(SLOW)?;
    let mut source = from.launch("run", ROOT)?;
    wait_for_both_families(&source)?;

    lab.step("the network between the pods is cut");
    let (mut target, mut moving) = under_way(&source, &to)?;
    let (port, switch) = plug(&to)?;
    ip(&format!("link set {port} nomaster"))?;
    moving.expect_exit(9, NOTICE)?;
    moving.console.wait_for("stays here", SERVE)?;
    at_home_in(&from).context("the guest after a cut")?;
    expect_state(&status(&source)?, "running")?;
    target.expect_exit(9, NOTICE)?;
    ip(&format!("link set {port} master {switch}"))?;
    ensure!(vmms()? == 1, "{} VMMs after a cut", vmms()?);
    compare(&clean, &to.snapshot()?)?;

    lab.step("the source's VMM is killed");
    let (mut target, mut moving) = under_way(&source, &to)?;
    kill(
        Pid::from_raw(from.process("cloud-hyperviso")?.try_into()?),
        Signal::SIGKILL,
    )?;
    moving.expect_exit(9, NOTICE)?;
    source.expect_exit(6, END)?;
    target.expect_exit(9, NOTICE)?;
    ensure!(vmms()? == 0, "{} VMMs of a guest that is dead", vmms()?);
    compare(&clean, &to.snapshot()?)?;

    lab.step("the source's launcher is killed");
    let mut source = from.launch("run", ROOT).context("the guest starts anew")?;
    wait_for_both_families(&source)?;
    let (mut target, _moving) = under_way(&source, &to)?;
    source.signal("KILL")?;
    ensure!(source.exit_code(END)? != 0, "a killed launcher ended with 0");
    target.expect_exit(9, NOTICE)?;
    ensure!(vmms()? == 0, "{} VMMs of a guest that is dead", vmms()?);
    compare(&clean, &to.snapshot()?)
}

/// The guest itself ends in the middle: that is its end at the source, and nobody waits for a transfer that cloud-hypervisor
/// neither goes on with nor gives up.
pub(super) fn guest_ends(lab: &Lab) -> Result<()> {
    let (from, to) = two_pods(lab, "ends")?;
    let clean = to.snapshot()?;
    from.run(SLOW)?;
    for (what, command, code) in [
        ("crashes", "echo c > /proc/sysrq-trigger", 6),
        ("powers off", "poweroff -f", 0),
    ] {
        let mut source = from.launch("run", ROOT)?;
        wait_for_both_families(&source)?;
        lab.step(format!("the guest {what}"));
        let (mut target, mut moving) = under_way(&source, &to)?;
        // In the background, so that the answer gets out first.
        guest::execute(
            from.ipv4.into(),
            &format!("(sleep 1; {command}) > /dev/null 2>&1 &"),
        )?;
        moving.expect_exit(9, NOTICE).context(what)?;
        source.expect_exit(code, NOTICE).context(what)?;
        target.expect_exit(9, NOTICE).context(what)?;
        ensure!(vmms()? == 0, "{} VMMs of a guest that {what}", vmms()?);
        compare(&clean, &to.snapshot()?)?;
    }
    Ok(())
}

fn under_way<'a>(source: &Launcher<'_>, to: &'a Pod<'_>) -> Result<(Launcher<'a>, Executed)> {
    let target = wait_for_it(to, &TLS)?;
    let url = url(to);
    let passed = sent_to(to)?;
    let moving = source.exec(&migrate(&url, &TLS))?;
    moving.console.wait_for("sending", TRANSFER)?;
    // The first round is told at its end, and is the last: what has passed says where it is.
    let end = pace::deadline(TRANSFER);
    while sent_to(to)? < passed + MIDDLE {
        if Instant::now() > end {
            bail!(
                "{} bytes of the guest's memory have passed",
                sent_to(to)? - passed
            );
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok((target, moving))
}

/// Bytes that the node has sent to a pod.
fn sent_to(pod: &Pod<'_>) -> Result<u64> {
    let (port, _) = plug(pod)?;
    let path = format!("/sys/class/net/{port}/statistics/tx_bytes");
    Ok(fs::read_to_string(path)?.trim().parse()?)
}
