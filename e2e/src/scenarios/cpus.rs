//! Dedicated CPUs: a cpuset of the container's own, as far as a process can be given one without a container.

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::Context;
use super::running::{exit_code, expect_exit};
use crate::pods::{Pod, PodSpec, set, vmi};
use crate::process::Process;
use crate::report::{Scenario, Skip};

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "each vCPU has a CPU of the pod's",
        run: pinned,
    },
    Scenario {
        name: "too few of them, and those of everybody: exit code 4",
        run: unfit,
    },
];

/// The second of this machine's.
const CPU: usize = 1;

fn guest(cpu: Value) -> Value {
    let mut vmi = vmi(Value::Null);
    set(&mut vmi, "/spec/domain/cpu", cpu);
    vmi
}

/// Starts hawser where it may run on one CPU, or wherever the suite may.
fn start(pod: &Pod, verb: &str, vmi: &Value, confined: bool, args: &[&str]) -> Result<Process> {
    let this = Pid::from_raw(0);
    let before = sched_getaffinity(this)?;
    let mut one = CpuSet::new();
    one.set(CPU)?;
    if confined {
        sched_setaffinity(this, &one)
            .map_err(|_| Skip::because("there is no second CPU to be confined to"))?;
    }
    let process = pod.hawser_as(&pod.entry(), verb, vmi, args);
    sched_setaffinity(this, &before)?;
    process
}

fn pinned(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let vmi = guest(json!({"cores": 1, "dedicatedCpuPlacement": true}));
    let mut hawser = start(&pod, "plan", &vmi, true, &["-o", "json"])?;
    expect_exit(exit_code(&mut hawser)?, 0, &hawser)?;
    let plan: Value = serde_json::from_str(&hawser.stdout()).context("the plan")?;
    let affinity = plan.pointer("/vmConfig/cpus/affinity");
    ensure!(
        affinity == Some(&json!([{"vcpu": 0, "host_cpus": [CPU]}])),
        "{affinity:?}"
    );
    let mut hawser = start(&pod, "plan", &vmi, true, &[])?;
    expect_exit(exit_code(&mut hawser)?, 0, &hawser)?;
    ensure!(
        hawser.stdout().contains("vCPUs in their order on CPU 1"),
        "{}",
        hawser.stdout()
    );
    Ok(())
}

fn unfit(context: &Context) -> Result<()> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let before = pod.netns.snapshot()?;
    let one = json!({"cores": 1, "dedicatedCpuPlacement": true});
    let two = json!({"cores": 1, "dedicatedCpuPlacement": true, "isolateEmulatorThread": true});
    for (cpu, confined, said) in [
        (
            two,
            true,
            "1 vCPU and the emulator: 2 CPUs are needed, and the pod may run on 1: 1",
        ),
        (one, false, "it may run on every CPU of the node"),
    ] {
        let mut hawser = start(&pod, "run", &guest(cpu), confined, &[])?;
        expect_exit(exit_code(&mut hawser)?, 4, &hawser)?;
        ensure!(hawser.stderr().contains(said), "{}", hawser.transcript());
    }
    let changes = before.changes(&pod.netns.snapshot()?);
    ensure!(changes.is_empty(), "{changes:#?}");
    Ok(())
}
