//! What the containers ask of their node: CPUs, memory, huge pages, storage and devices.
//!
//! As KubeVirt does: a tenth of a CPU for each vCPU unless the manifest names another request; the guest's memory and an
//! overhead; whole CPUs, and limits like the requests, for a guest with dedicated CPUs.

use std::collections::BTreeMap;

use hawser_manifest::{Binding, FieldPath, Report, parse_quantity};
use serde_json::{Map, Value, json};

use crate::devices;
use crate::memory;
use crate::source::{Source, written};
use crate::volumes::Volumes;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Requested for a vCPU, in thousandths of a CPU: KubeVirt's default `cpuAllocationRatio` of 10.
const MILLICPUS_OF_A_VCPU: u64 = 100;
/// The container's log, of which the kubelet keeps 5 files of 10 MiB by default, and the state directory.
const LOG_STORAGE: u64 = 100 * MIB;
/// How far one overlay may grow before the kubelet evicts the pod.
const OVERLAY_LIMIT: u64 = 10 * GIB;
/// What of that is asked of the scheduler.
const OVERLAY_REQUEST: u64 = 256 * MIB;
const MEMORY: &str = "memory";
const CPU: &str = "cpu";
const STORAGE: &str = "ephemeral-storage";

type Quantities = BTreeMap<String, Value>;

/// Of the container that runs the guest.
pub(crate) fn guest(source: &Source<'_>, volumes: &Volumes, report: &mut Report) -> Value {
    let mut wanted = Wanted::of_the_manifest(source);
    wanted.cpus(source);
    wanted.memory(source, report);
    wanted.storage(volumes);
    let mut devices = devices::of_the_vmm(source);
    devices.extend(devices::of_the_guest(source, report));
    for (name, count) in devices {
        wanted.limits.insert(name.clone(), count.to_string().into());
        wanted.requests.insert(name, count.to_string().into());
    }
    let claims = devices::claims(source);
    json!({
        "requests": wanted.requests,
        "limits": wanted.limits,
        "claims": (!claims.is_empty()).then_some(claims),
    })
}

/// Of the container that wires the pod and stays. Requests and limits are the same, so that a pod with dedicated CPUs is
/// Guaranteed.
pub(crate) fn setup(source: &Source<'_>) -> Value {
    let amounts = json!({
        CPU: "100m",
        MEMORY: "64Mi",
        source.options.devices.tun.as_str(): "1",
    });
    json!({"requests": amounts, "limits": amounts})
}

#[derive(Debug, Default)]
struct Wanted {
    requests: Quantities,
    limits: Quantities,
}

impl Wanted {
    /// `spec.domain.resources`; memory is the guest's there, and looked at later.
    fn of_the_manifest(source: &Source<'_>) -> Self {
        let list = |of: &str| {
            let map = source
                .vmi
                .pointer(&format!("/spec/domain/resources/{of}"))
                .and_then(Value::as_object);
            let map = map.into_iter().flat_map(Map::iter);
            map.filter(|(name, value)| *name != MEMORY && !value.is_null())
                .map(|(name, value)| (name.clone(), as_text(value)))
                .collect()
        };
        Self {
            requests: list("requests"),
            limits: list("limits"),
        }
    }

    fn cpus(&mut self, source: &Source<'_>) {
        let guest = source.guest;
        if let Some(dedicated) = guest.dedicated_cpus {
            let whole = u64::from(guest.vcpus) + u64::from(dedicated.isolate_emulator);
            for list in [&mut self.requests, &mut self.limits] {
                list.insert(CPU.to_owned(), whole.to_string().into());
            }
            return;
        }
        // Kubernetes takes the limit for the request where there is none.
        if !self.requests.contains_key(CPU) && !self.limits.contains_key(CPU) {
            let millis = u64::from(guest.vcpus).saturating_mul(MILLICPUS_OF_A_VCPU);
            self.requests.insert(CPU.to_owned(), format!("{millis}m").into());
        }
    }

