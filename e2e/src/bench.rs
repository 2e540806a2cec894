//! `cargo e2e bench`: what hawser costs beside the same by hand. With `--datapath`, what passes between a node and a real
//! guest (`lab::bench`); without, how long hawser takes from its exec to the vm.boot request, and how much memory it then has.
//!
//! Beside it, round by round, a shell script that does the same wiring with `ip` and `nft` and starts no VMM. Both
//! run in a fresh dual-stack pod, entered in the same way; what entering takes is measured too and taken off. A pair
//! of neighbours in time sees the same machine, so the ratio is that of each pair, and its median.

pub(crate) mod load;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use serde_json::json;

use crate::guests::Guest;
use crate::pods::{Pod, PodSpec, vmi};
use crate::process::{Process, output, until};
use crate::programs::Programs;
use crate::scenarios::resident;
use crate::standin_script::Script;

const WIRE: &str = include_str!("bench/wire.sh");
const WAIT: Duration = Duration::from_secs(10);

/// What one start of hawser comes to.
#[derive(Debug)]
struct Start {
    /// Until the VMM's process ran.
    vmm: Duration,
    boot: Duration,
    rss_kib: u64,
}

/// Prints medians of `rounds` paired rounds.
///
/// # Errors
/// A machine that the scenarios cannot run on either, and a start that fails.
pub(crate) fn run(hawser: PathBuf, rounds: usize) -> Result<()> {
    let programs = Programs::with(hawser)?;
    let (mut entering, mut script, mut vmm, mut boot, mut ratio, mut rss) = (
        Vec::new(),
        Vec::new(),
        Vec::new(),
        Vec::new(),
        Vec::new(),
        Vec::new(),
    );
    // The first of each finds cold caches, and is not counted.
    for round in 0..=rounds {
        let empty = time_command(&programs, &["true"])?;
        let wired = time_command(&programs, &["sh", "-c", WIRE])?.saturating_sub(empty);
        let start = time_hawser(&programs)?;
        if round == 0 {
            continue;
        }
        let own = start.boot.saturating_sub(empty);
        entering.push(millis(empty));
        script.push(millis(wired));
        vmm.push(millis(start.vmm.saturating_sub(empty)));
        boot.push(millis(own));
        ratio.push(own.as_secs_f64() / wired.as_secs_f64());
        rss.push(start.rss_kib as f64 / 1024.0);
    }
    println!(
        "medians of {rounds} rounds, dual-stack masquerade, {:.1} ms to enter the pod taken off:",
        median(&mut entering)
    );
    println!(
        "  script with ip and nft             {:6.1} ms",
        median(&mut script)
    );
    println!("  hawser, exec to start of the VMM   {:6.1} ms", median(&mut vmm));
    println!(
        "  hawser, exec to vm.boot            {:6.1} ms",
        median(&mut boot)
    );
    println!("  hawser / script, pair by pair      {:6.2}", median(&mut ratio));
    println!(
        "  hawser resident (PSS), guest running {:4.1} MiB",
        median(&mut rss)
    );
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn time_command(programs: &Programs, args: &[&str]) -> Result<Duration> {
    let pod = Pod::new(programs, PodSpec::default())?;
    let (program, args) = args.split_first().context("no program")?;
    let mut command = pod.command_as(&pod.entry(), program.as_ref(), args)?;
    let started = Instant::now();
    output(&mut command)?;
    Ok(started.elapsed())
}

fn monotonic() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}

fn time_hawser(programs: &Programs) -> Result<Start> {
    let pod = Pod::new(programs, PodSpec::default())?;
    let stamps = pod.path("stamps");
    let socket = UnixDatagram::bind(&stamps)?;
    socket.set_nonblocking(true)?;
    fs::set_permissions(&stamps, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    pod.script(&Script {
        stamps: Some(stamps.clone()),
        ..Script::default()
    })?;
    let mut guest = Guest::new(&pod)?;
    let manifest = vmi(json!([{"port": 80}, {"port": 22}, {"port": 53, "protocol": "UDP"}]));
    let path = pod.path("vmi.json");
    fs::write(&path, manifest.to_string())?;
    let mut command = pod.hawser_command(&pod.entry(), "run", &["--vmi", &path.display().to_string()])?;
    let started = monotonic()?;
    let mut hawser = Process::spawn("hawser", &mut command)?;
    guest.booted_by(&hawser)?;
    let mut text = String::new();
    until("the stamp of vm.boot", WAIT, || {
        let mut line = [0; 256];
        while let Ok(length) = socket.recv(&mut line) {
            text.push_str(&String::from_utf8_lossy(line.get(..length).unwrap_or_default()));
        }
        Ok(text.contains("vm.boot").then_some(()))
    })?;
    let at = |name: &str| -> Result<Duration> {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .with_context(|| format!("no stamp {name}"))?;
        Ok(Duration::from_nanos(line.trim().parse()?).saturating_sub(started))
    };
    let rss_kib = resident(&pod)?;
    let start = Start {
        vmm: at("start")?,
        boot: at("vm.boot")?,
        rss_kib,
    };
    hawser.signal(Signal::SIGTERM)?;
    hawser.wait_exit(WAIT)?;
    Ok(start)
}
