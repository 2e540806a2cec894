//! Whether a disk that the guest writes is the very same one in both pods.
//!
//! If it were not, the guest would go on at the target with a disk that lacks what it has written. A name, a size and a
//! user's word do not show that it is; each of these does:
//!
//! - both launchers see the same inode of the same kernel: two pods of one node have the same volume;
//! - the source writes a token into a file beside the disk's, and the target finds it there. The file system must be one
//!   that several nodes may have mounted at once: two nodes that mount one ext4 see each other's files too, now and then, and
//!   destroy it;
//! - two block devices have the same world-wide identifier, which the storage assigns.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hawser_linux::safe_path::{Links, RegularFile, names};
use nix::fcntl::OFlag;
use nix::sys::stat::{major, minor};
use nix::sys::statfs::statfs;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::fresh_id::fresh_id;

/// A token's file: this, and a part of the token that no other has.
const TOKEN_FILE: &str = ".hawser-migration-";
/// Bytes of a token's file that are read.
const MAX_TOKEN: u64 = 256;

/// File systems that several nodes may have mounted at once: statfs(2)'s type, and the name.
const SHARED_FILE_SYSTEMS: &[(i64, &str)] = &[
    (0x6969, "NFS"),
    (0x00c3_6400, "CephFS"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x0102_1997, "9P"),
    // GlusterFS, JuiceFS and virtiofs; and local ones, which the token tells apart.
    (0x6573_5546, "FUSE"),
];

/// A shared disk as one launcher sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SharedDisk {
    /// Of the kernel: /proc/sys/kernel/random/boot_id.
    boot: String,
    /// The file or the device, among those of this kernel.
    object: String,
    medium: Medium,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Medium {
    File {
        file_system: String,
        /// Several nodes may have it mounted at once.
        several_nodes: bool,
        token: Token,
    },
    Device {
        /// World-wide identifier.
        wwid: Option<String>,
    },
}

/// What the source has written beside the disk's file, and the target has found there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Token {
    Is {
        file: String,
        sha256: String,
    },
    /// Why there is none.
    None(String),
}

/// A token's file at the source; removed when the target has looked.
#[derive(Debug)]
pub(crate) struct TokenFile(PathBuf);

impl Drop for TokenFile {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.0);
        // Whoever drops it serves the guest, and the storage may not answer.
        std::thread::spawn(move || drop(fs::remove_file(path)));
    }
}

/// The disk at `path` as the source sees it, with a token where it is a file.
pub(super) fn at_source(path: &Path) -> io::Result<(SharedDisk, Option<TokenFile>)> {
    let mut placed = None;
    let disk = look(path, |directory| match place(directory) {
        Ok((token, file)) => {
            placed = Some(file);
            token
        }
        Err(error) => Token::None(format!("the source cannot write beside it: {error}")),
    })?;
    Ok((disk, placed))
}

/// The disk at `path` as the target sees it, with what it finds of the source's token.
pub(super) fn at_target(path: &Path, source: &SharedDisk) -> io::Result<SharedDisk> {
    look(path, |directory| match &source.medium {
        Medium::File {
            token: Token::Is { file, .. },
            ..
        } => match find(directory, file) {
            Ok(token) => token,
            Err(why) => Token::None(why),
        },
        _ => Token::None("the source has placed none".to_owned()),
    })
}

fn look(path: &Path, token: impl FnOnce(&Path) -> Token) -> io::Result<SharedDisk> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned();
    let metadata = fs::metadata(path)?;
    if metadata.file_type().is_block_device() {
        let (major, minor) = (major(metadata.rdev()), minor(metadata.rdev()));
        return Ok(SharedDisk {
            boot,
            object: format!("block device {major}:{minor}"),
            medium: Medium::Device {
                wwid: wwid(&PathBuf::from(format!("/sys/dev/block/{major}:{minor}"))),
            },
        });
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    let kind = statfs(directory)?.filesystem_type().0;
    let shared = SHARED_FILE_SYSTEMS.iter().find(|(known, _)| *known == kind);
    Ok(SharedDisk {
        boot,
        object: format!("inode {} of device {}", metadata.ino(), metadata.dev()),
        medium: Medium::File {
            file_system: shared.map_or_else(|| format!("type {kind:#x}"), |(_, name)| (*name).to_owned()),
            several_nodes: shared.is_some(),
            token: token(directory),
        },
    })
}

