//! etcd, the API server, the controllers and the scheduler, in the cluster's namespace on this machine.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::api::{Kubectl, until};
use super::daemon::Daemon;
use super::go::Programs;
use super::network::{CONTROL_PLANE, PODS, SERVICES};
use super::pki::Pki;
use crate::netns::Netns;

/// For the API server to be ready: 3 s on an idle machine.
const READY: Duration = Duration::from_secs(120);
const ETCD: &str = "http://127.0.0.1:2379";

/// Running, until it is dropped.
#[derive(Debug)]
pub(super) struct ControlPlane {
    // In the order in which they end: each before what it talks to.
    _scheduler: Daemon,
    _controllers: Daemon,
    _api: Daemon,
    _etcd: Daemon,
}

impl ControlPlane {
    /// Returns when the API server is ready and the others are started. Logs go to `logs`, etcd's data to `data`.
    pub(super) fn start(
        netns: &Netns,
        programs: &Programs,
        pki: &Pki,
        kubectl: &Kubectl,
        data: &Path,
        logs: &Path,
    ) -> Result<Self> {
        let start = |name: &str, program: &str, arguments: &[String]| {
            let mut command = Command::new(programs.path(program)?);
            command.args(arguments);
            Daemon::start(netns, name, &command, &logs.join(format!("{name}.log")))
        };
        let mut etcd = start("etcd", "etcd", &etcd(data))?;
        let mut api = start("kube-apiserver", "kube-apiserver", &api_server(pki))?;
        until("the API server is ready", READY, || {
            etcd.check()?;
            api.check()?;
            Ok(kubectl.run(&["get", "--raw", "/readyz"]).ok())
        })
        .map_err(|error| error.context(api.last()))?;
        // Not before: they end where the API server does not know them yet.
        let controllers = start(
            "kube-controller-manager",
            "kube-controller-manager",
            &controller_manager(pki),
        )?;
        let scheduler = start("kube-scheduler", "kube-scheduler", &of_client(pki, "scheduler"))?;
        Ok(Self {
            _scheduler: scheduler,
            _controllers: controllers,
            _api: api,
            _etcd: etcd,
        })
    }
}

fn etcd(data: &Path) -> Vec<String> {
    vec![
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls={ETCD}"),
        format!("--advertise-client-urls={ETCD}"),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        // What is in it is worth nothing tomorrow.
        "--unsafe-no-fsync".to_owned(),
    ]
}

fn api_server(pki: &Pki) -> Vec<String> {
    let [address, _] = CONTROL_PLANE;
    let file = |flag: &str, name: &str| format!("--{flag}={}", pki.file(name).display());
    vec![
        format!("--etcd-servers={ETCD}"),
        format!("--bind-address={address}"),
        format!("--advertise-address={address}"),
        format!("--service-cluster-ip-range={SERVICES}"),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged=true".to_owned(),
        file("client-ca-file", "ca.crt"),
        file("tls-cert-file", "apiserver.crt"),
        file("tls-private-key-file", "apiserver.key"),
        file("kubelet-certificate-authority", "ca.crt"),
        file("kubelet-client-certificate", "apiserver-kubelet.crt"),
        file("kubelet-client-key", "apiserver-kubelet.key"),
        // `kubectl exec` and `logs` come by there; nobody resolves the nodes' names.
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        file("service-account-key-file", "service-accounts.crt"),
        file("service-account-signing-key-file", "service-accounts.key"),
    ]
}

fn controller_manager(pki: &Pki) -> Vec<String> {
    let mut arguments = of_client(pki, "controller-manager");
    arguments.extend([
        format!(
            "--service-account-private-key-file={}",
            pki.file("service-accounts.key").display()
        ),
        format!("--root-ca-file={}", pki.file("ca.crt").display()),
        "--use-service-account-credentials=true".to_owned(),
        format!("--cluster-cidr={PODS}"),
        format!("--service-cluster-ip-range={SERVICES}"),
        // A node's own is in its CNI configuration.
        "--allocate-node-cidrs=false".to_owned(),
    ]);
    arguments
}

/// What the controllers and the scheduler have in common.
fn of_client(pki: &Pki, name: &str) -> Vec<String> {
    let config = pki.file(&format!("{name}.conf"));
    let mut arguments: Vec<String> = [
        "kubeconfig",
        "authentication-kubeconfig",
        "authorization-kubeconfig",
    ]
    .map(|flag| format!("--{flag}={}", config.display()))
    .to_vec();
    arguments.push("--leader-elect=false".to_owned());
    arguments
}
