//! Landlock (landlock(7)) for a virtiofsd: what it may open besides what it has open.
//!
//! Decided before the fork; between fork and exec there is one system call. Kernels without landlock leave the process
//! what its user may, as cloud-hypervisor's own does there.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
    path_beneath_rules,
};

/// The newest whose rights the crate and the kernels of today know; older kernels take what they know of it.
const NEWEST: ABI = ABI::V5;
/// The program, what it loads, and what it reads of the kernel's limits. Absent ones are left out.
const READ: [&str; 5] = ["/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/proc/sys/fs"];

/// What a process for `directory` may do with files; absent where the kernel has no landlock.
pub(super) fn ruleset(program: &Path, directory: &Path, readonly: bool) -> io::Result<Option<OwnedFd>> {
    let all = AccessFs::from_all(NEWEST);
    let read = AccessFs::from_read(NEWEST);
    let granted = if readonly { read } else { all };
    let made = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)
        .and_then(Ruleset::create)
        .and_then(|ruleset| ruleset.add_rules(path_beneath_rules(READ, read)))
        .and_then(|ruleset| ruleset.add_rules(path_beneath_rules([program], read)))
        .and_then(|ruleset| ruleset.add_rules(path_beneath_rules([directory], granted)));
    Ok(made.map_err(io::Error::other)?.into())
}
