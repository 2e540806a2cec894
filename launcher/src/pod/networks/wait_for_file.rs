//! Waits for a file to be filled. The kubelet puts a new directory of such files in the place of the old one, by
//! renaming a link beside them (`..data`), so it is the directory that is watched (inotify(7)).

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// Returns when the file holds something, or when `timeout` is over: the caller judges that.
pub(super) fn until_written(path: &Path, timeout: Duration) -> io::Result<()> {
    let end = Instant::now() + timeout;
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    // Watched before it is looked at, so that nothing is missed in between.
    let changes = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE;
    inotify.add_watch(directory, changes)?;
    let mut logged = false;
    while fs::metadata(path)?.len() == 0 {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        if !logged {
            tracing::info!(
                event = "waiting-for-file",
                path = %path.display(),
                "waiting for {} to be filled",
                path.display()
            );
            logged = true;
        }
        let poll_timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(
            &mut [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)],
            poll_timeout,
        ) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        match inotify.read_events() {
            Ok(_) | Err(Errno::EAGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::thread;

    use super::*;

    /// Whether this process has an inotify watch on the directory (proc(5), fdinfo).
    fn is_watched(directory: &Path) -> bool {
        let inode = format!("ino:{:x} ", fs::metadata(directory).unwrap().ino());
        let infos = fs::read_dir("/proc/self/fdinfo").unwrap().flatten();
        let mut texts = infos.filter_map(|info| fs::read_to_string(info.path()).ok());
        texts.any(|text| text.contains(&inode))
    }

    /// As the kubelet's volumes are: file -> ..data/file, ..data -> a directory.
    #[test]
    fn a_directory_put_in_place_of_another_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for (name, content) in [("..1", ""), ("..2", "[]")] {
            fs::create_dir(root.join(name)).unwrap();
            fs::write(root.join(name).join("status"), content).unwrap();
        }
        symlink("..1", root.join("..data")).unwrap();
        symlink("..data/status", root.join("status")).unwrap();
        let path = root.join("status");
        assert!(until_written(&path, Duration::ZERO).is_ok());
        symlink("..2", root.join("..tmp")).unwrap();
        let begun = Instant::now();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| until_written(&path, Duration::from_secs(60)));
            while !is_watched(root) {
                thread::yield_now();
            }
            fs::rename(root.join("..tmp"), root.join("..data")).unwrap();
            waiting.join().unwrap().unwrap();
        });
        assert_eq!(fs::read_to_string(&path).unwrap(), "[]");
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "only seen when the patience was over"
        );
    }

    #[test]
    fn what_is_not_there_is_an_error_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let error = until_written(&dir.path().join("status"), Duration::from_secs(60)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
