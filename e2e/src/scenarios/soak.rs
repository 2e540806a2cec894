//! `cargo e2e soak`: guests that come and go, and guests that stay and are kept busy, for as long as is asked for. What a
//! launcher leaves behind, and what it holds while it runs, does not grow.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::Context;
use super::migration_pair::{self, TLS};
use super::migration_passt::{self, put_passt};
use super::running::{Running, WAIT, exit_code, expect_exit, processes, resident};
use super::traffic::{TcpServer, reaches};
use crate::guests::{Client, GUEST4, Guest};
use crate::pods::{POD4, Pod, PodSpec, vmi};
use crate::process::{output, until};
use crate::report::{Outcome, Report, Scenario};

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "a guest that comes and goes leaves nothing that grows",
        run: |c| cycles(c, 8).map(drop),
    },
    Scenario {
        name: "leases and connections leave nothing that grows",
        run: |c| leases(c, SHORT).map(drop),
    },
    Scenario {
        name: "a passt that is started again leaves nothing that grows",
        run: |c| passts(c, SHORT).map(drop),
    },
    Scenario {
        name: "migrations leave nothing that grows",
        run: |c| migrations(c, SHORT).map(drop),
    },
];

const SHORT: Duration = Duration::from_secs(4);
/// Resident KiB by which a launcher may differ from itself: what an allocator keeps depends on when it was asked.
const SLACK_KIB: u64 = 1024;

/// How much of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Length {
    pub(crate) cycles: u32,
    /// In equal parts for leases, passt and migrations.
    pub(crate) churn: Duration,
}

/// One part, and its figures as text.
type Part<'a> = (&'static str, &'a dyn Fn() -> Result<String>);

pub(super) fn run(report: &mut Report, context: &Context, length: &Length) {
    let each = length.churn / 3;
    let parts: [Part<'_>; 4] = [
        ("starts and stops", &|| cycles(context, length.cycles)),
        ("leases and connections", &|| leases(context, each)),
        ("restarts of passt", &|| passts(context, each)),
        ("migrations", &|| migrations(context, each)),
    ];
    for (name, part) in parts {
        let started = Instant::now();
        let outcome = part().map(|figures| println!("       {name}: {figures}"));
        report.record("soak", name, Outcome::from(outcome), Some(started.elapsed()));
    }
}

/// What there is of a pod outside its launcher's processes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Left {
    files: Vec<String>,
    processes: usize,
    rules: usize,
    connections: u64,
    namespaces: usize,
}

impl Left {
    fn of(pod: &Pod) -> Result<Self> {
        let mut files = Vec::new();
        list(&pod.path("state"), &mut files)?;
        files.sort();
        let namespaces = output(std::process::Command::new("ip").args(["netns", "list"]))?;
        let ours = format!("hawser-{}-", std::process::id());
        Ok(Self {
            files,
            processes: processes(pod)?.len(),
            rules: pod.netns.nft("list ruleset")?.lines().count(),
            connections: connections(pod)?,
            namespaces: namespaces.lines().filter(|line| line.starts_with(&ours)).count(),
        })
    }

    /// Connections that are over are forgotten by and by.
    fn is_no_more_than(&self, first: &Self) -> bool {
        let same = Self {
            connections: first.connections,
            ..self.clone()
        };
        same == *first && self.connections <= first.connections + 4
    }
}

fn list(directory: &Path, found: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        found.push(path.display().to_string());
        if path.is_dir() && !path.is_symlink() {
            list(&path, found)?;
        }
    }
    Ok(())
}

fn connections(pod: &Pod) -> Result<u64> {
    let path = "/proc/sys/net/netfilter/nf_conntrack_count";
    pod.netns.run(|| match fs::read_to_string(path) {
        Ok(count) => Ok(count.trim().parse()?),
        // Nobody tracks here.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error.into()),
    })
}

/// What the launcher's processes hold while they run.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    threads: usize,
    resident_kib: u64,
    files: usize,
    connections: u64,
}

impl Held {
    fn of(pod: &Pod) -> Result<Self> {
        let (mut descriptors, mut threads) = (0, 0);
        for (pid, name) in processes(pod)? {
            if name == "hawser" {
                descriptors += fs::read_dir(format!("/proc/{pid}/fd"))?.count();
                threads += fs::read_dir(format!("/proc/{pid}/task"))?.count();
            }
        }
        let mut files = Vec::new();
        list(&pod.path("state"), &mut files)?;
        Ok(Self {
            descriptors,
            threads,
            resident_kib: resident(pod)?,
            files: files.len(),
            connections: connections(pod)?,
        })
    }

