//! The one VM of the stand-in: none, created, running; and the events that say so.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, process};

use nix::libc;
use serde_json::{Value, json};

use super::config::{Console, ConsoleMode, Net, VmConfig};
use super::disk::{self, Writer};
use super::pump::{self, Counters, Nic};
use super::record::Record;
use super::script::{Point, Script};
use super::tap;

/// Why a request was not done, as a chain from the outside in; and the status that goes with it.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: u16,
    pub(crate) chain: Vec<String>,
}

impl Refused {
    fn new(status: u16, outer: &str, inner: impl Into<String>) -> Self {
        Self {
            status,
            chain: vec!["Error from API".to_owned(), outer.to_owned(), inner.into()],
        }
    }
}

/// The event stream: pretty JSON objects with a blank line after each.
#[derive(Debug)]
pub(crate) struct Events {
    start: Instant,
    to: Option<Mutex<File>>,
}

impl Events {
    pub(crate) fn new(to: Option<File>) -> Self {
        Self {
            start: Instant::now(),
            to: to.map(Mutex::new),
        }
    }

    pub(crate) fn emit(&self, source: &str, event: &str) {
        self.put(source, event, Value::Null);
    }

    /// With a property.
    pub(crate) fn emit_with(&self, source: &str, event: &str, key: &str, value: &str) {
        self.put(source, event, json!({ key: value }));
    }

    fn put(&self, source: &str, event: &str, properties: Value) {
        let timestamp = self.start.elapsed();
        let event = json!({
            "timestamp": {"secs": timestamp.as_secs(), "nanos": timestamp.subsec_nanos()},
            "source": source,
            "event": event,
            "properties": properties,
        });
        self.write(&format!("{event:#}\n\n"));
    }

    /// Text, cut objects, objects of the wrong shape, and a long line, over and over.
    pub(crate) fn junk(&self) {
        let long = "x".repeat(3000);
        for _ in 0..100 {
            self.write("this is no event\n\n{\"timestamp\": {\"secs\": \n\n[1, 2]\n\n{\"source\": 7}\n\n");
            self.write(&format!("{long}\n\n"));
        }
    }

    fn write(&self, text: &str) {
        if let Some(file) = &self.to {
            // A reader that is slow or gone loses events; the VMM goes on.
            let _ = lock(file).write_all(text.as_bytes());
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) config: Option<VmConfig>,
    pub(super) running: Option<Running>,
    /// On its disks, held by open files.
    pub(super) locks: Vec<File>,
    /// The last record that the guest wrote to its disk.
    pub(super) memory: Arc<Mutex<Record>>,
}

/// Dropping it stops the pumps: they see the hang-up.
#[derive(Debug)]
pub(super) struct Running {
    nics: Vec<RunningNic>,
    _writer: Option<Writer>,
}

#[derive(Debug)]
struct RunningNic {
    id: String,
    counters: Arc<Counters>,
    stop: Option<OwnedFd>,
    pump: Option<thread::JoinHandle<()>>,
}

impl Drop for RunningNic {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(pump) = self.pump.take() {
            // Waited for, so that the TAP's queues are closed when a reboot opens them again.
            let _ = pump.join();
        }
    }
}

#[derive(Debug)]
pub(crate) struct Vmm {
    pub(crate) script: Arc<Script>,
    /// The control loop has ended: no request is answered any more, and SIGTERM ends nothing.
    pub(super) deaf: AtomicBool,
    /// The thread of the guest's vCPU is to end.
    pub(super) vcpu_ends: Arc<Barrier>,
    pub(super) events: Events,
    pub(super) state: Mutex<State>,
}

impl Vmm {
    pub(crate) fn new(script: Arc<Script>, events: Events) -> Self {
        Self {
            script,
            events,
            deaf: AtomicBool::new(false),
            vcpu_ends: Arc::new(Barrier::new(2)),
            state: Mutex::default(),
        }
    }

    pub(crate) fn create(&self, body: &str) -> Result<(), Refused> {
        let config: VmConfig = serde_json::from_str(body).map_err(|error| Refused {
            status: 400,
            chain: vec!["Failed to deserialize JSON".to_owned(), error.to_string()],
        })?;
        let mut state = lock(&self.state);
        if state.config.is_some() {
            return Err(Refused::new(
                500,
                "The VM could not be created",
                "VM is already created",
            ));
        }
        config
            .validate()
            .map_err(|error| Refused::new(500, "The VM could not be created", error))?;
        if config.landlock_enable && landlock_abi() < 3 {
            // The real one takes no less.
            return Err(Refused::new(
                500,
                "The VM could not be created",
                "Error applying landlock",
            ));
        }
        state.config = Some(config);
        Ok(())
    }

