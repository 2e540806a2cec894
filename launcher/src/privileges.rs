//! Who hawser is, and how it becomes less.
//!
//! Three stages. While the pod is wired, CAP_NET_ADMIN is effective, and ambient so that `nft` has it too. Then the
//! process splits: the keeper holds on to CAP_NET_ADMIN alone, to take the wiring down at the end, and hears
//! nothing that a guest says; the supervisor, and the VMM that it starts, become the unprivileged user, without a
//! capability and with no_new_privs, before the guest's first instruction.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability};
use hawser_netsetup::Owner;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid};

use crate::error::{ExitCode, Failure};

/// The user that the guest's processes run as, where another container starts them: that user owns the TAPs.
pub(crate) fn owner_elsewhere(wanted: u32) -> Owner {
    let uid = Uid::effective();
    match uid.is_root() {
        true => Owner {
            uid: wanted,
            gid: wanted,
        },
        false => Owner {
            uid: uid.as_raw(),
            gid: Gid::effective().as_raw(),
        },
    }
}

/// The same where this process starts them, or why it cannot.
pub(crate) fn owner(wanted: u32) -> Result<Owner, Failure> {
    let owner = owner_elsewhere(wanted);
    if !Uid::effective().is_root() {
        return Ok(owner);
    }
    let missing: Vec<_> = [Capability::CAP_SETUID, Capability::CAP_SETGID]
        .into_iter()
        .filter(|cap| !has(*cap))
        .map(|cap| cap.to_string())
        .collect();
    if missing.is_empty() {
        return Ok(owner);
    }
    Err(Failure::new(
        ExitCode::PodUnfit,
        format!(
            "running as root without {}: the VMM could not be given a user of its own",
            missing.join(" and ")
        ),
    )
    .remedy("run the container as user 107 (runAsUser: 107), or add the capabilities SETUID and SETGID"))
}

/// Does `work` as the user that the guest's processes will be, with their groups, so that what it can open they can open.
pub(crate) fn as_owner<T>(owner: Owner, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    if !Uid::effective().is_root() {
        return work();
    }
    let fail = |errno: nix::errno::Errno| {
        Failure::new(
            ExitCode::Internal,
            format!("become user {} for a moment", owner.uid),
        )
        .because(errno)
    };
    let (groups, gid, uid) = (
        nix::unistd::getgroups().map_err(fail)?,
        Gid::effective(),
        Uid::effective(),
    );
    let theirs: Vec<_> = device_groups(&[]).into_iter().map(Gid::from_raw).collect();
    nix::unistd::setgroups(&theirs).map_err(fail)?;
    nix::unistd::setegid(Gid::from_raw(owner.gid)).map_err(fail)?;
    nix::unistd::seteuid(Uid::from_raw(owner.uid)).map_err(fail)?;
    let result = work();
    // The capabilities come back with the user (capabilities(7)).
    nix::unistd::seteuid(uid).map_err(fail)?;
    nix::unistd::setegid(gid).map_err(fail)?;
    nix::unistd::setgroups(&groups).map_err(fail)?;
    result
}

/// What this process has in memory (keys, the guest's secrets) stays there: no process of the same user can trace it or
/// open its /proc/PID/mem, and neither it nor what it starts writes core files. The programs that it starts can be traced
/// by their own user: exec(2) sets that anew.
pub(crate) fn keep_memory_private() -> Result<(), Failure> {
    /// One byte. The kernel takes 0 for no word about a core_pattern that is a pipe, and this for no core at all (core(5), and
    /// coredump.c of the kernel's source).
    const NO_CORE: u64 = 1;
    let limit = getrlimit(Resource::RLIMIT_CORE).map_or(NO_CORE, |(_, hard)| hard.min(NO_CORE));
    setrlimit(Resource::RLIMIT_CORE, limit, limit)
        .and_then(|()| nix::sys::prctl::set_dumpable(false))
        .map_err(|errno| Failure::new(ExitCode::Internal, "keep memory private").because(errno))
}

pub(crate) fn has(cap: Capability) -> bool {
    caps::has_cap(None, CapSet::Permitted, cap).unwrap_or(false)
}

