//! The Debian packages that this machine needs for the tests. All of them are installed and configured before anything
//! runs: what is installed while a test runs is there for one part of it and missing for the other.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::lab::process::{progress, shown};

/// (a file that shows the package is there, the package)
const PACKAGES: &[(&str, &str)] = &[
    ("/usr/sbin/debootstrap", "debootstrap"),
    ("/usr/sbin/mkfs.ext4", "e2fsprogs"),
    ("/usr/sbin/nft", "nftables"),
    ("/usr/bin/zstd", "zstd"),
    ("/usr/bin/xz", "xz-utils"),
    ("/usr/bin/ip", "iproute2"),
    ("/usr/bin/ping", "iputils-ping"),
    ("/usr/bin/curl", "curl"),
    ("/usr/bin/busybox", "busybox-static"),
    ("/usr/sbin/udhcpc", "udhcpc"),
    ("/usr/sbin/udhcpd", "udhcpd"),
    ("/usr/sbin/dhclient", "isc-dhcp-client"),
    ("/usr/sbin/dhcpcd", "dhcpcd-base"),
    ("/usr/lib/systemd/systemd-networkd", "systemd"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("/usr/bin/qemu-img", "qemu-utils"),
    ("/usr/bin/mformat", "mtools"),
    ("/usr/sbin/sfdisk", "fdisk"),
];
/// Two runs at once install one after the other.
const LOCK: &str = "/run/lock/hawser-e2e-packages";

/// Installs what is missing, and returns when dpkg has configured it. Quiet and instant where nothing is missing.
///
/// # Errors
/// Packages that cannot be installed, and any that are missing where this is not root.
pub(crate) fn install() -> Result<()> {
    if missing().is_empty() {
        return Ok(());
    }
    let root = nix::unistd::geteuid().is_root();
    let _lock = root.then(lock).transpose()?;
    // Another run may have installed them meanwhile.
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    if !root {
        bail!(
            "missing packages: {}; install them, or run as root",
            missing.join(" ")
        );
    }
    progress(format!("installing Debian packages: {}", missing.join(" ")));
    shown(apt_get().arg("update"))?;
    shown(
        apt_get()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(&missing),
    )
    .context("cannot install what the tests need; the end-to-end tests expect Debian or a relative of it")
}

fn lock() -> Result<Flock<File>> {
    let file = File::create(LOCK).context(LOCK)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C.UTF-8")
        // Somebody else's apt or dpkg is waited for.
        .args(["-q", "-o", "DPkg::Lock::Timeout=600"]);
    command
}

fn missing() -> Vec<&'static str> {
    let states = dpkg_states();
    PACKAGES
        .iter()
        .filter(|(file, package)| !is_there(file) || is_half_installed(&states, package))
        .map(|(_, package)| *package)
        .collect()
}

/// Without /usr too: where the two are one, dpkg knows some files by either name.
fn is_there(file: &str) -> bool {
    Path::new(file).exists() || Path::new(&file.replacen("/usr", "", 1)).exists()
}

/// What dpkg says of the packages: a line for each that it has heard of. Nothing where there is no dpkg.
fn dpkg_states() -> String {
    let asked = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\n"])
        .args(PACKAGES.iter().map(|(_, package)| package))
        .output();
    // Its status is 1 where it does not know one of them.
    asked
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default()
}

/// Unpacked, but not configured: its files are there, and what its scripts set up is not.
fn is_half_installed(states: &str, package: &str) -> bool {
    states
        .lines()
        .filter_map(|line| line.split_once(' '))
        .any(|(name, state)| {
            name == package && !matches!(state, "installed" | "not-installed" | "config-files")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unpacked_package_is_still_missing() {
        let states = "udhcpc unpacked\nudhcpd half-configured\nnftables installed\ncurl not-installed\n";
        assert!(is_half_installed(states, "udhcpc"));
        assert!(is_half_installed(states, "udhcpd"));
        assert!(!is_half_installed(states, "nftables"));
        // Whoever brought its file did so without dpkg.
        assert!(!is_half_installed(states, "curl"));
        assert!(!is_half_installed(states, "zstd"));
    }
}
