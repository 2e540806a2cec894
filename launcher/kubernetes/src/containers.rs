//! The containers of the pod, and their security contexts.

use hawser_manifest::Report;
use serde_json::{Value, json};

use crate::config::{self, MOUNT};
use crate::form::Form;
use crate::migration;
use crate::names::{GUEST, GUEST_USER};
use crate::networks;
use crate::probes::{self, Probes};
use crate::resources;
use crate::source::Source;
use crate::volumes::{STATE, Volumes, own_name};

/// Name of the container that wires the pod, where that is not the guest's.
pub(crate) const SETUP: &str = "setup";
/// The file in the state directory by which `setup` says that the pod is wired is asked for once a second, so long.
const SETUP_SECONDS: u32 = 600;
/// The seccomp profile that hawser's DaemonSet puts on each node, below the kubelet's own directory of profiles.
const PASST_PROFILE: &str = "hawser/passt.json";
/// Where `setup` sees the guest's state directory: whether the guest was migrated away.
const GUEST_STATE: &str = "/run/hawser-guest";
/// Where hawser looks for the network-status annotation.
const PODINFO: &str = "/etc/podinfo";

/// The container that runs the guest.
pub(crate) fn guest(source: &Source<'_>, form: Form, volumes: &Volumes, report: &mut Report) -> Value {
    let mut mounts = own_mounts(source, "state");
    if crate::sidecars::any(source) {
        mounts.push(crate::sidecars::mount());
    }
    mounts.extend(migration::mount(source));
    mounts.extend(volumes.mounts.iter().cloned());
    let probes = Probes::of(source, report);
    json!({
        "name": GUEST,
        "image": source.options.image,
        "args": run(source),
        "ports": ports(source),
        "resources": resources::guest(source, volumes, report),
        "securityContext": security_context(source, form),
        "startupProbe": probes.startup,
        "readinessProbe": probes.readiness,
        "livenessProbe": probes.liveness,
        "volumeMounts": mounts,
        "volumeDevices": (!volumes.devices.is_empty()).then_some(&volumes.devices),
    })
}

/// The container that wires the pod, stays, and takes the wiring down when the guest's has ended. Its state directory is its
/// own: nothing that the guest's side writes is read by it.
pub(crate) fn setup(source: &Source<'_>) -> Value {
    let mut arguments = arguments("setup", source);
    arguments.extend(["--stay".into(), "--guest-state-dir".into(), GUEST_STATE.into()]);
    let mut mounts = own_mounts(source, "wiring");
    mounts.push(json!({"name": own_name("state"), "mountPath": GUEST_STATE, "readOnly": true}));
    json!({
        "name": SETUP,
        "image": source.options.image,
        "restartPolicy": "Always",
        "args": arguments,
        "resources": resources::setup(source),
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": GUEST_USER,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "seccompProfile": {"type": "RuntimeDefault"},
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
        },
        "startupProbe": {
            "exec": probes::ask("--wired"),
            "periodSeconds": 1,
            // The default of one second is too short where the container's CPU limit holds the question up.
            "timeoutSeconds": probes::TIMEOUT,
            "failureThreshold": SETUP_SECONDS,
        },
        "volumeMounts": mounts,
    })
}

fn run(source: &Source<'_>) -> Vec<Value> {
    let mut arguments = arguments("run", source);
    arguments.extend(migration::arguments(source));
    arguments
}

fn arguments(verb: &str, source: &Source<'_>) -> Vec<Value> {
    let mut arguments = vec![verb.into(), "--vmi".into(), format!("{MOUNT}/vmi.yaml").into()];
    if source.options.bindings.is_some() {
        arguments.push("--bindings".into());
        arguments.push(format!("{MOUNT}/bindings.yaml").into());
    }
    for disk in source.guest.disks.iter().filter(|disk| disk.shared) {
        arguments.push("--shared".into());
        arguments.push(disk.name.clone().into());
    }
    arguments
}

/// What hawser itself needs: its state directory, the manifest, and what Multus says.
fn own_mounts(source: &Source<'_>, state: &str) -> Vec<Value> {
    let mut mounts = vec![
        json!({"name": own_name(state), "mountPath": STATE}),
        json!({"name": own_name(config::VOLUME), "mountPath": MOUNT, "readOnly": true}),
    ];
    if networks::by_multus(source) {
        mounts.push(json!({"name": own_name("podinfo"), "mountPath": PODINFO, "readOnly": true}));
    }
    mounts
}

/// The pod's volumes behind these mounts.
pub(crate) fn own_volumes(source: &Source<'_>, form: Form, config: &Value) -> Vec<Value> {
    let mut volumes = vec![json!({"name": own_name("state"), "emptyDir": {}})];
    if form == Form::TwoContainers {
        volumes.push(json!({"name": own_name("wiring"), "emptyDir": {}}));
    }
    if crate::sidecars::any(source) {
        volumes.push(crate::sidecars::volume());
    }
    volumes.push(config.clone());
    volumes.extend(migration::volume(source));
    if networks::by_multus(source) {
        let status = format!("metadata.annotations['{}']", networks::NETWORK_STATUS);
        volumes.push(json!({
            "name": own_name("podinfo"),
            "downwardAPI": {"items": [{"path": "network-info", "fieldRef": {"fieldPath": status}}]},
        }));
    }
    volumes
}

/// Named ports are what NetworkPolicies and Services can refer to; the others are for the reader.
fn ports(source: &Source<'_>) -> Option<Value> {
    let ports: Vec<Value> = crate::service::guest_ports(source)
        .filter(|port| port.first == port.last)
        .map(|port| json!({"name": port.name, "containerPort": port.first, "protocol": port.protocol}))
        .collect();
    (!ports.is_empty()).then(|| ports.into())
}

fn security_context(source: &Source<'_>, form: Form) -> Value {
    let seccomp = if source.has_passt() {
        json!({"type": "Localhost", "localhostProfile": PASST_PROFILE})
    } else {
        json!({"type": "RuntimeDefault"})
    };
    match form {
        Form::UserNamespace => json!({
            // The pod's own root: a user without rights on the node.
            "runAsUser": 0,
            "runAsGroup": 0,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            // /proc/sys is the pod's own to write, so that hawser can enable forwarding for IPv6.
            "procMount": "Unmasked",
            "seccompProfile": seccomp,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "SETUID", "SETGID"]},
        }),
        Form::NoPrivilege | Form::TwoContainers => json!({
            "runAsNonRoot": true,
            "runAsUser": GUEST_USER,
            "runAsGroup": GUEST_USER,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "seccompProfile": seccomp,
            "capabilities": {"drop": ["ALL"]},
        }),
        Form::OneContainer => json!({
            "runAsNonRoot": true,
            "runAsUser": GUEST_USER,
            "runAsGroup": GUEST_USER,
            // The user gets NET_ADMIN by the file capability of hawser's binary, which no_new_privs would forbid.
            "allowPrivilegeEscalation": true,
            "readOnlyRootFilesystem": true,
            "seccompProfile": seccomp,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
        }),
    }
}
