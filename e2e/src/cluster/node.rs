//! A node of the cluster: the lab's, with a card in the cluster's namespace and a disk of programs, and with an init of its
//! own (e2e/cluster/node).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::daemon::{Daemon, last_lines};
use super::network::tap;
use crate::lab::qemu::Node;
use crate::netns::Netns;

/// (its name in the payload, what it is)
const FILES: &[(&str, &str)] = &[
    ("init", include_str!("../../cluster/node/init")),
    (
        "containerd.toml",
        include_str!("../../cluster/node/containerd.toml"),
    ),
    ("cni.conflist", include_str!("../../cluster/node/cni.conflist")),
    ("kubelet.yaml", include_str!("../../cluster/node/kubelet.yaml")),
    (
        "kube-proxy.yaml",
        include_str!("../../cluster/node/kube-proxy.yaml"),
    ),
];

/// Running, until it is dropped.
#[derive(Debug)]
pub(super) struct ClusterNode {
    machine: Daemon,
    /// What its parts have said, each to a file.
    results: PathBuf,
}

/// Puts into the payload what the init of a cluster's node reads there, in place of the lab's.
pub(super) fn fill(payload: &Path) -> Result<()> {
    for (name, text) in FILES {
        fs::write(payload.join(name), text)?;
    }
    Ok(())
}

impl ClusterNode {
    /// Switches on the node with this number.
    pub(super) fn start(node: &Node<'_>, number: usize, netns: &Netns, disk: &Path) -> Result<Self> {
        let tap = tap(number);
        let mut command = node.command(&format!("cluster.node={number}"));
        command
            // As a machine does, whatever the lab's node would do instead: one scenario reboots it.
            .args(["-action", "reboot=reset"])
            .args(["-chardev", "null,id=events"])
            .args(["-serial", &format!("file:{}", node.console().display())])
            .args(["-drive", &format!("file={},if=virtio,format=raw", disk.display())])
            .args([
                "-netdev",
                &format!("tap,id=cluster,ifname={tap},script=no,downscript=no"),
            ])
            .args([
                "-device",
                &format!("virtio-net-pci,netdev=cluster,mac=02:00:00:00:01:{number:02x}"),
            ]);
        let log = node.results.join("qemu.log");
        Ok(Self {
            machine: Daemon::start(netns, &format!("QEMU of node {number}"), &command, &log)?,
            results: node.results.clone(),
        })
    }

    /// An error where it has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        self.machine.check()
    }

    /// What its parts said last, for an error.
    pub(super) fn last(&self) -> String {
        ["init", "containerd", "kubelet"]
            .map(|part| {
                let lines = last_lines(&self.results.join(format!("{part}.log")), 8);
                format!("{part}:\n{lines}")
            })
            .join("\n")
    }
}
