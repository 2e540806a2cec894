//! What is to be done next so that the kubelet knows the resource, from what is found in its directory. Pure.
//!
//! The order has reasons. Without a kubelet there is nothing to do: when it starts, it removes every socket from the directory
//! before it creates its own. The plugin listens before it registers, because the kubelet connects to it before it answers.
//! And a socket that is not the plugin's own any more means that no kubelet can reach it there, whatever it has answered.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// One file among those that have the same path one after another. The inode alone would not do: its number is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl FileId {
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let found = fs::symlink_metadata(path).ok()?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// What is in the kubelet's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kubelet: Option<FileId>,
    /// At the path of the plugin's own socket.
    pub(crate) socket: Option<FileId>,
}

/// What the plugin has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Registration {
    /// The socket that the plugin listens on.
    pub(crate) socket: Option<FileId>,
    /// The kubelet that accepted it there.
    pub(crate) kubelet: Option<FileId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Until something changes.
    Wait,
    Listen,
    Register(FileId),
}

impl Registration {
    pub(crate) fn next(&self, seen: Seen) -> Step {
        let Some(kubelet) = seen.kubelet else {
            return Step::Wait;
        };
        if self.socket.is_none() || self.socket != seen.socket {
            return Step::Listen;
        }
        if self.kubelet != Some(kubelet) {
            return Step::Register(kubelet);
        }
        Step::Wait
    }

    pub(crate) fn listening(socket: FileId) -> Self {
        Self {
            socket: Some(socket),
            kubelet: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(inode: u64) -> FileId {
        FileId {
            device: 1,
            inode,
            changed: (0, 0),
        }
    }

    /// Does what it says until it says to wait, and lists it.
    fn run(mut registration: Registration, seen: Seen) -> (Registration, Vec<Step>) {
        let mut seen = seen;
        let mut steps = Vec::new();
        loop {
            let step = registration.next(seen);
            match step {
                Step::Wait => return (registration, steps),
                Step::Listen => {
                    seen.socket = Some(file(100 + steps.len() as u64));
                    registration = Registration::listening(seen.socket.unwrap());
                }
                Step::Register(kubelet) => registration.kubelet = Some(kubelet),
            }
            steps.push(step);
            assert!(steps.len() < 5, "it does not come to rest: {steps:?}");
        }
    }

    #[test]
    fn nothing_is_done_without_a_kubelet() {
        let nobody = Seen {
            kubelet: None,
            socket: None,
        };
        assert_eq!(run(Registration::default(), nobody).1, []);
    }

    #[test]
    fn it_listens_then_registers_and_rests() {
        let seen = Seen {
            kubelet: Some(file(1)),
            // Of an earlier process.
            socket: Some(file(2)),
        };
        let (registration, steps) = run(Registration::default(), seen);
        assert_eq!(steps, [Step::Listen, Step::Register(file(1))]);
        let seen = Seen {
            kubelet: Some(file(1)),
            socket: registration.socket,
        };
        assert_eq!(registration.next(seen), Step::Wait);
    }

    #[test]
    fn a_kubelet_that_restarted_is_told_anew_whether_it_emptied_its_directory_or_not() {
        let start = Seen {
            kubelet: Some(file(1)),
            socket: None,
        };
        let (registration, _) = run(Registration::default(), start);
        let kept = Seen {
            kubelet: Some(file(3)),
            socket: registration.socket,
        };
        assert_eq!(run(registration, kept).1, [Step::Register(file(3))]);
        let emptied = Seen {
            kubelet: Some(file(3)),
            socket: None,
        };
        assert_eq!(
            run(registration, emptied).1,
            [Step::Listen, Step::Register(file(3))]
        );
    }

    #[test]
    fn a_socket_that_was_removed_or_replaced_is_made_again() {
        let start = Seen {
            kubelet: Some(file(1)),
            socket: None,
        };
        let (registration, _) = run(Registration::default(), start);
        for socket in [None, Some(file(77))] {
            let seen = Seen { socket, ..start };
            assert_eq!(run(registration, seen).1, [Step::Listen, Step::Register(file(1))]);
        }
    }
}
