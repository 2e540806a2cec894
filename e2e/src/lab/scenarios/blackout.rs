//! `cargo e2e bench --migration`: how long a guest is not heard of while it migrates, hawser's hand-off beside a bare one.
//!
//! Two guests of the same image, processor and memory, each with one NIC on a network of the node: one is hawser's, which
//! moves it between two pods; the other is cloud-hypervisor's, told to send and to receive by its API. Both go over TLS.
//! Both are there all the time and move in turns, there and back; who is first changes with the round. A pair of
//! neighbours in time sees the same node, so the ratio is that of each pair, and its median.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::lifecycle::END;
use super::masquerade::{BOOT, SERVE};
use super::migration::{TLS, TRANSFER, manifest, migrate, url, wait_for_it};
use super::migration_network::{RED, red_network};
use super::vmi;
use crate::bench::median;
use crate::certificates::Authority;
use crate::lab::events::Event;
use crate::lab::node::console::Console;
use crate::lab::node::guest::{self, PORT};
use crate::lab::node::pod::{FORWARD_IPV6, Launcher, Pod, ROOT};
use crate::lab::node::prepare::GUEST_IMAGE;
use crate::lab::node::{Lab, PAYLOAD, RESULTS};
use crate::lab::process::output;

/// In the payload: the number of rounds.
pub(crate) const ROUNDS: &str = "migration-rounds";
/// Address and MAC: bare, and hawser's.
const BARE: (&str, &str) = ("10.96.0.11", "02:00:5e:00:53:11");
pub(super) const OURS: (&str, &str) = ("10.96.0.12", "02:00:5e:00:53:12");
const KERNEL_ARGS: &str = "console=ttyS0 quiet panic=-1 mitigations=off";
const DOWNTIME_MS: u64 = 300;
/// Milliseconds between two probes.
const PROBE: f64 = 10.0;
/// Eight mebibytes, ten times a second at most.
const DIRTY: &str = "(while [ -e /tmp/dirty ]; do dd if=/dev/zero of=/tmp/dirt bs=1M count=8 conv=notrunc; sleep 0.1; done) > /dev/null 2>&1 &";
const WHAT: [&str; 3] = ["blackout, ms", "stands still, ms", "transfer, ms"];

pub(crate) fn compare(lab: &Lab) -> Result<()> {
    let rounds: usize = fs::read_to_string(Path::new(PAYLOAD).join(ROUNDS))?
        .trim()
        .parse()?;
    let say = |text: String| lab.tell(&Event::Line { text });
    let create = |name: &str| Pod::create(lab, name, &[FORWARD_IPV6]);
    let (a, b) = (create("move-a")?, create("move-b")?);
    let (bare_a, bare_b) = (create("bare-a")?, create("bare-b")?);
    let lan = red_network([&a, &b], "lan1", &["10.96.0.1/24"], &[])?;
    let authority = Authority::new("migration")?;
    for pod in [&a, &b, &bare_a, &bare_b] {
        pod.set_manifest(&one_nic())?;
        authority.issue(&pod.certificates()?, &pod.addresses())?;
    }
    for (index, pod) in [&bare_a, &bare_b].into_iter().enumerate() {
        wire(pod, index)?;
    }
    let mut ours = a.launch("run", ROOT)?;
    let mut theirs = Bare::start(&bare_a, true)?;
    ours.console.wait_for("guest: ready", BOOT)?;
    theirs.console.wait_for("guest: ready", BOOT)?;
    for (address, _) in [BARE, OURS] {
        guest::greet_within(address.parse()?, PORT, SERVE)?;
    }
    say(format!(
        "medians of {rounds} rounds, a probe every {PROBE:.0} ms; the node is emulated, so only the ratios mean anything"
    ));
    say(format!(
        "{:<14} {:<18} {:>9} {:>9} {:>16}",
        "guest", "", "bare", "hawser", "hawser / bare"
    ));
    let mut away = false;
    for load in ["idle", "dirties memory"] {
        if load != "idle" {
            for (address, _) in [BARE, OURS] {
                guest::execute(address.parse()?, &format!("touch /tmp/dirty; {DIRTY}"))?;
            }
        }
        let (mut bare, mut own) = (Vec::new(), Vec::new());
        // The first finds cold caches, and is not counted.
        for round in 0..=rounds {
            lab.step(format!("{load}: round {round} of {rounds}"));
            let (to, bare_to) = if away { (&a, &bare_a) } else { (&b, &bare_b) };
            away = !away;
            let mut move_bare = |theirs: Bare| -> Result<Bare> {
                let (moved, figures) = theirs.migrate(bare_to)?;
                lab.record("blackout", &format!("{load} bare {figures:?}"))?;
                bare.push(figures);
                Ok(moved)
            };
            if round % 2 == 0 {
                theirs = move_bare(theirs)?;
            }
            let (moved, figures) = hand_over(ours, to)?;
            ours = moved;
            lab.record("blackout", &format!("{load} hawser {figures:?}"))?;
            own.push(figures);
            if round % 2 == 1 {
                theirs = move_bare(theirs)?;
            }
        }
        let counted = |all: Vec<[f64; 3]>| all.into_iter().skip(1).collect::<Vec<_>>();
        let (theirs, ours) = (counted(bare), counted(own));
        for line in table(load, &theirs, &ours) {
            say(line);
        }
    }
    drop(theirs);
    drop(lan);
    Ok(())
}

