//! Where cloud-hypervisor comes from. It is in no package registry.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use sha2::{Digest, Sha256};

use super::cache::{Cache, hex};
use super::debian;
use super::process::{output, progress};
use crate::report::Skip;

/// The pinned release is written down once, where the container image takes it from.
const CONTAINERFILE: &str = include_str!("../../../Containerfile");

/// `$CLOUD_HYPERVISOR`, else the one on PATH, else the pinned release. Where none can be had the error is a [`Skip`].
pub(crate) fn find(cache: &Cache) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CLOUD_HYPERVISOR").map(PathBuf::from) {
        // Asked for by name: not being there is a mistake, not a lack.
        if !path.is_file() {
            bail!("CLOUD_HYPERVISOR={}: no such file", path.display());
        }
        return Ok(path);
    }
    if let Some(path) = on_path("cloud-hypervisor") {
        return Ok(path);
    }
    download(cache).map_err(|error| {
        Skip::because(format!(
            "no cloud-hypervisor: none on PATH, and the release cannot be downloaded ({error:#}); \
             name a binary in CLOUD_HYPERVISOR"
        ))
        .into()
    })
}

/// One line that says which it is.
pub(crate) fn version(path: &Path) -> Result<String> {
    let text = output(Command::new(path).arg("--version"))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn on_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

fn download(cache: &Cache) -> Result<PathBuf> {
    let (Some(url), Some(sum)) = (
        default_of("CLOUD_HYPERVISOR_URL"),
        default_of("CLOUD_HYPERVISOR_SHA256"),
    ) else {
        bail!("the Containerfile names no release");
    };
    let dir = cache.entry("cloud-hypervisor", &[url.as_bytes(), sum.as_bytes()], |dir| {
        progress(format!("downloading {url}"));
        let path = dir.join("cloud-hypervisor");
        output(
            Command::new("curl")
                .args([
                    "--fail",
                    "--location",
                    "--silent",
                    "--show-error",
                    "--max-time",
                    "300",
                    "--output",
                ])
                .arg(&path)
                .arg(url),
        )?;
        let found = hex(&Sha256::digest(fs::read(&path)?));
        if found != sum {
            bail!("its SHA-256 is {found}, not {sum}");
        }
        debian::make_executable(&path)
    })?;
    Ok(dir.join("cloud-hypervisor"))
}

/// The default of a build argument.
pub(super) fn default_of(argument: &str) -> Option<&'static str> {
    CONTAINERFILE.lines().find_map(|line| {
        line.strip_prefix("ARG ")?
            .strip_prefix(argument)?
            .strip_prefix('=')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_containerfile_pins_a_release() {
        assert!(
            default_of("CLOUD_HYPERVISOR_URL")
                .unwrap()
                .ends_with("/cloud-hypervisor-static")
        );
        assert_eq!(default_of("CLOUD_HYPERVISOR_SHA256").unwrap().len(), 64);
        assert_eq!(default_of("CLOUD_HYPERVISOR"), None);
    }

    #[test]
    fn the_images_labels_are_what_the_packages_say_of_themselves() {
        for (name, wanted) in [
            ("version", env!("CARGO_PKG_VERSION")),
            ("source", env!("CARGO_PKG_REPOSITORY")),
            ("licenses", env!("CARGO_PKG_LICENSE")),
        ] {
            let label = format!("org.opencontainers.image.{name}={wanted:?}");
            assert!(CONTAINERFILE.contains(&label), "the Containerfile has no {label}");
        }
    }
}
