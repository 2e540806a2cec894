//! A pod in which hawser runs a guest, the starting point of most scenarios.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

use super::Context;
use crate::guests::Guest;
use crate::pods::{Pod, PodSpec};
use crate::process::{Process, output, until};
use crate::standin_script::Script;

pub(super) const WAIT: Duration = Duration::from_secs(10);

/// In the order in which they are to be dropped.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) hawser: Process,
    pub(super) guest: Guest,
    pub(super) pod: Pod,
}

impl Running {
    pub(super) fn start(context: &Context, spec: PodSpec, vmi: &Value) -> Result<Self> {
        Self::start_with(context, spec, &Script::default(), vmi)
    }

    /// Until the guest has its NIC, and hawser has said what it has to say about it.
    pub(super) fn start_with(context: &Context, spec: PodSpec, script: &Script, vmi: &Value) -> Result<Self> {
        let pod = Pod::new(&context.programs, spec)?;
        pod.script(script)?;
        let mut guest = Guest::new(&pod)?;
        let hawser = pod.hawser("run", vmi)?;
        guest.booted_by(&hawser)?;
        Ok(Self { hawser, guest, pod })
    }

    /// SIGTERM, and the exit code that comes of it.
    pub(super) fn stop(&mut self) -> Result<i32> {
        self.hawser.signal(Signal::SIGTERM)?;
        exit_code(&mut self.hawser)
    }

    /// Runs to the end and expects it clean.
    pub(super) fn stop_cleanly(&mut self) -> Result<()> {
        expect_exit(self.stop()?, 0, &self.hawser)
    }

    /// Adds what hawser said to a failure.
    pub(super) fn explain<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| error.context(format!("hawser said:\n{}", self.hawser.transcript())))
    }
}

pub(super) fn exit_code(process: &mut Process) -> Result<i32> {
    let status = process.wait_exit(WAIT)?;
    match status.code() {
        Some(code) => Ok(code),
        None => bail!("ended by {status}:\n{}", process.transcript()),
    }
}

pub(super) fn expect_exit(code: i32, wanted: i32, process: &Process) -> Result<()> {
    ensure!(
        code == wanted,
        "exit code {code} instead of {wanted}:\n{}",
        process.transcript()
    );
    Ok(())
}

/// A field of /proc/PID/status.
pub(super) fn status_field(pid: Pid, field: &str) -> Result<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    Ok(line.unwrap_or_default().trim().to_owned())
}

/// The processes in the pod's namespace by the name of their executable.
pub(super) fn processes(pod: &Pod) -> Result<Vec<(Pid, String)>> {
    let pids = output(std::process::Command::new("ip").args(["netns", "pids", pod.netns.name()]))?;
    let pids = pids
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .map(Pid::from_raw);
    Ok(pids
        .filter_map(|pid| Some((pid, status_field(pid, "Name").ok()?)))
        .collect())
}

/// Resident KiB of all of hawser's processes in the pod: the sum of their proportional set sizes (proc(5), Pss), so that
/// what keeper and supervisor share is counted once.
pub(crate) fn resident(pod: &Pod) -> Result<u64> {
    let mut sum = 0_u64;
    for (pid, _) in processes(pod)?.into_iter().filter(|(_, name)| name == "hawser") {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let kib = text
            .lines()
            .find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next());
        sum = sum.saturating_add(kib.unwrap_or_default().parse()?);
    }
    Ok(sum)
}

/// Runs `check` until it holds; the last reason why not is the failure.
pub(super) fn eventually(running: &Running, said: &[Process], check: impl Fn() -> Result<()>) -> Result<()> {
    let mut last = None;
    let outcome = until("the guest's configuration", WAIT, || match check() {
        Ok(()) => Ok(Some(())),
        Err(error) => {
            last = Some(error);
            Ok(None)
        }
    });
    let Err(timeout) = outcome else { return Ok(()) };
    let said: String = said.iter().map(Process::transcript).collect();
    running.explain(Err(last
        .unwrap_or(timeout)
        .context(format!("the client said:\n{said}"))))
}