/// A guest with nothing but the network that it is probed on, and an address of its own there.
pub(super) fn one_nic() -> Value {
    let (address, mac) = OURS;
    let mut manifest = manifest();
    vmi::set(
        &mut manifest,
        "/spec/domain/devices/interfaces",
        json!([{"name": "red", "bridge": {}, "macAddress": mac}]),
    );
    vmi::set(
        &mut manifest,
        "/spec/networks",
        json!([{"name": "red", "multus": {"networkName": "red"}}]),
    );
    vmi::set(
        &mut manifest,
        "/spec/domain/firmware/kernelBoot/kernelArgs",
        json!(format!("{KERNEL_ARGS} guest.ip.{mac}={address}/24")),
    );
    manifest
}

/// The least that joins a TAP to the network: what hawser makes of a bridge, by hand.
fn wire(pod: &Pod<'_>, index: usize) -> Result<()> {
    let (ours, theirs) = (format!("lan1-bare{index}"), format!("lan1-b{index}p"));
    output(Command::new("ip").args(["link", "add", &ours, "type", "veth", "peer", "name", &theirs]))?;
    output(Command::new("ip").args(["link", "set", &ours, "master", "lan1", "up"]))?;
    super::migration_network::give(pod, &theirs, RED)?;
    for command in [
        "ip tuntap add dev tap0 mode tap vnet_hdr".to_owned(),
        // It goes along in the VM's configuration.
        "ip link set tap0 address 02:00:5e:00:53:aa".to_owned(),
        "ip link add br0 type bridge".to_owned(),
        format!("ip link set {RED} master br0"),
        "ip link set tap0 master br0".to_owned(),
        format!("ip link set {RED} up"),
        "ip link set tap0 up".to_owned(),
        "ip link set br0 up".to_owned(),
    ] {
        pod.run(&command)?;
    }
    Ok(())
}

fn table(load: &str, theirs: &[[f64; 3]], ours: &[[f64; 3]]) -> Vec<String> {
    let line = |(index, what): (usize, &&str)| {
        let of =
            |all: &[[f64; 3]]| -> Vec<f64> { all.iter().filter_map(|one| one.get(index).copied()).collect() };
        let (mut theirs, mut ours) = (of(theirs), of(ours));
        let mut ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(own, other)| own / other).collect();
        let ratio = median(&mut ratios);
        let span = ratios
            .first()
            .zip(ratios.last())
            .map(|(low, high)| format!("{low:.2}-{high:.2}"));
        format!(
            "{load:<14} {what:<18} {:>9.0} {:>9.0} {ratio:>6.2} ({})",
            median(&mut theirs),
            median(&mut ours),
            span.unwrap_or_default()
        )
    };
    WHAT.iter().enumerate().map(line).collect()
}

