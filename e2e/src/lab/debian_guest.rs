//! A full Debian as a guest: systemd, cloud-init, and a disk that boots by UEFI. Nothing in it is configured for a network:
//! what it has there is what Debian does by itself.
//!
//! The EFI system partition has one program, a unified kernel image (kernel, initramfs and command line in one, by
//! systemd's ukify), at the path that firmware starts where nothing else is registered. The disk is a compressed qcow2
//! image, as the disks in container images often are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::cache::Cache;
use super::debian;
use super::node_image::newest;
use super::process::{output, progress};

pub(crate) const FILE: &str = "debian.qcow2";

const PACKAGES: &[&str] = &[
    "cloud-init",
    "dbus",
    "initramfs-tools",
    "iproute2",
    "linux-image-cloud-amd64",
    "systemd-boot-efi",
    "systemd-resolved",
    "systemd-sysv",
    "systemd-ukify",
    "udev",
];

const HOUSEKEEPING: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "fstrim.timer",
];

/// What the kernel needs to find its root file system, and nothing more.
const INITRAMFS_MODULES: &str = "virtio_pci\nvirtio_blk\next4\n";
const COMMAND_LINE: &str = "console=ttyS0 root=/dev/vda2 rw loglevel=3 audit=0 mitigations=off";
/// MiB.
const ESP_SIZE: u64 = 64;
const ROOT_SIZE: u64 = 1100;
/// Where the firmware looks on a disk that it does not know.
const DEFAULT_LOADER: &str = "::/EFI/BOOT/BOOTX64.EFI";

pub(crate) fn get(cache: &Cache) -> Result<PathBuf> {
    let mut recipe: Vec<&[u8]> = PACKAGES.iter().map(|package| package.as_bytes()).collect();
    recipe.extend([INITRAMFS_MODULES.as_bytes(), COMMAND_LINE.as_bytes()]);
    // Raised when the code below makes something else of the same.
    recipe.push(b"debian guest 2");
    let dir = cache.entry("debian-guest", &recipe, |dir| {
        progress("making a Debian guest from packages (once; 3 to 5 minutes)");
        make(dir).context("cannot make the Debian guest")
    })?;
    Ok(dir.join(FILE))
}

fn make(dir: &Path) -> Result<()> {
    let root = dir.join("root");
    debian::make_system(&root, PACKAGES)?;
    configure(&root)?;
    let loader = unified_kernel(&root)?;
    let esp = dir.join("esp.img");
    output(
        Command::new("truncate")
            .args(["-s", &format!("{ESP_SIZE}M")])
            .arg(&esp),
    )?;
    output(
        Command::new("mformat")
            .arg("-i")
            .arg(&esp)
            .args(["-F", "-v", "ESP", "::"]),
    )?;
    output(
        Command::new("mmd")
            .arg("-i")
            .arg(&esp)
            .args(["::/EFI", "::/EFI/BOOT"]),
    )?;
    output(
        Command::new("mcopy")
            .arg("-i")
            .arg(&esp)
            .arg(&loader)
            .arg(DEFAULT_LOADER),
    )?;
    fs::remove_file(&loader)?;
    let system = dir.join("root.img");
    output(
        Command::new("truncate")
            .args(["-s", &format!("{ROOT_SIZE}M")])
            .arg(&system),
    )?;
    output(
        Command::new("mkfs.ext4")
            .args(["-q", "-F", "-d"])
            .arg(&root)
            .arg(&system),
    )?;
    assemble(dir, &esp, &system)?;
    fs::remove_dir_all(&root)?;
    fs::remove_file(esp)?;
    Ok(fs::remove_file(system)?)
}

