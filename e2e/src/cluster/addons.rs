//! What a cluster has besides Kubernetes itself, each part of it there from when the first scenario asks for it.
//!
//! A cluster that is not of our own has its name server and its network policies already.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::daemon::Daemon;
use super::go;
use super::image;
use super::kubectl::{Kubectl, until};
use super::network::{CONTROL_PLANE, DNS_SERVICE};
use crate::lab::cache::Cache;
use crate::netns::Netns;
use crate::programs;

const NAMESPACE: &str = "kube-system";
/// For an addon to have started, or its pod on each node.
const STARTED: Duration = Duration::from_secs(60);
/// The engine of network policies, as its pod, its program and its objects are called.
const POLICIES: &str = "kube-network-policies";
/// The payload's directory of programs that pods of the node take from there.
pub(super) const PROGRAMS: &str = "addons";

/// What addons of our own cluster are made with.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) cache: Arc<Cache>,
    pub(super) netns: Arc<Netns>,
    /// What the nodes read, at /payload.
    pub(super) payload: PathBuf,
    /// For logs.
    pub(super) results: PathBuf,
}

/// Running, until the last copy is dropped.
#[derive(Debug, Clone, Default)]
pub(crate) struct Addons(Option<Arc<Own>>);

#[derive(Debug)]
struct Own {
    place: Place,
    started: Mutex<Started>,
}

#[derive(Debug, Default)]
struct Started {
    names: BTreeSet<&'static str>,
    _daemons: Vec<Daemon>,
}

impl Addons {
    pub(super) fn of_our_own(place: Place) -> Self {
        Self(Some(Arc::new(Own {
            place,
            started: Mutex::default(),
        })))
    }

    /// Where addons of our own cluster are made; none in any other.
    pub(super) fn place(&self) -> Option<&Place> {
        self.0.as_ref().map(|own| &own.place)
    }

    /// A name server at the address that the kubelet gives to pods.
    pub(crate) fn dns(&self, kubectl: &Kubectl) -> Result<()> {
        self.once("dns", |place| {
            let program = go::addon(&place.cache, "coredns")?;
            let config = place.results.join("Corefile");
            let kubeconfig = place.payload.join("pki/coredns.conf");
            fs::write(&config, corefile(&kubeconfig.display().to_string()))?;
            apply(kubectl, &dns_objects())?;
            let mut command = Command::new(program);
            command.arg("-conf").arg(config);
            let log = place.results.join("coredns.log");
            let mut daemon = Daemon::start(&place.netns, "coredns", &command, &log)?;
            until("the name server listens", STARTED, || {
                daemon.check()?;
                Ok(fs::read_to_string(&log)?.contains("CoreDNS-").then_some(()))
            })?;
            Ok(Some(daemon))
        })
    }

    /// An engine that has the network do what NetworkPolicies say.
    pub(crate) fn network_policies(&self, kubectl: &Kubectl) -> Result<()> {
        self.once("network policies", |place| {
            let program = go::addon(&place.cache, POLICIES)?;
            place.offer(&program, POLICIES)?;
            apply(kubectl, &policies_objects())?;
            until("the engine of network policies runs", STARTED, || {
                let template = "jsonpath={.status.desiredNumberScheduled} {.status.numberReady}";
                let name = format!("daemonset/{POLICIES}");
                let counts = kubectl.run(&["--namespace", NAMESPACE, "get", &name, "--output", template])?;
                let ready = counts
                    .split_once(' ')
                    .filter(|(wanted, ready)| wanted == ready && *wanted != "0");
                Ok(ready.map(|_| ()))
            })?;
            Ok(None)
        })
    }

    fn once(&self, name: &'static str, start: impl FnOnce(&Place) -> Result<Option<Daemon>>) -> Result<()> {
        let Some(own) = &self.0 else { return Ok(()) };
        let mut started = own.started.lock().unwrap_or_else(PoisonError::into_inner);
        if !started.names.contains(name) {
            started._daemons.extend(start(&own.place)?);
            started.names.insert(name);
        }
        Ok(())
    }
}

