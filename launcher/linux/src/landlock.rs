//! Landlock rulesets (landlock(7)): what a program that the launcher starts may reach besides what it has open.
//!
//! What is allowed is a value, [`Allowed`], so that a caller can decide it without touching anything. [`Allowed::ruleset`]
//! opens its paths and makes the kernel's object of them, before the fork; between fork and exec one system call remains
//! ([`crate::child::BeforeExec::landlock`]), and it holds for every thread of the program from its first instruction on.
//!
//! Kernels differ in what they can refuse, by a number that they call the ABI. Each is asked for all that it knows of:
//! - from 1 on (Linux 5.13), opening, making and removing files outside the allowed paths, and ptrace(2) of any process
//!   that is not under the same ruleset;
//! - from 3 on (6.2), truncating files; from 5 on (6.10), ioctl(2) on devices;
//! - from 4 on (6.7), TCP connections and listeners at other ports than the allowed ones;
//! - from 6 on (6.12), signals to other processes, and abstract Unix sockets of theirs.
//!
//! No ABI up to 8 refuses a connection to a Unix socket in the file system: there the socket's own mode decides.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreatedAttr, Scope, path_beneath_rules,
};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};

/// The newest whose rights are asked for.
const NEWEST: ABI = ABI::V6;
/// Where programs and their libraries are, and the dynamic linker's list of them. Absent ones are left out.
const PROGRAMS: [&str; 4] = ["/usr", "/lib", "/lib64", "/etc/ld.so.cache"];

/// What is allowed at a path and, of a directory, at everything below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Right {
    /// Files may be read and executed, directories listed.
    Execute,
    /// Files may be read, directories listed.
    Read,
    /// Files that are there may be read and written.
    Write,
    /// Sockets may be made and removed.
    Sockets,
    /// Everything.
    All,
}

impl Right {
    fn access(self) -> BitFlags<AccessFs> {
        // A block device does not tell its size without an ioctl. On anything but a device the right is none.
        let read = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::IoctlDev;
        match self {
            Self::Execute => read | AccessFs::Execute,
            Self::Read => read,
            Self::Write => read | AccessFs::WriteFile | AccessFs::Truncate,
            Self::Sockets => AccessFs::MakeSock | AccessFs::RemoveFile,
            Self::All => AccessFs::from_all(NEWEST),
        }
    }
}

/// What a process may reach. Paths that are not there when the ruleset is made are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    paths: Vec<(PathBuf, Right)>,
    /// Those that have been looked at, and had no link in them.
    found: Vec<(PathBuf, Right)>,
    tcp_ports: Vec<u16>,
}

impl Allowed {
    /// What every program needs: itself, and what it loads.
    pub fn program(program: &Path) -> Self {
        let paths = PROGRAMS.into_iter().map(Path::new).chain([program]);
        Self {
            paths: paths.map(|path| (path.to_owned(), Right::Execute)).collect(),
            found: Vec::new(),
            tcp_ports: Vec::new(),
        }
    }

    /// A file, or all below a directory, to be read.
    #[must_use]
    pub fn read(self, path: impl Into<PathBuf>) -> Self {
        self.with(path, Right::Read)
    }

    /// A file or a device node that is there, to be read and written.
    #[must_use]
    pub fn write(self, path: impl Into<PathBuf>) -> Self {
        self.with(path, Right::Write)
    }

    /// A file that was found and looked at, to be read. Whoever else can write to its directory may have put a link in its place
    /// since then: that is an error, and one that is put there later leads to nothing that is allowed.
    #[must_use]
    pub fn read_found(mut self, path: impl Into<PathBuf>) -> Self {
        self.found.push((path.into(), Right::Read));
        self
    }

    /// The same, to be written too.
    #[must_use]
    pub fn write_found(mut self, path: impl Into<PathBuf>) -> Self {
        self.found.push((path.into(), Right::Write));
        self
    }

    /// A directory in which sockets may be made, and removed.
    #[must_use]
    pub fn sockets(self, directory: impl Into<PathBuf>) -> Self {
        self.with(directory, Right::Sockets)
    }

    /// A directory in which everything may be done.
    #[must_use]
    pub fn all(self, directory: impl Into<PathBuf>) -> Self {
        self.with(directory, Right::All)
    }

    /// Connections to this TCP port, and a listener at it; of the other ports none.
    #[must_use]
    pub fn tcp_port(mut self, port: u16) -> Self {
        self.tcp_ports.push(port);
        self
    }

    fn with(mut self, path: impl Into<PathBuf>, right: Right) -> Self {
        self.paths.push((path.into(), right));
        self
    }

    /// For [`crate::child::BeforeExec::landlock`]; absent where the kernel has no landlock.
    pub fn ruleset(&self) -> io::Result<Option<OwnedFd>> {
        let tcp = AccessNet::from_all(NEWEST);
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(NEWEST))
            .and_then(|ruleset| ruleset.handle_access(tcp))
            .and_then(|ruleset| ruleset.scope(Scope::from_all(NEWEST)))
            .and_then(Ruleset::create)
            .map_err(io::Error::other)?;
        for (path, right) in &self.paths {
            ruleset = ruleset
                .add_rules(path_beneath_rules([path], right.access()))
                .map_err(io::Error::other)?;
        }
        for (path, right) in &self.found {
            let file = open_found(path)?;
            // The other rights are a directory's.
            let access = right.access() & AccessFs::from_file(NEWEST);
            ruleset = ruleset
                .add_rule(PathBeneath::new(file, access))
                .map_err(io::Error::other)?;
        }
        for port in &self.tcp_ports {
            ruleset = ruleset
                .add_rule(NetPort::new(*port, tcp))
                .map_err(io::Error::other)?;
        }
        Ok(ruleset.into())
    }
}

