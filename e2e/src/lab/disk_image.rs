//! Disks for guests, made without mounting anything and without a loop device.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::process::output;

/// MiB.
const ESP_SIZE: u64 = 64;
/// Sparse: what it takes is what is in it.
const ROOT_SIZE: u64 = 1100;
/// Where the firmware looks on a disk that it does not know.
const DEFAULT_LOADER: &str = "::/EFI/BOOT/BOOTX64.EFI";

/// A qcow2 image at `image`, all of which is an ext4 file system with what is in `root`. Not compressed: unpacking
/// costs an emulated processor more than reading does.
pub(super) fn plain(root: &Path, image: &Path) -> Result<()> {
    let system = file_system(root, image)?;
    convert(&system, image)?;
    Ok(fs::remove_file(system)?)
}

/// The same with a partition table: an EFI system partition with `loader` alone, and the file system as the second.
pub(super) fn partitioned(root: &Path, loader: &Path, image: &Path) -> Result<()> {
    let system = file_system(root, image)?;
    let esp = efi_partition(loader, image)?;
    let raw = image.with_extension("raw");
    // A MiB before for the table, one behind for its copy.
    empty_file(&raw, ESP_SIZE + ROOT_SIZE + 2)?;
    let table = image.with_extension("table");
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
    for (part, at) in [(&esp, 1), (&system, 1 + ESP_SIZE)] {
        output(
            Command::new("dd")
                .arg(format!("if={}", part.display()))
                .arg(format!("of={}", raw.display()))
                .args([
                    "bs=1M",
                    &format!("seek={at}"),
                    "conv=notrunc,sparse",
                    "status=none",
                ]),
        )?;
    }
    convert(&raw, image)?;
    for used in [table, raw, esp, system] {
        fs::remove_file(used)?;
    }
    Ok(())
}

fn file_system(root: &Path, image: &Path) -> Result<PathBuf> {
    let system = image.with_extension("root");
    empty_file(&system, ROOT_SIZE)?;
    // -d fills the file system without mounting it.
    output(
        Command::new("mkfs.ext4")
            .args(["-q", "-F", "-d"])
            .arg(root)
            .arg(&system),
    )?;
    Ok(system)
}

fn efi_partition(loader: &Path, image: &Path) -> Result<PathBuf> {
    let esp = image.with_extension("esp");
    empty_file(&esp, ESP_SIZE)?;
    let on_it = |program: &str| {
        let mut command = Command::new(program);
        command.arg("-i").arg(&esp);
        command
    };
    output(on_it("mformat").args(["-F", "-v", "ESP", "::"]))?;
    output(on_it("mmd").args(["::/EFI", "::/EFI/BOOT"]))?;
    output(on_it("mcopy").arg(loader).arg(DEFAULT_LOADER))?;
    Ok(esp)
}

fn empty_file(path: &Path, mib: u64) -> Result<()> {
    Ok(fs::File::create(path)?.set_len(mib << 20)?)
}

fn convert(raw: &Path, image: &Path) -> Result<()> {
    output(
        Command::new("qemu-img")
            .args(["convert", "-O", "qcow2"])
            .arg(raw)
            .arg(image),
    )
    .map(drop)
}
