use std::fs;
use std::path::Path;

use super::*;

fn file(directory: &Path) -> PathBuf {
    let path = directory.join("disk.img");
    fs::write(&path, "x").unwrap();
    path
}

fn tokens(directory: &Path) -> Vec<String> {
    let all = fs::read_dir(directory).unwrap();
    let names = all.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(TOKEN_FILE)).collect()
}

/// As it would look on another node, with this type of file system.
fn elsewhere(disk: &SharedDisk, name: &str, shared: bool) -> SharedDisk {
    let mut disk = disk.clone();
    disk.boot = "another".to_owned();
    disk.object = "inode 1 of device 2".to_owned();
    if let Medium::File {
        file_system,
        several_nodes,
        ..
    } = &mut disk.medium
    {
        *file_system = name.to_owned();
        *several_nodes = shared;
    }
    disk
}

fn with(disk: &SharedDisk, name: &str, shared: bool) -> SharedDisk {
    let changed = elsewhere(disk, name, shared);
    SharedDisk {
        medium: changed.medium,
        ..disk.clone()
    }
}

#[test]
fn one_file_of_one_kernel_is_the_same_whatever_it_lies_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path());
    let (source, token) = at_source(&path).unwrap();
    assert_eq!(tokens(dir.path()).len(), 1);
    let target = at_target(&path, &source).unwrap();
    assert_eq!(difference(&source, &target), None);
    drop(token);
    // Removed by a thread of its own.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !tokens(dir.path()).is_empty() {
        assert!(std::time::Instant::now() < end);
        std::thread::yield_now();
    }
}

#[test]
fn a_copy_is_another_disk() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (source, token) = at_source(&file(one.path())).unwrap();
    let target = at_target(&file(two.path()), &source).unwrap();
    let why = difference(&source, &target).unwrap();
    assert!(
        why.starts_with("the source's token is not beside it in this pod"),
        "{why}"
    );
    // With the token copied too: one kernel, two files.
    let name = tokens(one.path()).remove(0);
    fs::copy(one.path().join(&name), two.path().join(&name)).unwrap();
    let target = at_target(&two.path().join("disk.img"), &source).unwrap();
    let why = difference(&source, &target).unwrap();
    assert!(why.contains("two different files"), "{why}");
    fs::write(two.path().join(&name), "another token").unwrap();
    let target = at_target(&two.path().join("disk.img"), &source).unwrap();
    let why = difference(&source, &target).unwrap();
    assert!(why.contains("another content"), "{why}");
    drop(token);
}

#[test]
fn two_nodes_need_the_token_and_a_file_system_of_several_nodes() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path());
    let (source, _token) = at_source(&path).unwrap();
    let target = at_target(&path, &source).unwrap();
    let nfs = with(&source, "NFS", true);
    assert_eq!(difference(&nfs, &elsewhere(&target, "NFS", true)), None);
    let ext4 = with(&source, "type 0xef53", false);
    let why = difference(&ext4, &elsewhere(&target, "type 0xef53", false)).unwrap();
    assert!(
        why.contains("type 0xef53") && why.contains("a single node may mount"),
        "{why}"
    );
    assert!(difference(&nfs, &elsewhere(&target, "type 0xef53", false)).is_some());
}

#[test]
fn a_directory_that_cannot_be_written_gives_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path());
    let (mut source, _token) = at_source(&path).unwrap();
    if let Medium::File { token, .. } = &mut source.medium {
        *token = Token::None("the source cannot write beside it: Permission denied".to_owned());
    }
    let target = at_target(&path, &source).unwrap();
    assert_eq!(
        difference(&source, &target),
        None,
        "the same inode needs no token"
    );
    let why = difference(&with(&source, "NFS", true), &elsewhere(&target, "NFS", true)).unwrap();
    assert!(why.contains("Permission denied"), "{why}");
}

#[test]
fn what_a_killed_launcher_left_is_removed_and_no_other_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path());
    fs::write(dir.path().join(format!("{TOKEN_FILE}00ff")), "old").unwrap();
    fs::write(dir.path().join(".hawser"), "other").unwrap();
    let (_, _token) = at_source(&path).unwrap();
    assert_eq!(tokens(dir.path()).len(), 1);
    assert!(!tokens(dir.path()).contains(&format!("{TOKEN_FILE}00ff")));
    assert!(dir.path().join(".hawser").exists());
}

#[test]
fn the_sources_file_name_is_no_path() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("secret"), "s").unwrap();
    for name in [
        "secret",
        "../secret",
        ".hawser-migration-../../secret",
        ".hawser-migration-a/b",
        "/etc/passwd",
    ] {
        let why = find(dir.path(), name).unwrap_err();
        assert_eq!(why, "the source names a file that is no token", "{name}");
    }
    std::os::unix::fs::symlink("secret", dir.path().join(format!("{TOKEN_FILE}ab"))).unwrap();
    let why = find(dir.path(), &format!("{TOKEN_FILE}ab")).unwrap_err();
    assert!(why.contains("it is a link"), "{why}");
}

#[test]
fn block_devices_by_their_identifier() {
    let device = |boot: &str, object: &str, wwid: Option<&str>| SharedDisk {
        boot: boot.to_owned(),
        object: object.to_owned(),
        medium: Medium::Device {
            wwid: wwid.map(str::to_owned),
        },
    };
    let source = device("a", "block device 8:0", Some("naa.1"));
    assert_eq!(
        difference(&source, &device("b", "block device 8:16", Some("naa.1"))),
        None
    );
    let why = difference(&source, &device("b", "block device 8:0", Some("naa.2"))).unwrap();
    assert!(why.contains("naa.1") && why.contains("naa.2"), "{why}");
    assert!(difference(&device("a", "x", None), &device("b", "x", None)).is_some());
    assert_eq!(
        difference(&device("a", "x", None), &device("a", "x", None)),
        None,
        "one kernel's"
    );
}

#[test]
fn identifiers_in_sysfs() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    fs::create_dir_all(disk.join("disk1")).unwrap();
    assert_eq!(wwid(&disk), None);
    fs::write(disk.join("serial"), "\n").unwrap();
    assert_eq!(wwid(&disk), None);
    fs::write(disk.join("wwid"), "nvme.1\n").unwrap();
    fs::write(disk.join("disk1/partition"), "3\n").unwrap();
    assert_eq!(wwid(&disk).as_deref(), Some("nvme.1"));
    assert_eq!(wwid(&disk.join("disk1")).as_deref(), Some("nvme.1 partition 3"));
}
