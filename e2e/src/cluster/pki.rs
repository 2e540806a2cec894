//! Who is who in the cluster: one authority, a certificate for each part, and kubeconfigs with them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::network::{API_SERVICE, CONTROL_PLANE, addresses};
use crate::certificates::{Authority, Identity};

/// Files of the cluster's authority, in one directory.
#[derive(Debug)]
pub(super) struct Pki {
    dir: PathBuf,
}

/// The group that may do everything.
const MASTERS: &str = "system:masters";

impl Pki {
    pub(super) fn make(dir: &Path, nodes: usize) -> Result<Self> {
        let authority = Authority::new("cluster")?;
        let pki = Self { dir: dir.to_owned() };
        fs::write(pki.file("ca.crt"), authority.certificate())?;

        let mut names = vec!["kubernetes.default.svc".to_owned()];
        names.extend(
            CONTROL_PLANE
                .iter()
                .chain(&API_SERVICE)
                .map(|name| (*name).to_owned()),
        );
        pki.keep("apiserver", &authority.identity("kube-apiserver", None, &names)?)?;
        pki.keep(
            "apiserver-kubelet",
            &authority.identity("apiserver-kubelet", Some(MASTERS), &[])?,
        )?;
        // The key that signs the tokens of service accounts, and its other half to check them with.
        pki.keep(
            "service-accounts",
            &authority.identity("service-accounts", None, &[])?,
        )?;

        for (name, user, group) in [
            ("admin", "admin", Some(MASTERS)),
            ("controller-manager", "system:kube-controller-manager", None),
            ("scheduler", "system:kube-scheduler", None),
            ("kube-proxy", "system:kube-proxy", None),
            ("coredns", "coredns", None),
            ("multus", "multus", None),
        ] {
            let identity = authority.identity(user, group, &[])?;
            pki.configure(name, &authority, &identity)?;
        }
        for node in 1..=nodes {
            let name = format!("node-{node}");
            let user = format!("system:node:{name}");
            // Its client's certificate, and its server's.
            let identity = authority.identity(&user, Some("system:nodes"), &addresses(node))?;
            pki.keep(&name, &identity)?;
            pki.configure(&name, &authority, &identity)?;
        }
        Ok(pki)
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn keep(&self, name: &str, identity: &Identity) -> Result<()> {
        fs::write(self.file(&format!("{name}.crt")), &identity.certificate)?;
        Ok(fs::write(self.file(&format!("{name}.key")), &identity.key)?)
    }

    /// A kubeconfig; JSON is YAML.
    fn configure(&self, name: &str, authority: &Authority, identity: &Identity) -> Result<()> {
        let [address, _] = CONTROL_PLANE;
        let cluster = json!({
            "server": format!("https://{address}:6443"),
            "certificate-authority-data": STANDARD.encode(authority.certificate()),
        });
        let user = json!({
            "client-certificate-data": STANDARD.encode(&identity.certificate),
            "client-key-data": STANDARD.encode(&identity.key),
        });
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "cluster", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": name, "context": {"cluster": "cluster", "user": name}}],
            "current-context": name,
        });
        Ok(fs::write(self.file(&format!("{name}.conf")), config.to_string())?)
    }
}
