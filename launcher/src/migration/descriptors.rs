//! Descriptors for a transfer: each of up to 128 connections takes six on either side, two sockets and two pipes between them.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// For those, for strangers at the port, and for all that the launcher has besides.
const NEEDED: u64 = 4096;

/// Raises the limit of this process as far as it is needed and allowed. Where that is not enough, accept(2) and the relay say so.
pub(super) fn raise() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < NEEDED
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, NEEDED.min(hard), hard);
    }
}
