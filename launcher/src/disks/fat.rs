//! A read-only disk with a few files on it: one FAT volume over the whole disk, which every guest can read.
//!
//! The same files give the same bytes: there are no times in it, and the volume's number is made from the content.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Cursor, Write};

use fatfs::{Dir, FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use sha2::{Digest, Sha256};

use crate::spec::VolumeLabel;

/// Path, with `/` between its parts, and content.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Bytes that all files may have together: a secret or a configMap has 1 MiB at most.
pub(crate) const MAX_BYTES: usize = 8 << 20;
pub(crate) const MAX_FILES: usize = 128;

const MIB: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("{0:?} is not a valid file name on a FAT volume")]
    Name(String),
    #[error("{0:?} and another name differ in case only, which a FAT volume cannot tell apart")]
    Case(String),
    #[error("make the FAT volume")]
    Write(#[from] io::Error),
}

/// The disk's bytes.
pub(crate) fn image(label: &VolumeLabel, files: &Files) -> Result<Vec<u8>, Problem> {
    check_names(files)?;
    // Every file wastes at most a cluster, and names and tables take their share.
    let content: usize = files.values().map(Vec::len).sum();
    let wanted = content
        .saturating_add(content / 16)
        .saturating_add(files.len().saturating_mul(4096))
        .saturating_add(MIB / 2);
    let mut bytes = vec![0; wanted.next_multiple_of(MIB)];
    let mut padded = [b' '; VolumeLabel::MAX];
    for (to, from) in padded.iter_mut().zip(label.as_str().bytes()) {
        *to = from;
    }
    // A name of 255 characters takes 21 entries of a directory, and the root's size is fixed.
    let entries = files
        .len()
        .saturating_mul(21)
        .saturating_add(16)
        .next_multiple_of(16);
    let options = FormatVolumeOptions::new()
        .volume_label(padded)
        .volume_id(number(label, files))
        .max_root_dir_entries(u16::try_from(entries.max(512)).unwrap_or(u16::MAX - 15));
    let mut cursor = Cursor::new(bytes.as_mut_slice());
    format_volume(&mut cursor, options)?;
    {
        let volume = FileSystem::new(&mut cursor, FsOptions::new().update_accessed_date(false))?;
        let root = volume.root_dir();
        for (path, content) in files {
            put(&root, path, content)?;
        }
    }
    Ok(bytes)
}

fn put<T: fatfs::ReadWriteSeek>(root: &Dir<'_, T>, path: &str, content: &[u8]) -> io::Result<()> {
    let mut directory = root.clone();
    let mut rest = path;
    while let Some((parent, inside)) = rest.split_once('/') {
        directory = directory.create_dir(parent)?;
        rest = inside;
    }
    let mut file = directory.create_file(rest)?;
    file.write_all(content)?;
    file.flush()
}

fn check_names(files: &Files) -> Result<(), Problem> {
    let mut seen = BTreeSet::new();
    for path in files.keys() {
        let good = |part: &str| {
            let plain = |c: char| !c.is_control() && !"\"*:<>?\\|".contains(c);
            (1..=255).contains(&part.encode_utf16().count())
                && part.chars().all(plain)
                && !part.ends_with(['.', ' '])
        };
        if !path.split('/').all(good) {
            return Err(Problem::Name(path.clone()));
        }
        if !seen.insert(path.to_lowercase()) {
            return Err(Problem::Case(path.clone()));
        }
    }
    Ok(())
}

fn number(label: &VolumeLabel, files: &Files) -> u32 {
    let mut hasher = Sha256::new();
    hasher.update(label.as_str());
    for (path, content) in files {
        hasher.update((path.len() as u64).to_le_bytes());
        hasher.update(path);
        hasher.update((content.len() as u64).to_le_bytes());
        hasher.update(content);
    }
    let digest = hasher.finalize();
    let first = digest.first_chunk().copied().unwrap_or_default();
    u32::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn label() -> VolumeLabel {
        VolumeLabel::new("cidata").unwrap()
    }

    fn files(list: &[(&str, &[u8])]) -> Files {
        list.iter()
            .map(|(path, content)| ((*path).to_owned(), content.to_vec()))
            .collect()
    }

    fn read(image: Vec<u8>, path: &str) -> Vec<u8> {
        let volume = FileSystem::new(Cursor::new(image), FsOptions::new()).unwrap();
        let mut content = Vec::new();
        let root = volume.root_dir();
        root.open_file(path).unwrap().read_to_end(&mut content).unwrap();
        content
    }

    #[test]
    fn what_is_put_in_is_read_back() {
        let long = "a-name-that-is-longer-than-eleven-characters.Ext";
        let big = vec![7; 3 << 20];
        let files = files(&[
            ("user-data", b"#cloud-config"),
            ("empty", b""),
            ("openstack/latest/meta_data.json", b"{}"),
            (long, &big),
        ]);
        let image = image(&label(), &files).unwrap();
        for (path, content) in &files {
            assert_eq!(&read(image.clone(), path), content, "{path}");
        }
        let volume = FileSystem::new(Cursor::new(image), FsOptions::new()).unwrap();
        assert_eq!(
            volume.read_volume_label_from_root_dir().unwrap().as_deref(),
            Some("cidata")
        );
        assert_eq!(volume.volume_label(), "cidata");
    }

    #[test]
    fn the_most_files_with_the_longest_names() {
        let files: Files = (0..MAX_FILES)
            .map(|n| (format!("{n:0>255}"), vec![b'x'; MAX_BYTES / MAX_FILES]))
            .collect();
        let image = image(&label(), &files).unwrap();
        assert_eq!(
            read(image, &format!("{:0>255}", MAX_FILES - 1)).len(),
            MAX_BYTES / MAX_FILES
        );
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let make = |content: &[u8]| image(&label(), &files(&[("a", content)])).unwrap();
        assert!(make(b"1") == make(b"1"));
        assert!(make(b"1") != make(b"2"));
    }

    #[test]
    fn names_that_fat_has_not() {
        for name in ["a.", "a ", "a:b", "", "a//b", "q?", &"x".repeat(256)] {
            let problem = image(&label(), &files(&[(name, b"")])).unwrap_err();
            assert!(matches!(problem, Problem::Name(_)), "{name}: {problem}");
        }
        let problem = image(&label(), &files(&[("Key", b""), ("key", b"")])).unwrap_err();
        assert!(matches!(problem, Problem::Case(_)), "{problem}");
    }
}
