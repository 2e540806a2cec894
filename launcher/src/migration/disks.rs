//! The guest's disks, as two launchers compare them before anything moves.
//!
//! What the guest cannot write, the target's launcher finds or makes in its own pod; that it is the same is seen by its size and
//! by samples of its content, all over it. What the guest writes is the very same disk in both pods ([`super::shared`]), or one
//! of the pod's own, whose content goes along ([`super::disk_copy`]).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::disk_copy::CopiedDisk;
use super::shared::{self, SharedDisk, TokenFile};
use crate::disks::Drive;

/// Bytes.
const SAMPLE: u64 = 64 << 10;
/// A disk of up to this many samples is read as a whole.
const SAMPLES: u64 = 128;

/// A disk with which a guest can migrate. It is described when somebody asks, once it exists as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MigratingDisk {
    name: String,
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The guest does not write it.
    Unwritten,
    /// The guest writes it, and both pods have it.
    Shared,
    /// The guest writes it, and each pod has its own.
    Copied { direct: bool },
}

impl MigratingDisk {
    /// Where its content goes along.
    pub(super) fn copied(&self) -> Option<CopiedDisk> {
        let Kind::Copied { direct } = self.kind else {
            return None;
        };
        Some(CopiedDisk {
            name: self.name.clone(),
            path: self.path.clone(),
            direct,
        })
    }
}

#[cfg(test)]
impl MigratingDisk {
    pub(super) fn unwritten(name: &str, path: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            path,
            kind: Kind::Unwritten,
        }
    }
}

/// For whom the disks are described.
#[derive(Debug, Clone, Copy)]
pub(super) enum For<'a> {
    /// For the target to compare.
    Target,
    /// To compare them with the source's.
    Source(&'a [DiskDescription]),
}

/// What one launcher knows of its disks.
#[derive(Debug, Default)]
pub(super) struct Described {
    pub(super) disks: Vec<DiskDescription>,
    /// What stands against them.
    pub(super) problems: Vec<String>,
    /// To be kept until the target has looked.
    pub(super) tokens: Vec<TokenFile>,
}

/// A disk, as two launchers compare it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiskDescription {
    pub(crate) name: String,
    /// Bytes.
    pub(crate) size: u64,
    /// SHA-256 over its samples; empty for one that the guest writes.
    pub(crate) digest: String,
    /// Its content goes along.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) copied: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shared: Option<SharedDisk>,
}

/// Those of the guest's disks that do not keep it from migrating.
pub(crate) fn migrating(drives: &[Drive]) -> Vec<MigratingDisk> {
    drives
        .iter()
        .filter_map(|drive| {
            let kind = match drive {
                drive if drive.readonly => Kind::Unwritten,
                drive if drive.shared => Kind::Shared,
                drive if drive.goes_along() => Kind::Copied { direct: drive.direct },
                _ => return None,
            };
            Some(MigratingDisk {
                name: drive.name.clone(),
                path: drive.path.clone(),
                kind,
            })
        })
        .collect()
}

/// Those of them whose content goes along.
pub(crate) fn copied(disks: &[MigratingDisk]) -> Vec<CopiedDisk> {
    disks.iter().filter_map(MigratingDisk::copied).collect()
}

/// Reads the disks, and writes beside those that are shared.
pub(super) fn describe(disks: &[MigratingDisk], whom: For<'_>) -> Described {
    let mut all = Described::default();
    for disk in disks {
        match one(disk, whom) {
            Ok((description, token)) => {
                all.disks.push(description);
                all.tokens.extend(token);
            }
            Err(error) => {
                let problem = format!("disk {}: {}: {error}", disk.name, disk.path.display());
                all.problems.push(problem);
            }
        }
    }
    all
}

fn one(disk: &MigratingDisk, whom: For<'_>) -> io::Result<(DiskDescription, Option<TokenFile>)> {
    let described = |size, digest, shared| DiskDescription {
        name: disk.name.clone(),
        size,
        digest,
        copied: disk.copied().is_some(),
        shared,
    };
    if disk.kind == Kind::Unwritten {
        let (size, digest) = sample(&disk.path)?;
        return Ok((described(size, digest, None), None));
    }
    let size = size(&mut File::open(&disk.path)?)?;
    if disk.kind != Kind::Shared {
        return Ok((described(size, String::new(), None), None));
    }
    let (shared, token) = match whom {
        For::Target => shared::at_source(&disk.path)?,
        For::Source(source) => {
            let theirs = source.iter().find(|other| other.name == disk.name);
            match theirs.and_then(|theirs| theirs.shared.as_ref()) {
                Some(theirs) => (shared::at_target(&disk.path, theirs)?, None),
                // The difference is said anyway.
                None => return Ok((described(size, String::new(), None), None)),
            }
        }
    };
    Ok((described(size, String::new(), Some(shared)), token))
}

/// A block device has no length by its metadata.
fn size(file: &mut File) -> io::Result<u64> {
    io::Seek::seek(file, io::SeekFrom::End(0))
}

fn sample(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let size = size(&mut file)?;
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
        let why = match target.iter().find(|other| other.name == disk.name) {
            Some(other) => difference(disk, other),
            None => Some("the target has no disk of this name".to_owned()),
        };
        reasons.extend(why.map(|why| format!("disk {}: {why}", disk.name)));
    }
    for disk in target {
        if !source.iter().any(|other| other.name == disk.name) {
            reasons.push(format!("disk {}: the source has no disk of this name", disk.name));
        }
    }
}

fn difference(source: &DiskDescription, target: &DiskDescription) -> Option<String> {
    if source.size != target.size {
        return Some(format!(
            "{} bytes at the source, {} at the target",
            source.size, target.size
        ));
    }
    if source.copied != target.copied {
        return Some(
            "it is a disk of the pod's own, whose content goes along, in one pod and not in the other"
                .to_owned(),
        );
    }
    match (&source.shared, &target.shared) {
        (Some(theirs), Some(ours)) => {
            let why = shared::difference(theirs, ours)?;
            Some(format!("it is not known to be the same in both pods: {why}"))
        }
        (None, None) if source.digest == target.digest => None,
        (None, None) => Some("its content is not the same at the source and at the target".to_owned()),
        (Some(_), None) => {
            Some("the source was started with --shared for it, and the target was not".to_owned())
        }
        (None, Some(_)) => {
            Some("the target was started with --shared for it, and the source was not".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(dir: &Path, name: &str, content: &[u8]) -> DiskDescription {
        let path = dir.join(name);
        std::fs::write(&path, content).unwrap();
        let mut found = describe(&[MigratingDisk::unwritten("seed", path)], For::Target);
        assert_eq!(found.problems, Vec::<String>::new());
        found.disks.remove(0)
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
        let found = describe(
            &[MigratingDisk::unwritten("gone", "/no/such/disk".into())],
            For::Target,
        );
        assert!(found.disks.is_empty());
        assert!(
            found.problems[0].starts_with("disk gone: /no/such/disk: "),
            "{found:?}"
        );

        let disk = |name: &str, size, digest: &str| DiskDescription {
            name: name.to_owned(),
            size,
            digest: digest.to_owned(),
            copied: false,
            shared: None,
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
