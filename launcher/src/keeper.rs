//! The process that stays behind: PID 1 of the container, and the only one with a capability while a guest runs, but for
//! passt-repair where there is one.
//!
//! It forks the supervisor, wires the pod while that starts the VMM, and signals when the guest may run. Then it
//! does five things: it reaps every orphan of the container, passes on the wish to stop, has passt-repair run where a
//! guest is behind passt, waits for the supervisor's verdict, and hands back control so that the wiring can be taken
//! down. It reads nothing from the guest, from the VMM or from the network once the guest runs; its only inputs are
//! then signals, exit statuses, and whether a mark is there when passt-repair has ended.
//!
//! The fork happens while the process has one thread and no runtime.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use crate::daemons::passt;
use crate::daemons::restarts::{Restarts, WINDOW};
use crate::error::{ExitCode, Failure};
use crate::privileges;
use crate::stop_signals::{self, STOP};

/// What the keeper sends to the supervisor, a byte each; the end of the pipe means that the keeper has exited.
pub(crate) const GO: u8 = b'g';
pub(crate) const STOP_GUEST: u8 = b's';

/// The supervisor's end of that pipe.
pub(crate) type Orders = OwnedFd;

/// How the supervisor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) code: ExitCode,
    /// The guest of this pod was given to another launcher, so the wiring stays: without it the pod's own kernel would
    /// answer in the guest's name, with a reset to connections that go on elsewhere, and by ARP for its address.
    pub(crate) given_away: bool,
}

/// For what the supervisor had started to end with it.
const ORPHANS_TIMEOUT: Duration = Duration::from_secs(3);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// passt-repairs within [`WINDOW`]. A hand-off takes three, and each ends when its connection does, which whoever can open
/// the directory decides: no more, so that nobody has this process fork without end.
const MAX_REPAIRS: usize = 30;

/// In the supervisor's exit status, beside its code.
const GIVEN_AWAY: i32 = 0x40;

/// How it went, in both halves.
pub(crate) struct Kept<T> {
    /// What wiring the pod came to. A supervisor that never heard `GO` has run no guest.
    pub(crate) wired: Result<T, Failure>,
    pub(crate) verdict: Verdict,
}

/// Runs `supervise` in a child and `wire` here beside it, lets the guest run when the wiring is done, and waits until
/// the child and what it started has ended.
pub(crate) fn keep<T>(
    supervise: impl FnOnce(Orders) -> Verdict,
    wire: impl FnOnce() -> Result<T, Failure>,
    repair: Option<passt::RepairProgram>,
) -> Result<Kept<T>, Failure> {
    let fail = |what: &'static str| move |errno: Errno| Failure::new(ExitCode::Internal, what).because(errno);
    // Blocked before the fork, so that a signal that comes in between waits for us.
    let mut watched = SigSet::empty();
    STOP.into_iter()
        .chain([Signal::SIGCHLD])
        .for_each(|signal| watched.add(signal));
    let before = watched
        .thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)
        .map_err(fail("block signals"))?;
    // Where hawser is not PID 1, orphans come here too.
    nix::sys::prctl::set_child_subreaper(true).map_err(fail("become a subreaper"))?;
    let (orders_read, orders_write) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(fail("make a pipe"))?;
    let keeper = nix::unistd::getpid();
    // SAFETY: there is one thread, so the child may go on like any process.
    match unsafe { fork() }.map_err(fail("fork"))? {
        ForkResult::Child => {
            drop(orders_write);
            drop(wire);
            let verdict = match become_supervisor(keeper, &before) {
                Ok(()) => supervise(orders_read),
                Err(errno) => {
                    tracing::error!(
                        event = "supervisor-start-failed",
                        "cannot start the supervisor: {errno}"
                    );
                    INTERNAL
                }
            };
            std::process::exit(status(verdict));
        }
        ForkResult::Parent { child } => {
            drop(orders_read);
            // And with it the devices of the guest that it holds; its disks may hold secrets, and this process stays.
            drop(supervise);
            let mut orders = Some(File::from(orders_write));
            let wired = wire();
            if wired.is_ok() {
                send(&mut orders, GO);
            } else {
                // Hearing nothing more, the supervisor ends the VMM, which has no guest yet.
                orders = None;
            }
            if let Err(error) = privileges::keep_net_admin_alone() {
                tracing::warn!(
                    event = "capabilities-kept",
                    "the privileged process could not drop its other capabilities: {error}"
                );
            }
            let mut repair = repair.filter(|_| wired.is_ok()).map(PasstRepair::start);
            let verdict = wait(child, &watched, orders, &mut repair)?;
            stop_signals::ignore().map_err(fail("ignore signals"))?;
            before.thread_set_mask().map_err(fail("unblock signals"))?;
            Ok(Kept { wired, verdict })
        }
    }
}

