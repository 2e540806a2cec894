//! Unix sockets at a path that an earlier process may have left one at.

use std::fs;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;

/// Removes the socket that an earlier process has left, if there is one.
pub fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Listens at `path`, in the place of a socket that an earlier process has left.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    remove_stale(path)?;
    UnixListener::bind(path)
}

/// The same, for a runtime that polls: accepting does not wait.
pub fn bind_nonblocking(path: &Path) -> io::Result<UnixListener> {
    let listener = bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_was_left_is_replaced_and_a_directory_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        drop(bind(&path).unwrap());
        assert!(path.exists(), "the file outlives its listener");
        let listener = bind_nonblocking(&path).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        fs::create_dir(dir.path().join("directory")).unwrap();
        assert!(bind(&dir.path().join("directory")).is_err());
    }
}
