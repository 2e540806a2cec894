//! `cpu.dedicatedCpuPlacement`, with the rules of KubeVirt's admission: how many CPUs are meant has to be said, once, and
//! as a whole number. Whether the pod has as many is asked later, in the pod (`cpus`).

use super::amounts::{Quantities, resource};
use crate::document::report::{FieldPath, Report};
use crate::guest::DedicatedCpus;
use crate::v1;

/// Threads of a core that x86-64 has.
const MAX_THREADS: u32 = 2;

/// `vcpus` is what the guest has in the end.
pub(crate) fn resolve(domain: &v1::Domain, vcpus: Option<u32>, report: &mut Report) -> Option<DedicatedCpus> {
    let cpu = domain.cpu.as_ref()?;
    let of = FieldPath::of("spec.domain.cpu");
    let isolate_emulator = cpu.isolate_emulator_thread == Some(true);
    if cpu.dedicated_cpu_placement != Some(true) {
        if isolate_emulator {
            let path = of.key("isolateEmulatorThread");
            report.refuse(path, "only together with dedicatedCpuPlacement");
        }
        return None;
    }
    if cpu.threads.is_some_and(|threads| threads > MAX_THREADS) {
        let message = format!("at most {MAX_THREADS} with dedicatedCpuPlacement");
        report.refuse(of.key("threads"), message);
    }
    let resources = &domain.resources;
    let request = whole(&resources.requests, "requests", report);
    let limit = whole(&resources.limits, "limits", report);
    if let (Some((_, request)), Some((path, limit))) = (&request, &limit)
        && request != limit
    {
        report.refuse(
            path.clone(),
            "with dedicatedCpuPlacement the same as requests.cpu",
        );
    }
    let counted = [cpu.sockets, cpu.cores, cpu.threads]
        .into_iter()
        .any(|count| count.is_some_and(|count| count > 0));
    let written = counted || resources.requests.contains_key("cpu") || resources.limits.contains_key("cpu");
    match limit.or(request) {
        None if !written => {
            let message =
                "the number of CPUs is missing: set cores, sockets or threads, or resources.requests.cpu";
            report.refuse(of.key("dedicatedCpuPlacement"), message);
        }
        Some((path, cpus)) if vcpus.is_some_and(|vcpus| u64::from(vcpus) != cpus) => {
            let message = "with dedicatedCpuPlacement as many as sockets x cores x threads";
            report.refuse(path, message);
        }
        _ => {}
    }
    Some(DedicatedCpus { isolate_emulator })
}

/// A quantity of CPUs that can be one each.
fn whole(list: &Quantities, of: &str, report: &mut Report) -> Option<(FieldPath, u64)> {
    // What is no quantity has been refused already.
    let (path, cpus) = resource(list, of, "cpu", &mut Report::default())?;
    let text = &list.get("cpu")?.0;
    let exact = match text.strip_suffix('m') {
        Some(thousandths) => thousandths.parse::<u64>().ok() == cpus.checked_mul(1000),
        None => text.parse::<f64>().is_ok_and(|number| number.fract() == 0.0),
    };
    if !exact {
        report.refuse(path, "with dedicatedCpuPlacement a whole number of CPUs");
        return None;
    }
    Some((path, cpus)).filter(|(_, cpus)| *cpus > 0)
}
