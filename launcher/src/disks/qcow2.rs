//! qcow2, as far as needed without reading a guest's data: what an image's header says, and an empty overlay.
//!
//! The format is QEMU's docs/interop/qcow2.rst. An overlay is four clusters: header, refcount table, one refcount block
//! and a level-1 table that maps nothing, so that every read goes to the base. The base's format is written into the
//! header: nobody has to guess it from what a guest may have put there.

use std::path::Path;

/// First bytes of an image.
pub(crate) const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Bytes of the header that are looked at; version 3 has 104 and more.
pub(crate) const HEADER: usize = 104;

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// A level-1 entry maps one level-2 table, which is a cluster of 8-byte entries of a cluster each.
const PER_L1_ENTRY: u64 = CLUSTER / 8 * CLUSTER;
/// Where the overlay's parts are.
const REFCOUNT_TABLE: u64 = CLUSTER;
const REFCOUNT_BLOCK: u64 = 2 * CLUSTER;
const L1_TABLE: u64 = 3 * CLUSTER;
/// Header extension "backing file format name".
const BACKING_FORMAT: u32 = 0xE279_2ACA;
/// One refcount block counts far more clusters than this; 64 clusters of level-1 table map 256 TiB.
const MAX_L1_CLUSTERS: u64 = 64;

/// Incompatible feature bits. `DIRTY` says that refcounts may be wrong, which reading does not need.
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const KNOWN: u64 = 0x1f;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    #[error("a qcow2 image that is cut off")]
    Truncated,
    #[error("a qcow2 image of version {0}: 2 and 3 are known")]
    Version(u32),
    #[error("a qcow2 image with a backing file, which is never followed")]
    BackingFile,
    #[error("a qcow2 image with its data in another file, which is never followed")]
    ExternalData,
    #[error("an encrypted qcow2 image")]
    Encrypted,
    #[error("a qcow2 image that is marked as corrupt")]
    Corrupt,
    #[error("a qcow2 image with features that are not known")]
    Features,
    #[error("a qcow2 image of size 0")]
    Empty,
    #[error("too large for an overlay")]
    TooLarge,
    #[error("a path that is longer than 1023 bytes, or not UTF-8, cannot be the base of an overlay")]
    Name,
}

/// The size of the disk in an image that starts with `header` and is `length` bytes long.
pub(crate) fn virtual_size(header: &[u8], length: u64) -> Result<u64, Problem> {
    let word = |at: usize| -> Result<u32, Problem> {
        let bytes = header
            .get(at..at.saturating_add(4))
            .and_then(|b| b.try_into().ok());
        bytes.map(u32::from_be_bytes).ok_or(Problem::Truncated)
    };
    let double =
        |at: usize| Ok::<_, Problem>(u64::from(word(at)?) << 32 | u64::from(word(at.saturating_add(4))?));
    let version = word(4)?;
    if !(2..=3).contains(&version) {
        return Err(Problem::Version(version));
    }
    if double(8)? != 0 || word(16)? != 0 {
        return Err(Problem::BackingFile);
    }
    if word(32)? != 0 {
        return Err(Problem::Encrypted);
    }
    if version == 3 {
        let features = double(72)?;
        if features & EXTERNAL_DATA != 0 {
            return Err(Problem::ExternalData);
        }
        if features & CORRUPT != 0 {
            return Err(Problem::Corrupt);
        }
        if features & !KNOWN != 0 {
            return Err(Problem::Features);
        }
    }
    let l1_end = double(40)?.checked_add(u64::from(word(36)?).saturating_mul(8));
    if l1_end.is_none_or(|end| end > length) || double(48)? >= length {
        return Err(Problem::Truncated);
    }
    match double(24)? {
        0 => Err(Problem::Empty),
        size => Ok(size),
    }
}

/// Why the disk of a sound image with this header cannot be copied out of it ([`super::expand`]).
pub(super) fn not_expanded(header: &[u8]) -> Option<&'static str> {
    const COMPRESSION: u8 = 1 << 3;
    const EXTENDED: u8 = 1 << 4;
    let version = header.get(7).copied().unwrap_or_default();
    let features = header
        .get(79)
        .copied()
        .filter(|_| version >= 3)
        .unwrap_or_default();
    if features & EXTENDED != 0 {
        return Some("its qcow2 image has extended tables");
    }
    let kind = header.get(104).copied().unwrap_or_default();
    (features & COMPRESSION != 0 && kind != 0).then_some("its qcow2 image is compressed with zstd")
}