/// Moves hawser's guest, and measures.
fn hand_over<'a>(mut source: Launcher<'a>, to: &'a Pod<'_>) -> Result<(Launcher<'a>, [f64; 3])> {
    // It was the source of the round before, and its guest may come back.
    let _ = fs::remove_file(to.state().join("vmm/status.json"));
    let target = wait_for_it(to, &TLS)?;
    let url = url(to);
    let probes = Probes::start(OURS.0)?;
    let mut moving = source.exec(&migrate(&url, &TLS))?;
    moving.expect_exit(0, TRANSFER)?;
    let text = moving.console.wait_for("migrated: the guest runs at", SERVE)?;
    source.expect_exit(0, END)?;
    let blackout = probes.blackout()?;
    let transfer = number_after(&text, "the transfer took ")?;
    Ok((
        target,
        [blackout, number_after(&text, "stood still for ")?, transfer],
    ))
}

fn number_after(text: &str, what: &str) -> Result<f64> {
    let rest = text
        .split_once(what)
        .with_context(|| format!("no {what:?}in {text:?}"))?
        .1;
    let number: String = rest
        .chars()
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .collect();
    Ok(number.parse()?)
}

/// cloud-hypervisor in a pod, without a launcher.
struct Bare {
    child: Child,
    console: Console,
    directory: PathBuf,
    socket: PathBuf,
    events: PathBuf,
    receiving: Option<JoinHandle<Result<()>>>,
}

impl Bare {
    /// Without a guest it is there to receive one.
    fn start(pod: &Pod<'_>, boots: bool) -> Result<Self> {
        let directory = pod.dir().to_owned();
        let (socket, events) = (directory.join("bare.sock"), directory.join("bare.events"));
        for file in [&socket, &events] {
            let _ = fs::remove_file(file);
        }
        // sysfs shows the network namespace that it was mounted in, and cloud-hypervisor looks for the TAP there.
        let start = "mount -t sysfs sysfs /sys && exec \"$@\"";
        let mut command = pod.command();
        command.args(["unshare", "--mount", "sh", "-c", start, "sh"]);
        command
            .arg(Path::new(PAYLOAD).join("vmm/out/usr/bin/cloud-hypervisor"))
            .args(["-v", "--api-socket", &format!("path={}", socket.display())])
            .args(["--event-monitor", &format!("path={}", events.display())]);
        if boots {
            let (address, mac) = BARE;
            command
                .args(["--cpus", "boot=1", "--memory", "size=192M"])
                .args(["--kernel", &format!("{GUEST_IMAGE}/vmlinux")])
                .args(["--initramfs", &format!("{GUEST_IMAGE}/initrd.img")])
                .args(["--cmdline", &format!("{KERNEL_ARGS} guest.ip.{mac}={address}/24")])
                .args(["--serial", "tty", "--console", "off"])
                .args(["--net", &format!("tap=tap0,mac={mac}")]);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start cloud-hypervisor")?;
        let console = Console::default();
        let log = Path::new(RESULTS).join("bare-migration.log");
        if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
            console.follow(stdout, &log, |_| ())?;
            console.follow(stderr, &log, |_| ())?;
        }
        Ok(Self {
            child,
            console,
            directory,
            socket,
            events,
            receiving: None,
        })
    }

    fn migrate(mut self, to: &Pod<'_>) -> Result<(Self, [f64; 3])> {
        let mut target = Self::start(to, false)?;
        wait_for(SERVE, || target.socket.exists()).context("the target's API")?;
        let url = format!("tcp:{}:49200", to.ipv4);
        let order = json!({"receiver_url": url, "tls_dir": target.directory.join("certificates")});
        let socket = target.socket.clone();
        target.receiving = Some(thread::spawn(move || {
            put(&socket, "vm.receive-migration", &order, TRANSFER)
        }));
        wait_for(SERVE, || target.said("migration-receive-ready")).context("the target listens")?;
        let probes = Probes::start(BARE.0)?;
        let order = json!({
            "destination_url": url,
            "downtime_ms": DOWNTIME_MS,
            "timeout_s": 3600,
            "connections": 1,
            "tls_dir": self.directory.join("certificates"),
        });
        put(&self.socket, "vm.send-migration", &order, SERVE)?;
        let line = self.console.wait_for("Migration completed after ", TRANSFER)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the source ended with {status}");
        if let Some(receiving) = target.receiving.take() {
            receiving
                .join()
                .map_err(|_| anyhow::anyhow!("the receiving thread panicked"))??;
        }
        let blackout = probes.blackout()?;
        let still = number_after(&line, "with a downtime of ")?;
        let transfer = number_after(&line, "Migration completed after ")? * 1000.0;
        Ok((target, [blackout, still, transfer]))
    }

