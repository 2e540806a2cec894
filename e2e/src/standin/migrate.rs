//! Live migration between two stand-ins: the steps and events of the real one, in its order, without a guest's memory.
//!
//! The bytes on the wire are the stand-in's own, one word a line and an answer to each. What is as in the real VMM:
//! requests and answers alternate; the target has threads of vCPUs before it answers `state`, and runs its guest on
//! `complete` before it answers that; a source whose connection breaks closes it, then resumes its guest. The event
//! `restored` comes late, after the answer: the real one has another thread write its events, and now and then that
//! thread is slower.
//!
//! What becomes of a guest that ends in the middle is as cloud-hypervisor 53 was read (`control_loop`, `vm_reboot`,
//! `vm_delete` in vmm/src/lib.rs, the vCPUs' loop and `pause` in vmm/src/cpu.rs), and as it was seen to do with a guest
//! of a few instructions. The control loop does not have the VM, so each end is an error that ends the loop, and the rest
//! of the process waits for the thread that sends: no request is answered, and SIGTERM changes nothing. A reboot and a
//! triple fault are told as `rebooting` before that. The thread goes on sending until it pauses the guest. A vCPU that
//! powers off or reboots waits for the loop and does not answer: after a second the transfer fails, and the process
//! prints why and ends with 1. The thread of one that a triple fault or an error has ended is gone, and is waited for
//! without end, whatever the connection does. Where the connection breaks before that, the transfer fails at once, and
//! the process ends with 1.
//!
//! What is not as there: TLS. The certificates are only looked at.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};
use std::{fs, process, thread};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::config::VmConfig;
use super::disk;
use super::record::Record;
use super::script::{Fault, GuestEnd, Step};
use super::vm::{Refused, Vmm, lock};

/// How much later the event `restored` is than the answer that it belongs before.
const LATE: Duration = Duration::from_millis(50);
/// For a connection to get through.
const MORE: Duration = Duration::from_secs(10);
/// For a vCPU to say that it stands still.
const ACKNOWLEDGE: Duration = Duration::from_secs(1);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Send {
    destination_url: String,
    #[serde(rename = "downtime_ms")]
    _downtime_ms: u64,
    timeout_s: u64,
    timeout_strategy: TimeoutStrategy,
    connections: u32,
    #[serde(default)]
    tls_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum TimeoutStrategy {
    Cancel,
    Ignore,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Receive {
    receiver_url: String,
    #[serde(default)]
    tls_dir: Option<PathBuf>,
}

impl Step {
    const ALL: [Self; 6] = [
        Self::Start,
        Self::Config,
        Self::Memory,
        Self::State,
        Self::Complete,
        Self::Completed,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Config => "config",
            Self::Memory => "memory",
            Self::State => "state",
            Self::Complete => "complete",
            Self::Completed => "completed",
        }
    }

    fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.word() == word)
    }
}

fn refused(error: &anyhow::Error) -> Refused {
    Refused {
        status: 500,
        chain: vec!["Error from API".to_owned(), format!("{error:#}")],
    }
}

/// Those for memory alone, all at once and without waiting for one another, as cloud-hypervisor opens them over plain TCP. Each
/// has to get through to the target's VMM.
fn more_connections(address: &str, connections: u32) -> Result<Vec<TcpStream>> {
    if connections < 2 {
        return Ok(Vec::new());
    }
    let opened = (0..connections)
        .map(|_| TcpStream::connect(address))
        .collect::<Result<Vec<_>, _>>()?;
    for (number, mut stream) in opened.iter().enumerate() {
        stream.write_all(b"memory\n")?;
        stream.set_read_timeout(Some(MORE))?;
        let mut answer = [0; 3];
        stream
            .read_exact(&mut answer)
            .with_context(|| format!("connection {number} of {connections} for memory"))?;
    }
    Ok(opened)
}

/// The other end of them.
fn take_more(listener: &TcpListener, connections: u32) {
    for _ in 0..connections {
        let Ok((mut stream, _)) = listener.accept() else {
            return;
        };
        thread::spawn(move || {
            let mut line = [0; 7];
            if stream.read_exact(&mut line).is_ok() && stream.write_all(b"ok\n").is_ok() {
                let _ = stream.read(&mut line);
            }
        });
    }
}

fn certificates(directory: Option<&PathBuf>, side: &str) -> Result<()> {
    let Some(directory) = directory else { return Ok(()) };
    for file in [
        "ca-cert.pem".to_owned(),
        format!("{side}-cert.pem"),
        format!("{side}-key.pem"),
    ] {
        let path = directory.join(file);
        ensure!(
            fs::read_to_string(&path)
                .with_context(|| path.display().to_string())?
                .contains("-----BEGIN"),
            "{} is no PEM",
            path.display()
        );
    }
    Ok(())
}

