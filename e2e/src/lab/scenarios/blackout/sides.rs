//! The two sides: hawser, and cloud-hypervisor without a launcher. Both run in a pod's network namespace and in no
//! container: what ends a container is a program of its runtime's, which has nothing to do with either side and comes at
//! the very moment that is measured.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::probes::Probes;
use super::{BARE, DOWNTIME_MS, KERNEL_ARGS, OURS, number_after};
use crate::lab::node::pace;
use crate::lab::node::pod::Pod;
use crate::lab::node::prepare::{GUEST_IMAGE, STAGED};
use crate::lab::scenarios::masquerade::{BOOT, SERVE};
use crate::lab::scenarios::migration::{TRANSFER, url};

/// In milliseconds: blackout, stands still, transfer.
pub(super) type Figures = [f64; 3];

const STATE: &str = "/run/hawser";

/// On the node's own disk.
fn program(stage: &str, name: &str) -> PathBuf {
    Path::new(STAGED).join(stage).join("out/usr/bin").join(name)
}

/// A process in a pod. What it says goes to a file on the node's own disk, which is looked at before and after the guest
/// moves: a reader would be woken for each line in between, and take its time from what is measured.
struct Process {
    child: Child,
    log: PathBuf,
    /// Where in the log this process begins.
    from: usize,
}

impl Process {
    fn start(mut command: Command, log: PathBuf) -> Result<Self> {
        let file = fs::File::options().create(true).append(true).open(&log)?;
        let from = usize::try_from(file.metadata()?.len())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { child, log, from })
    }

    fn said(&self) -> String {
        let all = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(all.get(self.from..).unwrap_or_default()).into_owned()
    }

    fn says(&self, what: &str, deadline: Duration) -> Result<()> {
        wait_for(deadline, || self.said().contains(what))
            .with_context(|| format!("no {what:?} in {}", self.said()))
    }

    /// Waits for it to end by itself, with success.
    fn ended(&mut self) -> Result<String> {
        let child = &mut self.child;
        let ended = wait_for(TRANSFER, || !matches!(child.try_wait(), Ok(None)));
        let said = self.said();
        ended.with_context(|| format!("it has not ended: {said}"))?;
        let status = self.child.wait()?;
        ensure!(status.success(), "it ended with {status}: {said}");
        Ok(said)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program in the pod's network namespace, with mounts of its own: sysfs shows the namespace that it was mounted in, and
/// cloud-hypervisor looks for its TAP there; and the pod's state is at [`STATE`], the same path in every pod.
fn inside(pod: &Pod<'_>, program: &Path) -> Result<Command> {
    fs::create_dir_all(STATE)?;
    let mounts = format!(
        "mount -t sysfs sysfs /sys && mount --bind {} {STATE} && exec \"$@\"",
        pod.state().display()
    );
    let mut command = pod.command();
    command
        .args(["unshare", "--mount", "sh", "-c", &mounts, "sh"])
        .arg(program);
    Ok(command)
}

/// hawser in a pod.
pub(super) struct Ours<'a> {
    pod: &'a Pod<'a>,
    run: Process,
}

impl<'a> Ours<'a> {
    /// With a guest, or there to receive one.
    pub(super) fn start(pod: &'a Pod<'_>, boots: bool) -> Result<Self> {
        // It was the source of the round before, and its guest may come back.
        let _ = fs::remove_file(pod.state().join("vmm/given-away.json"));
        let mut command = inside(pod, &program("build", "hawser"))?;
        command
            .args(["run", "--vmi", &pod.dir().join("vmi.json").display().to_string()])
            .args(["--state-dir", STATE])
            .args(["--image", &format!("kernel-boot={GUEST_IMAGE}")])
            .arg("--cloud-hypervisor")
            .arg(program("vmm", "cloud-hypervisor"));
        if !boots {
            command
                .arg("--incoming")
                .arg("--tls-dir")
                .arg(pod.certificates()?);
        }
        let run = Process::start(command, pod.dir().join("run.log"))?;
        let ready = if boots {
            "guest: ready"
        } else {
            r#"event="waiting-for-guest""#
        };
        run.says(ready, BOOT)?;
        Ok(Self { pod, run })
    }