    fn has_not_grown_since(&self, first: &Self) -> bool {
        self.descriptors <= first.descriptors
            && self.threads <= first.threads
            && self.files <= first.files
            && self.resident_kib <= first.resident_kib + SLACK_KIB
    }
}

/// Waits for the moment's work to be over, and compares.
fn settles(pod: &Pod, first: &Held) -> Result<Held> {
    let mut last = None;
    let settled = until(
        "what the launcher holds is as before",
        Duration::from_secs(8),
        || {
            let now = Held::of(pod)?;
            let is_fine = now.has_not_grown_since(first);
            last = Some(now.clone());
            Ok(is_fine.then_some(now))
        },
    );
    settled.with_context(|| format!("first {first:?}, last {last:?}"))
}

fn cycles(context: &Context, count: u32) -> Result<String> {
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let before = pod.netns.snapshot()?;
    let mut guest = Guest::new(&pod)?;
    let manifest = vmi(json!([{"port": 80}]));
    let mut first: Option<Left> = None;
    let mut last = None;
    for cycle in 0..count {
        let mut hawser = pod.hawser("run", &manifest)?;
        guest.booted_by(&hawser)?;
        hawser.signal(Signal::SIGTERM)?;
        expect_exit(exit_code(&mut hawser)?, 0, &hawser).with_context(|| format!("cycle {cycle}"))?;
        let changes = before.changes(&pod.netns.snapshot()?);
        ensure!(changes.is_empty(), "cycle {cycle}: left behind: {changes:#?}");
        // The guest port is the stand-in's, and it goes on.
        let left = Left::of(&pod)?;
        let first = first.get_or_insert_with(|| left.clone());
        ensure!(
            left.is_no_more_than(first),
            "cycle {cycle}: {left:#?}, and {first:#?} at first"
        );
        last = Some(left);
    }
    let left = last.context("no cycle")?;
    Ok(format!(
        "{count} times; afterwards as after the first: {} files, {} processes, {} lines of rules, {} connections",
        left.files.len(),
        left.processes,
        left.rules,
        left.connections
    ))
}

fn leases(context: &Context, length: Duration) -> Result<String> {
    Client::Udhcpc.require()?;
    let mut running = Running::start(context, PodSpec::default(), &vmi(json!([{"port": 80}])))?;
    let until = Instant::now() + length;
    let mut first = None;
    let mut rounds = 0_u32;
    while rounds < 3 || Instant::now() < until {
        // Takes a lease, and gives it back.
        let mut client = running.guest.udhcpc(&["-q", "-R"])?;
        let code = client.wait_exit(WAIT)?.code().unwrap_or(-1);
        running.explain(expect_exit(code, 0, &client))?;
        if rounds == 0 {
            running.guest.configure()?;
        }
        running
            .guest
            .wait_address(&format!("{GUEST4}/24"))
            .or_else(|_| running.guest.configure4())?;
        let _server = TcpServer::start(&running.guest.netns, "guest", ([0_u16; 8], 80))?;
        running.explain(reaches(&running.pod.node, (POD4, 80), "guest"))?;
        rounds += 1;
        if rounds == 2 {
            first = Some(Held::of(&running.pod)?);
        }
    }
    let first = first.context("no round")?;
    let last = settles(&running.pod, &first)?;
    running.stop_cleanly()?;
    Ok(format!(
        "{rounds} rounds; {first:?} after the second, {last:?} after the last"
    ))
}

