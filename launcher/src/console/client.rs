//! `hawser console`: the terminal's side.

use std::io::{self, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use super::Keyboard;
use crate::control;
use crate::error::{ExitCode, Failure};

/// Ctrl-], as in telnet, virsh and virtctl.
const DETACH: u8 = 0x1d;

/// What the user wants of the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Type,
    Watch,
}

/// A terminal that passes every key on, until it is dropped.
struct Raw(Option<Termios>);

impl Raw {
    fn set() -> Self {
        let stdin = io::stdin();
        let Ok(before) = tcgetattr(stdin.as_fd()) else {
            return Self(None);
        };
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        match tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw) {
            Ok(()) => Self(Some(before)),
            Err(_) => Self(None),
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, before);
        }
    }
}

/// Shows the console on standard output, and types what comes on standard input, until the guest ends or the user detaches.
pub(crate) fn attach(vmm_dir: &Path, mode: Mode) -> Result<ExitCode, Failure> {
    let control::Talk {
        stream,
        reading,
        keyboard,
    } = control::console(vmm_dir, mode == Mode::Type)?;
    let output = reading;
    let lost = |error: io::Error| Failure::new(ExitCode::Internal, "the launcher's answer").because(error);
    let at_terminal = io::stdin().is_terminal();
    greet(keyboard, at_terminal);
    let raw = at_terminal.then(Raw::set);
    let detached = Arc::new(AtomicBool::new(false));
    if keyboard == Keyboard::Yours || at_terminal {
        type_in(&stream, keyboard == Keyboard::Yours, at_terminal, &detached).map_err(lost)?;
    }
    let ended = print_to_the_end(output);
    drop(raw);
    if detached.load(Ordering::SeqCst) {
        eprintln!("\nhawser: detached; the guest runs on");
        return Ok(ExitCode::Success);
    }
    ended.map_err(|error| Failure::new(ExitCode::Internal, "show the console").because(error))?;
    eprintln!(
        "\nhawser: the console has ended: the guest has ended or was migrated, or what it printed was not read"
    );
    Ok(ExitCode::Success)
}

fn greet(keyboard: Keyboard, at_terminal: bool) {
    let may = match keyboard {
        Keyboard::Yours => "the guest's console",
        Keyboard::Taken => "the guest's console; somebody else types there, so it is only shown here",
        Keyboard::NotWanted => "the guest's console, only shown",
        Keyboard::Lacking => {
            "the guest's console, only shown: hawser found no pseudoterminal in this pod to type through"
        }
    };
    let detach = if at_terminal { "; Ctrl-] detaches" } else { "" };
    eprintln!("hawser: {may}{detach}");
}

/// A thread, since both directions wait. Where nobody may type, the keys are still read: one of them detaches.
fn type_in(
    stream: &UnixStream,
    types: bool,
    at_terminal: bool,
    detached: &Arc<AtomicBool>,
) -> io::Result<()> {
    let (mut stream, detached) = (stream.try_clone()?, detached.clone());
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        loop {
            let read = match io::stdin().lock().read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(read) => read,
            };
            let typed = buffer.get(..read).unwrap_or_default();
            let end = typed.iter().position(|key| at_terminal && *key == DETACH);
            let typed = typed.get(..end.unwrap_or(read)).unwrap_or_default();
            let written = match types {
                true => stream.write_all(typed),
                false => Ok(()),
            };
            if end.is_some() {
                detached.store(true, Ordering::SeqCst);
            }
            if end.is_some() || written.is_err() {
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
        }
    });
    Ok(())
}

/// Standard output gets each piece as it comes. Whoever is at the other end may end the connection either way.
pub(crate) fn print_to_the_end(mut output: impl Read) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = match output.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        };
        out.write_all(buffer.get(..read).unwrap_or_default())?;
        out.flush()?;
    }
}
