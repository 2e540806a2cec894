//! A read-only disk with a few files on it as an ISO 9660 volume, which is what cloud-init's data sources are on in KubeVirt.
//!
//! Names are there three times: in the eight and three characters of the standard (ECMA-119), in Rock Ridge, which Linux reads,
//! and in Joliet, which Windows reads. The same files give the same bytes: there are no times in it.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::repeat_n;

use super::fat::{Files, Problem};
use crate::spec::VolumeLabel;

const SECTOR: usize = 2048;
/// The first volume descriptor; what comes before is not the standard's.
const DESCRIPTORS: usize = 16;
/// The primary one, Joliet's, and the one that ends the list.
const TABLES: usize = DESCRIPTORS + 3;
/// Of Rock Ridge's entries about a file: its mode and owner, then its name.
const ROCK_RIDGE: &[u8; 10] = b"RRIP_1991A";
const DIRECTORY: u32 = 0o040_555;
const FILE: u32 = 0o100_444;
/// 1 January 1980: a volume without times has to have some.
const DATE: [u8; 7] = [80, 1, 1, 0, 0, 0, 0];
/// Joliet has 64 characters of two bytes, and Rock Ridge's entry has to fit into a record.
const NAME_MAX: usize = 64;

/// The disk's bytes.
pub(super) fn image(label: &VolumeLabel, files: &Files) -> Result<Vec<u8>, Problem> {
    let tree = Tree::of(files)?;
    let plain = Layout::new(&tree, Names::Plain, TABLES);
    let joliet = Layout::new(&tree, Names::Joliet, plain.end);
    let mut contents = Vec::new();
    let mut next = joliet.end;
    for content in &tree.contents {
        contents.push(next);
        next += sectors(content.len());
    }
    let mut disk = Disk(vec![0; next * SECTOR]);
    disk.put(DESCRIPTORS, &plain.descriptor(label, next));
    disk.put(DESCRIPTORS + 1, &joliet.descriptor(label, next));
    disk.put(DESCRIPTORS + 2, &[&[255], &b"CD001\x01"[..]].concat());
    for layout in [&plain, &joliet] {
        layout.write(&tree, &contents, &mut disk);
    }
    for (at, content) in contents.iter().zip(&tree.contents) {
        disk.put(*at, content);
    }
    Ok(disk.0)
}

fn sectors(bytes: usize) -> usize {
    bytes.div_ceil(SECTOR)
}

struct Disk(Vec<u8>);

impl Disk {
    fn put(&mut self, sector: usize, bytes: &[u8]) {
        let at = sector * SECTOR;
        for (to, from) in self.0.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }
}

/// Directories in the order of the path table: parents first. The root is the first.
struct Tree<'a> {
    directories: Vec<Directory>,
    contents: Vec<&'a [u8]>,
}

#[derive(Default)]
struct Directory {
    name: String,
    parent: usize,
    /// By name.
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Copy)]
enum Entry {
    Directory(usize),
    File(usize),
}

impl<'a> Tree<'a> {
    fn of(files: &'a Files) -> Result<Self, Problem> {
        let mut tree = Self {
            directories: vec![Directory::default()],
            contents: Vec::new(),
        };
        for (path, content) in files {
            let mut at = 0;
            let mut parts = path.split('/').peekable();
            while let Some(part) = parts.next() {
                let plain = |c: char| c.is_ascii_graphic() && !"*/:;?\\".contains(c);
                if part.is_empty() || part.len() > NAME_MAX || !part.chars().all(plain) {
                    return Err(Problem::Name(path.clone()));
                }
                let found = tree
                    .directories
                    .get(at)
                    .and_then(|directory| directory.entries.get(part).copied());
                let entry = match (parts.peek(), found) {
                    (None, _) => {
                        tree.contents.push(content);
                        Entry::File(tree.contents.len() - 1)
                    }
                    (Some(_), Some(entry)) => entry,
                    (Some(_), None) => {
                        tree.directories.push(Directory {
                            name: part.to_owned(),
                            parent: at,
                            entries: BTreeMap::new(),
                        });
                        Entry::Directory(tree.directories.len() - 1)
                    }
                };
                if let Some(directory) = tree.directories.get_mut(at) {
                    directory.entries.insert(part.to_owned(), entry);
                }
                if let Entry::Directory(inside) = entry {
                    at = inside;
                }
            }
        }
        Ok(tree)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    /// With Rock Ridge beside them.
    Plain,
    Joliet,
}

/// One of the two trees on the disk: where its path tables and directories are.
struct Layout {
    names: Names,
    tables: usize,
    /// Bytes of a path table, of which there are two.
    table: usize,
    /// First sector and bytes of each directory.
    directories: Vec<(usize, usize)>,
    end: usize,
}

impl Layout {
    fn new(tree: &Tree<'_>, names: Names, start: usize) -> Self {
        let mut this = Self {
            names,
            tables: start,
            table: 0,
            directories: vec![(0, 0); tree.directories.len()],
            end: start,
        };
        this.table = this.path_table(tree, u32::to_le_bytes, u16::to_le_bytes).len();
        let mut next = start + 2 * sectors(this.table);
        let sizes: Vec<usize> = (0..tree.directories.len())
            .map(|index| this.directory(tree, index, &[]).len())
            .collect();
        for (place, size) in this.directories.iter_mut().zip(sizes) {
            *place = (next, size);
            next += sectors(size);
        }
        this.end = next;
        this
    }