/// In a session of its own, so that a terminal's Ctrl-C reaches the keeper alone and the VMM not at all.
fn become_supervisor(keeper: Pid, mask: &SigSet) -> Result<(), Errno> {
    nix::unistd::setsid()?;
    stop_signals::restore_default()?;
    mask.thread_set_mask()?;
    die_with(keeper)
}

/// The supervisor does not outlive its keeper. Changing the user clears this, so it is asked for again after that.
pub(crate) fn die_with(keeper: Pid) -> Result<(), Errno> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    if nix::unistd::getppid() == keeper {
        return Ok(());
    }
    Err(Errno::ESRCH)
}

const INTERNAL: Verdict = Verdict {
    code: ExitCode::Internal,
    given_away: false,
};

fn status(verdict: Verdict) -> i32 {
    let given_away = if verdict.given_away { GIVEN_AWAY } else { 0 };
    verdict.code as i32 | given_away
}

fn wait(
    supervisor: Pid,
    watched: &SigSet,
    mut orders: Option<File>,
    repair: &mut Option<PasstRepair>,
) -> Result<Verdict, Failure> {
    let mut verdict = None;
    let mut ended = None;
    loop {
        // Reap first: a child may have ended before the signals were watched.
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {}
            Ok(status) => {
                if status.pid() == Some(supervisor) {
                    verdict = Some(judge(status));
                    ended = Some(Instant::now() + ORPHANS_TIMEOUT);
                    if let Some(repair) = repair.take() {
                        repair.end(verdict.is_some_and(|verdict| verdict.given_away));
                    }
                } else if let Some(repair) = repair {
                    repair.reaped(status);
                }
                continue;
            }
            // Everything that was started has ended: the wiring is not in use any more.
            Err(Errno::ECHILD) => return Ok(verdict.unwrap_or(INTERNAL)),
            Err(Errno::EINTR) => continue,
            Err(errno) => {
                return Err(Failure::new(ExitCode::Internal, "wait for the supervisor").because(errno));
            }
        }
        if let (Some(verdict), Some(end)) = (verdict, ended) {
            // What the guest had is ended by the kernel with the supervisor. Whatever else was left in the container, a shell
            // of `kubectl exec` for one, is not waited for.
            if Instant::now() >= end {
                return Ok(verdict);
            }
            std::thread::sleep(POLL_INTERVAL);
            continue;
        }
        match watched.wait() {
            Ok(signal) if STOP.contains(&signal) => send(&mut orders, STOP_GUEST),
            _ => {}
        }
    }
}

/// passt-repair, which is started again for the next hand-off when it has served one.
struct PasstRepair {
    program: passt::RepairProgram,
    running: Option<passt::RunningRepair>,
    restarts: Restarts,
    /// The pod's kernel sends no resets for connections that it does not know. Not known where an earlier launcher has
    /// left its mark: it may have been killed over it, or have taken it back.
    silent: Option<bool>,
}

