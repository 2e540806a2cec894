//! CNI plugins as a container runtime runs them (the CNI specification, 1.0.0): the operation and its parameters in the
//! environment, the configuration on stdin, the result on stdout. A network is a list of plugins; each is given the
//! result of the one before, and CHECK and DEL what ADD came to.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::process::Process;
use crate::report::Skip;

/// Where Debian's containernetworking-plugins has them.
pub(crate) const PLUGINS: &str = "/usr/lib/cni";
const VERSION: &str = "1.0.0";
const ANSWER: std::time::Duration = std::time::Duration::from_secs(20);

/// A network's configuration, and the words in front of each plugin's command line that take it to the node.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) name: String,
    pub(crate) plugins: Vec<Value>,
    pub(crate) enter: Vec<String>,
}

/// An interface of a container in a network. Not detached when dropped: DEL is what is put to the test.
#[derive(Debug)]
pub(crate) struct Attached<'a> {
    network: &'a Network,
    namespace: PathBuf,
    interface: String,
    result: Value,
}

/// Where the plugins are missing the error is a [`Skip`].
pub(crate) fn require(plugin: &str) -> Result<()> {
    let path = Path::new(PLUGINS).join(plugin);
    if path.exists() {
        return Ok(());
    }
    let reason = format!("no {}: install containernetworking-plugins", path.display());
    Err(Skip::because(reason).into())
}

impl Network {
    /// ADD by every plugin of the list, in order.
    pub(crate) fn attach(&self, namespace: &Path, interface: &str) -> Result<Attached<'_>> {
        let mut attached = Attached {
            network: self,
            namespace: namespace.to_owned(),
            interface: interface.to_owned(),
            result: Value::Null,
        };
        for plugin in &self.plugins {
            let printed = attached.run("ADD", plugin)?;
            attached.result =
                serde_json::from_str(&printed).with_context(|| format!("ADD answered with {printed:?}"))?;
        }
        Ok(attached)
    }
}

impl Attached<'_> {
    /// CHECK by every plugin, in order.
    pub(crate) fn check(&self) -> Result<()> {
        let mut plugins = self.network.plugins.iter();
        plugins.try_for_each(|plugin| self.run("CHECK", plugin).map(drop))
    }

    /// DEL by every plugin, last first.
    pub(crate) fn detach(&self) -> Result<()> {
        let mut plugins = self.network.plugins.iter().rev();
        plugins.try_for_each(|plugin| self.run("DEL", plugin).map(drop))
    }

    fn run(&self, operation: &str, plugin: &Value) -> Result<String> {
        let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
        require(kind)?;
        let mut configuration = plugin.clone();
        if let Value::Object(fields) = &mut configuration {
            fields.insert("cniVersion".into(), json!(VERSION));
            fields.insert("name".into(), json!(self.network.name));
            if !self.result.is_null() {
                fields.insert("prevResult".into(), self.result.clone());
            }
        }
        let path = Path::new(PLUGINS).join(kind);
        let mut command = match self.network.enter.split_first() {
            Some((program, words)) => {
                let mut command = Command::new(program);
                command.args(words).arg(path);
                command
            }
            None => Command::new(path),
        };
        command
            .env("CNI_COMMAND", operation)
            .env("CNI_CONTAINERID", &self.network.name)
            .env("CNI_NETNS", &self.namespace)
            .env("CNI_IFNAME", &self.interface)
            .env("CNI_PATH", PLUGINS);
        let mut process = Process::spawn(kind, &mut command)?;
        process.feed(&configuration.to_string())?;
        let status = process.wait_exit(ANSWER)?;
        if !status.success() {
            bail!("CNI {operation} by {kind}: {status}: {}", process.transcript());
        }
        Ok(process.stdout())
    }
}