    fn write(&self, tree: &Tree<'_>, contents: &[usize], disk: &mut Disk) {
        disk.put(
            self.tables,
            &self.path_table(tree, u32::to_le_bytes, u16::to_le_bytes),
        );
        let big = self.path_table(tree, u32::to_be_bytes, u16::to_be_bytes);
        disk.put(self.tables + sectors(self.table), &big);
        for (index, (at, _)) in self.directories.iter().enumerate() {
            disk.put(*at, &self.directory(tree, index, contents));
        }
    }

    fn place(&self, directory: usize) -> (usize, usize) {
        self.directories.get(directory).copied().unwrap_or_default()
    }

    fn path_table(&self, tree: &Tree<'_>, long: fn(u32) -> [u8; 4], short: fn(u16) -> [u8; 2]) -> Vec<u8> {
        let mut table = Vec::new();
        for (index, directory) in tree.directories.iter().enumerate() {
            let name = match index {
                0 => vec![0],
                _ => self.names.of(&directory.name, None, &BTreeSet::new()),
            };
            table.extend([name.len() as u8, 0]);
            table.extend(long(self.place(index).0 as u32));
            table.extend(short(directory.parent as u16 + 1));
            table.extend(&name);
            table.extend(repeat_n(0, name.len() % 2));
        }
        table
    }

    /// The records of a directory: itself, its parent, and its entries by name. None lies across two sectors.
    fn directory(&self, tree: &Tree<'_>, index: usize, contents: &[usize]) -> Vec<u8> {
        let Some(directory) = tree.directories.get(index) else {
            return Vec::new();
        };
        let mut records = vec![
            self.record(&[0], self.place(index), true, &self.of_itself(index == 0)),
            self.record(
                &[1],
                self.place(directory.parent),
                true,
                &self.about(DIRECTORY, None),
            ),
        ];
        let mut named = Vec::new();
        let mut taken = BTreeSet::new();
        for (name, entry) in &directory.entries {
            let (id, place, is_directory, mode) = match *entry {
                Entry::Directory(inside) => (
                    self.names.of(name, None, &taken),
                    self.place(inside),
                    true,
                    DIRECTORY,
                ),
                Entry::File(file) => {
                    let size = tree.contents.get(file).map_or(0, |content| content.len());
                    let at = contents.get(file).copied().unwrap_or_default();
                    (self.names.of(name, Some(1), &taken), (at, size), false, FILE)
                }
            };
            let about = self.about(mode, Some(name));
            named.push((id.clone(), self.record(&id, place, is_directory, &about)));
            taken.insert(id);
        }
        named.sort();
        records.extend(named.into_iter().map(|(_, record)| record));
        let mut bytes: Vec<u8> = Vec::new();
        for record in records {
            if bytes.len() % SECTOR + record.len() > SECTOR {
                bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
            }
            bytes.extend(record);
        }
        bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
        bytes
    }

    /// Rock Ridge's entries: that it is spoken here (in the root's record of itself), the mode, and the name.
    fn of_itself(&self, is_root: bool) -> Vec<u8> {
        let mut entries = Vec::new();
        if self.names == Names::Plain && is_root {
            entries.extend(b"SP\x07\x01\xbe\xef\x00");
        }
        entries.extend(self.about(DIRECTORY, None));
        if self.names == Names::Plain && is_root {
            let length = 8 + ROCK_RIDGE.len();
            entries.extend([b'E', b'R', length as u8, 1, ROCK_RIDGE.len() as u8, 0, 0, 1]);
            entries.extend(ROCK_RIDGE);
        }
        entries
    }

