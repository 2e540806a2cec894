//! The node as a QEMU machine under software emulation: a processor with SVM, so that KVM and cloud-hypervisor are the
//! real ones inside, an IOMMU, and a NIC with virtual functions.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use super::events::{Turn, turn_file};
use super::node_image::{BOOT_PATH, NodeImage};

/// How the node is started.
#[derive(Debug)]
pub(crate) struct Node<'a> {
    pub(crate) image: &'a NodeImage,
    /// Read-only in the node, at /payload.
    pub(crate) payload: &'a Path,
    /// Writable in the node, at /results. The node's console is kept there too.
    pub(crate) results: PathBuf,
}

impl Node<'_> {
    /// Starts the node with the agent in it. The agent's events are the child's stdout.
    pub(crate) fn start_agent(&self) -> Result<Child> {
        let mut command = self.command("");
        command
            // Not "stdio", which takes the end of stdin for the end of both ways.
            .args(["-chardev", "file,id=events,path=/dev/stdout"])
            .args(["-serial", &format!("file:{}", self.console().display())])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Long lists of what an emulated processor has not.
            .stderr(File::create(self.results.join("qemu.log"))?);
        command.spawn().context("cannot start QEMU")
    }

    /// Starts the node with a shell on this terminal.
    pub(crate) fn start_shell(&self) -> Result<Child> {
        let mut command = self.command("hawser.shell");
        command.args(["-chardev", "null,id=events", "-serial", "stdio"]);
        command.spawn().context("cannot start QEMU")
    }

    /// The same with results of its own.
    pub(crate) fn beside(&self, name: &str) -> Result<Self> {
        let results = self.results.join(name);
        fs::create_dir(&results)?;
        Ok(Self { results, ..*self })
    }

    /// Answers the agent's n-th question for a scenario.
    pub(crate) fn give_turn(&self, number: usize, turn: &Turn) -> Result<()> {
        let unfinished = self.results.join("turn.unfinished");
        fs::write(&unfinished, serde_json::to_vec(turn)?)?;
        Ok(fs::rename(unfinished, self.results.join(turn_file(number)))?)
    }

    /// Takes away the answers to another node.
    pub(crate) fn clear_turns(&self) -> Result<()> {
        for number in 0.. {
            match fs::remove_file(self.results.join(turn_file(number))) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(crate) fn console(&self) -> PathBuf {
        self.results.join("node-console.log")
    }

    /// The machine, with a console and events that whoever starts it leads somewhere.
    pub(crate) fn command(&self, kernel_argument: &str) -> Command {
        let root = self.image.root();
        let mut command = self.image.program("usr/bin/qemu-system-x86_64");
        command
            .env("QEMU_MODULE_DIR", root.join("usr/lib/x86_64-linux-gnu/qemu"))
            // Where -snapshot keeps what the node writes.
            .env("TMPDIR", &self.results)
            .arg("-L")
            .arg(root.join("usr/share/qemu"))
            .arg("-L")
            .arg(root.join("usr/share/seabios"))
            // One processor: two guests on two emulated ones have cost nodes their kernels' memory, and scenarios are no
            // faster with them. What is emulated by one thread cannot race.
            .args([
                "-M",
                "q35",
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "EPYC,+svm",
                "-smp",
                "1",
                "-m",
                "4G",
            ])
            .args(["-display", "none", "-monitor", "none", "-no-reboot", "-snapshot"]);
        // mitigations=off: nothing here is to be protected, and every flush is emulated. no_timer_check: on a busy machine
        // the emulated timer may tick too late for the kernel's look at it, which then panics.
        let arguments = format!(
            "console=ttyS0 root=/dev/vda rw init={BOOT_PATH} panic=-1 mitigations=off no_timer_check quiet intel_iommu=on iommu=pt {kernel_argument}"
        );
        if let (Ok(kernel), Ok(initrd)) = (self.image.kernel(), self.image.initrd()) {
            command
                .arg("-kernel")
                .arg(kernel)
                .arg("-initrd")
                .arg(initrd)
                .args(["-append", &arguments]);
        }
        command
            .args([
                "-drive",
                &format!("file={},if=virtio,format=raw", self.image.disk().display()),
            ])
            .args(["-device", "intel-iommu,intremap=on,caching-mode=on"])
            .args(["-netdev", "user,id=n0", "-device", "pcie-root-port,id=rp0,slot=1"])
            .args(["-device", "igb,bus=rp0,netdev=n0"])
            .args(["-virtfs", &share(self.payload, "payload", ",readonly=on")])
            .args(["-virtfs", &share(&self.results, "results", "")])
            .args([
                "-device",
                "virtio-serial-pci",
                "-device",
                "virtserialport,chardev=events,name=hawser.events",
            ]);
        command
    }
}

fn share(dir: &Path, tag: &str, more: &str) -> String {
    format!(
        "local,path={},mount_tag={tag},security_model=none,multidevs=remap{more}",
        dir.display()
    )
}
