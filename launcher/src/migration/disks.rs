//! Disks that a guest may take for granted at the target: those that it cannot write.
//!
//! Nobody copies a disk. The target's launcher finds or makes each one in its own pod; that it is the same is seen by its
//! size and by samples of its content, all over it. What a guest can write is another matter: the target would have to
//! have the very same disk, and nothing in a pod says whether a claim is shared.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::disks::Drive;

/// Bytes.
const SAMPLE: u64 = 64 << 10;
/// A disk of up to this many samples is read as a whole.
const SAMPLES: u64 = 128;

/// A disk, as two launchers compare it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiskDescription {
    pub(crate) name: String,
    /// Bytes.
    pub(crate) size: u64,
    /// SHA-256 over its samples.
    pub(crate) digest: String,
}

/// The disks to describe when somebody asks: those that exist as files once they are made.
pub(crate) fn readonly(drives: &[Drive]) -> Vec<(String, PathBuf)> {
    drives
        .iter()
        .filter(|drive| drive.readonly)
        .map(|drive| (drive.name.clone(), drive.path.clone()))
        .collect()
}

/// The descriptions, and what stands against them.
pub(crate) fn describe(disks: &[(String, PathBuf)]) -> (Vec<DiskDescription>, Vec<String>) {
    let mut descriptions = Vec::new();
    let mut problems = Vec::new();
    for (name, path) in disks {
        match sample(path) {
            Ok((size, digest)) => descriptions.push(DiskDescription {
                name: name.clone(),
                size,
                digest,
            }),
            Err(error) => problems.push(format!("disk {name}: {}: {error}", path.display())),
        }
    }
    (descriptions, problems)
}

fn sample(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    // A block device has no length by its metadata.
    let size = io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; SAMPLE as usize];
    let count = size.div_ceil(SAMPLE).min(SAMPLES);
    for index in 0..count {
        // From the beginning to the very end; one behind the other where there are few.
        let room = size.saturating_sub(SAMPLE);
        let at = match count.checked_sub(1) {
            Some(last) if last > 0 => {
                u64::try_from(u128::from(room) * u128::from(index) / u128::from(last)).unwrap_or(room)
            }
            _ => 0,
        };
        let length = SAMPLE.min(size.saturating_sub(at));
        let part = buffer
            .get_mut(..usize::try_from(length).unwrap_or_default())
            .unwrap_or_default();
        file.read_exact_at(part, at)?;
        hash.update(&*part);
    }
    let digest = hash.finalize();
    Ok((size, digest.iter().map(|byte| format!("{byte:02x}")).collect()))
}

/// Every disk that is not the same on both sides.
pub(super) fn differences(source: &[DiskDescription], target: &[DiskDescription], reasons: &mut Vec<String>) {
    for disk in source {
        match target.iter().find(|other| other.name == disk.name) {
            Some(other) if other == disk => {}
            Some(other) if other.size != disk.size => reasons.push(format!(
                "disk {}: {} bytes at the source, {} at the target",
                disk.name, disk.size, other.size
            )),
            Some(_) => reasons.push(format!(
                "disk {}: its content is not the same at the source and at the target",
                disk.name
            )),
            None => reasons.push(format!("disk {}: the target has no disk of this name", disk.name)),
        }
    }
    for disk in target {
        if !source.iter().any(|other| other.name == disk.name) {
            reasons.push(format!("disk {}: the source has no disk of this name", disk.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(dir: &Path, name: &str, content: &[u8]) -> DiskDescription {
        let path = dir.join(name);
        std::fs::write(&path, content).unwrap();
        let (mut found, problems) = describe(&[("seed".to_owned(), path)]);
        assert_eq!(problems, Vec::<String>::new());
        found.remove(0)
    }

    #[test]
    fn a_changed_byte_at_either_end_is_seen_in_a_disk_of_any_size() {
        let dir = tempfile::tempdir().unwrap();
        for size in [1, 512, 65_536, 65_537, 200_000, 12 << 20] {
            let mut content = vec![7; size];
            let before = described(dir.path(), "a", &content);
            assert_eq!(before.size, size as u64);
            assert_eq!(described(dir.path(), "b", &content), before);
            for at in [0, size - 1] {
                content[at] ^= 1;
                assert_ne!(described(dir.path(), "b", &content), before, "{size} at {at}");
                content[at] ^= 1;
            }
        }
        // One that is read as a whole, in its middle.
        let mut content = vec![7; 200_000];
        let before = described(dir.path(), "a", &content);
        content[100_000] = 8;
        assert_ne!(described(dir.path(), "a", &content), before);
    }

    #[test]
    fn what_cannot_be_read_is_a_reason_and_so_is_each_difference() {
        let (found, problems) = describe(&[("gone".to_owned(), "/no/such/disk".into())]);
        assert!(found.is_empty());
        assert!(
            problems[0].starts_with("disk gone: /no/such/disk: "),
            "{problems:?}"
        );

        let disk = |name: &str, size, digest: &str| DiskDescription {
            name: name.to_owned(),
            size,
            digest: digest.to_owned(),
        };
        let source = [
            disk("a", 1, "x"),
            disk("b", 1, "x"),
            disk("c", 1, "x"),
            disk("d", 1, "x"),
        ];
        let target = [
            disk("a", 1, "x"),
            disk("b", 2, "x"),
            disk("c", 1, "y"),
            disk("e", 1, "x"),
        ];
        let mut reasons = Vec::new();
        differences(&source, &target, &mut reasons);
        assert_eq!(reasons.len(), 4, "{reasons:?}");
        assert!(
            reasons
                .iter()
                .any(|reason| reason == "disk d: the target has no disk of this name"),
            "{reasons:?}"
        );
        for (reason, name) in reasons.iter().zip(["b", "c", "d", "e"]) {
            assert!(reason.starts_with(&format!("disk {name}: ")), "{reasons:?}");
        }
    }
}