/// Writes a token of its own into `directory`, and removes what a launcher that was killed has left there.
fn place(directory: &Path) -> io::Result<(Token, TokenFile)> {
    for name in names(directory, "").unwrap_or_default() {
        if name.starts_with(TOKEN_FILE) {
            let _ = fs::remove_file(directory.join(name));
        }
    }
    // A name that was never there: a client of NFS remembers for a while which files are not.
    let file = format!("{TOKEN_FILE}{}", fresh_id()?);
    let content = fresh_id()?;
    let path = directory.join(&file);
    let mut opened = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(&path)?;
    let guard = TokenFile(path);
    opened.write_all(content.as_bytes())?;
    opened.sync_all()?;
    let sha256 = digest(content.as_bytes());
    Ok((Token::Is { file, sha256 }, guard))
}

fn find(directory: &Path, file: &str) -> Result<Token, String> {
    // It is another launcher's word, and becomes a path.
    let plain = file
        .strip_prefix(TOKEN_FILE)
        .is_some_and(|rest| rest.len() <= 64 && rest.bytes().all(|b| b.is_ascii_hexdigit()));
    if !plain {
        return Err("the source names a file that is no token".to_owned());
    }
    let missing =
        |error: &dyn std::fmt::Display| format!("the source's token is not beside it in this pod: {error}");
    let found = RegularFile::find(directory, file, Links::None).map_err(|problem| missing(&problem))?;
    let mut content = Vec::new();
    let opened: File = found
        .open(false, OFlag::O_NONBLOCK)
        .map_err(|problem| missing(&problem))?;
    opened
        .take(MAX_TOKEN)
        .read_to_end(&mut content)
        .map_err(|error| missing(&error))?;
    Ok(Token::Is {
        file: file.to_owned(),
        sha256: digest(&content),
    })
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Of the device with this directory in sysfs: NVMe's and SCSI's, device mapper's (a multipath device, a logical volume), or
/// virtio's serial number. A partition has its disk's, and its number.
fn wwid(directory: &Path) -> Option<String> {
    let read = |name: &str| {
        let text = fs::read_to_string(directory.join(name)).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    };
    if let Some(number) = read("partition") {
        let disk = fs::canonicalize(directory).ok()?;
        return Some(format!("{} partition {number}", wwid(disk.parent()?)?));
    }
    ["wwid", "device/wwid", "dm/uuid", "serial"]
        .into_iter()
        .find_map(read)
}

/// Why the target's disk is not known to be the source's.
pub(super) fn difference(source: &SharedDisk, target: &SharedDisk) -> Option<String> {
    if source.boot == target.boot && source.object == target.object {
        return None;
    }
    let here = source.boot == target.boot;
    match (&source.medium, &target.medium) {
        (Medium::Device { wwid: Some(theirs) }, Medium::Device { wwid: Some(ours) }) if theirs == ours => None,
        (Medium::Device { wwid: Some(theirs) }, Medium::Device { wwid: Some(ours) }) => Some(format!(
            "it is the block device {theirs} at the source and {ours} at the target"
        )),
        (Medium::Device { .. }, Medium::Device { .. }) => Some(
            "the block devices have no world-wide identifier, so that nothing shows whether they are the same".to_owned(),
        ),
        (
            Medium::File {
                token: theirs @ Token::Is { .. },
                several_nodes: at_source,
                file_system: source_type,
                ..
            },
            Medium::File {
                token: ours,
                several_nodes: at_target,
                file_system: target_type,
            },
        ) => match ours {
            Token::None(why) => Some(why.clone()),
            ours if ours != theirs => Some("the source's token has another content in this pod".to_owned()),
            // One node may have a network's file system mounted twice.
            _ if *at_source && *at_target => None,
            _ if here => Some("both pods see the directory, and two different files in it".to_owned()),
            _ => Some(format!(
                "its file system ({}) is one that a single node may mount: two nodes that mount it destroy it",
                if *at_source { target_type } else { source_type }
            )),
        },
        (
            Medium::File {
                token: Token::None(why),
                ..
            },
            Medium::File { .. },
        ) => Some(why.clone()),
        _ => Some("it is a file in one pod and a block device in the other".to_owned()),
    }
}

#[cfg(test)]
#[path = "shared_tests.rs"]
mod tests;
