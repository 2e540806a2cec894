//! Disks as the manifest wants them: validated, normalised, plain data.

use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, Serializer};

/// One disk of the guest with the volume behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// Field path of the disk, for messages of the later phases. A volume that no disk names has its own path here.
    pub path: String,
    /// Name of the disk, equal to its volume's.
    pub name: String,
    /// Written in the manifest, or a matter of course for what the volume is.
    pub readonly: bool,
    /// What the guest sees as the disk's serial number, at most 20 bytes (virtio-blk).
    pub serial: Option<String>,
    /// 1 is first.
    pub boot_order: Option<u32>,
    /// `cache: none`: the host's page cache is left out.
    pub direct: bool,
    /// Every pod that the guest may migrate to has this very disk, says whoever started hawser.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    pub volume: Volume,
}

/// An entry of `spec.volumes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// Field path of the source, such as `spec.volumes[0].containerDisk`.
    pub path: String,
    pub source: VolumeSource,
}

/// Where a disk's content comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum VolumeSource {
    /// A disk in a container image. What the guest writes is gone when it ends.
    ContainerDisk {
        image: String,
        /// Absolute, without `..`, inside the image; without it, the one file under /disk.
        path: Option<String>,
    },
    /// A file in a directory of the node.
    HostDisk {
        /// The last component of the path as written.
        file: String,
        /// Bytes; the file is made when it is not there. Without this it must be.
        create: Option<u64>,
    },
    /// A claim, also that of a data volume: `disk.img` in a file system, or a block device.
    Claim {
        name: String,
    },
    /// The same, but what the guest writes is gone when it ends.
    Ephemeral {
        name: String,
    },
    /// Bytes. Empty at the start, deleted at the end.
    EmptyDisk {
        capacity: u64,
    },
    CloudInit(CloudInit),
    /// The files of a volume as they are at the start, on a read-only disk.
    Files {
        /// Whether the volume may be missing; the disk is then empty.
        optional: bool,
        label: VolumeLabel,
    },
}

impl VolumeSource {
    /// What the guest writes goes to an overlay, whose base stays as it is.
    pub fn is_overlaid(&self) -> bool {
        matches!(self, Self::ContainerDisk { .. } | Self::Ephemeral { .. })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CloudInit {
    pub source: CloudInitSource,
    pub user_data: Option<SeedData>,
    pub network_data: Option<SeedData>,
    /// Of `spec.accessCredentials`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub public_keys: Vec<PublicKeys>,
}

impl CloudInit {
    /// The name of the secret with the network data where it is another one than the user data's, and so mounted elsewhere.
    pub fn other_secret(&self) -> Option<&str> {
        match (&self.user_data, &self.network_data) {
            (Some(SeedData::Secret { name: user }), Some(SeedData::Secret { name })) if user != name => {
                Some(name)
            }
            _ => None,
        }
    }
}

/// Public keys of SSH, each a file of a secret that the pod mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublicKeys {
    /// Field path, for messages of the later phases.
    pub path: String,
    pub secret: String,
}

impl PublicKeys {
    /// The name under which the pod has the secret among its volumes. No volume of a manifest has a dot in its name.
    pub fn volume(&self) -> String {
        format!("{}.access-credential", self.secret)
    }
}

/// The name under which the pod has the secret of a volume's network data, where that is another one than its user data's.
pub fn network_data_volume(volume: &str) -> String {
    format!("{volume}.networkdata")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum CloudInitSource {
    NoCloud,
    ConfigDrive,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum SeedData {
    Inline(Text),
    /// A secret that the pod mounts: the key `userdata` or `userData`, `networkdata` or `networkData`.
    Secret {
        name: String,
    },
}

/// Content that may hold a password: neither a plan nor a log shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Text(pub Vec<u8>);

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{} bytes", self.0.len()))
    }
}

/// A FAT volume's label: up to eleven printable ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VolumeLabel(Cow<'static, str>);

impl VolumeLabel {
    pub const MAX: usize = 11;
    /// By which cloud-init finds its data source NoCloud.
    pub const NO_CLOUD: Self = Self(Cow::Borrowed("cidata"));
    /// By which cloud-init finds its data source ConfigDrive.
    pub const CONFIG_DRIVE: Self = Self(Cow::Borrowed("config-2"));

    pub fn new(text: &str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let fits = (1..=Self::MAX).contains(&text.len()) && text.bytes().all(plain);
        fits.then(|| Self(Cow::Owned(text.to_owned())))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}
