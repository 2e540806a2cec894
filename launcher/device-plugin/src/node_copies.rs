//! The plugin's own device nodes, for containers that may not open the host's. `handout` says why, and for what each file is.
//!
//! They are left when the plugin ends: the kubelet remembers their paths, and uses them again when a container restarts.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, mknod};
use rustix::fs::{StatVfsMountFlags, statvfs};

use crate::handout::Handout;
use crate::node::{Device, Node};

#[derive(Debug, Clone)]
pub(crate) struct NodeCopies {
    /// Has the same path on the host.
    pub(crate) directory: PathBuf,
    /// The host's /dev/hawser, as it is called here.
    pub(crate) aliases: PathBuf,
}

impl NodeCopies {
    /// The path of this device's copy, which is made where it is missing or another device's.
    fn ensure(&self, name: &str, device: Device) -> io::Result<PathBuf> {
        // Nobody but root gets to the copy, except by a mount that the runtime makes.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)?;
        // The kubelet may have created it.
        if fs::metadata(&self.directory)?.mode() & 0o7777 != 0o700 {
            fs::set_permissions(&self.directory, Permissions::from_mode(0o700))?;
        }
        let path = self.directory.join(name);
        let wanted = Node::Device(Device {
            mode: 0o666,
            ..device
        });
        // A container may have it mounted: what is right stays.
        if fs::symlink_metadata(&path).is_ok_and(|found| Node::of(&found) == wanted) {
            return Ok(path);
        }
        let new = self.directory.join(format!(".{name}"));
        hawser_linux::unix_socket::remove_stale(&new)?;
        mknod(
            &new,
            SFlag::S_IFCHR,
            Mode::from_bits_truncate(0o600),
            device.number,
        )?;
        // The umask does not count here.
        fs::set_permissions(&new, Permissions::from_mode(0o666))?;
        fs::rename(&new, &path)?;
        Ok(path)
    }

    /// The empty file that runc binds in a pod with a user namespace.
    fn ensure_alias(&self, name: &str) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.aliases)?;
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(0o444);
        let file = options.open(self.aliases.join(name))?;
        let found = file.metadata()?;
        match found.is_file() && found.size() == 0 {
            true => Ok(()),
            false => Err(io::Error::other("it is not an empty file")),
        }
    }

    /// Whether a mount of what is in the directory can be opened as a device.
    fn has_devices(&self) -> io::Result<bool> {
        let flags = statvfs(&self.directory)?.f_flag;
        Ok(!flags.contains(StatVfsMountFlags::NODEV))
    }

    /// How a container is to get the device, and what stands in the way of the best way.
    pub(crate) fn handout(&self, name: &str, device: Device) -> (Copied, Option<String>) {
        let at = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
        let path = match self.ensure(name, device) {
            Ok(path) => path,
            Err(error) => return (Copied::No, Some(at(&self.directory.join(name), error))),
        };
        match self.has_devices() {
            Ok(true) => {}
            Ok(false) => {
                let why = format!(
                    "{} is on a file system that is mounted nodev",
                    self.directory.display()
                );
                return (Copied::NotMountable(path), Some(why));
            }
            Err(error) => return (Copied::NotMountable(path), Some(at(&self.directory, error))),
        }
        match self.ensure_alias(name) {
            Ok(()) => (Copied::Mountable(path), None),
            Err(error) => {
                let why = at(&self.aliases.join(name), error);
                (Copied::NotMountable(path), Some(why))
            }
        }
    }
}

/// What there is of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Copied {
    No,
    NotMountable(PathBuf),
    Mountable(PathBuf),
}

impl Copied {
    pub(crate) fn handout(&self) -> Handout<'_> {
        match self {
            Self::No => Handout::Node,
            Self::NotMountable(path) => Handout::CopyAsDevice(path),
            Self::Mountable(path) => Handout::CopyMounted(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of /dev/null.
    fn null(mode: u32) -> Device {
        match Node::look(Path::new("/dev/null")) {
            Node::Device(device) => Device { mode, ..device },
            other => panic!("{other:?}"),
        }
    }

    fn copies(below: &Path) -> NodeCopies {
        NodeCopies {
            directory: below.join("copies"),
            aliases: below.join("dev/hawser"),
        }
    }

    #[test]
    #[ignore = "creates a device node: needs root"]
    fn a_copy_is_open_to_all_in_a_directory_of_roots_and_stays_the_same() {
        assert!(nix::unistd::Uid::effective().is_root(), "run as root");
        let dir = tempfile::tempdir().unwrap();
        let copies = copies(dir.path());
        let (copied, why) = copies.handout("kvm", null(0o660));
        let path = copies.directory.join("kvm");
        assert_eq!((copied, why), (Copied::Mountable(path.clone()), None));
        assert_eq!(Node::look(&path), Node::Device(null(0o666)));
        assert_eq!(fs::metadata(&copies.directory).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::read(copies.aliases.join("kvm")).unwrap(), b"");
        let before = fs::metadata(&path).unwrap().ino();
        copies.handout("kvm", null(0o600));
        assert_eq!(fs::metadata(&path).unwrap().ino(), before);
        // Another device of that name: after a reboot, numbers may be others.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        copies.handout("kvm", null(0o600));
        assert_eq!(Node::look(&path), Node::Device(null(0o666)));
        let names: Vec<_> = fs::read_dir(&copies.directory).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    #[ignore = "creates a device node: needs root"]
    fn without_the_second_name_the_copy_is_no_mount() {
        let dir = tempfile::tempdir().unwrap();
        let copies = copies(dir.path());
        fs::write(dir.path().join("dev"), "a file in the way").unwrap();
        let (copied, why) = copies.handout("kvm", null(0o660));
        assert_eq!(copied, Copied::NotMountable(copies.directory.join("kvm")));
        assert!(why.is_some_and(|why| why.contains("dev/hawser/kvm")));
    }

    #[test]
    fn where_there_can_be_no_copy_the_hosts_node_is_given() {
        let dir = tempfile::tempdir().unwrap();
        let copies = copies(dir.path());
        fs::write(&copies.directory, "a file in the way").unwrap();
        let (copied, why) = copies.handout("kvm", null(0o660));
        assert_eq!(copied.handout(), Handout::Node);
        assert!(why.is_some_and(|why| why.contains("copies/kvm")));
    }
}
