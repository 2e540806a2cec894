//! The same scenarios in a cluster that is there already: `--kubeconfig`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use super::api::{Cluster, Images, Kubectl};
use super::client::Client;
use super::run::{fit, run_each};
use super::selection::Order;
use super::{DEVICE_PLUGIN, DEVICES, GROUP, pace};
use crate::lab::process::progress;
use crate::lab::{LauncherBinary, launcher};
use crate::report::{Outcome, Report};

/// From a pod's creation to its start in the cluster that the limits are written for, with everything in it emulated.
const POD: Duration = Duration::from_secs(8);

/// A cluster that is not the suite's own.
#[derive(Debug)]
pub(crate) struct Elsewhere {
    pub(crate) kubeconfig: PathBuf,
    /// (which: launcher, guest or client; its reference)
    pub(crate) images: Vec<(String, String)>,
}

impl Elsewhere {
    /// Runs what is chosen there. What needs more nodes than there are is skipped.
    pub(crate) fn run(&self, report: &mut Report, order: &Order<'_>, binary: &LauncherBinary) {
        let chosen = order.chosen();
        let reached = self.cluster(binary).and_then(|cluster| {
            let nodes = nodes(&cluster.kubectl)?;
            if nodes > 0 {
                measure(&cluster)?;
            }
            Ok((cluster, nodes))
        });
        let (cluster, nodes) = match reached {
            Ok(reached) => reached,
            Err(error) => {
                let outcome = Outcome::from(Err(error));
                for one in &chosen {
                    report.record(GROUP, one.name(), outcome.clone(), None);
                }
                return;
            }
        };
        let nodes = order.nodes.map_or(nodes, |asked| asked.min(nodes));
        let fit = fit(report, chosen, |one| {
            (one.nodes > nodes).then(|| {
                format!(
                    "it needs {} nodes that can allocate {DEVICES}/kvm, and there are {nodes}: docs/kubernetes.md says how \
                     to install hawser",
                    one.nodes
                )
            })
        });
        run_each(report, &fit, &cluster, None);
    }

    fn cluster(&self, binary: &LauncherBinary) -> Result<Cluster> {
        ensure!(
            self.kubeconfig.is_file(),
            "--kubeconfig {}: no such file",
            self.kubeconfig.display()
        );
        let config = self.kubeconfig.canonicalize()?;
        let words = [Path::new("kubectl"), Path::new("--kubeconfig"), &config];
        Ok(Cluster {
            kubectl: Kubectl::new(words.map(|word| word.as_os_str().to_owned()).to_vec()),
            images: self.images()?,
            device_plugin: DEVICE_PLUGIN,
            hawser: launcher(binary)?,
            own: false,
            addons: super::addons::Addons::default(),
        })
    }

    fn images(&self) -> Result<Images> {
        let mut images = Images::default();
        for (which, reference) in &self.images {
            let image = match which.as_str() {
                "launcher" => &mut images.launcher,
                "guest" => &mut images.guest,
                "client" => &mut images.client,
                other => bail!("--image {other}={reference}: expected launcher, guest or client"),
            };
            image.clone_from(reference);
        }
        Ok(images)
    }
}

/// How many nodes are ready and have what guests need.
fn nodes(kubectl: &Kubectl) -> Result<usize> {
    let list: Value = serde_json::from_str(&kubectl.run(&["get", "nodes", "--output", "json"])?)?;
    let nodes = list.get("items").and_then(Value::as_array);
    Ok(nodes.into_iter().flatten().filter(|node| is_fit(node)).count())
}

fn is_fit(node: &Value) -> bool {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    let is_ready = conditions.into_iter().flatten().any(|condition| {
        let text = |key: &str| condition.get(key).and_then(Value::as_str);
        text("type") == Some("Ready") && text("status") == Some("True")
    });
    let kvm = node
        .pointer("/status/allocatable")
        .and_then(|allocatable| allocatable.get(format!("{DEVICES}/kvm")))
        .and_then(Value::as_str);
    is_ready && kvm.is_some_and(|count| count != "0")
}

/// By how long a pod takes to start, which shows too that there is an image of the client.
fn measure(cluster: &Cluster) -> Result<()> {
    let started = Instant::now();
    cluster.within("measure", &[], |namespace| {
        Client::start(namespace, "client").map(drop)
    })?;
    let took = started.elapsed();
    progress(format!(
        "a pod starts within {:.0} s: time limits times {:.1}",
        took.as_secs_f64(),
        pace::measured(took, POD)
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_is_fit_when_it_is_ready_and_has_the_device() {
        let node = |ready: &str, kvm: &str| {
            json!({"status": {
                "conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": ready}],
                "allocatable": {"devices.kubevirt.io/kvm": kvm},
            }})
        };
        assert!(is_fit(&node("True", "1000")));
        assert!(!is_fit(&node("Unknown", "1000")));
        assert!(!is_fit(&node("True", "0")));
        assert!(!is_fit(
            &json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
        ));
    }

    #[test]
    fn images_are_named_by_what_they_are() {
        let of = |which: &str| Elsewhere {
            kubeconfig: PathBuf::new(),
            images: vec![(which.to_owned(), "registry.example/x:1".to_owned())],
        };
        let images = of("guest").images().unwrap();
        assert_eq!(images.guest, "registry.example/x:1");
        assert_eq!(images.client, Images::default().client);
        let error = of("guests").images().unwrap_err().to_string();
        assert!(error.contains("expected launcher, guest or client"), "{error}");
    }
}