impl PasstRepair {
    fn start(program: passt::RepairProgram) -> Self {
        let mut this = Self {
            silent: (!program.has_put_aside()).then_some(false),
            program,
            running: None,
            restarts: Restarts::at_most(MAX_REPAIRS),
        };
        this.begin();
        this
    }

    fn begin(&mut self) {
        let started = privileges::with_net_admin(|| self.program.start());
        self.running = started
            .inspect_err(|error| {
                tracing::warn!(
                    event = "passt-repair-failed",
                    "passt-repair: {error}: connections behind passt end in a migration"
                );
            })
            .ok();
    }

    fn reaped(&mut self, status: WaitStatus) {
        let is_it = |running: &mut passt::RunningRepair| status.pid() == Some(running.pid());
        if self.running.take_if(is_it).is_none() {
            return;
        }
        match status {
            WaitStatus::Exited(_, 0) => {
                self.drop_resets(self.program.has_put_aside());
                match self.restarts.again(Instant::now()) {
                    true => self.begin(),
                    false => tracing::warn!(
                        event = "passt-repair-given-up",
                        "passt-repair ended {MAX_REPAIRS} times within {} s and is not started any more: connections behind \
                         passt end in the next migration",
                        WINDOW.as_secs()
                    ),
                }
            }
            // One that cannot do it would fail again.
            status => tracing::warn!(
                event = "passt-repair-exited",
                "passt-repair ended unexpectedly ({status:?}): connections behind passt end in the next migration",
            ),
        }
    }

    fn end(mut self, given_away: bool) {
        self.drop_resets(given_away && self.program.has_put_aside());
        if let Some(running) = self.running {
            running.end();
        }
    }

    /// While connections of this pod are put aside, and for good once they go on in another one, with its addresses:
    /// until the network leads there, this pod's kernel is not to answer what comes for them.
    fn drop_resets(&mut self, silent: bool) {
        if self.silent == Some(silent) {
            return;
        }
        let done = privileges::with_net_admin(if silent {
            hawser_netsetup::drop_resets
        } else {
            hawser_netsetup::allow_resets
        });
        match done {
            Ok(()) => self.silent = Some(silent),
            Err(error) => tracing::warn!(
                event = "silence-failed",
                "the kernel may reset connections that were migrated: {error}"
            ),
        }
    }
}

fn send(orders: &mut Option<File>, order: u8) {
    if let Some(orders) = orders {
        // A pipe that is full or closed has a supervisor that knows or is gone.
        let _ = orders.write(&[order]);
    }
}

fn judge(status: WaitStatus) -> Verdict {
    match status {
        // Any other status, such as a panic's 101, is none that the supervisor ends with, and says nothing of the guest.
        WaitStatus::Exited(_, status) => match ExitCode::of(status & !GIVEN_AWAY) {
            Some(code) => Verdict {
                code,
                given_away: status & GIVEN_AWAY != 0,
            },
            None => INTERNAL,
        },
        other => {
            tracing::error!(
                event = "supervisor-exited",
                "the supervisor ended unexpectedly: {other:?}"
            );
            INTERNAL
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_survives_the_exit_status() {
        for code in (0..10).filter_map(ExitCode::of) {
            for given_away in [false, true] {
                let verdict = Verdict { code, given_away };
                let status = WaitStatus::Exited(Pid::from_raw(1), status(verdict));
                assert_eq!(judge(status), verdict);
            }
        }
        let ours: Vec<_> = (0..10).chain((0..10).map(|code| code | GIVEN_AWAY)).collect();
        for foreign in (0..=255).filter(|status| !ours.contains(status)) {
            let status = WaitStatus::Exited(Pid::from_raw(1), foreign);
            assert_eq!(judge(status), INTERNAL, "{foreign}");
        }
        let killed = WaitStatus::Signaled(Pid::from_raw(1), Signal::SIGKILL, false);
        assert_eq!(judge(killed), INTERNAL);
    }
}
