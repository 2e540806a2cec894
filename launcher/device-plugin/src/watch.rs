//! Says that something may have changed: never what, so that nothing is missed when events are lost or come late.
//!
//! Watched are the directories of the files in question and every directory above them, as far as they exist: /dev/vfio is
//! created together with the node in it. A directory that appears is watched before it is looked into.
//!
//! A node may have no inotify instance left for this process (fs.inotify.max_user_instances). And inotify(7) does not tell that
//! a directory was removed which is mounted here, as the kubelet's is in a container (seen), or of a file system that is mounted
//! over a path. So everything is also looked at in intervals, which are short without inotify.

use std::collections::BTreeSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

const INTERVAL: Duration = Duration::from_secs(10);
const INTERVAL_WITHOUT_INOTIFY: Duration = Duration::from_secs(1);

/// `files` may change at any time.
#[derive(Debug)]
pub(crate) struct Watch {
    inotify: Option<AsyncFd<OwnedFd>>,
    directories: BTreeSet<PathBuf>,
    changes: watch::Sender<()>,
}

impl Watch {
    pub(crate) fn new(files: &[PathBuf]) -> Self {
        let directories = files
            .iter()
            .flat_map(|file| file.ancestors().skip(1))
            .map(Path::to_owned)
            .collect();
        let inotify = match open() {
            Ok(inotify) => Some(inotify),
            Err(error) => {
                tracing::warn!(
                    event = "inotify-unavailable",
                    "the plugin has no inotify instance and looks at everything each second instead: {error}"
                );
                None
            }
        };
        let new = Self {
            inotify,
            directories,
            changes: watch::Sender::new(()),
        };
        new.arm();
        new
    }

    /// Has changed whenever something may have. What is looked at afterwards is not older than the change.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Watches what there is now. The kernel knows which of it is watched already.
    fn arm(&self) {
        let Some(inotify) = &self.inotify else { return };
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        for directory in &self.directories {
            match inotify::add_watch(inotify.get_ref(), directory, flags) {
                Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => tracing::warn!(
                    event = "watch-failed",
                    directory = %directory.display(),
                    "the directory is looked at each 10 s instead of watched: {error}"
                ),
            }
        }
    }

    pub(crate) async fn run(self) {
        loop {
            match &self.inotify {
                Some(inotify) => {
                    let _ = tokio::time::timeout(INTERVAL, drain(inotify)).await;
                }
                None => tokio::time::sleep(INTERVAL_WITHOUT_INOTIFY).await,
            }
            self.arm();
            self.changes.send_replace(());
        }
    }
}

fn open() -> io::Result<AsyncFd<OwnedFd>> {
    let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    // SAFETY: the descriptor is open and owned by what is registered, which is neither replaced nor closed while it is.
    Ok(unsafe { AsyncFd::register_with_interest(inotify, Interest::READABLE) }?)
}

/// Waits for an event, and takes all that there are.
async fn drain(inotify: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut ready = inotify.readable().await?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(ready.get_inner(), &mut buffer);
    while reader.next().is_ok() {}
    ready.clear_ready();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_directory_that_appears_is_watched_before_it_is_looked_into() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("vfio/deeper/vfio");
        let watch = Watch::new(std::slice::from_ref(&file));
        let mut changes = watch.changes();
        let task = tokio::spawn(watch.run());
        let limit = Duration::from_secs(5);
        for step in ["vfio", "vfio/deeper"] {
            fs::create_dir(dir.path().join(step)).unwrap();
            tokio::time::timeout(limit, changes.changed())
                .await
                .unwrap()
                .unwrap();
        }
        fs::write(&file, "").unwrap();
        tokio::time::timeout(limit, changes.changed())
            .await
            .unwrap()
            .unwrap();
        task.abort();
    }
}
