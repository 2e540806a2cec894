//! What `enter` is told: the namespace, the mounts and the privileges of the process it becomes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Entry {
    /// A file that stands for a network namespace.
    pub(crate) netns: PathBuf,
    /// Directories that are to be empty.
    pub(crate) tmpfs: Vec<PathBuf>,
    /// What is seen in place of what.
    pub(crate) binds: Vec<(PathBuf, PathBuf)>,
    /// An empty directory to make the pod's device nodes in.
    pub(crate) devices: Option<PathBuf>,
    pub(crate) read_only_proc_sys: bool,
    /// As on a kernel without landlock: its system calls are not there.
    pub(crate) no_landlock: bool,
    /// Be the first process of a PID namespace, as a container's entrypoint is.
    pub(crate) first_process: bool,
    /// Open files at most, of each process.
    pub(crate) max_files: Option<u64>,
    /// User and group; root where there is none.
    pub(crate) uid: Option<u32>,
    /// Group of a root.
    pub(crate) roots_group: Option<u32>,
    /// The bounding set without `CAP_`, and for a user other than root the ambient set too. All where there is none.
    pub(crate) capabilities: Option<Vec<String>>,
}
