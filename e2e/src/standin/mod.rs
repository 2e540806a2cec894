//! The stand-in VMM: arguments, then the API socket, then whatever the client asks for.
//!
//! One lock serializes the requests, as the one API thread of the real VMM does. SIGTERM ends it like a guest that
//! shut down: events, then exit code 0.

pub(crate) mod api;
pub(crate) mod attempts;
pub(crate) mod config;
pub(crate) mod disk;
pub(crate) mod faults;
pub(crate) mod migrate;
pub(crate) mod port;
pub(crate) mod pump;
pub(crate) mod record;
pub(crate) mod script;
pub(crate) mod tap;
pub(crate) mod vm;

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{SigSet, Signal};

use script::{Api, Point, Script};
use vm::{Events, Vmm};

/// Where a socket or stream comes from: `path=P`, a bare `P`, or `fd=N`.
#[derive(Debug)]
enum Endpoint {
    Path(PathBuf),
    Fd(RawFd),
}

impl Endpoint {
    fn parse(text: &str) -> Result<Self> {
        if let Some(fd) = text.strip_prefix("fd=") {
            return Ok(Self::Fd(
                fd.parse().with_context(|| format!("not a descriptor: {fd}"))?,
            ));
        }
        Ok(Self::Path(text.strip_prefix("path=").unwrap_or(text).into()))
    }
}

#[derive(Debug, Default)]
struct Args {
    api: Option<Endpoint>,
    events: Option<Endpoint>,
}

fn parse_args(args: &[String]) -> Result<Args> {
    let mut parsed = Args::default();
    let mut rest = args.iter().peekable();
    while let Some(arg) = rest.next() {
        let (name, mut value) = match arg.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
            _ => (arg.as_str(), None),
        };
        let takes_value = matches!(
            name,
            "--api-socket" | "--event-monitor" | "--seccomp" | "--log-file" | "--landlock-rules"
        );
        if takes_value && value.is_none() {
            value = Some(
                rest.next()
                    .with_context(|| format!("{name} needs a value"))?
                    .clone(),
            );
        }
        match (name, value) {
            ("--api-socket", Some(value)) => parsed.api = Some(Endpoint::parse(&value)?),
            ("--event-monitor", Some(value)) => parsed.events = Some(Endpoint::parse(&value)?),
            // These change nothing in a process that confines no guest.
            ("--seccomp" | "--log-file" | "--landlock-rules", Some(_))
            | ("--landlock" | "-v" | "-vv" | "-vvv", None) => {
                // The real one takes several rules after one flag.
                while name == "--landlock-rules" && rest.next_if(|next| !next.starts_with('-')).is_some() {}
            }
            _ => bail!("unexpected argument '{arg}'"),
        }
    }
    Ok(parsed)
}

/// # Errors
/// Arguments or `standin.json` that it does not understand, and sockets that it cannot open.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let args = parse_args(args)?;
    let script = Arc::new(Script::beside_executable()?);
    script.stamp("start");
    script.die_at(Point::Start);

    // Blocked before the first thread, so that only the waiting one gets it.
    let mut term = SigSet::empty();
    term.add(Signal::SIGTERM);
    term.add(Signal::SIGINT);
    term.thread_block()?;

    let events = Events::new(args.events.map(open_events).transpose()?);
    events.emit("vmm", "starting");
    if script.event_junk {
        events.junk();
    }
    let vmm = Arc::new(Vmm::new(script.clone(), events));

    match script.api {
        Api::Normal => {}
        Api::LateMs(ms) => thread::sleep(Duration::from_millis(ms)),
        Api::Never => loop {
            thread::park();
        },
    }
    let listener = match args.api.context("no --api-socket")? {
        Endpoint::Path(path) => bind(&path)?,
        // SAFETY: the descriptor was passed to this process for this purpose; nothing else here owns it.
        Endpoint::Fd(fd) => unsafe { UnixListener::from_raw_fd(fd) },
    };
    {
        let vmm = vmm.clone();
        thread::spawn(move || {
            // An error would only mean that the mask was changed, which nobody does.
            let _ = term.wait();
            vmm.listen_or_hang();
            vmm.exit_as_guest_shutdown()
        });
    }
    read_keyboard();
    api::serve(&listener, &vmm)
}

/// What is typed at the guest's console, which the real one reads from standard input where that is a terminal. The guest prints
/// each line, escaped.
fn read_keyboard() {
    if !std::io::stdin().is_terminal() {
        return;
    }
    thread::spawn(|| {
        let mut line = Vec::new();
        for byte in std::io::stdin().lock().bytes().map_while(Result::ok) {
            match byte {
                b'\r' | b'\n' => println!(
                    "standin-vmm: typed: {}\r",
                    std::mem::take(&mut line).escape_ascii()
                ),
                byte => line.push(byte),
            }
        }
    });
}

fn bind(path: &Path) -> Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", path.display()));
        }
        _ => {}
    }
    UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))
}

/// Non-blocking, as the real one makes it: what nobody reads is lost.
fn open_events(endpoint: Endpoint) -> Result<File> {
    let file = match endpoint {
        Endpoint::Path(path) => File::create(&path).with_context(|| format!("open {}", path.display()))?,
        // SAFETY: as for the API socket above.
        Endpoint::Fd(fd) => unsafe { File::from_raw_fd(fd) },
    };
    let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
    fcntl(&file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(file)
}
