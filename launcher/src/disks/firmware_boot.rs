//! Whether the UEFI firmware can find a boot loader on a disk: it looks for one in FAT file systems and on CD images for EFI
//! (UEFI 2.10, "Boot Manager" and "File System Format").
//!
//! What is said is said of what can be read here: compressed clusters of a qcow2 image, for one, are not.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use super::{Drive, ImageType, qcow2};
use crate::spec::GuestSpec;

const SECTOR: u64 = 512;
/// The type of an EFI system partition in a GUID partition table, and in a master boot record.
const SYSTEM_PARTITION: [u8; 16] = [
    0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
];
const SYSTEM_PARTITION_MBR: u8 = 0xef;
const EXTENDED_MBR: [u8; 3] = [0x05, 0x0f, 0x85];
/// More entries than a table has in practice.
const MAX_ENTRIES: u32 = 256;
/// A CD's sectors; the volume descriptors begin at the sixteenth.
const CD_SECTOR: u64 = 2048;
const EFI_PLATFORM: u8 = 0xef;

/// What to note of a guest that boots by UEFI and has no disk to boot from.
pub(crate) fn no_boot_loader<E>(guest: &GuestSpec, drives: &[Result<Drive, E>]) -> Option<String> {
    let bootless = |found: &Result<Drive, E>| found.as_ref().is_ok_and(|drive| drive.boots == Some(false));
    let none = drives.iter().all(bootless);
    (guest.kernel_boot.is_none() && none).then(|| {
        "the guest cannot boot: it boots by UEFI, and none of its disks has an EFI system partition, or another FAT file system \
         with a boot loader: use an image that is made for UEFI"
            .to_owned()
    })
}

/// Whether a boot loader may be on the disk in `file`. Nothing where that cannot be told.
pub(super) fn of(file: &mut File, image_type: ImageType) -> Option<bool> {
    // As the file may be open for direct access, which takes aligned reads alone.
    let plain = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
    let disk = match image_type {
        ImageType::Raw => Disk::Raw(plain),
        ImageType::Qcow2 => Disk::Qcow2(plain),
    };
    disk.boots()
}

enum Disk {
    Raw(File),
    Qcow2(File),
}

impl Disk {
    fn boots(&self) -> Option<bool> {
        let first = self.sector(0)?;
        if is_fat(&first) || self.is_cd_for_efi() == Some(true) {
            return Some(true);
        }
        let Some(second) = self.sector(SECTOR) else {
            return Some(false);
        };
        if second.starts_with(b"EFI PART") {
            return self.guid_table(&second);
        }
        // A table of a disk with larger sectors is not read here.
        if self
            .sector(4096)
            .is_some_and(|table| table.starts_with(b"EFI PART"))
        {
            return None;
        }
        if !first.ends_with(&[0x55, 0xaa]) {
            return Some(false);
        }
        self.master_boot_record(&first)
    }

    fn guid_table(&self, header: &[u8]) -> Option<bool> {
        let table = number(header, 72, 8)?.checked_mul(SECTOR)?;
        let count = u32::try_from(number(header, 80, 4)?).ok()?.min(MAX_ENTRIES);
        let size = number(header, 84, 4)?.clamp(128, 4096);
        for index in 0..u64::from(count) {
            let at = table.checked_add(index.checked_mul(size)?)?;
            let sector = self.sector(at / SECTOR * SECTOR)?;
            let entry = sector.get(usize::try_from(at % SECTOR).ok()?..)?;
            let kind = entry.get(..16)?;
            if kind == SYSTEM_PARTITION {
                return Some(true);
            }
            if kind.iter().any(|byte| *byte != 0) {
                let start = number(entry, 32, 8)?.checked_mul(SECTOR)?;
                if self.sector(start).is_some_and(|sector| is_fat(&sector)) {
                    return Some(true);
                }
            }
        }
        Some(false)
    }

    fn master_boot_record(&self, record: &[u8]) -> Option<bool> {
        let mut known = true;
        for index in 0..4 {
            let entry = record.get(446 + 16 * index..)?.get(..16)?;
            let kind = *entry.get(4)?;
            let start = number(entry, 8, 4)?.checked_mul(SECTOR)?;
            let is_fat = || self.sector(start).is_some_and(|sector| is_fat(&sector));
            if kind == SYSTEM_PARTITION_MBR || (kind != 0 && start > 0 && is_fat()) {
                return Some(true);
            }
            // Partitions inside of it are not looked for.
            known &= !EXTENDED_MBR.contains(&kind);
        }
        known.then_some(false)
    }

    /// By El Torito's boot catalog.
    fn is_cd_for_efi(&self) -> Option<bool> {
        let record = self.sector(17 * CD_SECTOR)?;
        if !record.starts_with(b"\x00CD001") || record.get(7..16)? != b"EL TORITO" {
            return Some(false);
        }
        let catalog = number(&record, 71, 4)?.checked_mul(CD_SECTOR)?;
        let catalog = self.sector(catalog)?;
        let mut entries = catalog.chunks(32);
        Some(entries.any(|entry| matches!(entry, [1 | 0x90 | 0x91, EFI_PLATFORM, ..])))
    }

    /// The 512 bytes at `at`, of the disk that the guest sees.
    fn sector(&self, at: u64) -> Option<[u8; 512]> {
        let (file, at) = match self {
            Self::Raw(file) => (file, at),
            Self::Qcow2(file) => match qcow2::place(at, |at| word(file, at))? {
                qcow2::Place::Zero => return Some([0; 512]),
                qcow2::Place::At(at) => (file, at),
            },
        };
        let mut bytes = [0; 512];
        file.read_exact_at(&mut bytes, at).ok()?;
        Some(bytes)
    }
}