/// Where a byte of the disk is in an image.
pub(crate) enum Place {
    /// Nowhere: it is zero.
    Zero,
    At(u64),
}

/// Where the byte at `at` of the disk is, by the tables that `word` reads from the image. Nothing where it is compressed, or
/// the tables are of a form that is not read here.
pub(crate) fn place(at: u64, word: impl Fn(u64) -> Option<u64>) -> Option<Place> {
    const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
    const COMPRESSED: u64 = 1 << 62;
    const ALL_ZERO: u64 = 1;
    const EXTENDED: u64 = 1 << 4;
    let version = word(0)? as u32;
    if version >= 3 && word(72)? & EXTENDED != 0 {
        return None;
    }
    let cluster_bits = word(16)? as u32;
    if !(9..=21).contains(&cluster_bits) {
        return None;
    }
    let cluster = at >> cluster_bits;
    let l2_bits = cluster_bits - 3;
    let l1_index = cluster >> l2_bits;
    // The number of entries is the lower half of the word before the table's place.
    if l1_index >= word(32)? & 0xffff_ffff {
        return Some(Place::Zero);
    }
    let l1_entry = word(word(40)?.checked_add(l1_index.checked_mul(8)?)?)? & OFFSET;
    if l1_entry == 0 {
        return Some(Place::Zero);
    }
    let l2_index = cluster & ((1 << l2_bits) - 1);
    let l2_entry = word(l1_entry.checked_add(l2_index * 8)?)?;
    if l2_entry & COMPRESSED != 0 {
        return None;
    }
    match l2_entry & OFFSET {
        0 => Some(Place::Zero),
        _ if l2_entry & ALL_ZERO != 0 => Some(Place::Zero),
        data => Some(Place::At(data + (at & ((1 << cluster_bits) - 1)))),
    }
}