    /// To a VM that is not running yet; a running one's NICs are not added to by this stand-in.
    pub(crate) fn add_net(&self, body: &str, files: Vec<OwnedFd>) -> Result<(), Refused> {
        const WHAT: &str = "The network device could not be added to the VM";
        let mut net: Net = serde_json::from_str(body).map_err(|error| Refused {
            status: 400,
            chain: vec!["Failed to deserialize JSON".to_owned(), error.to_string()],
        })?;
        net.files = files.into_iter().map(Arc::new).collect();
        let mut state = lock(&self.state);
        if state.running.is_some() {
            return Err(Refused::new(500, WHAT, "the stand-in has no hotplug"));
        }
        let Some(config) = &state.config else {
            return Err(Refused::new(500, WHAT, "VM is not created"));
        };
        let mut config = config.clone();
        config.net.get_or_insert_default().push(net);
        config
            .validate()
            .map_err(|error| Refused::new(500, WHAT, error))?;
        state.config = Some(config);
        Ok(())
    }

    pub(crate) fn boot(self: &Arc<Self>) -> Result<(), Refused> {
        self.events.emit("vm", "booting");
        let mut state = lock(&self.state);
        if state.running.is_some() {
            return Err(Refused::new(
                500,
                "The VM could not boot",
                "VM is already created",
            ));
        }
        let Some(config) = state.config.clone() else {
            return Err(Refused::new(404, "The VM could not boot", "VM config is missing"));
        };
        let failed = |error: anyhow::Error| Refused::new(500, "The VM could not boot", format!("{error:#}"));
        if self.script.writes_disk {
            state.locks = disk::lock_all(&config.disks).map_err(failed)?;
        }
        let running = self.start(&config, &state.memory).map_err(failed)?;
        state.running = Some(running);
        let ends = self.vcpu_ends.clone();
        thread::Builder::new()
            .name("vcpu0".to_owned())
            .spawn(move || {
                ends.wait();
            })
            .map_err(|error| Refused::new(500, "The VM could not boot", error.to_string()))?;
        self.events.emit("vm", "booted");
        if let Some(delay) = self.script.reboot_after_ms {
            let vmm = self.clone();
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(delay));
                vmm.reboot();
            });
        }
        Ok(())
    }

    pub(super) fn start(
        self: &Arc<Self>,
        config: &VmConfig,
        memory: &Arc<Mutex<Record>>,
    ) -> anyhow::Result<Running> {
        if let Some(payload) = &config.payload {
            for path in [&payload.kernel, &payload.firmware, &payload.initramfs]
                .into_iter()
                .flatten()
            {
                anyhow::Context::with_context(fs::File::open(path), || format!("Cannot open {path}"))?;
            }
        }
        let console = Arc::new(Output::of(config)?);
        console.line("standin-vmm: this is no guest");
        console.line("standin-vmm: the guest runs");
        for line in 0..self.script.log_lines {
            eprintln!("standin-vmm: \u{1b}[7msurprised, for the {line}th time");
        }
        for attempt in &self.script.attempts {
            console.line(&format!("standin-vmm: attempt: {}", attempt.outcome()));
        }
        let mut nics = Vec::new();
        for (index, net) in config.net.iter().flatten().enumerate() {
            let opened = match &net.tap {
                None if net.files.is_empty() => continue,
                None => tap::adopt(&net.files)?,
                Some(name) => {
                    anyhow::ensure!(
                        !self.script.tap_open_fails,
                        "Open tap device failed (as scripted)"
                    );
                    tap::open(name, net.num_queues / 2, net.host_mac.as_deref(), net.mtu)?
                }
            };
            let name = opened.name.clone();
            let nic = Nic {
                mac: net.mac.clone(),
                mtu: self.script.offer_mtu.then_some(opened.mtu),
            };
            let port = match self.script.ports.get(&name) {
                Some(path) => {
                    console.line(&format!("standin-vmm: frames of {name} go to {}", path.display()));
                    Some(pump::connect_port(path, &nic)?)
                }
                None => {
                    console.line(&format!("standin-vmm: frames of {name} go nowhere"));
                    None
                }
            };
            let (stop, stopped) = nix::unistd::pipe()?;
            let counters = Arc::new(Counters::default());
            let pump = {
                let (counters, console) = (counters.clone(), console.clone());
                thread::spawn(move || {
                    let print = |line: &str| console.line(line);
                    if let Err(error) = pump::run(&opened.queues, port.as_ref(), &stop, &counters, &print) {
                        eprintln!("standin-vmm: {name}: {error:#}");
                    }
                })
            };
            nics.push(RunningNic {
                id: net.id.clone().unwrap_or_else(|| format!("_net{index}")),
                counters,
                stop: Some(stopped),
                pump: Some(pump),
            });
        }
        let writer = match self.script.writes_disk {
            true => Some(Writer::start(&config.disks, memory.clone())?),
            false => None,
        };
        Ok(Running {
            nics,
            _writer: writer,
        })
    }

    /// The guest restarts: same configuration, devices opened anew.
    fn reboot(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        if state.running.is_none() {
            return;
        }
        self.events.emit("vm", "rebooting");
        state.running = None;
        if let Some(config) = state.config.clone() {
            match self.start(&config, &state.memory) {
                Ok(running) => state.running = Some(running),
                Err(error) => {
                    eprintln!("standin-vmm: reboot: {error:#}");
                    process::exit(1);
                }
            }
        }
        self.events.emit("vm", "rebooted");
    }

    pub(crate) fn power_button(self: &Arc<Self>) -> Result<(), Refused> {
        if lock(&self.state).running.is_none() {
            return Err(Refused::new(
                500,
                "Error triggering power button",
                "VM is not running",
            ));
        }
        if !self.script.ignore_power_button {
            let vmm = self.clone();
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(vmm.script.shutdown_ms));
                vmm.exit_as_guest_shutdown()
            });
        }
        Ok(())
    }

    pub(crate) fn shutdown(&self) -> Result<(), Refused> {
        let mut state = lock(&self.state);
        if state.running.take().is_none() {
            return Err(Refused::new(
                500,
                "The VM could not shutdown",
                "VM is not running",
            ));
        }
        self.events.emit("vm", "shutdown");
        Ok(())
    }

    pub(crate) fn delete(&self) {
        let mut state = lock(&self.state);
        if state.config.is_none() {
            return;
        }
        if state.running.take().is_some() {
            self.events.emit("vm", "shutdown");
        }
        state.config = None;
        self.events.emit("vm", "deleted");
    }

    pub(crate) fn exit_as_guest_shutdown(&self) -> ! {
        self.delete();
        self.events.emit("vmm", "shutdown");
        process::exit(0)
    }

    pub(crate) fn info(&self) -> Result<Value, Refused> {
        let state = lock(&self.state);
        let Some(config) = &state.config else {
            return Err(Refused::new(
                404,
                "The VM info is not available",
                "VM is not created",
            ));
        };
        Ok(json!({
            "config": config,
            "state": if state.running.is_some() { "Running" } else { "Created" },
            "memory_actual_size": config.memory.as_ref().map_or(512 << 20, |memory| memory.size),
            "device_tree": null,
        }))
    }

    pub(crate) fn counters(&self) -> Result<Value, Refused> {
        let state = lock(&self.state);
        let Some(running) = &state.running else {
            return Err(Refused::new(
                500,
                "The VM info is not available",
                "VM is not running",
            ));
        };
        let nics = running.nics.iter().map(|nic| {
            let c = &nic.counters;
            let value = json!({
                "rx_bytes": c.rx_bytes.load(Ordering::Relaxed),
                "rx_frames": c.rx_frames.load(Ordering::Relaxed),
                "tx_bytes": c.tx_bytes.load(Ordering::Relaxed),
                "tx_frames": c.tx_frames.load(Ordering::Relaxed),
            });
            (nic.id.clone(), value)
        });
        Ok(Value::Object(nics.collect()))
    }

    pub(crate) fn after(&self, request: &str) {
        match request {
            "vm.boot" => self.script.die_at(Point::Booted),
            "vm.power-button" => self.script.die_at(Point::PowerButton),
            _ => {}
        }
    }
}

