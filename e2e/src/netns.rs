//! Network namespaces: made, entered by a thread, and looked at.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::process::{output, until};

/// A named network namespace, deleted when dropped.
#[derive(Debug)]
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    /// # Errors
    /// `ip netns add`.
    pub(crate) fn new(role: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("hawser-{}-{count}-{role}", std::process::id());
        output(Command::new("ip").args(["netns", "add", &name]))?;
        let netns = Self { name };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs one `ip` command in it; words are split at blanks.
    pub(crate) fn ip(&self, command: &str) -> Result<String> {
        output(
            Command::new("ip")
                .args(["-n", &self.name])
                .args(command.split_whitespace()),
        )
    }

    pub(crate) fn ip_json(&self, command: &str) -> Result<Value> {
        let text = self.ip(&format!("-j {command}"))?;
        // `ip -j` prints nothing at all where there is nothing to list.
        Ok(if text.trim().is_empty() {
            Value::Array(Vec::new())
        } else {
            serde_json::from_str(&text)?
        })
    }

    /// Runs `work` in a thread of this namespace. Sockets made there stay there.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = File::open(self.path())?;
        thread::scope(|scope| {
            scope
                .spawn(move || {
                    setns(file, CloneFlags::CLONE_NEWNET)?;
                    work()
                })
                .join()
                .map_err(|_| anyhow!("panicked in {}", self.name))?
        })
    }

    /// `net.ipv4.…` or the like, with dots or slashes.
    pub(crate) fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = sysctl_path(key);
        self.run(|| fs::write(&path, value).with_context(|| path.display().to_string()))
    }

    /// Kills whatever runs here, which is what the end of a container's first process does to the rest.
    pub(crate) fn kill_all(&self) -> Result<()> {
        let pids = output(Command::new("ip").args(["netns", "pids", &self.name]))?;
        for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            // Gone by itself meanwhile, or a zombie.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        until(
            "the namespace's processes are gone",
            Duration::from_secs(3),
            || {
                let pids = output(Command::new("ip").args(["netns", "pids", &self.name]))?;
                Ok(pids.trim().is_empty().then_some(()))
            },
        )
    }

    /// What `nft` does with a script in this namespace.
    pub(crate) fn nft(&self, script: &str) -> Result<String> {
        output(Command::new("ip").args(["netns", "exec", &self.name, "nft", script]))
    }

    /// All that a launcher could leave behind here.
    pub(crate) fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::take(self)
    }
}

fn sysctl_path(key: &str) -> PathBuf {
    let key = if key.contains('/') {
        key.to_owned()
    } else {
        key.replace('.', "/")
    };
    Path::new("/proc/sys").join(key)
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = self.kill_all();
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
    }
}

/// Lines of state, each under the part it belongs to. Interface indexes, counters and the carrier are left out: they
/// change by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot(BTreeMap<String, Vec<String>>);

impl Snapshot {
    fn take(netns: &Netns) -> Result<Self> {
        let mut parts = BTreeMap::new();
        let mut links = Vec::new();
        let mut addresses = Vec::new();
        for link in netns.ip_json("address show")?.as_array().into_iter().flatten() {
            let text = |key: &str| {
                link.get(key)
                    .map(Value::to_string)
                    .unwrap_or_default()
                    .replace("\"NO-CARRIER\",", "")
                    .replace(",\"LOWER_UP\"", "")
            };
            links.push(format!(
                "{} {} {} {}",
                text("ifname"),
                text("flags"),
                text("mtu"),
                text("address")
            ));
            for address in link
                .get("addr_info")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                let part = |key: &str| address.get(key).map(Value::to_string).unwrap_or_default();
                addresses.push(format!(
                    "{} {}/{} {}",
                    text("ifname"),
                    part("local"),
                    part("prefixlen"),
                    part("scope")
                ));
            }
        }
        parts.insert("link".to_owned(), links);
        parts.insert("address".to_owned(), addresses);
        for (name, command) in [
            ("route4", "-4 route show table all"),
            ("route6", "-6 route show table all"),
            ("rule4", "-4 rule show"),
            ("rule6", "-6 rule show"),
            ("neighbour", "neigh show nud permanent"),
        ] {
            parts.insert(
                name.to_owned(),
                netns.ip(command)?.lines().map(without_expiry).collect(),
            );
        }
        parts.insert(
            "nft".to_owned(),
            netns.nft("list ruleset")?.lines().map(str::to_owned).collect(),
        );
        parts.insert("sysctl".to_owned(), netns.run(sysctls)?);
        for lines in parts.values_mut() {
            lines.sort();
        }
        Ok(Self(parts))
    }

    /// What is different in `later`, empty where nothing is.
    pub(crate) fn changes(&self, later: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        for (part, before) in &self.0 {
            let empty = Vec::new();
            let after = later.0.get(part).unwrap_or(&empty);
            changes.extend(
                before
                    .iter()
                    .filter(|line| !after.contains(line))
                    .map(|line| format!("{part} - {line}")),
            );
            changes.extend(
                after
                    .iter()
                    .filter(|line| !before.contains(line))
                    .map(|line| format!("{part} + {line}")),
            );
        }
        changes
    }
}

fn without_expiry(line: &str) -> String {
    let mut words = line.split_whitespace().peekable();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        if word == "expires" {
            words.next();
        } else if word != "linkdown" {
            kept.push(word);
        }
    }
    kept.join(" ")
}

fn sysctls() -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut visit = vec![
        PathBuf::from("/proc/sys/net/ipv4/ip_forward"),
        PathBuf::from("/proc/sys/net/ipv4/ip_unprivileged_port_start"),
        PathBuf::from("/proc/sys/net/ipv4/ping_group_range"),
        PathBuf::from("/proc/sys/net/ipv4/conf"),
        PathBuf::from("/proc/sys/net/ipv6/conf"),
    ];
    while let Some(path) = visit.pop() {
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                visit.push(entry?.path());
            }
        } else if let Ok(value) = fs::read_to_string(&path) {
            // Some (stable_secret) cannot be read before they are set.
            lines.push(format!("{} = {}", path.display(), value.trim()));
        }
    }
    Ok(lines)
}
