//! Multus, the SR-IOV CNI plugin and the SR-IOV device plugin on a node of our own: networks of virtual functions for pods.
//!
//! They come in no package. Whoever has them puts them on PATH or into `$HAWSER_CNI_DIR`, by the names that their own builds
//! give them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::addons::{self, PROGRAMS};
use super::api::{Cluster, Kubectl, Namespace, until};
use super::operator::Operator;
use crate::report::Skip;

const MULTUS: &str = "multus";
const CNI: &str = "sriov";
const DEVICE_PLUGIN: &str = "sriovdp";
const NEEDED: [&str; 3] = [MULTUS, CNI, DEVICE_PLUGIN];
const DIRECTORY: &str = "HAWSER_CNI_DIR";

/// What the device plugin offers.
pub(super) const RESOURCE: &str = "hawser.example/vf";
/// NetworkAttachmentDefinitions: untagged, and of a VLAN.
pub(super) const UNTAGGED: &str = "vf";
pub(super) const TAGGED: &str = "vf-vlan7";
/// The card's own address on each of them; guests are given others of the same networks (/24).
pub(super) const CARD: [&str; 2] = ["10.91.0.1", "10.92.0.1"];

/// For the node to offer its VFs.
const OFFERED: std::time::Duration = std::time::Duration::from_secs(60);

/// What a node is made to have; the first line finds the card. The card's VLAN interface answers only what comes with its tag.
const SET_UP: &str = r#"set -e
modprobe -a igb vfio-pci vfio_iommu_type1
echo 1 > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts
for net in /sys/bus/pci/drivers/igb/*/net/*; do pf=${net##*/} card=$(readlink -f "${net%/net/*}"); done
ip link set "$pf" up
ip address replace 10.91.0.1/24 dev "$pf"
ip link add link "$pf" name hawser7 type vlan id 7
ip address add 10.92.0.1/24 dev hawser7
ip link set hawser7 up
echo 0 > "$card/sriov_drivers_autoprobe"
echo 2 > "$card/sriov_numvfs"
for function in "$card"/virtfn*; do
    address=$(basename "$(readlink "$function")")
    echo vfio-pci > "/sys/bus/pci/devices/$address/driver_override"
    echo "$address" > /sys/bus/pci/drivers_probe
done
mkdir -p /etc/pcidp /run/k8s.cni.cncf.io/devinfo/dp
cp /payload/@PROGRAMS@/multus /payload/@PROGRAMS@/sriov /usr/lib/cni/
cat > /etc/pcidp/config.json << 'END'
{"resourceList": [{"resourcePrefix": "hawser.example", "resourceName": "vf",
                   "selectors": {"vendors": ["8086"], "devices": ["10ca"], "drivers": ["vfio-pci"]}}]}
END
cat > /etc/cni/net.d/00-multus.conf << 'END'
{"cniVersion": "1.0.0", "name": "multus", "type": "multus", "kubeconfig": "/payload/pki/multus.conf",
 "clusterNetwork": "/etc/cni/net.d/10-pods.conflist"}
END
"#;
/// The other way round, as far as it got.
const TAKE_DOWN: &str = r#"rm -f /etc/cni/net.d/00-multus.conf
for net in /sys/bus/pci/drivers/igb/*/net/*; do pf=${net##*/} card=$(readlink -f "${net%/net/*}"); done
ip link delete hawser7
ip address flush dev "$pf"
echo 0 > "$card/sriov_numvfs"
"#;

/// Such a node, until it is dropped.
#[derive(Debug)]
pub(super) struct Functions<'a> {
    operator: &'a Operator<'a>,
}

/// Puts the programs where the nodes find them. An error that is a [`Skip`] where there are none.
pub(super) fn offer(cluster: &Cluster) -> Result<()> {
    let place = cluster.addons.place().context(Skip::because(
        "the card with virtual functions is that of a node of the suite's own",
    ))?;
    for name in NEEDED {
        place.offer(&find(name)?, name)?;
    }
    addons::apply(&cluster.kubectl, &objects())
}