fn passts(context: &Context, length: Duration) -> Result<String> {
    /// A passt may be started again so often in a minute.
    const PACE: Duration = Duration::from_secs(13);
    let pod = Pod::new(&context.programs, PodSpec::default())?;
    let mut script = migration_pair::quick();
    script.ports = [("none".to_owned(), "/none".into())].into();
    pod.script(&script)?;
    put_passt(&pod)?;
    let mut hawser = migration_passt::run(&pod, &[])?;
    hawser.wait_for("event=\"guest-running\"", 1, WAIT)?;
    // In the place of the VMM, which would speak over it: a passt is restarted for whoever is connected.
    let _vmm = UnixStream::connect(pod.path("state/vmm/passt.sock"))?;
    let starts = || -> Result<usize> { Ok(fs::read_to_string(pod.path("passt-lines"))?.lines().count()) };
    let passt = || -> Result<Option<Pid>> {
        // The stand-in becomes `cat`.
        let all = processes(&pod)?;
        Ok(all.iter().find(|(_, name)| name == "cat").map(|(pid, _)| *pid))
    };
    let until_then = Instant::now() + length;
    let mut first = None;
    let mut rounds = 0_u32;
    while rounds < 3 || Instant::now() < until_then {
        let began = Instant::now();
        let victim = until("a passt", WAIT, passt)?;
        let before = starts()?;
        kill(victim, Signal::SIGKILL)?;
        until("another passt", WAIT, || {
            Ok((starts()? > before && passt()?.is_some_and(|pid| pid != victim)).then_some(()))
        })
        .with_context(|| hawser.transcript())?;
        rounds += 1;
        if rounds == 2 {
            first = Some(Held::of(&pod)?);
        }
        if rounds >= 3 && Instant::now() + PACE < until_then {
            // Not faster than it is allowed to be.
            std::thread::sleep(PACE.saturating_sub(began.elapsed()));
        } else if rounds >= 3 {
            break;
        }
    }
    let first = first.context("no round")?;
    let last = settles(&pod, &first)?;
    hawser.signal(Signal::SIGTERM)?;
    expect_exit(exit_code(&mut hawser)?, 0, &hawser)?;
    Ok(format!(
        "{rounds} restarts; {first:?} after the second, {last:?} after the last"
    ))
}

/// Guests migrate from one pod to the other, one after the other: each launcher is a new one, and the pods stay.
fn migrations(context: &Context, length: Duration) -> Result<String> {
    let mut pair = migration_pair::Pair::new(context, &migration_pair::quick(), &migration_pair::quick())?;
    let guest = vmi(Value::Null);
    let until_then = Instant::now() + length;
    let mut first: Option<[Left; 2]> = None;
    let mut rounds = 0_u32;
    while rounds < 3 || Instant::now() < until_then {
        let mut moving = pair.migrate()?;
        let code = moving.wait_exit(WAIT)?.code().unwrap_or(-1);
        migration_pair::explain(&pair, "hawser migrate", expect_exit(code, 0, &moving))?;
        let code = exit_code(&mut pair.source)?;
        expect_exit(code, 0, &pair.source)?;
        pair.target.signal(Signal::SIGTERM)?;
        let code = exit_code(&mut pair.target)?;
        expect_exit(code, 0, &pair.target)?;
        // The kernel forgets the launchers' own connections minutes after their end.
        let of = |pod: &Pod| -> Result<Left> {
            Ok(Left {
                connections: 0,
                ..Left::of(pod)?
            })
        };
        let left = || -> Result<[Left; 2]> { Ok([of(&pair.from)?, of(&pair.to)?]) };
        let first = match &first {
            Some(first) => first,
            None => first.insert(left()?),
        };
        let mut last = None;
        until("what is left is as before", WAIT, || {
            let now = left()?;
            let is_fine = now
                .iter()
                .zip(first.iter())
                .all(|(now, first)| now.is_no_more_than(first));
            last = Some(now);
            Ok(is_fine.then_some(()))
        })
        .with_context(|| format!("round {rounds}: {last:#?}, and {first:#?} at first"))?;
        rounds += 1;
        // The operator knows that the guest has ended there.
        fs::remove_file(pair.from.path("state/vmm/given-away.json"))?;
        pair.source = migration_pair::run(&pair.from, &guest, &[])?;
        pair.target = migration_pair::run(&pair.to, &guest, &["--incoming", TLS[0], TLS[1]])?;
        pair.source.wait_for(r#"event="guest-running""#, 1, WAIT)?;
        pair.target.wait_for(r#"event="waiting-for-guest""#, 1, WAIT)?;
    }
    let [from, to] = first.context("no round")?;
    Ok(format!(
        "{rounds} migrations; after each as after the first: {} and {} files, {} and {} processes, {} and {} lines of rules",
        from.files.len(),
        to.files.len(),
        from.processes,
        to.processes,
        from.rules,
        to.rules
    ))
}