/// Those that the source has sent, which are not looked at otherwise.
fn open_disks(config: Option<&VmConfig>) -> Result<()> {
    let disks = serde_json::to_value(config)?;
    for disk in disks
        .pointer("/disks")
        .and_then(serde_json::Value::as_array)
        .into_iter()
        .flatten()
    {
        let path = disk
            .get("path")
            .and_then(serde_json::Value::as_str)
            .context("a disk without a path")?;
        let opened = fs::File::open(path);
        // In one write, and while the source still waits: once it gives up, this process is killed.
        let line = match &opened {
            Ok(_) => format!("standin-vmm: opened the disk {path}\n"),
            Err(error) => format!("standin-vmm: cannot open the disk {path}: {error}\n"),
        };
        std::io::stderr().write_all(line.as_bytes())?;
        opened.with_context(|| path.to_owned())?;
    }
    Ok(())
}

impl Vmm {
    pub(crate) fn send_migration(self: &Arc<Self>, body: &str) -> Result<(), Refused> {
        let how: Send = serde_json::from_str(body).map_err(|error| refused(&error.into()))?;
        certificates(how.tls_dir.as_ref(), "client").map_err(|error| refused(&error))?;
        if lock(&self.state).running.is_none() {
            return Err(refused(&anyhow::anyhow!("VM is not running")));
        }
        let vmm = self.clone();
        thread::spawn(move || {
            vmm.events.emit("vm", "migration-started");
            match vmm.send(&how) {
                Ok(()) => {
                    vmm.events.emit("vm", "migration-finished");
                    vmm.exit_as_guest_shutdown();
                }
                Err(error) => {
                    eprintln!("standin-vmm: migration: {error:#}");
                    vmm.events.emit("vm", "migration-failed");
                    vmm.end_without_loop();
                    vmm.resume_here();
                }
            }
        });
        Ok(())
    }

    fn send(&self, how: &Send) -> Result<()> {
        let address = how.destination_url.strip_prefix("tcp:").context("not TCP")?;
        let stream = TcpStream::connect(address)?;
        let mut answers = BufReader::new(stream.try_clone()?);
        let mut ask = |step: Step, payload: &str| -> Result<()> {
            self.fault(step)?;
            // In pieces, as cloud-hypervisor writes its requests, and with Nagle's algorithm on. The last instruction has
            // no payload and is one piece: a source that is stopped has sent all of it or none.
            (&stream).write_all(format!("{} {}\n", step.word(), payload.len()).as_bytes())?;
            (&stream).write_all(payload.as_bytes())?;
            let mut answer = String::new();
            answers.read_line(&mut answer)?;
            ensure!(
                answer.trim() == "ok",
                "{}: the target answers {answer:?}",
                step.word()
            );
            Ok(())
        };
        ask(Step::Start, &how.connections.to_string())?;
        let _more = more_connections(address, how.connections)?;
        let mut config = serde_json::to_value(&lock(&self.state).config)?;
        if let (Some(path), Some(config)) = (&self.script.sent_disk, config.as_object_mut()) {
            config.insert("disks".to_owned(), serde_json::json!([{"path": path}]));
        }
        ask(Step::Config, &config.to_string())?;
        let block = "x".repeat(64 << 10);
        let began = Instant::now();
        for round in 0..self.script.migration_rounds {
            if began.elapsed() >= Duration::from_secs(how.timeout_s) {
                match how.timeout_strategy {
                    TimeoutStrategy::Cancel => bail!("the rounds did not converge in time"),
                    TimeoutStrategy::Ignore => break,
                }
            }
            ask(Step::Memory, &block)?;
            self.events
                .emit_with("vm", "migration-memory-iteration", "id", &round.to_string());
            if round == 0
                && let Some(end) = self.script.guest_end
            {
                self.guest_ends(end);
            }
            thread::sleep(Duration::from_millis(self.script.migration_round_ms));
        }
        self.events.emit("vm", "pausing");
        self.pause()?;
        let memory = {
            let mut state = lock(&self.state);
            // Its writer has written, and writes no more; then the locks go.
            state.running = None;
            state.locks.clear();
            *lock(&state.memory)
        };
        println!("standin-vmm: the guest is paused");
        self.events.emit("vm", "paused");
        ask(Step::Memory, &block)?;
        ask(Step::State, &memory.text())?;
        ask(Step::Complete, "")
    }

    fn guest_ends(&self, end: GuestEnd) {
        if matches!(end, GuestEnd::Reboot | GuestEnd::TripleFault) {
            self.events.emit("vm", "rebooting");
        }
        self.deaf.store(true, Ordering::SeqCst);
        if matches!(end, GuestEnd::TripleFault | GuestEnd::VcpuError) {
            self.vcpu_ends.wait();
        }
        println!("standin-vmm: the guest has ended");
    }

    /// Waits for each vCPU to stand still.
    fn pause(&self) -> Result<()> {
        match self.script.guest_end {
            None => Ok(()),
            Some(GuestEnd::PowerOff | GuestEnd::Reboot) => {
                thread::sleep(ACKNOWLEDGE);
                bail!("a vCPU does not answer")
            }
            Some(GuestEnd::TripleFault | GuestEnd::VcpuError) => loop {
                thread::park();
            },
        }
    }

