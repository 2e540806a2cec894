//! Whole Debian systems as guests, one for each DHCP client: what is in them for the network is what the client's package
//! does by itself. All have the same kernel, systemd, and the tests' web server.
//!
//! A guest's disk is a qcow2 image. The kernel and its initramfs are beside the disks, for `kernelBoot`; one of the makes
//! boots by firmware too: its EFI system partition has one program, a unified kernel image (kernel, initramfs and command
//! line in one, by systemd's ukify).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::cache::Cache;
use super::cpio::Archive;
use super::debian;
use super::disk_image;
use super::guest_image::{extract_kernel, unpack_module};
use super::node_image::newest;
use super::process::{output, progress};

/// One of the systems.
#[derive(Debug)]
pub(crate) struct Make {
    /// The directory of its image.
    pub(crate) name: &'static str,
    /// The guest's root file system.
    pub(crate) root: &'static str,
    packages: &'static [&'static str],
    /// What whoever sets the system up does besides installing the packages.
    set_up: fn(&Path) -> Result<()>,
}

pub(crate) const NETWORKD: Make = Make {
    name: "networkd",
    root: "/dev/vda2",
    packages: &[
        "cloud-init",
        "systemd-boot-efi",
        "systemd-resolved",
        "systemd-ukify",
    ],
    set_up: |root| {
        enable(root, &["systemd-networkd", "systemd-resolved"])?;
        let resolv = root.join("etc/resolv.conf");
        fs::remove_file(&resolv)?;
        Ok(symlink("../run/systemd/resolve/stub-resolv.conf", resolv)?)
    },
};

pub(crate) const DHCPCD: Make = Make {
    name: "dhcpcd",
    root: "/dev/vda",
    packages: &["dhcpcd", "openssh-server"],
    set_up: |_| Ok(()),
};

pub(crate) const IFUPDOWN: Make = Make {
    name: "ifupdown",
    root: "/dev/vda",
    packages: &["ifupdown", "isc-dhcp-client"],
    set_up: |root| Ok(fs::write(root.join("etc/network/interfaces"), INTERFACES)?),
};

pub(crate) const NETWORK_MANAGER: Make = Make {
    name: "networkmanager",
    root: "/dev/vda",
    packages: &["network-manager"],
    set_up: |_| Ok(()),
};

const MAKES: [&Make; 4] = [&NETWORKD, &DHCPCD, &IFUPDOWN, &NETWORK_MANAGER];

/// In the directory of this make, an SSH client for the node, with what it loads: the server's package has it too.
pub(crate) const SSH_CLIENT: &str = "ssh-client";

/// In the directory of a make. The directories in between are those of a container image.
pub(crate) const DISK: &str = "disk/disk.qcow2";
pub(crate) const KERNEL: &str = "vmlinux";
pub(crate) const INITRAMFS: &str = "initrd.img";
/// More for the kernel's command line than the root file system.
pub(crate) const COMMAND_LINE: &str =
    "console=ttyS0 rw loglevel=3 audit=0 mitigations=off net.ifnames=0 systemd.show_status=0";

const BASE: &[&str] = &[
    "busybox-static",
    "dbus",
    "initramfs-tools",
    "iproute2",
    "linux-image-cloud-amd64",
    "systemd-sysv",
    "udev",
];

const INTERFACES: &str = include_str!("../../../images/debian/interfaces");
const SERVICE: &str = include_str!("../../../images/debian/guest.service");
const RUN: &str = include_str!("../../../images/guest/run.cgi");
/// What the tests call in a guest, and Debian's minimal system has not.
const APPLETS: [&str; 2] = ["nslookup", "wget"];

/// Housekeeping of a system that stays. Each costs an emulated processor more than all of the test.
const HOUSEKEEPING: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "fstrim.timer",
    "systemd-pstore.service",
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
];

const INITRAMFS_INIT: &str = include_str!("../../../images/debian/initramfs-init");
/// Debian builds ext4 and PCI's virtio in.
const INITRAMFS_MODULE: &str = "kernel/drivers/block/virtio_blk.ko";

/// The directory with all makes.
pub(crate) fn get(cache: &Cache) -> Result<PathBuf> {
    let mut recipe: Vec<&[u8]> = [
        INTERFACES,
        SERVICE,
        RUN,
        INITRAMFS_INIT,
        INITRAMFS_MODULE,
        COMMAND_LINE,
    ]
    .map(str::as_bytes)
    .to_vec();
    for make in MAKES {
        recipe.extend([make.name, make.root].map(str::as_bytes));
        recipe.extend(make.packages.iter().map(|package| package.as_bytes()));
    }
    recipe.extend(BASE.iter().chain(HOUSEKEEPING).map(|name| name.as_bytes()));
    // Raised when the code below makes something else of the same.
    recipe.push(b"debian guests 2");
    cache.entry("debian-guests", &recipe, |dir| {
        progress("making Debian guests from packages (once; 3 to 5 minutes)");
        make_all(dir).context("cannot make the Debian guests")
    })
}

