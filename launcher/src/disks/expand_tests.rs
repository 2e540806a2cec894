use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::*;

const CLUSTER: usize = 1 << 16;
/// Of an entry whose cluster nothing else uses.
const USED: u64 = 1 << 63;
const SIZE: u64 = 5 * CLUSTER as u64 + 1024;

/// The disk: a cluster, one of zeros by its flag, a compressed one, none, zeros that are stored, and the beginning of one.
fn content() -> Vec<u8> {
    let mut disk = vec![0; SIZE as usize];
    disk[..CLUSTER].fill(1);
    for (index, byte) in disk[2 * CLUSTER..3 * CLUSTER].iter_mut().enumerate() {
        *byte = (index % 7) as u8;
    }
    disk[5 * CLUSTER..].fill(5);
    disk
}

/// The same as a qcow2 image with clusters of 64 KiB: header, first table, second table, data.
fn image() -> Vec<u8> {
    let disk = content();
    let mut image = vec![0; 3 * CLUSTER];
    let mut put = |at: usize, number: u64| image[at..at + 8].copy_from_slice(&number.to_be_bytes());
    put(0, u64::from_be_bytes(*b"QFI\xfb\0\0\0\x03"));
    put(16, 16);
    put(24, SIZE);
    put(32, 1);
    put(40, CLUSTER as u64);
    put(CLUSTER, USED | (2 * CLUSTER as u64));
    let data = 3 * CLUSTER as u64;
    let packed = miniz_oxide::deflate::compress_to_vec(&disk[2 * CLUSTER..3 * CLUSTER], 6);
    let place = data + 2 * CLUSTER as u64 + 100;
    let sectors = (place % 512 + packed.len() as u64).div_ceil(512) - 1;
    let entries = [
        USED | data,
        USED | data | ALL_ZERO,
        COMPRESSED | (sectors << 54) | place,
        0,
        USED | (data + CLUSTER as u64),
        USED | (data + 3 * CLUSTER as u64),
    ];
    for (index, entry) in entries.into_iter().enumerate() {
        put(2 * CLUSTER + 8 * index, entry);
    }
    image.extend(&disk[..CLUSTER]);
    image.extend(vec![0; CLUSTER]);
    let mut third = vec![0; CLUSTER];
    third[100..100 + packed.len()].copy_from_slice(&packed);
    image.extend(third);
    // Cut off where the disk ends.
    image.extend(&disk[5 * CLUSTER..]);
    image
}

fn expanded(dir: &Path, image: &[u8], image_type: ImageType) -> io::Result<(Vec<u8>, u64)> {
    let (from, to) = (dir.join("from"), dir.join("to"));
    std::fs::write(&from, image)?;
    expand(&File::open(&from)?, image_type, SIZE, &File::create(&to)?)?;
    Ok((std::fs::read(&to)?, std::fs::metadata(&to)?.blocks() * 512))
}

#[test]
fn an_image_of_either_type_gives_the_same_disk_without_its_zeros() {
    let dir = tempfile::tempdir().unwrap();
    for (bytes, image_type) in [(content(), ImageType::Raw), (image(), ImageType::Qcow2)] {
        let (disk, taken) = expanded(dir.path(), &bytes, image_type).unwrap();
        assert!(disk == content(), "{image_type:?}");
        assert!(taken <= 3 * CLUSTER as u64, "{image_type:?} takes {taken}");
    }
}

#[test]
fn a_damaged_image_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 4] = [
        ("cluster size", |image| image[23] = 40),
        ("second table beyond the end", |image| image[CLUSTER + 3] = 1),
        ("compressed data", |image| {
            image[5 * CLUSTER + 100..5 * CLUSTER + 120].fill(0xff)
        }),
        ("cut off", |image| image.truncate(2 * CLUSTER + 10)),
    ];
    for (what, damage) in damages {
        let mut bytes = image();
        damage(&mut bytes);
        assert!(expanded(dir.path(), &bytes, ImageType::Qcow2).is_err(), "{what}");
    }
}