    fn said(&self, event: &str) -> bool {
        fs::read_to_string(&self.events).is_ok_and(|text| text.contains(event))
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for(deadline: Duration, done: impl Fn() -> bool) -> Result<()> {
    let end = Instant::now() + deadline;
    while !done() {
        if Instant::now() > end {
            bail!("not within {} s", deadline.as_secs());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A request of cloud-hypervisor's API, as ch-remote makes it.
fn put(socket: &Path, what: &str, body: &Value, patience: Duration) -> Result<()> {
    let mut api = UnixStream::connect(socket)?;
    api.set_read_timeout(Some(patience))?;
    let body = body.to_string();
    write!(
        api,
        "PUT /api/v1/{what} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = vec![0; 4096];
    let length = api.read(&mut answer)?;
    let answer = String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).into_owned();
    ensure!(answer.starts_with("HTTP/1.1 20"), "{what}: {answer}");
    Ok(())
}

/// `ping` from the node, every ten milliseconds.
struct Probes {
    child: Child,
    times: JoinHandle<Vec<f64>>,
}

impl Probes {
    fn start(address: &str) -> Result<Self> {
        let address: IpAddr = address.parse()?;
        let interval = format!("{}", PROBE / 1000.0);
        let mut child = Command::new("ping")
            .args(["-n", "-D", "-i", &interval, &address.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start ping")?;
        let answers = child.stdout.take().context("ping has no output")?;
        let times = thread::spawn(move || {
            BufReader::new(answers)
                .lines()
                .map_while(Result::ok)
                .filter_map(|line| time_of(&line))
                .collect()
        });
        // The guest answers before anything is measured.
        thread::sleep(Duration::from_millis(500));
        Ok(Self { child, times })
    }

    /// The longest time without an answer, less the interval, in milliseconds.
    fn blackout(mut self) -> Result<f64> {
        // It is heard of again.
        thread::sleep(Duration::from_millis(500));
        kill(Pid::from_raw(self.child.id().try_into()?), Signal::SIGINT)?;
        self.child.wait()?;
        let times = self
            .times
            .join()
            .map_err(|_| anyhow::anyhow!("the reader of ping's answers panicked"))?;
        ensure!(times.len() > 20, "{} answers", times.len());
        longest(&times).context("no answers")
    }
}

fn longest(times: &[f64]) -> Option<f64> {
    let gaps = times
        .iter()
        .zip(times.iter().skip(1))
        .map(|(earlier, later)| (later - earlier) * 1000.0 - PROBE);
    gaps.max_by(f64::total_cmp)
}

/// Seconds, in `[1234.567] 64 bytes from …`.
fn time_of(line: &str) -> Option<f64> {
    let (time, rest) = line.strip_prefix('[')?.split_once("] ")?;
    rest.contains("bytes from").then(|| time.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_time_without_an_answer() {
        let lines = [
            "PING 10.96.0.11 (10.96.0.11) 56(84) bytes of data.",
            "[100.00] 64 bytes from 10.96.0.11: icmp_seq=1 ttl=64 time=0.5 ms",
            "[100.01] 64 bytes from 10.96.0.11: icmp_seq=2 ttl=64 time=0.5 ms",
            "[100.02] From 10.96.0.1 icmp_seq=3 Destination Host Unreachable",
            "[100.25] 64 bytes from 10.96.0.11: icmp_seq=9 ttl=64 time=0.5 ms",
        ];
        let times: Vec<f64> = lines.iter().filter_map(|line| time_of(line)).collect();
        assert_eq!(times.len(), 3);
        assert!((longest(&times).unwrap() - 230.0).abs() < 0.01);
        assert_eq!(longest(&[]), None);
    }

    #[test]
    fn figures_are_found_in_what_each_side_says() {
        let ours = "migrated: the guest runs at tcp:b:1; the transfer took 1234 ms, in which it stood still for 56 ms";
        assert_eq!(number_after(ours, "the transfer took ").unwrap(), 1234.0);
        assert_eq!(number_after(ours, "stood still for ").unwrap(), 56.0);
        let bare = "Migration completed after 1.4s with a downtime of 102ms (goal was 300ms)";
        assert_eq!(number_after(bare, "Migration completed after ").unwrap(), 1.4);
        assert_eq!(number_after(bare, "with a downtime of ").unwrap(), 102.0);
    }
}