    fn memory(&mut self, source: &Source<'_>, report: &mut Report) {
        let guest = source.guest;
        let overhead = memory::overhead(guest).saturating_add(plugins_memory(source));
        let of_the_manifest = |of: &str| {
            let path = format!("/spec/domain/resources/{of}/{MEMORY}");
            let written = source.vmi.pointer(&path)?;
            parse_quantity(as_text(written).as_str()?).ok()
        };
        if let Some(page) = guest.hugepage_size {
            let name = format!("hugepages-{}", mebibytes(page));
            for list in [&mut self.requests, &mut self.limits] {
                list.insert(name.clone(), mebibytes(guest.memory).into());
                list.insert(MEMORY.to_owned(), mebibytes(overhead).into());
            }
            return;
        }
        let request = of_the_manifest("requests")
            .filter(|_| guest.dedicated_cpus.is_none())
            .unwrap_or(guest.memory);
        let limit = of_the_manifest("limits")
            .unwrap_or(guest.memory)
            .max(guest.memory);
        let limit = limit.saturating_add(overhead);
        let spared = source
            .vmi
            .pointer("/spec/domain/resources/overcommitGuestOverhead")
            .and_then(Value::as_bool)
            == Some(true);
        let request = match (guest.dedicated_cpus.is_some(), spared) {
            (true, _) => limit,
            (false, true) => request,
            (false, false) => request.saturating_add(overhead),
        };
        if request > limit {
            report.refuse(
                FieldPath::of("spec.domain.resources.requests.memory"),
                "more than the pod's limit, which is the guest's memory or resources.limits.memory",
            );
        }
        self.requests.insert(MEMORY.to_owned(), mebibytes(request).into());
        self.limits.insert(MEMORY.to_owned(), mebibytes(limit).into());
    }

    /// Named in any case: otherwise a namespace's default limit would evict the guest for filling its own disk.
    fn storage(&mut self, volumes: &Volumes) {
        let fixed = volumes.empty_disks.saturating_add(LOG_STORAGE);
        let of_overlays = |each: u64| volumes.overlays.saturating_mul(each).saturating_add(fixed);
        self.requests
            .entry(STORAGE.to_owned())
            .or_insert_with(|| mebibytes(of_overlays(OVERLAY_REQUEST)).into());
        self.limits
            .entry(STORAGE.to_owned())
            .or_insert_with(|| mebibytes(of_overlays(OVERLAY_LIMIT)).into());
    }
}

/// `computeResourceOverhead` of the plugins of the manifest's interfaces, as far as it is memory.
fn plugins_memory(source: &Source<'_>) -> u64 {
    let of = |binding: &Binding| {
        let Binding::Plugin { plugin, .. } = binding else {
            return 0;
        };
        let overhead = &plugin.compute_resource_overhead;
        let written = overhead
            .limits
            .get(MEMORY)
            .or_else(|| overhead.requests.get(MEMORY));
        written.and_then(|text| parse_quantity(text).ok()).unwrap_or(0)
    };
    let interfaces = source.guest.interfaces.iter();
    interfaces
        .map(|interface| of(&interface.binding))
        .fold(0, u64::saturating_add)
}

/// A quantity as a string, which YAML may have as a number.
fn as_text(value: &Value) -> Value {
    match value {
        Value::Number(number) => number.to_string().into(),
        other => other.clone(),
    }
}

/// Rounded up.
fn mebibytes(bytes: u64) -> String {
    match bytes.div_ceil(MIB) {
        whole if whole > 0 && whole % 1024 == 0 => format!("{}Gi", whole / 1024),
        mebibytes => format!("{mebibytes}Mi"),
    }
}

/// The claims of the pod (`spec.resourceClaims`), as the manifest has them.
pub(crate) fn claims<'a>(source: &Source<'a>) -> Option<&'a Value> {
    written(source.vmi.get("spec"), "resourceClaims")
}
