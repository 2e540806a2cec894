//! What ends the plugin.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("listen at {}", path.display())]
    Listen {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A container keeps the directory that was mounted into it when it started; only a new container gets the new one.
    #[error(
        "{} was removed and may have been created again: this process must be restarted to see the new directory",
        path.display()
    )]
    DirectoryRemoved { path: PathBuf },
    #[error("wait for signals")]
    Signals(#[source] io::Error),
}
