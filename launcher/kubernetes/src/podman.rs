//! The pod as `podman kube play` takes it (podman-kube-play(1)): no scheduler, no Service, no Multus, no device plugin, and for a
//! field that it does not know no word.
//!
//! Devices are resources of the name `podman.io/device=PATH`. Of probes, podman runs only those of liveness and start-up, by a
//! shell in the container's image, which hawser's does not have. A container of `initContainers` ends before the others start.

use hawser_manifest::{Binding, FieldPath, Report};
use serde_json::{Map, Value};

use crate::devices;
use crate::networks;
use crate::options::{DeviceResources, Workload};
use crate::pod::Template;
use crate::service;
use crate::sidecars;
use crate::source::{Source, written};
use crate::volumes::Volumes;

const KVM: &str = "podman.io/device=/dev/kvm";
const TUN: &str = "podman.io/device=/dev/net/tun";
/// Of the pod, what podman does not know.
const POD: [&str; 14] = [
    "subdomain",
    "serviceAccountName",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "hostUsers",
    "imagePullSecrets",
    "nodeSelector",
    "affinity",
    "tolerations",
    "topologySpreadConstraints",
    "schedulerName",
    "priorityClassName",
    "dnsPolicy",
    "resourceClaims",
];
/// The same of its security context, its container and the container's security context.
const POD_SECURITY: [&str; 2] = ["fsGroup", "fsGroupChangePolicy"];
const CONTAINER: [&str; 3] = ["startupProbe", "readinessProbe", "livenessProbe"];
const SECURITY: [&str; 2] = ["runAsNonRoot", "seccompProfile"];
const STORAGE: &str = "ephemeral-storage";

/// Fields of the manifest without effect, and why.
const WITHOUT_EFFECT: [(&str, &str); 9] = [
    ("nodeSelector", SCHEDULER),
    ("affinity", SCHEDULER),
    ("tolerations", SCHEDULER),
    ("topologySpreadConstraints", SCHEDULER),
    ("schedulerName", SCHEDULER),
    ("priorityClassName", SCHEDULER),
    ("readinessProbe", PROBES),
    ("livenessProbe", PROBES),
    (
        "subdomain",
        "no effect: podman's name server knows a pod by its name alone",
    ),
];
const SCHEDULER: &str = "no effect: podman has no scheduler";
const PROBES: &str = "no effect: podman would run it with a shell in the container, and there is none";

/// What no pod of podman's can have is refused, and what it has not is noted.
pub(crate) fn check(source: &Source<'_>, volumes: &Volumes, report: &mut Report) {
    let interfaces = FieldPath::of("spec.domain.devices.interfaces");
    if source.options.workload != Workload::Pod {
        report.refuse_owner(FieldPath::of("--kind"), "podman makes pods only: leave it out");
    }
    if source.options.target.is_some() {
        report.refuse_owner(
            FieldPath::of("--target"),
            "the target of a live migration is a pod on another node, and podman has one",
        );
    }
    if networks::by_multus(source) {
        report.refuse(
            FieldPath::of("spec.networks"),
            "podman has no Multus: in a pod of podman's, a guest has the pod network alone",
        );
    }
    if source
        .guest
        .interfaces
        .iter()
        .any(|one| one.binding == Binding::Sriov)
    {
        report.refuse(
            interfaces.clone(),
            "podman has no device plugin that would offer a VF",
        );
    }
    if sidecars::any(source) {
        report.refuse(
            interfaces.clone(),
            "the binding plugin has a sidecar, which podman would wait for before it starts the guest",
        );
    }
    if let Some(path) = devices::vfio(source) {
        report.refuse(path, "podman has no device plugin that would offer it");
    }
    if source.guest.hugepage_size.is_some() {
        report.refuse(
            FieldPath::of("spec.domain.memory.hugepages"),
            "podman offers pods no huge pages",
        );
    }
    if let Some((path, _)) = &volumes.no_user_namespace {
        report.refuse(
            path.clone(),
            "podman knows no block devices of claims: use a file system, or hostDisk",
        );
    }
    for (path, volume) in source.volumes() {
        for kind in ["downwardAPI", "serviceAccount"] {
            if written(Some(volume), kind).is_some() {
                report.refuse(path.key(kind), "podman has no volumes of this kind");
            }
        }
    }
    for (field, why) in WITHOUT_EFFECT {
        if written(source.vmi.get("spec"), field).is_some() {
            report.note(FieldPath::of("spec").key(field), why);
        }
    }
    if service::guest_ports(source).next().is_some() {
        report.note(
            interfaces,
            "podman makes no Service of the ports: podman kube play --publish HOST:GUEST offers one on the host's address",
        );
    }
}

pub(crate) fn adapt(source: &Source<'_>, pod: &mut Template) {
    without(&mut pod.spec, &POD);
    if let Some(security) = object(pod.spec.get_mut("securityContext")) {
        without(security, &POD_SECURITY);
    }
    let containers = pod.spec.get_mut("containers").and_then(Value::as_array_mut);
    for container in containers.into_iter().flatten() {
        let Some(container) = object(Some(container)) else {
            continue;
        };
        without(container, &CONTAINER);
        if let Some(security) = object(container.get_mut("securityContext")) {
            without(security, &SECURITY);
        }
        for list in ["requests", "limits"] {
            let resources = object(container.get_mut("resources")).and_then(|all| object(all.get_mut(list)));
            if let Some(resources) = resources {
                resources.remove(STORAGE);
                let DeviceResources { kvm, tun } = &source.options.devices;
                for (plugins, podmans) in [(kvm, KVM), (tun, TUN)] {
                    if let Some(count) = resources.remove(plugins) {
                        resources.insert(podmans.to_owned(), count);
                    }
                }
            }
        }
    }
    name_volumes(source, pod);
    pod.spec
        .retain(|_, value| value.as_object().is_none_or(|map| !map.is_empty()));
}

/// podman gives an emptyDir a volume of its name on the host, which pods that have the same name for one share.
fn name_volumes(source: &Source<'_>, pod: &mut Template) {
    let of_this_pod = |name: &str| format!("{}-{name}", source.guest.name);
    let mut renamed = Vec::new();
    let volumes = pod.spec.get_mut("volumes").and_then(Value::as_array_mut);
    for volume in volumes.into_iter().flatten() {
        if volume.get("emptyDir").is_some()
            && let Some(name) = volume.get_mut("name")
        {
            renamed.push(name.clone());
            *name = of_this_pod(name.as_str().unwrap_or_default()).into();
        }
    }
    let containers = pod.spec.get_mut("containers").and_then(Value::as_array_mut);
    let mounts = containers
        .into_iter()
        .flatten()
        .filter_map(|container| container.get_mut("volumeMounts")?.as_array_mut());
    for mount in mounts.flatten() {
        if let Some(name) = mount.get_mut("name").filter(|name| renamed.contains(name)) {
            *name = of_this_pod(name.as_str().unwrap_or_default()).into();
        }
    }
}

fn without(map: &mut Map<String, Value>, fields: &[&str]) {
    for field in fields {
        map.remove(*field);
    }
}

fn object(value: Option<&mut Value>) -> Option<&mut Map<String, Value>> {
    value?.as_object_mut()
}