/// Whether this process may wire the pod.
pub(crate) fn need_net_admin() -> Result<(), Failure> {
    if has(Capability::CAP_NET_ADMIN) {
        return Ok(());
    }
    Err(without_net_admin())
}

fn without_net_admin() -> Failure {
    Failure::unfit(
        "the network has to be set up, and that needs CAP_NET_ADMIN",
        "add the capability NET_ADMIN to the container (securityContext.capabilities.add, or podman run --cap-add \
         NET_ADMIN), or wire the pod beforehand with hawser setup in an init container that has it",
    )
}

/// Makes CAP_NET_ADMIN usable here and by the programs that are started from here.
pub(crate) fn raise_net_admin() -> Result<(), Failure> {
    let fail = |error: caps::errors::CapsError| without_net_admin().because(error);
    for set in [CapSet::Effective, CapSet::Inheritable, CapSet::Ambient] {
        caps::raise(None, set, Capability::CAP_NET_ADMIN).map_err(fail)?;
    }
    Ok(())
}

/// Does `work`, with CAP_NET_ADMIN for the programs that it starts too.
pub(crate) fn with_net_admin<T, E: std::error::Error + Send + Sync + 'static>(
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, Failure> {
    raise_net_admin()?;
    let result = work();
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        // What is held stays the same; what is started next should have nothing.
        let _ = caps::clear(None, set);
    }
    result.map_err(|error| Failure::new(ExitCode::Internal, "with CAP_NET_ADMIN").because(error))
}

/// What the keeper goes on with: CAP_NET_ADMIN if it had it, nothing else.
pub(crate) fn keep_net_admin_alone() -> Result<(), caps::errors::CapsError> {
    let rest: HashSet<_> = [Capability::CAP_NET_ADMIN]
        .into_iter()
        .filter(|cap| has(*cap))
        .collect();
    if has(Capability::CAP_SETPCAP) {
        for cap in caps::read(None, CapSet::Bounding)?.difference(&rest) {
            caps::drop(None, CapSet::Bounding, *cap)?;
        }
    }
    nix::sys::prctl::set_no_new_privs().map_err(|errno| caps::errors::CapsError::from(errno.to_string()))?;
    // Inheritable and ambient are raised again for the `nft` of the end.
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        caps::clear(None, set)?;
    }
    caps::set(None, CapSet::Effective, &rest)?;
    caps::set(None, CapSet::Permitted, &rest)?;
    Ok(())
}

/// Becomes `owner` without a capability, for good. `nodes` are devices that it opens besides [`DEVICES`].
pub(crate) fn drop_all(owner: Owner, nodes: &[PathBuf]) -> Result<(), Failure> {
    let fail = |what: &'static str| {
        move |error: String| Failure::new(ExitCode::Internal, format!("{what}: {error}"))
    };
    let text = |errno: nix::errno::Errno| errno.to_string();
    if Uid::effective().is_root() {
        let gid = Gid::from_raw(owner.gid);
        let groups: Vec<_> = device_groups(nodes).into_iter().map(Gid::from_raw).collect();
        nix::unistd::setgroups(&groups)
            .map_err(text)
            .map_err(fail("setgroups"))?;
        nix::unistd::setresgid(gid, gid, gid)
            .map_err(text)
            .map_err(fail("setresgid"))?;
        let uid = Uid::from_raw(owner.uid);
        nix::unistd::setresuid(uid, uid, uid)
            .map_err(text)
            .map_err(fail("setresuid"))?;
    }
    for set in [
        CapSet::Ambient,
        CapSet::Inheritable,
        CapSet::Effective,
        CapSet::Permitted,
    ] {
        caps::clear(None, set)
            .map_err(|error| error.to_string())
            .map_err(fail("drop capabilities"))?;
    }
    nix::sys::prctl::set_no_new_privs()
        .map_err(text)
        .map_err(fail("no_new_privs"))?;
    // A change of the user takes it back where the node's fs.suid_dumpable is 1.
    keep_memory_private()?;
    match caps::read(None, CapSet::Permitted) {
        Ok(left) if left.is_empty() => Ok(()),
        _ => Err(Failure::new(
            ExitCode::Internal,
            "capabilities are left after they were dropped",
        )),
    }
}

