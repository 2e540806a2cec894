//! The host's end of the guest's virtio socket.
//!
//! cloud-hypervisor has no vhost-vsock: it speaks virtio-vsock itself and maps it to Unix sockets (its docs/vsock.md). So
//! there is no device of the node's to be given, and the CID is the guest's own affair. The socket has a directory to
//! itself, since the VMM's landlock lets it write in the one that the socket is in.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Where others connect to reach the guest. What the guest connects to is at the same path with `_PORT` behind it.
pub(crate) fn socket(directory: &Path) -> PathBuf {
    place(directory).join("guest.sock")
}

/// For that socket alone.
pub(crate) fn place(directory: &Path) -> PathBuf {
    directory.join("vsock")
}

/// Makes the directory, and removes the socket that an earlier VMM has left: it would not bind to one that is there. Those
/// that the guest may connect to are somebody else's and stay.
pub(crate) fn prepare(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o770).create(place(directory)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    match fs::remove_file(socket(directory)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_a_killed_vmm_left_is_gone_and_what_others_put_there_stays() {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path()).unwrap();
        let _theirs = UnixListener::bind(place(directory.path()).join("guest.sock_7")).unwrap();
        drop(UnixListener::bind(socket(directory.path())).unwrap());
        prepare(directory.path()).unwrap();
        assert!(UnixListener::bind(socket(directory.path())).is_ok());
        assert!(place(directory.path()).join("guest.sock_7").exists());
    }
}
