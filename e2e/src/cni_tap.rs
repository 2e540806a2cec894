//! Stands in for the CNI plugin `tap` of the reference plugins (containernetworking/plugins, from 1.4.0 on), which Debian's
//! package is too old to have. It is run as a CNI plugin is, and takes the same fields: `mac`, `mtu`, `owner`, `group`,
//! `multiQueue`. Addresses (`ipam`) it has none to give.

use std::io::Read;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::json;

use crate::process::output;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Configuration {
    cni_version: String,
    mac: Option<String>,
    mtu: Option<u32>,
    owner: Option<u32>,
    group: Option<u32>,
    #[serde(default)]
    multi_queue: bool,
}

/// The CNI specification, 1.0.0: the operation in the environment, the configuration on stdin, the result on stdout.
pub(crate) fn run() -> Result<()> {
    let variable = |name| std::env::var(name).with_context(|| format!("{name} is not set"));
    let (namespace, interface) = (PathBuf::from(variable("CNI_NETNS")?), variable("CNI_IFNAME")?);
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let wanted: Configuration = serde_json::from_str(&text).context("the configuration")?;
    let ip = |words: &[&str]| {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", namespace.display()))
            .arg("ip")
            .args(words);
        output(&mut command)
    };
    match variable("CNI_COMMAND")?.as_str() {
        "ADD" => {
            let (owner, group) = (
                wanted.owner.map(|id| id.to_string()),
                wanted.group.map(|id| id.to_string()),
            );
            let mut words = vec!["tuntap", "add", &interface, "mode", "tap"];
            for (word, id) in [("user", &owner), ("group", &group)] {
                words.extend(id.iter().flat_map(|id| [word, id.as_str()]));
            }
            if wanted.multi_queue {
                words.push("multi_queue");
            }
            ip(&words)?;
            if let Some(mac) = &wanted.mac {
                ip(&["link", "set", &interface, "address", mac])?;
            }
            if let Some(mtu) = wanted.mtu {
                ip(&["link", "set", &interface, "mtu", &mtu.to_string()])?;
            }
            ip(&["link", "set", &interface, "up"])?;
            let shown: serde_json::Value =
                serde_json::from_str(&ip(&["-j", "link", "show", "dev", &interface])?)?;
            let mac = shown.pointer("/0/address").cloned().unwrap_or_default();
            println!(
                "{}",
                json!({
                    "cniVersion": wanted.cni_version,
                    "interfaces": [{"name": interface, "mac": mac, "sandbox": namespace}],
                })
            );
        }
        "CHECK" => drop(ip(&["link", "show", "dev", &interface])?),
        "DEL" => drop(ip(&["link", "del", &interface])?),
        other => bail!("CNI_COMMAND {other} is not known"),
    }
    Ok(())
}

/// Runs this executable as the plugin, as a container runtime does.
///
/// # Errors
/// What the plugin says.
pub(crate) fn call(
    operation: &str,
    namespace: &std::path::Path,
    interface: &str,
    configuration: &serde_json::Value,
) -> Result<String> {
    use std::io::Write;
    let mut configuration = configuration.clone();
    for (key, value) in [("cniVersion", "1.0.0"), ("name", "tap"), ("type", "tap")] {
        if let Some(fields) = configuration.as_object_mut() {
            fields.insert(key.to_owned(), json!(value));
        }
    }
    let mut child = Command::new(crate::process::THIS_PROGRAM)
        .arg("cni-tap")
        .env("CNI_COMMAND", operation)
        .env("CNI_CONTAINERID", "pod")
        .env("CNI_NETNS", namespace)
        .env("CNI_IFNAME", interface)
        .env("CNI_PATH", "/")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(configuration.to_string().as_bytes())?;
    }
    let done = child.wait_with_output()?;
    if !done.status.success() {
        bail!(
            "CNI {operation} by tap: {}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