/// Has the kernel refuse what neither the supervisor nor anything that it starts has a use for, and what has served to take
/// over kernels and other processes. It holds for the VMM's first thread too, to which cloud-hypervisor gives no filter.
/// Mounting and user namespaces are not among it: passt makes its sandbox with them.
pub(crate) fn forbid_unused_calls() -> Result<(), Failure> {
    use hawser_linux::seccomp::Only;
    use nix::libc;
    const CALLS: [libc::c_long; 26] = [
        // Other processes.
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_kcmp,
        // Programs in the kernel, its keys, its modules and its successor.
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_keyctl,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_kexec_file_load,
        // The whole node.
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_acct,
        libc::SYS_syslog,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_clock_adjtime,
        libc::SYS_quotactl,
        libc::SYS_fanotify_init,
        libc::SYS_open_by_handle_at,
        libc::SYS_vhangup,
    ];
    /// What may be done to a thread of another process: to stop it and to release it, which is no more than kill(2) can. During a
    /// migration the supervisor stops vCPUs so ([`crate::vmm::vcpus`]).
    const PTRACE: Only = Only {
        call: libc::SYS_ptrace,
        first: &[libc::PTRACE_SEIZE, libc::PTRACE_INTERRUPT, libc::PTRACE_DETACH],
    };
    hawser_linux::seccomp::forbid(&CALLS, &[PTRACE])
        .map_err(|error| Failure::new(ExitCode::Internal, "install a seccomp filter").because(error))
}

/// Devices that the unprivileged user opens.
pub(crate) const DEVICES: [&str; 2] = [KVM, TUN];
pub(crate) const KVM: &str = "/dev/kvm";
/// Where no NIC has a TAP it is not needed.
pub(crate) const TUN: &str = "/dev/net/tun";

/// Groups that own the devices: on many hosts /dev/kvm is root:kvm 0660. The group root is never one.
fn device_groups(nodes: &[PathBuf]) -> Vec<u32> {
    let mut groups: Vec<_> = DEVICES
        .iter()
        .map(Path::new)
        .chain(nodes.iter().map(PathBuf::as_path))
        .filter_map(|path| fs::metadata(path).ok())
        .map(|meta| meta.gid())
        .filter(|gid| *gid != 0)
        .collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// Whether `owner` will be able to open a device for reading and writing, found out without being it yet.
pub(crate) fn device(path: &str, owner: Owner) -> Result<(), Failure> {
    let unfit = |why: String, remedy: String| {
        Err(Failure::new(ExitCode::PodUnfit, format!("{path}: {why}")).remedy(remedy))
    };
    let meta = match fs::metadata(Path::new(path)) {
        Ok(meta) => meta,
        Err(error) => {
            return unfit(
                error.to_string(),
                format!(
                    "give the pod the device: a device plugin in Kubernetes, --device {path} with podman"
                ),
            );
        }
    };
    if !meta.file_type().is_char_device() {
        return unfit(
            "not a character device".into(),
            format!("mount the host's {path} there"),
        );
    }
    let shift = if meta.uid() == owner.uid {
        6
    } else if meta.gid() == owner.gid || groups_will_hold(meta.gid()) {
        3
    } else {
        0
    };
    if meta.mode() >> shift & 0o6 == 0o6 {
        return Ok(());
    }
    unfit(
        format!(
            "owned by {}:{} with mode {:o}, which user {} may not read and write",
            meta.uid(),
            meta.gid(),
            meta.mode() & 0o777,
            owner.uid
        ),
        format!(
            "chmod 0666 {path} on the node, or run as a user or with a supplementary group that may use it"
        ),
    )
}

fn groups_will_hold(gid: u32) -> bool {
    if Uid::effective().is_root() {
        return gid != 0;
    }
    nix::unistd::getgroups().is_ok_and(|groups| groups.contains(&Gid::from_raw(gid)))
}
