//! A pod's network namespace for one test, and what can be seen of it from outside this crate.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hawser_netsetup::{
    Journal, JournalFile, Linux, Mac, Masquerade, NetSpec, Nic, Observed, Owner, Plan, Ports, Wiring, apply,
    observe,
};
use nix::sched::{CloneFlags, unshare};

pub(crate) const OWNER: Owner = Owner { uid: 107, gid: 107 };
/// TCP ports that stay in the pod.
pub(crate) const KEPT_TCP: [u16; 2] = [49152, 49153];
pub(crate) const GUEST_MAC: [u8; 6] = [0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee];

/// A namespace that has `lo`, and a place for the journal. Its thread leaves the namespace by ending.
pub(crate) struct Pod {
    dir: tempfile::TempDir,
}

/// Runs `test` in a new network namespace (and mount namespace, whose changes nobody else sees).
pub(crate) fn in_pod<F: Future<Output = ()>>(test: impl FnOnce(Pod) -> F + Send + 'static) {
    // One at a time: what one test has open is open, too, in the programs that another starts, until they exec; and
    // a TAP of one queue has room for one.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let thread = std::thread::spawn(move || {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test makes network namespaces: run it as root"
        );
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("unshare needs CAP_SYS_ADMIN");
        run("mount --make-rprivate /");
        run("ip link set lo up");
        let pod = Pod {
            dir: tempfile::tempdir().unwrap(),
        };
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(test(pod));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Pod {
    /// `eth0` as a CNI plugin makes it: one end of a veth pair, addressed, with default routes. The other end is here
    /// too, without addresses.
    pub(crate) fn with_eth0(self) -> Self {
        run(
            "ip link add eth0 address 02:00:00:12:34:56 mtu 1450 type veth peer name peer address 02:00:00:00:00:99",
        );
        run("ip link set peer addrgenmode none up");
        self.address_eth0()
    }

    /// `eth0` as a TAP, whose wire is a file descriptor of the test.
    pub(crate) fn with_eth0_as_tap(self) -> Self {
        run("ip tuntap add eth0 mode tap");
        // A test that has the wire open reads everything on it. On a slow machine the wiring takes longer than the kernel waits
        // with this.
        fs::write("/proc/sys/net/ipv6/conf/eth0/router_solicitations", "0").unwrap();
        run("ip link set eth0 address 02:00:00:12:34:56 mtu 1450");
        self.address_eth0()
    }

    fn address_eth0(self) -> Self {
        run("ip link set eth0 addrgenmode none up");
        run("ip addr add 192.0.2.10/24 dev eth0");
        run("ip addr add 2001:db8::10/64 dev eth0 nodad");
        run("ip addr add fe80::10/64 dev eth0 nodad");
        run("ip route add default via 192.0.2.1");
        run("ip -6 route add default via 2001:db8::1 dev eth0");
        self
    }

    pub(crate) fn journal(&self) -> JournalFile {
        let directory = fs::File::open(self.dir.path()).unwrap().into();
        JournalFile::new(directory, "journal.json", self.dir.path())
    }

    pub(crate) fn journal_path(&self) -> PathBuf {
        self.dir.path().join("journal.json")
    }

    /// Where a process of its own writes what its error was.
    pub(crate) fn error_path(&self) -> PathBuf {
        self.dir.path().join("error")
    }

    /// Plans and applies, and is sure that there is nothing left to do.
    pub(crate) async fn wire(&self, spec: &NetSpec) -> (Plan, Journal) {
        let plan = plan(spec).await;
        let journal = self.apply(&plan).await;
        let again = self::plan(spec).await;
        assert_eq!(again.steps, [], "a plan made again is empty");
        assert_eq!(again.nics, plan.nics);
        (plan, journal)
    }

    pub(crate) async fn apply(&self, plan: &Plan) -> Journal {
        apply(&mut Linux::open().unwrap(), plan, &self.journal())
            .await
            .unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    /// What a kill after `steps` steps leaves: those steps done, and the whole plan in the journal.
    pub(crate) async fn apply_first(&self, plan: &Plan, steps: usize) {
        let mut part = plan.clone();
        part.steps.truncate(steps);
        self.apply(&part).await;
        if steps == 0 {
            self.journal().write(&plan.journal).unwrap();
        }
    }

    pub(crate) async fn undo(&self, journal: &Journal) {
        let failures = hawser_netsetup::undo(&mut Linux::open().unwrap(), journal, &self.journal()).await;
        let failures: Vec<_> = failures.iter().map(|failure| chain(failure)).collect();
        assert_eq!(failures, [""; 0]);
        assert!(!self.journal_path().exists(), "nothing is left to take back");
    }
}

pub(crate) async fn observed() -> Observed {
    observe()
        .await
        .unwrap_or_else(|error| panic!("{}", chain(&error)))
}

pub(crate) async fn plan(spec: &NetSpec) -> Plan {
    Plan::new(spec, &observed().await).unwrap()
}

/// One masqueraded NIC behind `eth0`, as a manifest without any wishes asks for it.
pub(crate) fn spec() -> NetSpec {
    NetSpec {
        nics: vec![Nic {
            name: "default".into(),
            pod_interface: "eth0".into(),
            tap: "tap0".into(),
            server_tap: "srv0".into(),
            queue_pairs: 1,
            guest_mac: Some(Mac(GUEST_MAC)),
            made_mac: Mac([0x02, 0x5e, 0, 0, 0, 1]),
            wiring: Wiring::Masquerade(Masquerade {
                v4: "10.0.2.0/24".parse().unwrap(),
                v6: "fd10:0:2::/120".parse().unwrap(),
                v4_else: Vec::new(),
                v6_else: Vec::new(),
                v6_required: false,
                ports: Ports::All,
                kept_tcp: KEPT_TCP.to_vec(),
                istio: false,
            }),
        }],
        owner: OWNER,
        peers: Vec::new(),
        resolvers: Vec::new(),
    }
}

pub(crate) fn masquerade(spec: &mut NetSpec) -> &mut Masquerade {
    match &mut spec.nics[0].wiring {
        Wiring::Masquerade(masquerade) => masquerade,
        other => panic!("not a masqueraded NIC: {other:?}"),
    }
}

/// Runs a command line (words, no quoting) and returns what it prints; its failure is the test's.
pub(crate) fn run(line: &str) -> String {
    let mut words = line.split(' ');
    let program = words.next().unwrap();
    let output = Command::new(program)
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn json(line: &str) -> serde_json::Value {
    serde_json::from_str(&run(line)).unwrap()
}

/// Everything about the namespace that `ip`, `nft` and /proc/sys show, once the kernel has come to rest.
pub(crate) fn everything() -> String {
    settle();
    let mut all = String::new();
    for line in [
        "ip -details address",
        "ip -4 route show table all",
        "ip -6 route show table all",
        "ip neigh show nud permanent",
        "nft list ruleset",
    ] {
        let mut text = without_carrier(&run(line));
        if line.starts_with("ip -6 route") {
            // Which of the interfaces with ff00::/8 came up first.
            let mut lines: Vec<_> = text.lines().collect();
            lines.sort_unstable();
            text = lines.join("\n") + "\n";
        }
        all += &format!("{line}\n{text}");
    }
    for family in ["ipv4", "ipv6"] {
        let mut paths = Vec::new();
        files(Path::new(&format!("/proc/sys/net/{family}/conf")), &mut paths);
        paths.sort();
        for path in paths {
            // Some files are write-only, and the secret of stable addresses does not read before it is set.
            if let Ok(value) = fs::read_to_string(&path) {
                all += &format!("{} = {}\n", path.display(), value.trim());
            }
        }
    }
    all
}

/// The kernel adds the local route of an IPv6 address a little later than the address.
fn settle() {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let routes = run("ip -6 route show table local");
        let addresses = run("ip -6 -oneline address show");
        let missing = addresses.lines().find(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let ip = words[3].split('/').next().unwrap();
            !routes.contains(&format!("local {ip} dev {} ", words[1]))
        });
        let Some(missing) = missing else { return };
        assert!(Instant::now() < deadline, "no local route: {missing}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a link has a carrier, and with it a queue, follows by and by.
fn without_carrier(text: &str) -> String {
    let words = |line: &str| -> String {
        let mut words = Vec::new();
        let mut rest = line.split(' ');
        while let Some(word) = rest.next() {
            match word {
                "linkdown" => {}
                "qdisc" | "state" => drop(rest.next()),
                // A bridge's, and the number comes after some spaces.
                "gc_timer" => drop(rest.find(|word| !word.is_empty())),
                _ => words.push(word.replace(",LOWER_UP", "").replace("NO-CARRIER,", "")),
            }
        }
        words.join(" ") + "\n"
    };
    text.lines().map(words).collect()
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// [`everything`] without what differs between two ways to the same end: interface indexes.
pub(crate) fn outcome() -> String {
    let without_index = |line: &str| match line.split_once(": ") {
        Some((index, rest)) if index.parse::<u32>().is_ok() => rest.to_owned(),
        _ => line.to_owned(),
    };
    everything()
        .lines()
        .map(without_index)
        .collect::<Vec<_>>()
        .join("\n")
}

/// The lines by which two texts differ, for a failure that can be read.
pub(crate) fn difference(before: &str, after: &str) -> Vec<String> {
    let only = |mark: &'static str, a: &str, b: &str| -> Vec<String> {
        let others: std::collections::HashSet<&str> = b.lines().collect();
        a.lines()
            .filter(|line| !others.contains(line))
            .map(|line| format!("{mark} {line}"))
            .collect()
    };
    let mut lines = only("-", before, after);
    lines.extend(only("+", after, before));
    if lines.is_empty() && before != after {
        let changed = before.lines().zip(after.lines()).filter(|(a, b)| a != b);
        lines.push("the same lines in another order or number".into());
        lines.extend(changed.map(|(a, b)| format!("{a} / {b}")));
    }
    lines
}

pub(crate) fn sysctl(path: &str) -> String {
    fs::read_to_string(format!("/proc/sys/net/{path}"))
        .unwrap()
        .trim()
        .to_owned()
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}
