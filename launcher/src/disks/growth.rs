//! How much room the guest's temporary disks take.
//!
//! A guest writes to an overlay or to an empty disk, and both grow in the state directory. cloud-hypervisor does not use the
//! clusters of an overlay again that a guest has discarded or zeroed (its issue 8597), so an overlay can become larger than the
//! disk that it is for, and nothing else bounds it. It is looked at now and then, and what it takes is said.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Drive, Make, qcow2};
use crate::status::DiskStatus;

/// Between two looks.
pub(crate) const INTERVAL: Duration = Duration::from_secs(30);
/// st_blocks(2) counts these.
const BLOCK: u64 = 512;

/// The temporary disks that a guest writes.
#[derive(Debug)]
pub(crate) struct Growth {
    disks: Vec<Growing>,
}

#[derive(Debug)]
struct Growing {
    name: String,
    path: PathBuf,
    /// Of the disk as the guest sees it.
    size: u64,
    /// Said next when it takes more than this.
    bound: u64,
}

impl Growth {
    pub(crate) fn of(drives: &[Drive]) -> Self {
        let growing = |drive: &Drive| {
            let size = match drive.make.as_ref()? {
                Make::Image(image) if drive.base.is_some() => qcow2::overlays_size(image)?,
                Make::Empty(size) | Make::Copy { size, .. } => *size,
                _ => return None,
            };
            Some(Growing {
                name: drive.name.clone(),
                path: drive.path.clone(),
                size,
                // Its tables take a little room of their own.
                bound: size.saturating_add(size / 16),
            })
        };
        let written = drives.iter().filter(|drive| !drive.readonly);
        Self {
            disks: written.filter_map(growing).collect(),
        }
    }

    /// What each takes now.
    pub(crate) fn status(&self) -> Vec<DiskStatus> {
        let status = |disk: &Growing| DiskStatus {
            name: disk.name.clone(),
            size: disk.size,
            taken: taken(&disk.path),
        };
        self.disks.iter().map(status).collect()
    }

    /// Says which have outgrown the disk that they are for; again when one has doubled.
    pub(crate) fn look(&mut self) {
        for disk in &mut self.disks {
            let Some(taken) = taken(&disk.path).filter(|taken| *taken > disk.bound) else {
                continue;
            };
            disk.bound = taken.saturating_mul(2);
            tracing::warn!(
                event = "disk-outgrown",
                disk = %disk.name,
                "disk {}: its file takes {taken} bytes for a disk of {} bytes, because cloud-hypervisor does not use room again \
                 that the guest has freed: start the guest again, or give the state directory more room",
                disk.name,
                disk.size
            );
        }
    }

    /// Says where the state directory has less room than the guest can write.
    pub(crate) fn compare_with_room(&self, directory: &Path) {
        let Ok(room) = nix::sys::statvfs::statvfs(directory) else {
            return;
        };
        let room = room.blocks_available().saturating_mul(room.fragment_size());
        let sizes = self.disks.iter().map(|disk| disk.size);
        let wanted = sizes.fold(0_u64, u64::saturating_add);
        if wanted > room {
            tracing::warn!(
                event = "disk-room-short",
                "the guest's temporary disks can take {wanted} bytes, and the state directory has room for {room}: a guest that \
                 writes more gets I/O errors; give the state directory's volume more room"
            );
        }
    }
}

fn taken(path: &Path) -> Option<u64> {
    Some(std::fs::metadata(path).ok()?.blocks().saturating_mul(BLOCK))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disks::ImageType;

    #[test]
    fn what_an_overlay_takes_is_seen_and_said_once_for_each_doubling() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root");
        let image = qcow2::overlay(1 << 20, Path::new("/base"), "raw").unwrap();
        std::fs::write(&path, &image).unwrap();
        let drive = Drive {
            name: "root".into(),
            path: path.clone(),
            image_type: ImageType::Qcow2,
            base: Some("/base".into()),
            readonly: false,
            direct: false,
            shared: false,
            serial: None,
            boot_order: None,
            boots: None,
            make: Some(Make::Image(image)),
        };
        let readonly = Drive {
            readonly: true,
            ..drive.clone()
        };
        let mut growth = Growth::of(&[drive, readonly]);
        let [status] = growth.status().try_into().unwrap();
        assert_eq!((status.name.as_str(), status.size), ("root", 1 << 20));
        assert!(status.taken.unwrap() <= 1 << 18, "{status:?}");
        growth.look();
        let first = growth.disks[0].bound;
        for (written, doubles) in [
            (1 << 20, false),
            (2 << 20, true),
            (2 << 20, false),
            (8 << 20, true),
        ] {
            let before = growth.disks[0].bound;
            std::fs::write(&path, vec![1; written]).unwrap();
            growth.look();
            assert_eq!(growth.disks[0].bound > before, doubles, "{written}");
        }
        assert!(growth.disks[0].bound > first);
        std::fs::remove_file(&path).unwrap();
        growth.look();
        assert_eq!(growth.status()[0].taken, None);
    }
}
