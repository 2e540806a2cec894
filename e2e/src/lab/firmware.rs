//! The UEFI firmware for guests that boot from a disk: cloud-hypervisor's, as Debian packs it. Not in the release that the
//! node is made of, so the package is taken by itself, in the version that the Containerfile pins.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::cache::Cache;
use super::debian;
use super::vmm::default_of;
use crate::report::Skip;

pub(crate) const FILE: &str = "CLOUDHV.fd";

/// From the cache, the machine's Debian mirror, or the archive that keeps all versions. Where none has it the error is a
/// [`Skip`].
pub(crate) fn find(cache: &Cache) -> Result<PathBuf> {
    let (Some(url), Some(sum)) = (default_of("FIRMWARE_URL"), default_of("FIRMWARE_SHA256")) else {
        bail!("the Containerfile names no firmware");
    };
    let pool = url
        .find("/pool/")
        .and_then(|at| url.get(at..))
        .context("no package in Debian's pool")?;
    let near = format!("{}{pool}", debian::machine_mirror());
    let dir = cache
        .entry("firmware", &[sum.as_bytes()], |dir| {
            get(dir, &near, sum).or_else(|_| get(dir, url, sum))
        })
        .map_err(|error| Skip::because(format!("the UEFI firmware cannot be had: {error:#}")))?;
    Ok(dir.join(FILE))
}

fn get(dir: &Path, url: &str, sum: &str) -> Result<()> {
    let files = debian::unpack(dir, url, sum)?;
    fs::copy(
        files.join("usr/share/cloudhv-efi-x86-64").join(FILE),
        dir.join(FILE),
    )?;
    Ok(fs::remove_dir_all(files)?)
}
