//! Whether this process may have as many descriptors as a launcher has, before it begins: in the middle there is no good moment
//! to find out.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::error::{ExitCode, Failure};

/// A launcher with one NIC and no migration has some 30 in each half.
const NEEDED: u64 = 64;

/// Raises the limit where it is lower and may be raised.
pub(crate) fn require() -> Result<(), Failure> {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return Ok(());
    };
    if soft >= NEEDED || (hard >= NEEDED && setrlimit(Resource::RLIMIT_NOFILE, NEEDED, hard).is_ok()) {
        return Ok(());
    }
    Err(Failure::new(
        ExitCode::PodUnfit,
        format!("hawser may have {hard} files open at a time, and needs {NEEDED}"),
    )
    .remedy("raise the container's limit of open files (RLIMIT_NOFILE)"))
}
