//! The guest's serial console: what it prints goes to standard output, to a file, and to everyone who has attached
//! (`hawser console`); what one of them types goes to the guest.
//!
//! cloud-hypervisor reads what is typed from its standard input, and only from a terminal: it has one end of a pseudoterminal
//! there ([`hawser_linux::pty`]), and this launcher the other. So a guest that has migrated has a console that can be typed at too.
//!
//! One at a time types, and any number watch. Nobody who watches holds up the guest: whoever does not read what is printed is
//! detached.

mod attached;
mod client;
mod pump;

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

pub(crate) use attached::serve;
pub(crate) use client::{Mode, attach, print_to_the_end};
pub(crate) use pump::pump;

/// Bytes of what was printed last, which whoever attaches is shown first.
const SCROLLBACK: usize = 64 << 10;
/// Pieces of output that wait for somebody who watches; each is what one read from the VMM's pipe gave, 4 KiB at most.
const MAX_WAITING: usize = 256;
/// Pieces of input that wait for the guest.
const MAX_TYPED: usize = 16;

/// Who may type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keyboard {
    /// Whoever has just attached.
    Yours,
    /// Somebody else, who attached before.
    Taken,
    /// They did not want to.
    NotWanted,
    /// Nobody: there is no pseudoterminal in this pod.
    Lacking,
}

impl Keyboard {
    /// As the answer's header has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Yours => "yours",
            Self::Taken => "taken",
            Self::NotWanted => "not-wanted",
            Self::Lacking => "lacking",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Yours, Self::Taken, Self::NotWanted, Self::Lacking]
            .into_iter()
            .find(|keyboard| keyboard.name() == name)
    }
}

/// One console, for as many as want it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Console(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    scrollback: VecDeque<u8>,
    viewers: Vec<(u64, mpsc::Sender<Vec<u8>>)>,
    keyboard: Option<mpsc::Sender<Vec<u8>>>,
    /// Who types.
    typist: Option<u64>,
    last: u64,
    closed: bool,
}

/// Somebody who has attached, until it is dropped.
#[derive(Debug)]
struct Viewer {
    console: Console,
    number: u64,
    /// Ends when the console does, or because it was not read.
    output: mpsc::Receiver<Vec<u8>>,
    keyboard: Option<mpsc::Sender<Vec<u8>>>,
    state: Keyboard,
}

impl Console {
    /// `keyboard` is what the guest reads from the other end of.
    pub(crate) fn new(keyboard: Option<OwnedFd>) -> Self {
        let this = Self::default();
        this.lock().keyboard = keyboard.and_then(type_to);
        this
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest has printed this.
    fn print(&self, bytes: &[u8]) {
        let mut state = self.lock();
        state.scrollback.extend(bytes);
        let excess = state.scrollback.len().saturating_sub(SCROLLBACK);
        state.scrollback.drain(..excess);
        state
            .viewers
            .retain(|(_, viewer)| viewer.try_send(bytes.to_vec()).is_ok());
    }

    /// The guest will print nothing more.
    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.viewers.clear();
    }

    fn attach(&self, types: bool) -> Viewer {
        let (sender, output) = mpsc::channel(MAX_WAITING);
        let mut state = self.lock();
        state.last = state.last.wrapping_add(1);
        let number = state.last;
        let (keyboard, allowed) = match (&state.keyboard, state.typist) {
            _ if !types => (None, Keyboard::NotWanted),
            (None, _) => (None, Keyboard::Lacking),
            (Some(_), Some(_)) => (None, Keyboard::Taken),
            (Some(keyboard), None) => (Some(keyboard.clone()), Keyboard::Yours),
        };
        if keyboard.is_some() {
            state.typist = Some(number);
        }
        let (before, after) = state.scrollback.as_slices();
        // There is room for it.
        let _ = sender.try_send([before, after].concat());
        if !state.closed {
            state.viewers.push((number, sender));
        }
        drop(state);
        Viewer {
            console: self.clone(),
            number,
            output,
            keyboard,
            state: allowed,
        }
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let mut state = self.console.lock();
        state.viewers.retain(|(number, _)| *number != self.number);
        if state.typist == Some(self.number) {
            state.typist = None;
        }
    }
}

/// A thread that writes to the pseudoterminal: a guest that does not read what is typed holds up nobody else.
fn type_to(keyboard: OwnedFd) -> Option<mpsc::Sender<Vec<u8>>> {
    let (sender, mut typed) = mpsc::channel::<Vec<u8>>(MAX_TYPED);
    let spawned = std::thread::Builder::new()
        .name("keyboard".into())
        .stack_size(64 << 10)
        .spawn(move || {
            let mut keyboard = File::from(keyboard);
            while let Some(bytes) = typed.blocking_recv() {
                if let Err(error) = keyboard.write_all(&bytes) {
                    tracing::warn!(
                        event = "console-input-lost",
                        "the guest's console takes no more input: {error}"
                    );
                    return;
                }
            }
        });
    spawned.ok().map(|_| sender)
}

#[cfg(test)]
mod tests;
