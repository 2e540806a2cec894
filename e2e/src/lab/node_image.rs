//! The node's system: a Debian root file system with what containers, cloud-hypervisor and the guest image need, and the
//! same as a disk. QEMU and everything else that is made from it come out of it too, so that the machine's own
//! versions do not matter.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cache::Cache;
use super::debian;
use super::process::{output, progress};

const PACKAGES: &str = include_str!("../../../images/node/packages");
const BOOT: &str = include_str!("../../../images/node/boot");
/// Where `BOOT` is in the node.
pub(crate) const BOOT_PATH: &str = "/sbin/hawser-boot";
/// The emulator, from the release's backports: under the release's own 10.0, nodes were seen to stop getting timer
/// interrupts, and to lose their kernel's memory where two guests ran at once.
const EMULATOR: &[&str] = &["qemu-system-x86"];
const DISK_SIZE: &str = "4G";

/// A node image that is complete.
#[derive(Debug)]
pub(crate) struct NodeImage {
    dir: PathBuf,
}

impl NodeImage {
    /// From the cache, or made: some minutes, once.
    pub(crate) fn get(cache: &Cache) -> Result<Self> {
        let emulator = EMULATOR.concat();
        let recipe = [
            PACKAGES.as_bytes(),
            emulator.as_bytes(),
            BOOT.as_bytes(),
            DISK_SIZE.as_bytes(),
        ];
        let dir = cache.entry("node", &recipe, |dir| {
            progress("making the node's system from Debian packages (once; 3 to 5 minutes)");
            make(dir).context("cannot make the node's system")
        })?;
        Ok(Self { dir })
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    pub(crate) fn disk(&self) -> PathBuf {
        self.dir.join("node.img")
    }

    pub(crate) fn kernel(&self) -> Result<PathBuf> {
        newest(&self.root().join("boot"), "vmlinuz-")
    }

    pub(crate) fn initrd(&self) -> Result<PathBuf> {
        newest(&self.root().join("boot"), "initrd.img-")
    }

    pub(crate) fn modules(&self) -> Result<PathBuf> {
        newest(&self.root().join("usr/lib/modules"), "")
    }

    /// A program of the node's system, started on this machine with the loader and the libraries of that system. Unlike
    /// a chroot, it sees this machine's files under their own names.
    pub(crate) fn program(&self, path: &str) -> Command {
        let root = self.root();
        let mut command = Command::new(root.join("usr/lib64/ld-linux-x86-64.so.2"));
        command
            .arg("--library-path")
            .arg(root.join("usr/lib/x86_64-linux-gnu"))
            .arg(root.join(path));
        command
    }

    /// What identifies this image in the recipes of things made from it.
    pub(crate) fn key(&self) -> &[u8] {
        use std::os::unix::ffi::OsStrExt;
        self.dir.as_os_str().as_bytes()
    }
}

fn make(dir: &Path) -> Result<()> {
    let root = dir.join("root");
    let packages: Vec<&str> = PACKAGES
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    debian::make_system(&root, &packages)?;
    debian::install_from_backports(&root, EMULATOR)?;

    let boot = root.join(BOOT_PATH.trim_start_matches('/'));
    fs::write(&boot, BOOT)?;
    debian::make_executable(&boot)?;

    progress("making the node's disk");
    let disk = dir.join("node.img");
    output(Command::new("truncate").args(["-s", DISK_SIZE]).arg(&disk))?;
    // -d fills the file system without mounting it.
    output(
        Command::new("mkfs.ext4")
            .args(["-q", "-F", "-d"])
            .arg(&root)
            .arg(&disk),
    )?;
    Ok(())
}

/// The last of what is called so, by name.
pub(super) fn newest(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
        .pop()
        .with_context(|| format!("no {prefix}* in {}", dir.display()))
}
