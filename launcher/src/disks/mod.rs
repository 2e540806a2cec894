//! The guest's disks as files of this pod.
//!
//! Each volume is found first, by the user that the guest's processes will be, and everything that can be wrong with it is
//! said before anything is touched (`find`). What comes out is a list of drives: what the VMM opens, and what has to be
//! made for that. Making is left to the unprivileged half (`make`), in a directory of the state directory that is emptied
//! at the start and at the end, so that a start after a kill begins anew too.
//!
//! The VMM is told each image's type. Only the content of a container image is looked at to find it out (raw or qcow2): it
//! comes from whoever made the image. Everything else that a guest could have written to is raw, as in KubeVirt, so that a
//! guest cannot turn its disk into an image that refers to other files. No image's own backing file is ever followed; the
//! only one is that of an overlay made here.

mod expand;
mod extents;
mod fat;
mod files;
mod find;
mod firmware_boot;
mod growth;
mod head;
mod iso;
mod keys;
mod locks;
mod make;
pub(crate) mod qcow2;
mod seed;

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

pub(crate) use extents::next_data;
pub(crate) use find::find;
pub(crate) use firmware_boot::no_boot_loader;
pub(crate) use growth::{Growth, INTERVAL as GROWTH_INTERVAL};
pub(crate) use keys::public_keys;
pub(crate) use locks::Users;
pub(crate) use make::{clear, make};
pub(crate) use seed::{Seed, TaggedDevice};

/// Bytes, of every disk.
const SECTOR: u64 = 512;

/// Below the unprivileged half's directory.
pub(crate) const DIRECTORY: &str = "disks";

/// An image's type, as the VMM and an overlay's header call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum ImageType {
    Raw,
    Qcow2,
}

impl ImageType {
    fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// One disk of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Drive {
    pub(crate) name: String,
    /// What the VMM opens.
    pub(crate) path: PathBuf,
    pub(crate) image_type: ImageType,
    /// What an overlay's reads go to.
    pub(crate) base: Option<PathBuf>,
    pub(crate) readonly: bool,
    pub(crate) direct: bool,
    /// Every pod that the guest may migrate to has it.
    pub(crate) shared: bool,
    pub(crate) serial: Option<String>,
    /// 1 is first.
    pub(crate) boot_order: Option<u32>,
    /// Whether the firmware can find a boot loader on it; nothing where that is not known.
    pub(crate) boots: Option<bool>,
    /// What is to be at `path` before the VMM starts; without it the file is there.
    pub(crate) make: Option<Make>,
}

impl Drive {
    /// Whether its content can go along with a guest that migrates: a raw file that each pod makes for itself.
    pub(crate) fn goes_along(&self) -> bool {
        let made = matches!(self.make, Some(Make::Empty(_) | Make::Copy { .. }));
        made && !self.readonly && !self.shared && self.image_type == ImageType::Raw
    }
}

impl fmt::Display for Drive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk {}: ", self.name)?;
        match (&self.base, &self.make) {
            (Some(base), _) => write!(f, "an overlay on {}, deleted at the end", base.display())?,
            (None, Some(Make::Lasting(size))) => {
                write!(f, "{}, to be made, {size} bytes", self.path.display())?;
            }
            (None, Some(Make::Copy { from, .. })) => {
                write!(f, "a copy of {}, deleted at the end", from.display())?;
            }
            (None, Some(Make::Empty(size))) => write!(f, "empty, {size} bytes, deleted at the end")?,
            (None, Some(Make::Image(_) | Make::Seed(_))) => {
                f.write_str("made from the manifest or the volume's files")?;
            }
            (None, None) => write!(f, "{}", self.path.display())?,
        }
        f.write_str(if self.readonly { ", read-only" } else { "" })
    }
}

/// The disks of a guest that is to come from another launcher: those whose content comes along are empty here.
pub(crate) fn of_a_target(mut drives: Vec<Drive>) -> Vec<Drive> {
    for drive in &mut drives {
        if let Some(Make::Copy { size, .. }) = drive.make {
            drive.make = Some(Make::Empty(size));
        }
    }
    drives
}

/// The disks with the NICs that the manifest tags in cloud-init's metadata, where that has a place for them.
pub(crate) fn tagged(mut drives: Vec<Drive>, devices: &[TaggedDevice]) -> Vec<Drive> {
    for drive in &mut drives {
        if let Some(Make::Seed(seed)) = &mut drive.make {
            seed.add_devices(devices);
        }
    }
    drives
}

/// A file to make.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Make {
    /// These bytes, deleted at the end.
    Image(Vec<u8>),
    /// What cloud-init is told, of which the devices come later; gone at the end.
    Seed(Seed),
    /// This many bytes, all zero, deleted at the end.
    Empty(u64),
    /// The disk of this many bytes that is in an image, deleted at the end.
    Copy {
        from: PathBuf,
        image_type: ImageType,
        size: u64,
    },
    /// The same, but the file stays.
    Lasting(u64),
}

impl std::fmt::Debug for Make {
    /// An image may hold a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Image(bytes) => write!(f, "Image({} bytes)", bytes.len()),
            Self::Seed(_) => f.write_str("Seed"),
            Self::Empty(size) => write!(f, "Empty({size})"),
            Self::Copy { from, size, .. } => write!(f, "Copy({}, {size})", from.display()),
            Self::Lasting(size) => write!(f, "Lasting({size})"),
        }
    }
}
