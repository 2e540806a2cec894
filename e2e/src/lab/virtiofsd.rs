//! virtiofsd, for the scenario that shares file systems: Debian's, taken by itself as the firmware is, so that the node
//! need not be made anew for it. The libraries that it loads are in the node's system already.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::cache::Cache;
use super::debian;
use crate::report::Skip;

/// Of the release that the node is made of, in its pool.
const PACKAGE: &str = "/pool/main/r/rust-virtiofsd/virtiofsd_1.13.2-1+deb13u1_amd64.deb";
const SHA256: &str = "ff567a8816512252aea55a286772769f6d99fb8bc1ffcb110a9118cf44857829";
pub(crate) const FILE: &str = "virtiofsd";

/// From the cache, or the machine's Debian mirror. Where that has it no more the error is a [`Skip`].
pub(crate) fn find(cache: &Cache) -> Result<PathBuf> {
    let url = format!("{}{PACKAGE}", debian::machine_mirror());
    let dir = cache
        .entry("virtiofsd", &[SHA256.as_bytes()], |dir| {
            let files = debian::unpack(dir, &url, SHA256)?;
            fs::copy(files.join("usr/libexec").join(FILE), dir.join(FILE)).context("no virtiofsd in it")?;
            Ok(fs::remove_dir_all(files)?)
        })
        .map_err(|error| Skip::because(format!("virtiofsd cannot be had: {error:#}")))?;
    Ok(dir.join(FILE))
}
