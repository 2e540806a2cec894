//! A device node of the host, as it is at this moment.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    Absent,
    /// Something else has that name, or it cannot be looked at.
    Unusable,
    Device(Device),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device {
    /// Major and minor number.
    pub(crate) number: u64,
    /// Permission bits.
    pub(crate) mode: u32,
}

impl Device {
    /// Whether a user who is neither the node's owner nor in its group may read and write it.
    pub(crate) fn is_open_to_all(self) -> bool {
        self.mode & 0o006 == 0o006
    }
}

impl Node {
    pub(crate) fn look(path: &Path) -> Self {
        match fs::metadata(path) {
            Ok(found) => Self::of(&found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::Absent,
            Err(_) => Self::Unusable,
        }
    }

    pub(crate) fn of(found: &Metadata) -> Self {
        if !found.file_type().is_char_device() {
            return Self::Unusable;
        }
        Self::Device(Device {
            number: found.rdev(),
            mode: found.mode() & 0o7777,
        })
    }

    pub(crate) fn is_usable(self) -> bool {
        matches!(self, Self::Device(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_character_device_is_one() {
        let null = Node::look(Path::new("/dev/null"));
        assert!(
            matches!(null, Node::Device(device) if device.is_open_to_all()),
            "{null:?}"
        );
        assert_eq!(Node::look(Path::new("/etc/passwd")), Node::Unusable);
        assert_eq!(Node::look(Path::new("/dev/no-such-node")), Node::Absent);
        assert!(
            !Device {
                number: 0,
                mode: 0o660
            }
            .is_open_to_all()
        );
    }
}
