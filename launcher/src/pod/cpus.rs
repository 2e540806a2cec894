//! Dedicated CPUs: which of the pod's each vCPU has to itself, asked before the pod is touched.
//!
//! The kubelet's static CPU manager gives the container a cpuset of its own, which is what this process may run on. The
//! vCPUs take the first of these, one each; with `isolateEmulatorThread` everything else (the VMM's other threads, the
//! servers, passt) has the one after them, and else all that the pod has. Threads of a core lie side by side in that
//! order, as the guest's do in its topology.
//!
//! A cpuset that is the whole node was made by nobody: another pod is given the same, and two guests would be held fast to
//! the same CPUs. That is refused, as KubeVirt leaves such a guest unscheduled.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::fs;
use std::path::Path;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::error::{ExitCode, Failure};
use crate::spec::GuestSpec;

const FIELD: &str = "spec.domain.cpu.dedicatedCpuPlacement";

/// A CPU of the node, by the kernel's number.
pub(crate) type Cpu = usize;

/// Who runs where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pinning {
    /// Of each vCPU, in their order.
    pub(crate) vcpus: Vec<Cpu>,
    /// Of everything else, where that has one of its own.
    pub(crate) rest: Option<Cpu>,
}

impl fmt::Display for Pinning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vcpus: Vec<_> = self.vcpus.iter().map(Cpu::to_string).collect();
        write!(f, "vCPUs in their order on CPU {}", vcpus.join(", "))?;
        match self.rest {
            Some(cpu) => write!(f, "; everything else on {cpu}"),
            None => Ok(()),
        }
    }
}

impl Pinning {
    /// Puts this process, and whatever it starts, where everything else is to be. A vCPU's thread leaves by itself.
    pub(crate) fn pin_self(&self) -> Result<(), Failure> {
        let Some(cpu) = self.rest else { return Ok(()) };
        let mut set = CpuSet::new();
        set.set(cpu)
            .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
            .map_err(|errno| {
                Failure::new(ExitCode::PodUnfit, format!("{FIELD}: move to CPU {cpu}")).because(errno)
            })
    }
}

/// None where the guest asks for none.
pub(crate) fn pin(guest: &GuestSpec) -> Result<Option<Pinning>, Failure> {
    if guest.dedicated_cpus.is_none() {
        return Ok(None);
    }
    let fail = |what: &Path, error: std::io::Error| {
        Failure::new(ExitCode::PodUnfit, format!("{FIELD}: {}", what.display())).because(error)
    };
    let read = |path: &Path| fs::read_to_string(path).map_err(|error| fail(path, error));
    // Linux, Documentation/filesystems/proc.rst and Documentation/ABI/stable/sysfs-devices-system-cpu.
    let status = read(Path::new("/proc/thread-self/status"))?;
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap_or_default();
    let node = Path::new("/sys/devices/system/cpu");
    let online = read(&node.join("online"))?;
    // Without it every CPU is a core, which costs at most some of the speed.
    let siblings = |cpu: Cpu| {
        let path = node.join(format!("cpu{cpu}/topology/thread_siblings_list"));
        parse(&fs::read_to_string(path).unwrap_or_default())
    };
    choose(guest, &parse(allowed), &parse(&online), siblings).map(Some)
}

fn choose(
    guest: &GuestSpec,
    allowed: &[Cpu],
    online: &[Cpu],
    siblings: impl Fn(Cpu) -> Vec<Cpu>,
) -> Result<Pinning, Failure> {
    let isolate = guest.dedicated_cpus.is_some_and(|cpus| cpus.isolate_emulator);
    let vcpus = usize::try_from(guest.vcpus).unwrap_or(usize::MAX);
    let needed = vcpus.saturating_add(usize::from(isolate));
    let unfit = |why: String| {
        Failure::new(ExitCode::PodUnfit, format!("{FIELD}: {why}")).remedy(format!(
            "give hawser's container {needed} CPUs as its request and its limit, with memory likewise, on a node whose \
             kubelet has the static CPU manager policy; with podman, --cpuset-cpus"
        ))
    };
    if allowed.len() < needed {
        let and_one = if isolate { " and the emulator" } else { "" };
        let s = if vcpus == 1 { "" } else { "s" };
        return Err(unfit(format!(
            "{vcpus} vCPU{s}{and_one}: {needed} CPUs are needed, and the pod may run on {}: {}",
            allowed.len(),
            list(allowed)
        )));
    }
    if allowed == online {
        return Err(unfit(format!(
            "no CPU is dedicated to the pod: it may run on every CPU of the node ({})",
            list(online)
        )));
    }
    let mut cores: BTreeMap<Cpu, Vec<Cpu>> = BTreeMap::new();
    for &cpu in allowed {
        let first = siblings(cpu).into_iter().min().unwrap_or(cpu);
        cores.entry(first).or_default().push(cpu);
    }
    let mut cores: Vec<_> = cores.into_values().collect();
    if guest.topology.threads > 1 {
        // Stable: whole cores first, and else in the kernel's order.
        cores.sort_by_key(|threads| threads.len() < 2);
    }
    let mut order = cores.into_iter().flatten();
    Ok(Pinning {
        vcpus: order.by_ref().take(vcpus).collect(),
        rest: order.next().filter(|_| isolate),
    })
}