    pub(super) fn migrate<'b>(mut self, to: &'b Pod<'_>) -> Result<(Ours<'b>, Figures)> {
        let target = Ours::start(to, false)?;
        let probes = Probes::start(OURS.0)?;
        let mut command = Command::new(program("build", "hawser"));
        command
            .args(["migrate", "--to", &url(to)])
            .args(["--state-dir", &self.pod.state().display().to_string()])
            .args(["--downtime", &format!("{DOWNTIME_MS}ms")])
            .arg("--tls-dir")
            .arg(self.pod.certificates()?);
        let mut moving = Process::start(command, self.pod.dir().join("migrate.log"))?;
        let text = moving.ended()?;
        self.run.ended()?;
        let blackout = probes.blackout()?;
        let still = number_after(&text, "with a downtime of ")?;
        let transfer = number_after(&text, "the transfer took ")?;
        Ok((target, [blackout, still, transfer]))
    }
}

/// cloud-hypervisor in a pod, without a launcher.
pub(super) struct Bare {
    vmm: Process,
    directory: PathBuf,
    socket: PathBuf,
    events: PathBuf,
}

impl Bare {
    /// Without a guest it is there to receive one.
    pub(super) fn start(pod: &Pod<'_>, boots: bool) -> Result<Self> {
        let directory = pod.dir().to_owned();
        let (socket, events) = (directory.join("bare.sock"), directory.join("bare.events"));
        for file in [&socket, &events] {
            let _ = fs::remove_file(file);
        }
        let mut command = inside(pod, &program("vmm", "cloud-hypervisor"))?;
        command
            // As hawser has it: without, this side ends by SIGSYS in some rounds (launcher/vmm/src/assumptions.rs).
            .env("MALLOC_ARENA_MAX", "8")
            .args(["--api-socket", &format!("path={}", socket.display())])
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
        let vmm = Process::start(command, directory.join("bare.log"))?;
        if boots {
            vmm.says("guest: ready", BOOT)?;
        }
        Ok(Self {
            vmm,
            directory,
            socket,
            events,
        })
    }

    pub(super) fn migrate(mut self, to: &Pod<'_>) -> Result<(Self, Figures)> {
        let target = Self::start(to, false)?;
        wait_for(SERVE, || target.socket.exists()).context("the target's API")?;
        let url = format!("tcp:{}:49200", to.ipv4);
        let order = json!({"receiver_url": url, "tls_dir": target.directory.join("certificates")});
        let socket = target.socket.clone();
        let receiving: JoinHandle<Result<()>> =
            thread::spawn(move || put(&socket, "vm.receive-migration", &order, TRANSFER));
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
        self.vmm.ended()?;
        receiving
            .join()
            .map_err(|_| anyhow::anyhow!("the receiving thread panicked"))??;
        let blackout = probes.blackout()?;
        let events = fs::read_to_string(&self.events)?;
        let at = |event| moment(&events, event);
        let finished = at("migration-finished")?;
        let (still, transfer) = (finished - at("paused")?, finished - at("migration-started")?);
        Ok((target, [blackout, still, transfer]))
    }

    fn said(&self, event: &str) -> bool {
        fs::read_to_string(&self.events).is_ok_and(|text| text.contains(event))
    }
}

/// When cloud-hypervisor wrote this event last, in milliseconds.
fn moment(events: &str, event: &str) -> Result<f64> {
    let is_it = |one: &Value| one.get("event").and_then(Value::as_str) == Some(event);
    let timestamp = events
        .split("\n\n")
        .filter_map(|one| serde_json::from_str::<Value>(one).ok())
        .filter(is_it)
        .last()
        .and_then(|one| one.get("timestamp").cloned())
        .with_context(|| format!("no event {event:?} with a timestamp"))?;
    let part = |name| timestamp.get(name).and_then(Value::as_f64);
    let (seconds, nanoseconds) = part("secs").zip(part("nanos")).context("the timestamp")?;
    Ok(seconds * 1e3 + nanoseconds / 1e6)
}

fn wait_for(deadline: Duration, mut done: impl FnMut() -> bool) -> Result<()> {
    let end = pace::deadline(deadline);
    while !done() {
        if Instant::now() > end {
            bail!("not within {} s", deadline.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A request of cloud-hypervisor's API, as ch-remote makes it.
fn put(socket: &Path, what: &str, body: &Value, patience: Duration) -> Result<()> {
    let mut api = UnixStream::connect(socket)?;
    api.set_read_timeout(Some(pace::allowed(patience)))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moments_that_cloud_hypervisor_writes() {
        let events = r#"{"timestamp":{"secs":2,"nanos":500000000},"source":"vm","event":"paused","properties":null}

{"timestamp":{"secs":3,"nanos":1000000},"source":"vm","event":"paused"}

"#;
        assert!((moment(events, "paused").unwrap() - 3001.0).abs() < 0.01);
        assert!(moment(events, "resumed").is_err());
    }
}
