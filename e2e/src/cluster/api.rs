//! The cluster as a scenario sees it: `kubectl`, and namespaces that are gone afterwards.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::addons::Addons;
use super::image;
pub(crate) use super::kubectl::{Kubectl, fed, until};
use crate::process::Process;
use crate::report::Skip;

/// What all pods of the scenarios have.
pub(super) const LABEL: &str = "hawser.dev/scenario";

/// From a pod's creation to its containers' start.
const START: Duration = Duration::from_secs(120);
/// For objects to be gone that nothing keeps.
const GONE: Duration = Duration::from_secs(60);

/// The images that scenarios use, as the cluster's nodes know them.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    pub(crate) launcher: String,
    pub(crate) guest: String,
    pub(crate) client: String,
}

impl Default for Images {
    fn default() -> Self {
        Self {
            launcher: image::LAUNCHER.to_owned(),
            guest: image::GUEST.to_owned(),
            client: image::CLIENT.to_owned(),
        }
    }
}

/// What every scenario is given.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) kubectl: Kubectl,
    pub(crate) images: Images,
    /// The name of the device plugin's process on the nodes.
    pub(crate) device_plugin: &'static str,
    /// The launcher's program on this machine, for what it prints.
    pub(crate) hawser: PathBuf,
    pub(super) addons: Addons,
    /// Whether it is there for the scenarios alone, which may then reboot its nodes.
    pub(crate) own: bool,
}

impl Cluster {
    /// Runs `scenario` in a namespace of its own with these labels, and shows what became of its objects where it fails.
    pub(crate) fn within(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        scenario: impl FnOnce(&Namespace<'_>) -> Result<()>,
    ) -> Result<()> {
        let namespace = Namespace::create(self, name, labels)?;
        let outcome = scenario(&namespace);
        if outcome.as_ref().is_err_and(|error| !error.is::<Skip>()) {
            eprintln!("{}", namespace.state());
        }
        outcome
    }
}

/// A namespace; gone with all that is in it when dropped.
#[derive(Debug)]
pub(crate) struct Namespace<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) name: String,
}

impl<'a> Namespace<'a> {
    fn create(cluster: &'a Cluster, name: &str, labels: &[(&str, &str)]) -> Result<Self> {
        let namespace = Self {
            cluster,
            name: format!("hawser-{name}"),
        };
        let labels: serde_json::Map<String, Value> = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect();
        namespace.apply(&[json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": namespace.name, "labels": labels},
        })])?;
        // Without it no pod is admitted.
        until("the namespace has a service account", GONE, || {
            Ok(namespace.run(&["get", "serviceaccount", "default"]).ok())
        })?;
        Ok(namespace)
    }

    /// A command line of `kubectl` in this namespace.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.cluster.kubectl.command();
        command.args(["--namespace", &self.name]);
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String> {
        self.feed(arguments, "")
    }

    pub(crate) fn feed(&self, arguments: &[&str], text: &str) -> Result<String> {
        let arguments = [&["--namespace", &self.name], arguments].concat();
        self.cluster.kubectl.feed(&arguments, text)
    }

    pub(crate) fn apply(&self, objects: &[Value]) -> Result<()> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.feed(&["apply", "--filename", "-"], &list.to_string())
            .map(drop)
    }

    /// An object as the API server has it, `pod/guest` for instance.
    pub(crate) fn get(&self, object: &str) -> Result<Value> {
        let text = self.run(&["get", object, "--output", "json"])?;
        serde_json::from_str(&text).context("kubectl prints no JSON")
    }

    pub(crate) fn wait_until_running(&self, pod: &str) -> Result<()> {
        until(&format!("the pod {pod} runs"), START, || {
            let found = self.get(&format!("pod/{pod}"))?;
            match found.pointer("/status/phase").and_then(Value::as_str) {
                Some("Running") => Ok(Some(())),
                Some(phase @ ("Failed" | "Succeeded")) => bail!(
                    "the pod {pod} is {phase}: {}",
                    found.get("status").unwrap_or(&Value::Null)
                ),
                _ => Ok(None),
            }
        })
    }

    /// Of a pod, one of each family.
    pub(crate) fn addresses(&self, pod: &str) -> Result<[IpAddr; 2]> {
        let found = self.get(&format!("pod/{pod}"))?;
        let addresses = found.pointer("/status/podIPs").and_then(Value::as_array);
        let addresses: Vec<IpAddr> = addresses
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.get("ip")?.as_str()?.parse().ok())
            .collect();
        match addresses.as_slice() {
            [ipv4, ipv6] if ipv4.is_ipv4() && ipv6.is_ipv6() => Ok([*ipv4, *ipv6]),
            other => bail!("the pod {pod} has not one address of each family: {other:?}"),
        }
    }

    /// What a program in a pod prints.
    pub(crate) fn exec(&self, pod: &str, program: &[&str]) -> Result<String> {
        self.run(&[&["exec", pod, "--"], program].concat())
    }

    /// `kubectl` that goes on until it is dropped.
    pub(crate) fn follow(&self, arguments: &[&str]) -> Result<Process> {
        Process::spawn(
            &format!("kubectl {}", arguments.join(" ")),
            self.command().args(arguments),
        )
    }

    /// Its pods and what was said of them, for an error.
    fn state(&self) -> String {
        let told = |arguments: &[&str]| match self.run(arguments) {
            Ok(text) => text,
            Err(error) => format!("{error:#}\n"),
        };
        let mut state = told(&["get", "pods", "--output", "wide"]);
        state += &told(&["get", "events", "--sort-by", ".lastTimestamp"]);
        state += &told(&["logs", "--selector", LABEL, "--tail", "15", "--prefix"]);
        format!("in the namespace {}:\n{state}", self.name)
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        // The guests at once: their memory is the next scenario's.
        for arguments in [
            ["delete", "pods", "--all", "--grace-period=1"].as_slice(),
            &["delete", "namespace", &self.name, "--wait=false"],
        ] {
            if let Err(error) = self.run(arguments) {
                eprintln!("cannot remove the namespace {}: {error:#}", self.name);
            }
        }
    }
}