/// What an installer would leave behind, less than which no system starts as itself.
fn configure(root: &Path) -> Result<()> {
    // An instance gets its own at its first start.
    fs::write(root.join("etc/machine-id"), "")?;
    fs::write(root.join("etc/hostname"), "image\n")?;
    fs::write(root.join("etc/fstab"), "/dev/vda2 / ext4 defaults 0 1\n")?;
    fs::remove_file(root.join("usr/sbin/policy-rc.d"))?;
    output(Command::new("chroot").arg(root).args([
        "systemctl",
        "enable",
        "systemd-networkd",
        "systemd-resolved",
    ]))?;
    // Housekeeping of a system that stays. Each of them costs an emulated processor more than all of the test.
    output(
        Command::new("chroot")
            .arg(root)
            .args(["systemctl", "disable"])
            .args(HOUSEKEEPING),
    )?;
    // Otherwise every cache of the system is made anew at the first start.
    for part in ["etc", "var"] {
        fs::write(root.join(part).join(".updated"), "")?;
    }
    // The image is made on a machine, whose resolver is not the guest's.
    let resolv = root.join("etc/resolv.conf");
    if fs::symlink_metadata(&resolv).is_ok() {
        fs::remove_file(&resolv)?;
    }
    std::os::unix::fs::symlink("../run/systemd/resolve/stub-resolv.conf", resolv)?;
    Ok(())
}

fn unified_kernel(root: &Path) -> Result<PathBuf> {
    let kernel = newest(&root.join("boot"), "vmlinuz-")?;
    let name = kernel
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let version = name.trim_start_matches("vmlinuz-").to_owned();
    fs::write(root.join("etc/initramfs-tools/modules"), INITRAMFS_MODULES)?;
    let settings = root.join("etc/initramfs-tools/conf.d/small");
    fs::write(settings, "MODULES=list\nFSTYPE=ext4\n")?;
    let chroot = |arguments: &[&str]| {
        output(
            Command::new("chroot")
                .arg(root)
                .args(arguments)
                .env("LC_ALL", "C.UTF-8"),
        )
    };
    chroot(&["update-initramfs", "-u", "-k", &version])?;
    chroot(&[
        "ukify",
        "build",
        &format!("--linux=/boot/{name}"),
        &format!("--initrd=/boot/initrd.img-{version}"),
        &format!("--cmdline={COMMAND_LINE}"),
        "--output=/boot/loader.efi",
    ])?;
    let loader = root.join("boot/loader.efi");
    if !loader.is_file() {
        bail!("ukify has made nothing");
    }
    Ok(loader)
}

/// One disk of both, with a partition table.
fn assemble(dir: &Path, esp: &Path, system: &Path) -> Result<()> {
    let raw = dir.join("disk.raw");
    // A MiB before for the table, one behind for its copy.
    let size = ESP_SIZE + ROOT_SIZE + 2;
    output(
        Command::new("truncate")
            .args(["-s", &format!("{size}M")])
            .arg(&raw),
    )?;
    let table = dir.join("table");
    let linux = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";
    fs::write(
        &table,
        format!("label: gpt\nstart=1MiB, size={ESP_SIZE}MiB, type=U\nsize={ROOT_SIZE}MiB, type={linux}\n"),
    )?;
    // By way of a shell, which gives it the table as its input.
    output(
        Command::new("sh")
            .args(["-c", "exec sfdisk --quiet \"$0\" < \"$1\""])
            .arg(&raw)
            .arg(&table),
    )?;
    for (image, at) in [(esp, 1), (system, 1 + ESP_SIZE)] {
        output(
            Command::new("dd")
                .arg(format!("if={}", image.display()))
                .arg(format!("of={}", raw.display()))
                .args([
                    "bs=1M",
                    &format!("seek={at}"),
                    "conv=notrunc,sparse",
                    "status=none",
                ]),
        )?;
    }
    output(
        Command::new("qemu-img")
            .args(["convert", "-c", "-O", "qcow2"])
            .arg(&raw)
            .arg(dir.join(FILE)),
    )?;
    fs::remove_file(table)?;
    Ok(fs::remove_file(raw)?)
}
