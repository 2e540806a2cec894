//! The test guest: Debian's kernel as cloud-hypervisor boots it, and an initramfs of busybox and a few scripts of ours
//! (images/guest).

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::cpio::Archive;
use super::node_image::NodeImage;
use super::process::output;
use super::scenarios::datapath::INITRD;
use crate::programs::build;

/// (path in the initramfs, permissions, content)
const FILES: &[(&str, u32, &str)] = &[
    ("init", 0o755, include_str!("../../../images/guest/init")),
    (
        "etc/udhcpc.script",
        0o755,
        include_str!("../../../images/guest/udhcpc.script"),
    ),
    (
        "etc/udhcpc6.script",
        0o755,
        include_str!("../../../images/guest/udhcpc6.script"),
    ),
    (
        "www/cgi-bin/run",
        0o755,
        include_str!("../../../images/guest/run.cgi"),
    ),
];

/// Below the kernel's module directory, compressed. Debian builds virtio_pci, virtio_console, virtiofs and IPv6 in.
const MODULES: &[&str] = &[
    "kernel/net/core/failover.ko",
    "kernel/drivers/net/net_failover.ko",
    "kernel/drivers/net/virtio_net.ko",
    "kernel/drivers/net/ethernet/intel/igbvf/igbvf.ko",
    "kernel/drivers/acpi/button.ko",
    "kernel/drivers/input/evdev.ko",
    "kernel/drivers/block/virtio_blk.ko",
    "kernel/fs/fat/fat.ko",
    "kernel/fs/fat/vfat.ko",
    "kernel/drivers/cdrom/cdrom.ko",
    "kernel/fs/isofs/isofs.ko",
    "kernel/fs/nls/nls_cp437.ko",
    "kernel/fs/nls/nls_ascii.ko",
    "kernel/net/vmw_vsock/vsock.ko",
    "kernel/net/vmw_vsock/vmw_vsock_virtio_transport_common.ko",
    "kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko",
];

/// All that the image is made of, for the cache.
pub(crate) fn recipe() -> Vec<&'static [u8]> {
    let mut recipe: Vec<&[u8]> = FILES.iter().map(|(_, _, content)| content.as_bytes()).collect();
    recipe.extend(MODULES.iter().map(|module| module.as_bytes()));
    // Raised when the code below makes something else of the same files.
    recipe.push(b"guest image 1");
    recipe
}

/// Writes `vmlinux` and `initrd.img` into `dir`.
pub(crate) fn make(dir: &Path, node: &NodeImage) -> Result<()> {
    extract_kernel(&node.kernel()?, &dir.join("vmlinux"))?;

    let mut archive = Archive::default();
    for path in ["bin", "dev", "etc", "modules", "www", "www/cgi-bin"] {
        archive.directory(path);
    }
    // The kernel opens the console before init has mounted anything.
    archive.character_device("dev/console", 5, 1);
    let busybox = node.root().join("usr/bin/busybox");
    archive.file(
        "bin/busybox",
        0o755,
        &fs::read(&busybox).context("no busybox in the node's system")?,
    );
    for (path, permissions, content) in FILES {
        archive.file(path, *permissions, content.as_bytes());
    }
    for module in MODULES {
        let unpacked = unpack_module(&node.modules()?.join(module))?;
        let name = module.rsplit('/').next().unwrap_or(module);
        archive.file(&format!("modules/{name}"), 0o644, &unpacked);
    }
    // Not compressed: unpacking costs an emulated processor more than reading does.
    fs::write(dir.join("initrd.img"), archive.finish())?;
    Ok(())
}

/// `module` is the path without the ending of a compressed one.
pub(super) fn unpack_module(module: &Path) -> Result<Vec<u8>> {
    let compressed = module.with_extension("ko.xz");
    let unpacked = Command::new("xz").arg("-dc").arg(&compressed).output()?;
    if !unpacked.status.success() {
        bail!(
            "cannot unpack {}: {}",
            compressed.display(),
            String::from_utf8_lossy(&unpacked.stderr)
        );
    }
    Ok(unpacked.stdout)
}

/// What the load program needs of the node's system, with the names that it looks for.
const LIBRARIES: &[(&str, &str)] = &[
    ("usr/lib64/ld-linux-x86-64.so.2", "lib64/ld-linux-x86-64.so.2"),
    (
        "usr/lib/x86_64-linux-gnu/libc.so.6",
        "lib/x86_64-linux-gnu/libc.so.6",
    ),
    (
        "usr/lib/x86_64-linux-gnu/libgcc_s.so.1",
        "lib/x86_64-linux-gnu/libgcc_s.so.1",
    ),
];

/// Writes, beside the `initrd.img` in `dir`, one that has the load program as well: the kernel unpacks archives one after
/// the other.
pub(crate) fn with_load(dir: &Path, node: &NodeImage) -> Result<()> {
    let mut archive = Archive::default();
    for path in ["lib", "lib/x86_64-linux-gnu", "lib64"] {
        archive.directory(path);
    }
    for (from, to) in LIBRARIES {
        let path = node.root().join(from);
        let content = fs::read(&path).with_context(|| path.display().to_string())?;
        archive.file(to, 0o755, &content);
    }
    archive.file(
        "bin/load",
        0o755,
        &fs::read(build("hawser-e2e", "--bin", "load")?)?,
    );
    let mut image = fs::read(dir.join("initrd.img"))?;
    image.extend(archive.finish());
    Ok(fs::write(dir.join(INITRD), image)?)
}

/// Takes the ELF file out of a bzImage (Documentation/arch/x86/boot.rst: setup_sects, payload_offset, payload_length):
/// cloud-hypervisor enters a kernel by the PVH note, which only the ELF file carries.
pub(super) fn extract_kernel(vmlinuz: &Path, vmlinux: &Path) -> Result<()> {
    let image = fs::read(vmlinuz)?;
    let payload = payload(&image).with_context(|| format!("{} is no bzImage", vmlinuz.display()))?;
    if !payload.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        bail!("the kernel in {} is not packed with zstd", vmlinuz.display());
    }
    let packed = vmlinux.with_extension("zst");
    fs::write(&packed, payload)?;
    output(
        Command::new("zstd")
            .args(["-d", "-q", "-f"])
            .arg(&packed)
            .arg("-o")
            .arg(vmlinux),
    )?;
    fs::remove_file(&packed)?;
    Ok(())
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    let setup_sectors = usize::from(*image.get(0x1f1)?);
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    // The last four bytes are the unpacked size, which is no part of the zstd frame.
    image.get(start..start + word(0x24c)?.checked_sub(4)?)
}
