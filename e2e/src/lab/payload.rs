//! What the node gets to run: binaries of this build, the guest image, and what the launcher's image is built from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cache::Cache;
use super::debian_guest;
use super::firmware;
use super::guest_image;
use super::node_image::NodeImage;
use super::process::output;
use super::vmm;
use crate::programs;

const COLLECT: &str = include_str!("../../../images/launcher/collect");
const NODE_INIT: &str = include_str!("../../../images/node/init");
const CONTAINERFILE: &str = include_str!("../../../Containerfile");

/// Fills `payload` for the lab. `hawser` is the launcher's binary; `debian` adds the large guests, for those who need them.
pub(crate) fn fill(
    payload: &Path,
    cache: &Cache,
    node: &NodeImage,
    hawser: &Path,
    debian: bool,
) -> Result<()> {
    fs::write(payload.join("init"), NODE_INIT)?;
    copy(Path::new(crate::process::THIS_PROGRAM), &payload.join("e2e"))?;
    if debian {
        add_debian(payload, &debian_guest::get(cache)?)?;
    }
    let sidecars = payload.join("sidecars");
    copy(
        &programs::build("hawser-hooks", "--example", "passt_sidecar")?,
        &sidecars.join("passt_sidecar"),
    )?;
    copy(
        &programs::build("hawser-e2e", "--bin", "standin-sidecar")?,
        &sidecars.join("standin-sidecar"),
    )?;
    copy(
        &programs::build("hawser-e2e", "--bin", "vsock")?,
        &sidecars.join("vsock"),
    )?;
    fs::write(payload.join("Containerfile"), CONTAINERFILE)?;
    stages(payload, cache, node, hawser)
}

/// What images are made of: the guest's kernel and initramfs, and one directory for each stage of the Containerfile that is
/// replaced, with that stage's /out.
pub(crate) fn stages(payload: &Path, cache: &Cache, node: &NodeImage, hawser: &Path) -> Result<()> {
    let mut recipe = guest_image::recipe();
    recipe.push(node.key());
    let guest = cache.entry("guest", &recipe, |dir| {
        super::process::progress("making the guest's image");
        guest_image::make(dir, node).context("cannot make the guest's image")
    })?;
    for file in ["vmlinux", "initrd.img"] {
        copy(&guest.join(file), &payload.join("guest").join(file))?;
    }
    copy(hawser, &payload.join("build/out/usr/bin/hawser"))?;
    copy(
        &vmm::find(cache)?,
        &payload.join("vmm/out/usr/bin/cloud-hypervisor"),
    )?;
    // Without it there is an image nevertheless, and what needs it is skipped.
    let stage = payload.join("firmware/out/usr/share/cloudhv-efi-x86-64");
    fs::create_dir_all(&stage)?;
    match firmware::find(cache) {
        Ok(path) => copy(&path, &stage.join(firmware::FILE))?,
        Err(error) => super::process::progress(format!("{error:#}")),
    }
    let runtime = runtime_files(cache, node)?;
    output(
        Command::new("cp")
            .arg("-a")
            .arg(runtime)
            .arg(payload.join("runtime")),
    )?;
    Ok(())
}

/// The disks linked, not copied: some hundred MiB each, and the node cannot write to them. The kernel to that of the other
/// guest, which the node keeps on its own disk.
fn add_debian(payload: &Path, made: &Path) -> Result<()> {
    let disks = payload.join("debian");
    output(
        Command::new("cp")
            .args(["--archive", "--link"])
            .arg(made)
            .arg(&disks),
    )?;
    for file in [debian_guest::KERNEL, debian_guest::INITRAMFS] {
        let kernels = payload.join("guest/debian");
        fs::create_dir_all(&kernels)?;
        fs::rename(disks.join(file), kernels.join(file))?;
    }
    Ok(())
}

/// The runtime stage: the same script on the same Debian packages, run in the node's system instead of a base image.
fn runtime_files(cache: &Cache, node: &NodeImage) -> Result<PathBuf> {
    cache.entry("runtime", &[COLLECT.as_bytes(), node.key()], |dir| {
        let script = node.root().join("tmp/collect");
        let collected = node.root().join("tmp/out");
        fs::write(&script, COLLECT)?;
        if collected.exists() {
            fs::remove_dir_all(&collected)?;
        }
        output(
            Command::new("chroot")
                .arg(node.root())
                .args(["/bin/sh", "/tmp/collect", "/tmp/out"]),
        )?;
        fs::rename(&collected, dir.join("out"))?;
        fs::remove_file(&script)?;
        Ok(())
    })
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}