fn make_all(dir: &Path) -> Result<()> {
    let base = dir.join("base");
    debian::make_system(&base, BASE)?;
    finish_base(&base)?;
    fs::write(dir.join(INITRAMFS), make_initramfs(&base)?)?;
    extract_kernel(&newest(&base.join("boot"), "vmlinuz-")?, &dir.join(KERNEL))?;
    for make in MAKES {
        progress(format!("making the Debian guest {}", make.name));
        let root = dir.join("root");
        output(Command::new("cp").arg("-a").arg(&base).arg(&root))?;
        debian::install(&root, make.packages)?;
        finish(&root, make)?;
        let image = dir.join(make.name).join(DISK);
        fs::create_dir_all(image.with_file_name(""))?;
        if make.packages.contains(&"openssh-server") {
            ssh_client(&root, &dir.join(make.name).join(SSH_CLIENT))?;
        }
        if make.root == NETWORKD.root {
            let loader = unified_kernel(&root, make, &dir.join(INITRAMFS))?;
            disk_image::partitioned(&root, &loader, &image)?;
        } else {
            disk_image::plain(&root, &image)?;
        }
        fs::remove_dir_all(&root)?;
    }
    Ok(fs::remove_dir_all(&base)?)
}

/// What all have, and what none needs.
fn finish_base(root: &Path) -> Result<()> {
    let www = root.join("srv/guest/www");
    fs::create_dir_all(www.join("cgi-bin"))?;
    fs::write(www.join("index.html"), "hello from the guest\n")?;
    fs::write(www.join("cgi-bin/run"), RUN)?;
    debian::make_executable(&www.join("cgi-bin/run"))?;
    fs::create_dir_all(root.join("srv/guest/bin"))?;
    for applet in APPLETS {
        symlink("/usr/bin/busybox", root.join("srv/guest/bin").join(applet))?;
    }
    fs::write(root.join("etc/systemd/system/guest.service"), SERVICE)?;
    enable(root, &["guest"])?;
    output(
        Command::new("chroot")
            .arg(root)
            .args(["systemctl", "mask"])
            .args(HOUSEKEEPING),
    )?;
    for part in ["doc", "man", "info", "locale"] {
        fs::remove_dir_all(root.join("usr/share").join(part))?;
    }
    Ok(())
}

/// What an installer would leave behind, less than which no system starts as itself.
fn finish(root: &Path, make: &Make) -> Result<()> {
    // An instance gets its own at its first start.
    fs::write(root.join("etc/machine-id"), "")?;
    // The machine's own, by debootstrap. A guest is told what it is called.
    fs::remove_file(root.join("etc/hostname"))?;
    fs::remove_file(root.join("usr/sbin/policy-rc.d"))?;
    // Nor is the machine's resolver the guest's.
    fs::write(root.join("etc/resolv.conf"), "")?;
    (make.set_up)(root)?;
    // Otherwise every cache of the system is made anew at the first start.
    for part in ["etc", "var"] {
        fs::write(root.join(part).join(".updated"), "")?;
    }
    Ok(())
}

fn make_initramfs(root: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for path in ["bin", "dev", "proc", "root"] {
        archive.directory(path);
    }
    // The kernel opens the console before init has mounted anything.
    archive.character_device("dev/console", 5, 1);
    archive.file("bin/busybox", 0o755, &fs::read(root.join("usr/bin/busybox"))?);
    archive.file("init", 0o755, INITRAMFS_INIT.as_bytes());
    let modules = newest(&root.join("usr/lib/modules"), "")?;
    archive.file(
        "virtio_blk.ko",
        0o644,
        &unpack_module(&modules.join(INITRAMFS_MODULE))?,
    );
    Ok(archive.finish())
}

fn unified_kernel(root: &Path, make: &Make, initramfs: &Path) -> Result<PathBuf> {
    fs::copy(initramfs, root.join("boot").join(INITRAMFS))?;
    let kernel = newest(&root.join("boot"), "vmlinuz-")?;
    let kernel = kernel.file_name().unwrap_or_default().to_string_lossy();
    in_root(
        root,
        &[
            "ukify",
            "build",
            &format!("--linux=/boot/{kernel}"),
            &format!("--initrd=/boot/{INITRAMFS}"),
            &format!("--cmdline=root={} {COMMAND_LINE}", make.root),
            "--output=/boot/loader.efi",
        ],
    )?;
    let loader = root.join("boot/loader.efi");
    if !loader.is_file() {
        bail!("ukify has made nothing");
    }
    Ok(loader)
}

/// Copies the programs and the libraries that ldd names.
fn ssh_client(root: &Path, dir: &Path) -> Result<()> {
    let programs = ["/usr/bin/ssh", "/usr/bin/ssh-keygen"];
    let listed = output(Command::new("chroot").arg(root).arg("ldd").args(programs))?;
    let libraries = listed
        .split_whitespace()
        .filter(|word| word.starts_with('/') && word.contains(".so"));
    fs::create_dir_all(dir)?;
    for file in libraries.chain(programs) {
        let from = root.join(file.trim_start_matches('/'));
        let name = from.file_name().with_context(|| from.display().to_string())?;
        fs::copy(&from, dir.join(name)).with_context(|| from.display().to_string())?;
    }
    Ok(())
}

fn enable(root: &Path, units: &[&str]) -> Result<()> {
    let mut command = vec!["systemctl", "enable"];
    command.extend(units);
    in_root(root, &command)
}

fn in_root(root: &Path, command: &[&str]) -> Result<()> {
    output(
        Command::new("chroot")
            .arg(root)
            .args(command)
            .env("LC_ALL", "C.UTF-8"),
    )
    .map(drop)
}