fn word(file: &File, at: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at).ok()?;
    Some(u64::from_be_bytes(bytes))
}

/// A little-endian number of `length` bytes.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..)?.get(..length)?;
    Some(
        bytes
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte)),
    )
}

/// The first sector of a FAT file system.
fn is_fat(sector: &[u8; 512]) -> bool {
    let named = |at: usize| sector.get(at..).is_some_and(|rest| rest.starts_with(b"FAT"));
    sector.ends_with(&[0x55, 0xaa]) && (named(54) || named(82))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn boots(image: &[u8], image_type: ImageType) -> Option<bool> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(image).unwrap();
        of(&mut file, image_type)
    }

    fn fat(disk: &mut [u8], at: usize) {
        disk[at + 54..at + 57].copy_from_slice(b"FAT");
        disk[at + 510..at + 512].copy_from_slice(&[0x55, 0xaa]);
    }

    fn mbr(kind: u8) -> Vec<u8> {
        let mut disk = vec![0; 1 << 20];
        disk[450] = kind;
        disk[454] = 8;
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk
    }

    fn gpt(kind: &[u8; 16]) -> Vec<u8> {
        let mut disk = mbr(0xee);
        disk[512..520].copy_from_slice(b"EFI PART");
        disk[512 + 72] = 2;
        disk[512 + 80] = 128;
        disk[512 + 84] = 128;
        disk[1024 + 128..1024 + 144].copy_from_slice(kind);
        disk[1024 + 128 + 32] = 64;
        disk
    }

    #[test]
    fn disks_with_and_without_a_place_for_a_boot_loader() {
        let raw = |disk: &[u8]| boots(disk, ImageType::Raw);
        assert_eq!(raw(&vec![0; 1 << 20]), Some(false), "blank");
        assert_eq!(raw(&mbr(0x83)), Some(false), "Linux alone");
        assert_eq!(raw(&mbr(0xef)), Some(true));
        assert_eq!(raw(&mbr(0x05)), None, "what is inside is not known");
        assert_eq!(raw(&gpt(&SYSTEM_PARTITION)), Some(true));
        assert_eq!(raw(&gpt(&[7; 16])), Some(false));
        let mut with_fat = gpt(&[7; 16]);
        fat(&mut with_fat, 64 * 512);
        assert_eq!(raw(&with_fat), Some(true));
        let mut whole = vec![0; 4096];
        fat(&mut whole, 0);
        assert_eq!(raw(&whole), Some(true), "one file system over the whole disk");
    }

    #[test]
    fn cds() {
        let mut cd = vec![0; 64 * 2048];
        cd[17 * 2048..17 * 2048 + 7].copy_from_slice(b"\x00CD001\x01");
        cd[17 * 2048 + 7..17 * 2048 + 16].copy_from_slice(b"EL TORITO");
        cd[17 * 2048 + 71] = 20;
        assert_eq!(boots(&cd, ImageType::Raw), Some(false), "for BIOS alone");
        cd[20 * 2048] = 1;
        cd[20 * 2048 + 64..20 * 2048 + 66].copy_from_slice(&[0x91, 0xef]);
        assert_eq!(boots(&cd, ImageType::Raw), Some(true));
    }

    #[test]
    fn qcow2_images_as_far_as_they_can_be_read() {
        // Header, level 1, level 2, and one cluster of data.
        let cluster = 1 << 16;
        let mut image = vec![0; 4 * cluster];
        image[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        image[20..24].copy_from_slice(&16_u32.to_be_bytes());
        image[36..40].copy_from_slice(&1_u32.to_be_bytes());
        image[40..48].copy_from_slice(&(cluster as u64).to_be_bytes());
        assert_eq!(boots(&image, ImageType::Qcow2), Some(false), "nothing is written");
        image[cluster..cluster + 8].copy_from_slice(&(2 * cluster as u64).to_be_bytes());
        image[2 * cluster..2 * cluster + 8].copy_from_slice(&(3 * cluster as u64).to_be_bytes());
        image[3 * cluster..].copy_from_slice(&gpt(&SYSTEM_PARTITION)[..cluster]);
        assert_eq!(boots(&image, ImageType::Qcow2), Some(true));
        image[2 * cluster] = 0x40;
        assert_eq!(boots(&image, ImageType::Qcow2), None, "compressed");
    }

    #[test]
    fn a_guest_that_cannot_boot_is_told_of() {
        let text = "{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {name: web}, spec: {domain: {memory:
            {guest: 256Mi}}, volumes: [{name: a, emptyDisk: {capacity: 1Mi}}]}}";
        let guest = crate::spec::load(text).unwrap().spec;
        let drive = |boots| Drive {
            name: "a".into(),
            path: "/a".into(),
            image_type: ImageType::Raw,
            base: None,
            readonly: false,
            direct: false,
            shared: false,
            serial: None,
            boot_order: None,
            boots,
            make: None,
        };
        let told = |all: &[Option<bool>]| {
            let drives: Vec<Result<Drive, ()>> = all.iter().map(|boots| Ok(drive(*boots))).collect();
            no_boot_loader(&guest, &drives).is_some()
        };
        assert!(told(&[Some(false), Some(false)]));
        assert!(!told(&[Some(false), Some(true)]) && !told(&[Some(false), None]));
    }
}