/// The size of the disk that an overlay of ours is for.
pub(super) fn overlays_size(overlay: &[u8]) -> Option<u64> {
    let bytes = overlay.get(24..32)?;
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

/// The bytes of an empty image of `size` bytes over `base`, whose format is `format` (`raw` or `qcow2`).
pub(crate) fn overlay(size: u64, base: &Path, format: &str) -> Result<Vec<u8>, Problem> {
    let base = base
        .to_str()
        .filter(|base| base.len() <= 1023)
        .ok_or(Problem::Name)?;
    let l1_entries = size.div_ceil(PER_L1_ENTRY).max(1);
    let l1_clusters = l1_entries.saturating_mul(8).div_ceil(CLUSTER);
    if l1_clusters > MAX_L1_CLUSTERS {
        return Err(Problem::TooLarge);
    }
    let clusters = l1_clusters.saturating_add(L1_TABLE / CLUSTER);
    let mut header = Vec::new();
    let mut put = |bytes: &[u8]| header.extend_from_slice(bytes);
    let format_padded = format.len().next_multiple_of(8);
    // The header, the format's extension with its padding, the end of extensions.
    let name_at = HEADER
        .saturating_add(8)
        .saturating_add(format_padded)
        .saturating_add(8);
    put(&MAGIC);
    put(&3_u32.to_be_bytes());
    put(&(name_at as u64).to_be_bytes());
    put(&(base.len() as u32).to_be_bytes());
    put(&CLUSTER_BITS.to_be_bytes());
    put(&size.to_be_bytes());
    put(&0_u32.to_be_bytes()); // not encrypted
    put(&u32::try_from(l1_entries)
        .map_err(|_| Problem::TooLarge)?
        .to_be_bytes());
    put(&L1_TABLE.to_be_bytes());
    put(&REFCOUNT_TABLE.to_be_bytes());
    put(&1_u32.to_be_bytes()); // clusters of refcount table
    put(&0_u32.to_be_bytes()); // snapshots
    put(&0_u64.to_be_bytes());
    put(&0_u64.to_be_bytes()); // features: incompatible, compatible, autoclear
    put(&0_u64.to_be_bytes());
    put(&0_u64.to_be_bytes());
    put(&4_u32.to_be_bytes()); // refcounts of 1 << 4 bits
    put(&(HEADER as u32).to_be_bytes());
    put(&BACKING_FORMAT.to_be_bytes());
    put(&(format.len() as u32).to_be_bytes());
    put(format.as_bytes());
    put(&vec![0; format_padded.saturating_sub(format.len())]);
    put(&0_u64.to_be_bytes()); // end of extensions
    put(base.as_bytes());

    let mut image = header;
    image.resize(REFCOUNT_TABLE as usize, 0);
    image.extend_from_slice(&REFCOUNT_BLOCK.to_be_bytes());
    image.resize(REFCOUNT_BLOCK as usize, 0);
    for _ in 0..clusters {
        image.extend_from_slice(&1_u16.to_be_bytes());
    }
    image.resize(
        usize::try_from(clusters.saturating_mul(CLUSTER)).map_err(|_| Problem::TooLarge)?,
        0,
    );
    Ok(image)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A header as QEMU writes one, for 1 GiB.
    fn header() -> Vec<u8> {
        overlay(1 << 30, Path::new("/base"), "raw").unwrap()
    }

    /// The same without its backing file.
    fn plain() -> Vec<u8> {
        let mut header = header();
        header[8..20].fill(0);
        header
    }

    fn size(image: &[u8]) -> Result<u64, Problem> {
        virtual_size(image, image.len() as u64)
    }

    #[test]
    fn the_header_of_an_image() {
        assert_eq!(size(&plain()), Ok(1 << 30));
        let mut old = plain();
        old[7] = 2;
        old[72..80].fill(0xff);
        assert_eq!(size(&old), Ok(1 << 30), "version 2 has no features");
    }

    #[test]
    fn what_is_never_followed_or_cannot_be_read() {
        type Change = fn(&mut Vec<u8>);
        let cases: [(Change, Problem); 9] = [
            (|h| h[15] = 1, Problem::BackingFile),
            (|h| h[19] = 1, Problem::BackingFile),
            (|h| h[79] = 4, Problem::ExternalData),
            (|h| h[79] = 2, Problem::Corrupt),
            (|h| h[79] = 32, Problem::Features),
            (|h| h[35] = 2, Problem::Encrypted),
            (|h| h[7] = 4, Problem::Version(4)),
            (|h| h[24..32].fill(0), Problem::Empty),
            (|h| h.truncate(3 << 16), Problem::Truncated),
        ];
        for (change, problem) in cases {
            let mut image = plain();
            change(&mut image);
            assert_eq!(size(&image), Err(problem));
        }
        for length in [4, 40, 80] {
            assert_eq!(size(&plain()[..length]), Err(Problem::Truncated));
        }
    }

    #[test]
    fn an_overlay_is_never_taken_for_a_base() {
        assert_eq!(size(&header()), Err(Problem::BackingFile));
    }

    #[test]
    fn bounds_of_an_overlay() {
        let long = format!("/{}", "x".repeat(1023));
        assert_eq!(overlay(1, Path::new(&long), "raw"), Err(Problem::Name));
        assert_eq!(overlay(u64::MAX, Path::new("/b"), "raw"), Err(Problem::TooLarge));
    }

    /// The format's own authors judge. Not everywhere is there a qemu-img; the lab's guests read overlays in any case.
    #[test]
    #[ignore = "needs qemu-img"]
    fn qemu_finds_an_overlay_sound() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base.img");
        for (format, bytes) in [("raw", 1 << 20), ("raw", (1_u64 << 40) + 512), ("qcow2", 3 << 30)] {
            let _ = std::fs::remove_file(&base);
            let run = |args: &[&str]| {
                let output = Command::new("qemu-img").args(args).output().unwrap();
                assert!(output.status.success(), "{args:?}: {output:?}");
                String::from_utf8(output.stdout).unwrap()
            };
            run(&[
                "create",
                "-q",
                "-f",
                format,
                base.to_str().unwrap(),
                &bytes.to_string(),
            ]);
            let top = dir.path().join("top.qcow2");
            std::fs::write(&top, overlay(bytes, &base, format).unwrap()).unwrap();
            let top = top.to_str().unwrap();
            run(&["check", "-q", "-f", "qcow2", top]);
            let info: serde_json::Value =
                serde_json::from_str(&run(&["info", "--output=json", top])).unwrap();
            assert_eq!(info["virtual-size"], bytes);
            assert_eq!(info["backing-filename-format"], format);
            assert_eq!(info["backing-filename"], base.to_str().unwrap());
        }
    }
}