/// Negative where there is no landlock (landlock_create_ruleset(2)).
fn landlock_abi() -> i64 {
    const VERSION: i32 = 1;
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag the call takes no attributes and makes nothing.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION) }
}

/// Where the serial console goes.
#[derive(Debug)]
enum Output {
    Nowhere,
    Stdout,
    File(Mutex<File>),
    /// Whoever connected last.
    Socket(Arc<Mutex<Option<UnixStream>>>),
}

impl Output {
    fn of(config: &VmConfig) -> anyhow::Result<Self> {
        let chosen = [&config.serial, &config.console].into_iter().flatten();
        let Some(Console {
            mode, file, socket, ..
        }) = chosen
            .clone()
            .find(|c| !matches!(c.mode, ConsoleMode::Off | ConsoleMode::Null))
        else {
            return Ok(Self::Nowhere);
        };
        Ok(match (mode, file, socket) {
            (ConsoleMode::Tty, ..) => Self::Stdout,
            (ConsoleMode::File, Some(path), _) => Self::File(Mutex::new(File::create(path)?)),
            (ConsoleMode::Socket, _, Some(path)) => {
                let _ = fs::remove_file(path);
                let listener = UnixListener::bind(path)?;
                let reader = Arc::new(Mutex::new(None));
                let shared = reader.clone();
                thread::spawn(move || {
                    for stream in listener.incoming().map_while(Result::ok) {
                        *lock(&shared) = Some(stream);
                    }
                });
                Self::Socket(reader)
            }
            _ => anyhow::bail!("console mode {mode:?} is not one that the stand-in has"),
        })
    }

    fn line(&self, line: &str) {
        let line = format!("{line}\r\n");
        // A console that nobody reads does not stop a guest.
        let _ = match self {
            Self::Nowhere => Ok(()),
            Self::Stdout => io::stdout()
                .write_all(line.as_bytes())
                .and_then(|()| io::stdout().flush()),
            Self::File(file) => lock(file).write_all(line.as_bytes()),
            Self::Socket(reader) => match &mut *lock(reader) {
                Some(stream) => stream.write_all(line.as_bytes()),
                None => Ok(()),
            },
        };
    }
}