fn find(name: &str) -> Result<PathBuf> {
    let given = std::env::var_os(DIRECTORY).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories = given.into_iter().chain(std::env::split_paths(&path));
    let found = directories.find_map(|dir| Some(dir.join(name)).filter(|file| is_program(file)));
    found.ok_or_else(|| {
        Skip::because(format!(
            "{name} is neither in ${DIRECTORY} nor on PATH: build {} of Multus (thin), the SR-IOV CNI plugin and the SR-IOV \
             network device plugin, without cgo, and put them there",
            NEEDED.join(", ")
        ))
        .into()
    })
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

impl<'a> Functions<'a> {
    /// On the operator's node, in whose namespace the device plugin's pod and the networks are made.
    pub(super) fn make(namespace: &Namespace<'_>, operator: &'a Operator<'a>, node: &str) -> Result<Self> {
        let functions = Self { operator };
        operator.on_the_node(&SET_UP.replace("@PROGRAMS@", PROGRAMS))?;
        namespace.apply(&[
            network(UNTAGGED, &json!({})),
            network(TAGGED, &json!({"vlan": 7})),
            device_plugin(&namespace.cluster.images.client, node),
        ])?;
        namespace.wait_until_running(DEVICE_PLUGIN)?;
        let escaped = RESOURCE.replace('.', "\\.");
        let template = format!("jsonpath={{.status.allocatable.{escaped}}}");
        let kubectl: &Kubectl = &namespace.cluster.kubectl;
        until("the node offers two VFs", OFFERED, || {
            let count = kubectl.run(&["get", "node", node, "--output", &template])?;
            Ok((count == "2").then_some(()))
        })?;
        Ok(functions)
    }
}

impl Drop for Functions<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.operator.on_the_node(TAKE_DOWN) {
            eprintln!("cannot take the VFs away again: {error:#}");
        }
    }
}

/// No IPAM: an address that a CNI plugin gives to a VF does not reach the guest. No `link_state`: the emulated card has none.
fn network(name: &str, more: &Value) -> Value {
    let mut config = json!({"cniVersion": "1.0.0", "name": name, "type": CNI, "spoofchk": "on"});
    if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
        config.extend(more.clone());
    }
    json!({
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": name, "annotations": {"k8s.v1.cni.cncf.io/resourceName": RESOURCE}},
        "spec": {"config": config.to_string()},
    })
}

/// A pod that runs it in the node's own mount and network namespaces, as its DaemonSet does by many volumes.
fn device_plugin(image: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": DEVICE_PLUGIN},
        "spec": {
            "nodeName": node,
            "hostPID": true,
            "hostNetwork": true,
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": DEVICE_PLUGIN,
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "command": [
                    "nsenter", "-t", "1", "-m", "-n", "--",
                    format!("/payload/{PROGRAMS}/{DEVICE_PLUGIN}"), "--config-file=/etc/pcidp/config.json",
                ],
                "securityContext": {"privileged": true},
            }],
        },
    })
}

/// What Multus needs of the API.
fn objects() -> Vec<Value> {
    let names = json!({
        "plural": "network-attachment-definitions",
        "singular": "network-attachment-definition",
        "kind": "NetworkAttachmentDefinition",
        "shortNames": ["net-attach-def"],
    });
    let schema = json!({
        "type": "object",
        "properties": {"spec": {"type": "object", "properties": {"config": {"type": "string"}}}},
    });
    let mut objects = vec![json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "network-attachment-definitions.k8s.cni.cncf.io"},
        "spec": {
            "group": "k8s.cni.cncf.io",
            "scope": "Namespaced",
            "names": names,
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "schema": {"openAPIV3Schema": schema},
            }],
        },
    })];
    let rules = json!([
        {"apiGroups": ["k8s.cni.cncf.io"], "resources": ["*"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["pods/status"], "verbs": ["get", "update", "patch"]},
        {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "update", "patch"]},
    ]);
    objects.extend(addons::allowed(
        "hawser-e2e-multus",
        &rules,
        &addons::user("multus"),
    ));
    objects
}

/// The names of the networks that Multus says a pod has.
pub(super) fn networks_of(pod: &Value) -> Result<Vec<Value>> {
    let status = pod
        .pointer("/metadata/annotations/k8s.v1.cni.cncf.io~1network-status")
        .and_then(Value::as_str)
        .context("Multus wrote no network-status")?;
    let list: Vec<Value> = serde_json::from_str(status).context("the network-status is no list")?;
    ensure!(!list.is_empty(), "the network-status is empty");
    Ok(list)
}