/// A list as the kernel writes it: `0-3,8`.
fn parse(text: &str) -> Vec<Cpu> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<Cpu>().ok()?..=last.parse::<Cpu>().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

/// The other way round.
fn list(cpus: &[Cpu]) -> String {
    let mut out = String::new();
    let mut rest = cpus;
    while let Some((&first, after)) = rest.split_first() {
        let more = after
            .iter()
            .zip(first.saturating_add(1)..)
            .take_while(|(cpu, next)| *cpu == next);
        let length = more.count();
        let comma = if out.is_empty() { "" } else { "," };
        let _ = match after.get(length.wrapping_sub(1)) {
            Some(last) => write!(out, "{comma}{first}-{last}"),
            None => write!(out, "{comma}{first}"),
        };
        rest = after.get(length..).unwrap_or_default();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(cpu: &str) -> GuestSpec {
        let manifest = format!(
            "{{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {{name: web}},
              spec: {{domain: {{memory: {{guest: 256Mi}}, cpu: {{dedicatedCpuPlacement: true, {cpu}}}}},
              volumes: [{{name: root, emptyDisk: {{capacity: 1Gi}}}}]}}}}"
        );
        crate::spec::load(&manifest)
            .unwrap_or_else(|refusals| panic!("{refusals}"))
            .spec
    }

    fn chosen(cpu: &str, allowed: &str, siblings: impl Fn(Cpu) -> Vec<Cpu>) -> Result<String, String> {
        choose(&guest(cpu), &parse(allowed), &parse("0-15"), siblings)
            .map(|pinning| pinning.to_string())
            .map_err(|failure| {
                assert_eq!(failure.code(), ExitCode::PodUnfit);
                failure.to_string()
            })
    }

    fn alone(cpu: Cpu) -> Vec<Cpu> {
        vec![cpu]
    }

    /// As on most machines: the second threads are numbered after all the first.
    fn half_way(cpu: Cpu) -> Vec<Cpu> {
        vec![cpu % 8, cpu % 8 + 8]
    }

    #[test]
    fn lists_as_the_kernel_writes_them() {
        assert_eq!(parse("0-2,7,9-10\n"), [0, 1, 2, 7, 9, 10]);
        assert_eq!(parse("\n"), [0; 0]);
        for text in ["0-2,7,9-10", "3", "3,5", ""] {
            assert_eq!(list(&parse(text)), text);
        }
    }

    #[test]
    fn a_cpu_for_each_vcpu_and_one_for_the_rest_where_that_is_asked_for() {
        assert_eq!(
            chosen("cores: 2", "3-4,9", alone).unwrap(),
            "vCPUs in their order on CPU 3, 4"
        );
        assert_eq!(
            chosen("cores: 2, isolateEmulatorThread: true", "3-4,9", alone).unwrap(),
            "vCPUs in their order on CPU 3, 4; everything else on 9"
        );
    }

    #[test]
    fn threads_of_a_core_stay_together_and_whole_cores_come_first() {
        assert_eq!(
            chosen("cores: 2, threads: 2", "1-3,10-11", half_way).unwrap(),
            "vCPUs in their order on CPU 2, 10, 3, 11"
        );
        assert_eq!(
            chosen("cores: 4", "1-3,10-11", half_way).unwrap(),
            "vCPUs in their order on CPU 1, 2, 10, 3"
        );
    }

    #[test]
    fn too_few_cpus_and_those_of_everybody() {
        let few = chosen("cores: 2, isolateEmulatorThread: true", "3-4", alone).unwrap_err();
        assert!(
            few.contains("dedicatedCpuPlacement: 2 vCPUs and the emulator: 3 CPUs are needed, and the pod may run on 2: 3-4"),
            "{few}"
        );
        assert!(few.contains("give hawser's container 3 CPUs"), "{few}");
        let all = chosen("cores: 2", "0-15", alone).unwrap_err();
        assert!(all.contains("every CPU of the node (0-15)"), "{all}");
    }

    #[test]
    fn who_asks_for_nothing_is_left_alone() {
        let mut guest = guest("cores: 1");
        guest.dedicated_cpus = None;
        assert_eq!(pin(&guest).unwrap(), None);
    }
}
