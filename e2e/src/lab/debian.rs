//! Debian as the machine has it: its mirror, and a fresh system beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use sha2::{Digest, Sha256};

use super::cache::hex;
use super::process::{output, progress, shown};
use crate::programs;

/// The release that the node and the images are made of. Older ones have a QEMU without igb and a passt without
/// vhost-user.
const RELEASE: &str = "trixie";
const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";

/// Makes a minimal system with `packages` in `root`, which must be empty.
pub(crate) fn make_system(root: &Path, packages: &[&str]) -> Result<()> {
    let mirror = machine_mirror();
    shown(
        Command::new("debootstrap")
            .args(["--variant=minbase", RELEASE])
            .arg(root)
            .arg(&mirror)
            .env("LC_ALL", "C.UTF-8"),
    )?;
    // No service may start on this machine because a package in there has one.
    let policy = root.join("usr/sbin/policy-rc.d");
    programs::write_script(&policy, "#!/bin/sh\nexit 101\n")?;
    fs::copy("/etc/resolv.conf", root.join("etc/resolv.conf"))?;
    install(root, packages)
}

/// Adds `packages` to a system of [`make_system`]'s.
pub(crate) fn install(root: &Path, packages: &[&str]) -> Result<()> {
    install_with(root, &[], packages)
}

/// The same, in the versions of the release's backports. What needs no newer version for them stays as it is.
pub(crate) fn install_from_backports(root: &Path, packages: &[&str]) -> Result<()> {
    let backports = format!("{RELEASE}-backports");
    fs::write(
        root.join("etc/apt/sources.list.d/backports.list"),
        format!("deb {} {backports} main\n", machine_mirror()),
    )?;
    install_with(root, &["--target-release", &backports], packages)
}

fn install_with(root: &Path, options: &[&str], packages: &[&str]) -> Result<()> {
    for arguments in [
        vec!["update"],
        [
            &["install", "--yes", "--no-install-recommends"],
            options,
            packages,
        ]
        .concat(),
    ] {
        shown(
            Command::new("chroot")
                .arg(root)
                .args(["apt-get", "-q"])
                .args(arguments)
                .env("DEBIAN_FRONTEND", "noninteractive")
                .env("LC_ALL", "C.UTF-8"),
        )?;
    }
    output(Command::new("chroot").arg(root).args(["apt-get", "clean"]))?;
    for lists in fs::read_dir(root.join("var/lib/apt/lists"))? {
        let path = lists?.path();
        if path.is_file() {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Downloads a package, holds it against its SHA-256, and unpacks it to a directory below `dir`.
pub(crate) fn unpack(dir: &Path, url: &str, sum: &str) -> Result<PathBuf> {
    progress(format!("downloading {url}"));
    let package = dir.join("package.deb");
    output(
        Command::new("curl")
            .args([
                "--fail",
                "--location",
                "--silent",
                "--show-error",
                "--max-time",
                "120",
                "--output",
            ])
            .arg(&package)
            .arg(url),
    )?;
    let found = hex(&Sha256::digest(fs::read(&package)?));
    if found != sum {
        bail!("its SHA-256 is {found}, not {sum}");
    }
    let files = dir.join("files");
    output(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(&package)
            .arg(&files),
    )?;
    fs::remove_file(package)?;
    Ok(files)
}

pub(crate) fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// The mirror that the machine's own apt uses, where it is a Debian.
pub(crate) fn machine_mirror() -> String {
    let mut sources = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    for entry in fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .flatten()
    {
        sources.push('\n');
        sources.push_str(&fs::read_to_string(entry.path()).unwrap_or_default());
    }
    mirror_in(&sources).unwrap_or_else(|| DEFAULT_MIRROR.to_owned())
}

/// The first Debian archive named in sources of either format. Not the security archive, which has no base system.
fn mirror_in(sources: &str) -> Option<String> {
    sources
        .lines()
        .filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"))
        .flat_map(str::split_whitespace)
        .map(|word| word.trim_end_matches('/'))
        .find(|word| word.starts_with("http") && word.ends_with("/debian"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_found_in_both_formats() {
        let one_line = "# old\ndeb http://mirror.example/debian-security trixie main\ndeb [signed-by=/k] http://mirror.example/debian/ trixie main\n";
        assert_eq!(
            mirror_in(one_line).as_deref(),
            Some("http://mirror.example/debian")
        );
        let deb822 = "Types: deb\nURIs: https://other.example/debian\nSuites: trixie\n";
        assert_eq!(mirror_in(deb822).as_deref(), Some("https://other.example/debian"));
        assert_eq!(mirror_in("deb http://ubuntu.example/ubuntu noble main"), None);
    }
}
