//! What namespaces allow: the Pod Security Standards, as the API server's own admission has them.

use anyhow::{Result, bail, ensure};

use crate::cluster::api::Cluster;
use crate::cluster::guest::Wanted;

/// Of `baseline`, a masqueraded guest's pod asks for one thing more: NET_ADMIN, which it has over its own user namespace alone.
pub(super) fn baseline(cluster: &Cluster) -> Result<()> {
    let labels = [
        ("pod-security.kubernetes.io/enforce", "baseline"),
        ("pod-security.kubernetes.io/enforce-version", "latest"),
    ];
    cluster.within("baseline", &labels, |namespace| {
        let Err(refusal) = namespace.apply(&Wanted::by("masquerade").objects(cluster)?) else {
            bail!("a pod with NET_ADMIN was admitted to a namespace of `baseline`");
        };
        let refusal = format!("{refusal:#}");
        let complaints = refusal
            .split_once("violates PodSecurity \"baseline:latest\": ")
            .map(|(_, complaints)| complaints.trim());
        let wanted = "non-default capabilities (container \"guest\" must not include \"NET_ADMIN\" in \
                      securityContext.capabilities.add)";
        ensure!(
            complaints == Some(wanted),
            "the pod is refused for something else: {refusal}"
        );
        Ok(())
    })
}
