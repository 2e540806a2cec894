//! The volume, read back by each kind of name.

use super::*;

fn files(list: &[(&str, &[u8])]) -> Files {
    list.iter()
        .map(|(path, content)| ((*path).to_owned(), content.to_vec()))
        .collect()
}

fn number(bytes: &[u8]) -> usize {
    u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize
}

/// The records of a directory: identifier, extension entries, place and size.
fn records(image: &[u8], at: usize, size: usize) -> Vec<(Vec<u8>, Vec<u8>, usize, usize)> {
    let mut list = Vec::new();
    let bytes = &image[at * SECTOR..at * SECTOR + size];
    let mut from = 0;
    while from < size {
        let length = bytes[from] as usize;
        if length == 0 {
            from = (from + 1).next_multiple_of(SECTOR);
            continue;
        }
        let record = &bytes[from..from + length];
        let id = record[33..33 + record[32] as usize].to_vec();
        let entries = record[33 + (id.len() | 1)..].to_vec();
        list.push((id, entries, number(&record[2..]), number(&record[10..])));
        from += length;
    }
    list
}

/// The name of Rock Ridge.
fn rock_ridge(mut entries: &[u8]) -> Option<String> {
    while entries.len() > 4 {
        if entries.starts_with(b"NM") {
            return String::from_utf8(entries[5..entries[2] as usize].to_vec()).ok();
        }
        entries = &entries[entries[2] as usize..];
    }
    None
}

/// What somebody reads who goes by one of the three kinds of names.
fn read(image: &[u8], descriptor: usize, name: fn(&[u8], &[u8]) -> String) -> Files {
    let root = &image[descriptor * SECTOR + 156..];
    let mut open = vec![(String::new(), number(&root[2..]), number(&root[10..]))];
    let mut files = Files::new();
    while let Some((path, at, size)) = open.pop() {
        for (id, entries, at, size) in records(image, at, size) {
            let is_directory = !id.ends_with(b";1") && !id.ends_with(b"\0;\x001");
            match id.as_slice() {
                [0 | 1] => {}
                _ if is_directory => open.push((format!("{path}{}/", name(&id, &entries)), at, size)),
                _ => {
                    let content = image[at * SECTOR..at * SECTOR + size].to_vec();
                    files.insert(format!("{path}{}", name(&id, &entries)), content);
                }
            }
        }
    }
    files
}

#[test]
fn what_is_put_in_is_read_back_by_every_kind_of_name() {
    let long = vec![7; 5000];
    let list: &[(&str, &[u8])] = &[
        ("user-data", b"#cloud-config\n\x00\xff\r\n"),
        ("meta-data", b"{}"),
        ("empty", b""),
        ("openstack/latest/meta_data.json", &long),
        ("openstack/latest/user_data", b"x"),
    ];
    let files = files(list);
    let label = VolumeLabel::new("config-2").unwrap();
    let image = image(&label, &files).unwrap();
    assert_eq!(&image[16 * SECTOR..][..7], b"\x01CD001\x01");
    assert_eq!(&image[16 * SECTOR + 40..][..9], b"config-2 ");
    assert_eq!(number(&image[16 * SECTOR + 80..]) * SECTOR, image.len());
    let of_linux = read(&image, 16, |_, entries| rock_ridge(entries).unwrap());
    assert_eq!(of_linux, files);
    let of_windows = read(&image, 17, |id, _| {
        let units = id.chunks(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]]));
        let text: String = char::decode_utf16(units).map(Result::unwrap).collect();
        text.trim_end_matches(";1").to_owned()
    });
    assert_eq!(of_windows, files);
    let plain = read(&image, 16, |id, _| String::from_utf8(id.to_vec()).unwrap());
    let names: Vec<_> = plain.keys().map(String::as_str).collect();
    let expected = [
        "EMPTY.;1",
        "META_DAT.;1",
        "OPENSTAC/LATEST/META_DAT.JSO;1",
        "OPENSTAC/LATEST/USER_DAT.;1",
        "USER_DAT.;1",
    ];
    assert_eq!(names, expected);
}

#[test]
fn a_directory_of_several_sectors_and_names_that_are_alike() {
    let files: Files = (0..100).map(|n| (format!("a-long-name-{n}"), vec![n])).collect();
    let image = image(&VolumeLabel::NO_CLOUD, &files).unwrap();
    assert_eq!(read(&image, 16, |_, entries| rock_ridge(entries).unwrap()), files);
    assert_eq!(
        read(&image, 16, |id, _| String::from_utf8(id.to_vec()).unwrap()).len(),
        100
    );
}

#[test]
fn the_same_files_give_the_same_bytes_and_odd_names_none() {
    let one = files(&[("a", b"1")]);
    assert!(image(&VolumeLabel::NO_CLOUD, &one).unwrap() == image(&VolumeLabel::NO_CLOUD, &one).unwrap());
    for name in ["", "a//b", "q?", "ü", &"x".repeat(65)] {
        let problem = image(&VolumeLabel::NO_CLOUD, &files(&[(name, b"")])).unwrap_err();
        assert!(matches!(problem, Problem::Name(_)), "{name}");
    }
}