impl Place {
    /// Puts a program where pods of the nodes find it.
    pub(super) fn offer(&self, program: &std::path::Path, name: &str) -> Result<()> {
        let to = self.payload.join(PROGRAMS);
        fs::create_dir_all(&to)?;
        programs::copy(program, &to.join(name))
    }
}

pub(super) fn apply(kubectl: &Kubectl, objects: &[Value]) -> Result<()> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    kubectl
        .feed(&["apply", "--filename", "-"], &list.to_string())
        .map(drop)
}

/// A role over the whole cluster, given to one subject.
pub(super) fn allowed(name: &str, rules: &Value, subject: &Value) -> [Value; 2] {
    [
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": name},
            "rules": rules,
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [subject],
        }),
    ]
}

/// A program of ours by its certificate, as the control plane's own are.
pub(super) fn user(name: &str) -> Value {
    json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name})
}

fn corefile(kubeconfig: &str) -> String {
    let [ipv4, ipv6] = CONTROL_PLANE;
    format!(
        ".:53 {{
    bind {ipv4} {ipv6}
    errors
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {kubeconfig}
    }}
}}
"
    )
}

/// The Service has no pods: it leads to the process beside the control plane.
fn dns_objects() -> Vec<Value> {
    const NAME: &str = "kube-dns";
    let ports = json!([
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]);
    let [ipv4, ipv6] = DNS_SERVICE;
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {
            "clusterIP": ipv4,
            "clusterIPs": [ipv4, ipv6],
            "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack",
            "ports": ports,
        },
    });
    let slice = |family: &str, address: &str| {
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{NAME}-{}", family.to_lowercase()),
                "namespace": NAMESPACE,
                "labels": {"kubernetes.io/service-name": NAME},
            },
            "addressType": family,
            "ports": ports,
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        })
    };
    let mut objects = vec![service];
    let families = ["IPv4", "IPv6"].into_iter().zip(CONTROL_PLANE);
    objects.extend(families.map(|(family, address)| slice(family, address)));
    let rules = json!([
        {
            "apiGroups": [""],
            "resources": ["services", "namespaces", "endpoints", "pods"],
            "verbs": ["list", "watch"],
        },
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]);
    objects.extend(allowed("hawser-e2e-dns", &rules, &user("coredns")));
    objects
}

/// A pod of the node's network, with the client's image for a root.
fn policies_objects() -> Vec<Value> {
    let account = json!({"kind": "ServiceAccount", "name": POLICIES, "namespace": NAMESPACE});
    let rules = json!([
        {"apiGroups": [""], "resources": ["pods", "namespaces", "nodes"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["list", "watch"]},
    ]);
    let labels = json!({"app": POLICIES});
    let mut objects = vec![json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": POLICIES, "namespace": NAMESPACE},
    })];
    objects.extend(allowed(POLICIES, &rules, &account));
    objects.push(json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": POLICIES, "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "hostNetwork": true,
                    "serviceAccountName": POLICIES,
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [{
                        "name": POLICIES,
                        "image": image::CLIENT,
                        "imagePullPolicy": "IfNotPresent",
                        "command": [
                            format!("/programs/{POLICIES}"),
                            "--hostname-override=$(NODE)",
                            // It would have pods' addresses from the container runtime, which is not set up for that.
                            "--disable-nri",
                            // Only for kernels before 6.12.
                            "--netfilter-bug-1766-fix=false",
                            "--metrics-bind-address=127.0.0.1:9080",
                            "--v=2",
                        ],
                        "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                        "securityContext": {"privileged": true},
                        "volumeMounts": [{"name": "programs", "mountPath": "/programs", "readOnly": true}],
                    }],
                    "volumes": [{
                        "name": "programs",
                        "hostPath": {"path": format!("/payload/{PROGRAMS}"), "type": "Directory"},
                    }],
                },
            },
        },
    }));
    objects
}
