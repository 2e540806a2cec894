//! Becomes a process of a pod or of a guest: `enter JSON COMMAND ARGS…`, where JSON is an [`Entry`].
//!
//! A container runtime's work in small, as a program of its own: it changes what belongs to a whole process
//! (namespaces, mounts, ids, capabilities), which a thread of the test suite could not do safely after a fork.

#[path = "../entry.rs"]
mod entry;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use caps::{CapSet, Capability, CapsHashSet};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Uid, fork, setgroups, setresgid, setresuid};

use entry::Entry;

fn main() {
    // Reached only where the command was not.
    if let Err(error) = run() {
        eprintln!("enter: {error:#}");
    }
    std::process::exit(125);
}

fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [entry, program, rest @ ..] = args.as_slice() else {
        bail!("usage: enter JSON COMMAND ARGS…");
    };
    let entry: Entry = serde_json::from_str(entry)?;

    let netns = fs::File::open(&entry.netns).with_context(|| entry.netns.display().to_string())?;
    setns(netns, CloneFlags::CLONE_NEWNET).context("setns")?;
    unshare(CloneFlags::CLONE_NEWNS).context("unshare mounts")?;
    mount_in(None, Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
    if entry.first_process {
        unshare(CloneFlags::CLONE_NEWPID).context("unshare processes")?;
        // SAFETY: this process has one thread, so the child may do whatever it likes.
        if let ForkResult::Parent { child } = unsafe { fork() }? {
            std::process::exit(match waitpid(child, None)? {
                WaitStatus::Exited(_, code) => code,
                WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
                _ => 125,
            });
        }
        mount_in(
            Some(Path::new("proc")),
            Path::new("/proc"),
            Some("proc"),
            MsFlags::empty(),
        )?;
    }
    // sysfs shows the namespace it was mounted in. Read-only as in any container; systemd-networkd takes that for the
    // sign that there is no udev to wait for.
    mount_in(
        Some(Path::new("sysfs")),
        Path::new("/sys"),
        Some("sysfs"),
        MsFlags::MS_RDONLY,
    )?;
    for dir in &entry.tmpfs {
        mount_in(Some(Path::new("tmpfs")), dir, Some("tmpfs"), MsFlags::empty())?;
    }
    for (from, to) in &entry.binds {
        mount_in(Some(from), to, None, MsFlags::MS_BIND)?;
    }
    if let Some(scratch) = &entry.devices {
        devices(scratch)?;
    }
    if entry.read_only_proc_sys {
        let path = Path::new("/proc/sys");
        mount_in(Some(path), path, None, MsFlags::MS_BIND)?;
        mount_in(
            None,
            path,
            None,
            MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY,
        )?;
    }
    if entry.no_landlock {
        forget_landlock()?;
    }
    if let Some(most) = entry.max_files {
        setrlimit(Resource::RLIMIT_NOFILE, most, most).context("limit open files")?;
    }
    if entry.uid.is_some() || entry.capabilities.is_some() {
        privileges(&entry)?;
    }
    Err(Command::new(program).args(rest).exec()).with_context(|| program.clone())
}

fn mount_in(from: Option<&Path>, to: &Path, kind: Option<&str>, flags: MsFlags) -> Result<()> {
    mount(from, to, kind, flags, None::<&str>).with_context(|| format!("mount on {}", to.display()))
}

/// /dev/kvm and /dev/net/tun for every user, as device plugins hand them out.
fn devices(scratch: &Path) -> Result<()> {
    mount_in(Some(Path::new("tmpfs")), scratch, Some("tmpfs"), MsFlags::empty())?;
    for (name, path, minor) in [("tun", "/dev/net/tun", 200), ("kvm", "/dev/kvm", 232)] {
        let node = scratch.join(name);
        mknod(
            &node,
            SFlag::S_IFCHR,
            Mode::from_bits_retain(0o666),
            makedev(10, minor),
        )?;
        // mknod's mode passes through the umask.
        fs::set_permissions(&node, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
        if Path::new(path).exists() {
            mount_in(Some(&node), Path::new(path), None, MsFlags::MS_BIND)?;
        }
    }
    Ok(())
}

/// Has this process and what it starts find no landlock, as a container runtime's seccomp profile does.
fn forget_landlock() -> Result<()> {
    let calls = [
        libc::SYS_landlock_create_ruleset,
        libc::SYS_landlock_add_rule,
        libc::SYS_landlock_restrict_self,
    ];
    hawser_linux::seccomp::forbid(&calls, &[]).context("seccomp")
}

fn privileges(entry: &Entry) -> Result<()> {
    let mut keep = CapsHashSet::new();
    for name in entry.capabilities.iter().flatten() {
        keep.insert(
            format!("CAP_{name}")
                .parse::<Capability>()
                .map_err(|e| anyhow::anyhow!("{name}: {e}"))?,
        );
    }
    for capability in caps::runtime::procfs_all_supported(None)? {
        if !keep.contains(&capability) {
            caps::drop(None, CapSet::Bounding, capability)?;
        }
    }
    if let Some(gid) = entry.roots_group {
        let gid = Gid::from_raw(gid);
        setgroups(&[gid])?;
        setresgid(gid, gid, gid)?;
    }
    if let Some(uid) = entry.uid {
        nix::sys::prctl::set_keepcaps(true)?;
        setgroups(&[])?;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
    }
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    let ambient = entry.uid.is_some_and(|uid| uid != 0);
    if ambient {
        // Effective first: the permitted set can only be cut down to what stays.
        caps::set(None, CapSet::Effective, &keep)?;
        caps::set(None, CapSet::Permitted, &keep)?;
        caps::set(None, CapSet::Inheritable, &keep)?;
        caps::set(None, CapSet::Ambient, &keep)?;
    }
    Ok(())
}