    /// Without its control loop, the process ends as soon as the thread that sends does.
    fn end_without_loop(&self) {
        if !self.deaf.load(Ordering::SeqCst) {
            return;
        }
        let what = match self.script.guest_end {
            Some(GuestEnd::Reboot | GuestEnd::TripleFault) => "Error rebooting VM",
            _ => "Error shutting down VMM",
        };
        eprintln!(
            "Error: Cloud Hypervisor exited with the following chain of errors:\n  0: VMM thread exited with error\n  1: {what}\n  \
             2: VM is currently migrating and can't be modified"
        );
        process::exit(1)
    }

    pub(crate) fn listen_or_hang(&self) {
        while self.deaf.load(Ordering::SeqCst) {
            thread::park();
        }
    }

    fn resume_here(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        if state.running.is_some() {
            return;
        }
        self.events.emit("vm", "resuming");
        if let Some(config) = state.config.clone() {
            match self.start(&config, &state.memory) {
                Ok(running) => state.running = Some(running),
                Err(error) => {
                    eprintln!("standin-vmm: resume: {error:#}");
                    process::exit(1);
                }
            }
        }
        self.events.emit("vm", "resumed");
    }

    /// Blocks until it is over, as the real one does.
    pub(crate) fn receive_migration(self: &Arc<Self>, body: &str) -> Result<(), Refused> {
        let result = serde_json::from_str::<Receive>(body)
            .map_err(anyhow::Error::from)
            .and_then(|how| self.receive(&how));
        match result {
            Ok(()) => {
                self.events.emit("vm", "migration-receive-finished");
                Ok(())
            }
            Err(error) => {
                eprintln!("standin-vmm: migration: {error:#}");
                self.events.emit("vm", "migration-receive-failed");
                Err(refused(&error))
            }
        }
    }

    fn receive(self: &Arc<Self>, how: &Receive) -> Result<()> {
        certificates(how.tls_dir.as_ref(), "server")?;
        let address = how.receiver_url.strip_prefix("tcp:").context("not TCP")?;
        let listener = TcpListener::bind(address)?;
        self.events.emit("vm", "migration-receive-ready");
        let (stream, _) = listener.accept()?;
        self.events.emit("vm", "migration-receive-started");
        let mut requests = BufReader::new(stream.try_clone()?);
        let mut config: Option<VmConfig> = None;
        loop {
            let mut line = String::new();
            requests.read_line(&mut line)?;
            let (word, length) = line.trim().split_once(' ').context("the source is gone")?;
            let step = Step::named(word).with_context(|| format!("no step: {word}"))?;
            let mut payload = vec![0; length.parse()?];
            requests.read_exact(&mut payload)?;
            self.fault(step)?;
            match step {
                Step::Config => config = serde_json::from_slice(&payload)?,
                Step::State => {
                    self.events.emit("vm", "restoring");
                    open_disks(config.as_ref())?;
                    if let (true, Some(config)) = (self.script.writes_disk, &config) {
                        let memory = std::str::from_utf8(&payload).ok().and_then(Record::from_text);
                        let mut state = lock(&self.state);
                        state.locks = disk::lock_all(&config.disks)?;
                        *lock(&state.memory) = memory.context("no memory of the guest's disk")?;
                    }
                    let runs = Arc::new(Barrier::new(2));
                    let waits = runs.clone();
                    // As long as the process: this is all that a vCPU is here.
                    thread::Builder::new().name("vcpu0".to_owned()).spawn(move || {
                        waits.wait();
                        loop {
                            thread::park();
                        }
                    })?;
                    runs.wait();
                }
                Step::Complete => {
                    let config = config.take().context("complete without a configuration")?;
                    self.events.emit("vm", "resuming");
                    let mut state = lock(&self.state);
                    state.running = Some(self.start(&config, &state.memory)?);
                    state.config = Some(config);
                    self.events.emit("vm", "resumed");
                }
                Step::Start => {
                    let more: u32 = std::str::from_utf8(&payload)?.parse()?;
                    if more > 1 {
                        let listener = listener.try_clone()?;
                        thread::spawn(move || take_more(&listener, more));
                    }
                }
                Step::Memory | Step::Completed => {}
            }
            (&stream).write_all(b"ok\n")?;
            if step == Step::State {
                thread::sleep(LATE);
                self.events.emit("vm", "restored");
            }
            if step == Step::Complete {
                self.fault(Step::Completed)?;
                return Ok(());
            }
        }
    }

    /// What is to go wrong at this step.
    fn fault(&self, step: Step) -> Result<()> {
        match self.script.migration_fault {
            Some((at, fault)) if at == step => match fault {
                Fault::Hang => loop {
                    thread::park();
                },
                Fault::Fail => bail!("{} fails, as scripted", step.word()),
                Fault::Die => process::exit(3),
            },
            _ => Ok(()),
        }
    }
}