    fn about(&self, mode: u32, name: Option<&str>) -> Vec<u8> {
        let mut entries = Vec::new();
        if self.names == Names::Plain {
            entries.extend(b"PX\x24\x01");
            for value in [mode, 1, 0, 0] {
                entries.extend(both(value));
            }
            if let Some(name) = name {
                entries.extend([b'N', b'M', 5 + name.len() as u8, 1, 0]);
                entries.extend(name.as_bytes());
            }
        }
        entries
    }

    fn record(&self, id: &[u8], (at, size): (usize, usize), is_directory: bool, entries: &[u8]) -> Vec<u8> {
        let mut record = vec![0, 0];
        record.extend(both(at as u32));
        record.extend(both(size as u32));
        record.extend(DATE);
        record.extend([if is_directory { 2 } else { 0 }, 0, 0]);
        record.extend([1, 0, 0, 1]);
        record.push(id.len() as u8);
        record.extend(id);
        record.extend(repeat_n(0, record.len() % 2));
        record.extend(entries);
        record.extend(repeat_n(0, record.len() % 2));
        let length = record.len() as u8;
        if let Some(first) = record.first_mut() {
            *first = length;
        }
        record
    }

    fn descriptor(&self, label: &VolumeLabel, size: usize) -> Vec<u8> {
        let is_joliet = self.names == Names::Joliet;
        let mut bytes = vec![if is_joliet { 2 } else { 1 }];
        bytes.extend(b"CD001\x01\x00");
        bytes.extend(self.text("", 32));
        bytes.extend(self.text(label.as_str(), 32));
        bytes.extend([0; 8]);
        bytes.extend(both(size as u32));
        let mut escape = [0; 32];
        if is_joliet {
            // UCS-2, level 3.
            for (to, from) in escape.iter_mut().zip(b"%/E") {
                *to = *from;
            }
        }
        bytes.extend(escape);
        bytes.extend([1, 0, 0, 1, 1, 0, 0, 1]);
        bytes.extend([0, 8, 8, 0]);
        bytes.extend(both(self.table as u32));
        bytes.extend((self.tables as u32).to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(((self.tables + sectors(self.table)) as u32).to_be_bytes());
        bytes.extend([0; 4]);
        // The record here has the name alone.
        let plain = Self {
            names: Names::Joliet,
            directories: self.directories.clone(),
            ..*self
        };
        bytes.extend(plain.record(&[0], self.place(0), true, &[]));
        for _ in 0..4 {
            bytes.extend(self.text("", 128));
        }
        for _ in 0..3 {
            bytes.extend(self.text("", 37));
        }
        for _ in 0..4 {
            bytes.extend([b'0'; 16]);
            bytes.push(0);
        }
        bytes.push(1);
        bytes
    }

    /// A field of a descriptor, filled up with blanks.
    fn text(&self, text: &str, length: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = match self.names {
            Names::Plain => text.bytes().collect(),
            Names::Joliet => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
        };
        let blank: &[u8] = match self.names {
            Names::Plain => b" ",
            Names::Joliet => b"\x00 ",
        };
        while bytes.len() + blank.len() <= length {
            bytes.extend(blank);
        }
        bytes.resize(length, 0);
        bytes
    }
}

impl Names {
    /// The identifier of a file, with its version, or of a directory, other than those that are taken.
    fn of(self, name: &str, version: Option<u8>, taken: &BTreeSet<Vec<u8>>) -> Vec<u8> {
        let version = version.map_or(String::new(), |version| format!(";{version}"));
        if self == Self::Joliet {
            let text = format!("{name}{version}");
            return text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        }
        let plain = |text: &str, most: usize| -> String {
            let allowed = |c: char| match c.to_ascii_uppercase() {
                c if c.is_ascii_alphanumeric() => c,
                _ => '_',
            };
            text.chars().take(most).map(allowed).collect()
        };
        let (stem, extension) = match name.rsplit_once('.') {
            Some((stem, extension)) if !version.is_empty() => (stem, extension),
            _ => (name, ""),
        };
        let extension = plain(extension, 3);
        let dot = if version.is_empty() { "" } else { "." };
        let id = |stem: String| format!("{stem}{dot}{extension}{version}").into_bytes();
        let first = id(plain(stem, 8));
        if !taken.contains(&first) {
            return first;
        }
        let mut others = (1..1000).map(|number| id(format!("{}{number:03}", plain(stem, 5))));
        others.find(|other| !taken.contains(other)).unwrap_or(first)
    }
}

/// A number in both orders of its bytes.
fn both(value: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    let (little, big) = bytes.split_at_mut(4);
    little.copy_from_slice(&value.to_le_bytes());
    big.copy_from_slice(&value.to_be_bytes());
    bytes
}

#[cfg(test)]
#[path = "iso_tests.rs"]
mod tests;
