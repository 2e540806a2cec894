//! What the kernel has counted: of a process (proc_pid_stat(5)), and of the pod's interfaces (/proc/net/dev).

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use nix::unistd::{SysconfVar, sysconf};

/// A process at one moment.
#[derive(Debug)]
pub(super) struct Process {
    directory: PathBuf,
    /// Bytes.
    pub(super) resident: u64,
    /// Seconds.
    pub(super) user: f64,
    pub(super) system: f64,
}

impl Process {
    pub(super) fn read(pid: u32) -> Option<Self> {
        let directory = PathBuf::from(format!("/proc/{pid}"));
        let (user, system) = times(&fs::read_to_string(directory.join("stat")).ok()?)?;
        let pages: u64 = fs::read_to_string(directory.join("statm"))
            .ok()?
            .split(' ')
            .nth(1)?
            .parse()
            .ok()?;
        Some(Self {
            directory,
            resident: pages.saturating_mul(limit(SysconfVar::PAGE_SIZE)),
            user,
            system,
        })
    }

    /// The number of each vCPU, and the seconds that its thread ran.
    pub(super) fn vcpus(&self) -> Vec<(String, f64)> {
        let threads = fs::read_dir(self.directory.join("task"));
        let mut all: Vec<_> = threads
            .into_iter()
            .flatten()
            .filter_map(|thread| {
                let path = thread.ok()?.path();
                let name = fs::read_to_string(path.join("comm")).ok()?;
                let id = name.trim().strip_prefix("vcpu")?.to_owned();
                let (user, system) = times(&fs::read_to_string(path.join("stat")).ok()?)?;
                Some((id, user + system))
            })
            .collect();
        all.sort_by_key(|(id, _)| id.parse().unwrap_or(u32::MAX));
        all
    }
}

/// Seconds in user mode and in the kernel. The name, in parentheses, may have anything in it.
#[allow(clippy::cast_precision_loss)]
fn times(stat: &str) -> Option<(f64, f64)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut words = rest.split(' ');
    let user: u64 = words.nth(11)?.parse().ok()?;
    let system: u64 = words.next()?.parse().ok()?;
    let ticks = limit(SysconfVar::CLK_TCK).max(1) as f64;
    Some((user as f64 / ticks, system as f64 / ticks))
}

fn limit(what: SysconfVar) -> u64 {
    let value = sysconf(what).ok().flatten();
    value
        .and_then(|value| u64::try_from(value).ok())
        .unwrap_or_default()
}

/// Frames that an interface dropped, as the kernel names the directions: a TAP sends what its guest receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) received: u64,
    pub(super) sent: u64,
}

/// By interface, of the network namespace that this process is in.
pub(super) fn dropped() -> BTreeMap<String, Dropped> {
    parse(&fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default())
}

fn parse(text: &str) -> BTreeMap<String, Dropped> {
    text.lines()
        .filter_map(|line| {
            let (name, counters) = line.split_once(':')?;
            let counters: Vec<u64> = counters
                .split_whitespace()
                .map_while(|word| word.parse().ok())
                .collect();
            let dropped = Dropped {
                received: *counters.get(3)?,
                sent: *counters.get(11)?,
            };
            Some((name.trim().to_owned(), dropped))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_as_the_kernel_writes_them() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
                    lo:  1000      10    0    0    0     0          0         0     1000      10    0    0    0     0       0          0\n\
                    tap0:  5        6    7    8    0     0          0         0        1       2    3    4    0     0       0          0\n";
        let all = parse(text);
        assert_eq!(all.len(), 2);
        assert_eq!(all["tap0"], Dropped { received: 8, sent: 4 });
    }

    #[test]
    fn this_process_has_memory_and_a_name_changes_nothing() {
        assert!(Process::read(std::process::id()).unwrap().resident > 0);
        let ticks = limit(SysconfVar::CLK_TCK) as f64;
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 150 0 0";
        assert_eq!(times(stat), Some((250.0 / ticks, 150.0 / ticks)));
        assert_eq!(times("junk"), None);
    }
}