/// The object itself, not opened for reading.
fn open_found(path: &Path) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(AT_FDCWD, path, how).map_err(|errno| {
        let why = match errno {
            Errno::ELOOP => "somebody has put a link in its place since hawser looked at it",
            errno => errno.desc(),
        };
        io::Error::other(format!("{}: {why}", path.display()))
    })
}

/// The kernel's landlock ABI; none where it has no landlock, or where a seccomp filter keeps this process from it.
pub fn abi() -> Option<u32> {
    const VERSION: nix::libc::c_int = 1;
    let none = std::ptr::null::<nix::libc::c_void>();
    // SAFETY: with this flag the call takes no attributes, makes nothing, and returns a number.
    let abi = unsafe { nix::libc::syscall(nix::libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION) };
    u32::try_from(abi).ok().filter(|abi| *abi > 0)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::child::BeforeExec;

    /// Whether a shell under the ruleset succeeds with its script.
    fn succeeds(allowed: &Allowed, script: &str) -> bool {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", script])
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        nix::sys::prctl::set_no_new_privs().unwrap();
        let ruleset = allowed.ruleset().unwrap();
        assert!(ruleset.is_some(), "this kernel has no landlock");
        BeforeExec::new().landlock(ruleset).apply(&mut command);
        command.status().unwrap().success()
    }

    #[test]
    fn what_is_not_allowed_is_refused_and_what_is_works() {
        assert!(abi().is_some());
        let place = tempfile::tempdir().unwrap();
        for name in ["readable", "writable", "other"] {
            std::fs::write(place.path().join(name), "x").unwrap();
        }
        std::fs::create_dir(place.path().join("all")).unwrap();
        let allowed = Allowed::program(Path::new("/bin/sh"))
            .read(place.path().join("readable"))
            .write(place.path().join("writable"))
            .all(place.path().join("all"))
            .read("/nowhere");
        let can = |script: &str| succeeds(&allowed, &format!("cd {}; {script}", place.path().display()));
        assert!(can("cat readable && cat writable && echo y > writable"));
        assert!(can("mkdir all/d && echo y > all/d/f && rm -r all/d"));
        for refused in [
            "cat other",
            "echo y > readable",
            "rm writable",
            "echo y > new",
            "ls .",
            "cat /etc/passwd",
            "cat /proc/self/status",
        ] {
            assert!(!can(refused), "{refused}");
        }
    }

    /// The owner of a claim's directory changes it under hawser's hands.
    #[test]
    fn a_link_in_the_place_of_a_file_leads_nowhere() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        std::fs::write(at("secret"), "x").unwrap();
        std::fs::write(at("disk.img"), "x").unwrap();
        let allowed = Allowed::program(Path::new("/bin/sh")).write_found(at("disk.img"));
        let script = |script: &str| format!("cd {}; {script}", place.path().display());
        assert!(succeeds(&allowed, &script("cat disk.img && echo y > disk.img")));
        // After the ruleset was made: the shell stands for whoever does it.
        let swap = "mv disk.img old && ln -s secret disk.img";
        let ruleset = allowed.ruleset().unwrap();
        assert!(
            Command::new("/bin/sh")
                .args(["-c", &script(swap)])
                .status()
                .unwrap()
                .success()
        );
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", &script("cat disk.img")])
            .stderr(Stdio::null());
        nix::sys::prctl::set_no_new_privs().unwrap();
        BeforeExec::new().landlock(ruleset).apply(&mut command);
        assert!(!command.status().unwrap().success(), "the link was followed");
        // Before it.
        let error = allowed.ruleset().unwrap_err().to_string();
        assert!(error.contains("a link in its place"), "{error}");
    }

    #[test]
    fn another_process_is_neither_signalled_nor_looked_into() {
        let allowed = Allowed::program(Path::new("/bin/sh"));
        assert!(succeeds(&allowed, "kill -0 $$"));
        if abi() >= Some(6) {
            assert!(!succeeds(&allowed, "kill -0 $PPID"));
        }
        let allowed = allowed.read("/proc");
        assert!(succeeds(&allowed, "exec 3< /proc/$$/mem"));
        assert!(!succeeds(&allowed, "exec 3< /proc/$PPID/mem"));
    }

    #[test]
    fn of_the_tcp_ports_those_that_are_allowed() {
        if abi() < Some(4) {
            return;
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let connects = |allowed: &Allowed| {
            // bash has connections as files.
            succeeds(
                allowed,
                &format!("exec bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}'"),
            )
        };
        let allowed = Allowed::program(Path::new("/bin/sh"));
        assert!(!connects(&allowed));
        assert!(connects(&allowed.tcp_port(port)));
    }
}
