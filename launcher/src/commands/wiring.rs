//! Wires the pod and takes the wiring down again.

use hawser_netsetup::{Error, Journal, JournalFile, Linux, Nft, Plan, apply, undo};

use crate::error::{Failure, chain};
use crate::privileges;
use crate::survey::namespace::{block_on, why_not_loaded};

/// Makes the capability effective where it is held, since what can be done decides what is planned, and starts the tool
/// that will need it.
pub(super) fn begin() -> Result<Option<Nft>, Failure> {
    if !privileges::has(caps::Capability::CAP_NET_ADMIN) {
        return Ok(None);
    }
    privileges::raise_net_admin()?;
    // Where there is none, the survey says so.
    Ok(Nft::start().ok())
}

/// Makes the namespace as the plan wants it. Returns what to take down at the end.
pub(super) fn wire(plan: &Plan, nft: Option<Nft>, journal: &JournalFile) -> Result<Journal, Failure> {
    if plan.nics.is_empty() {
        tracing::info!(event = "wiring-not-needed", "the pod needs no wiring");
    } else if plan.steps.is_empty() {
        tracing::info!(event = "wiring-found", "the pod is wired already");
    } else if plan.needs_net_admin() {
        privileges::raise_net_admin()?;
    }
    let applied = block_on(async { Ok(apply(&mut Linux::open()?.with_nft(nft), plan, journal).await) })?;
    // Everything is undone by now.
    let done = applied.map_err(|error| match (&error, why_not_loaded(plan)) {
        (Error::Apply { .. }, Some(why)) => why.because(error),
        _ => error.into(),
    })?;
    offload(plan);
    Ok(done)
}

/// Has the kernel carry established connections past the rules, if it can. The VMM takes longer to start than this does.
fn offload(plan: &Plan) {
    let Some(document) = &plan.offloading else {
        return;
    };
    match hawser_netsetup::offload(document) {
        Ok(true) => tracing::debug!("established connections skip the rules"),
        Ok(false) => tracing::debug!("the kernel or nft has no flowtables: every packet passes the rules"),
        Err(error) => tracing::warn!(
            event = "flowtable-failed",
            "established connections do not skip the rules, so each packet costs more: {}",
            chain(&error)
        ),
    }
}

/// Takes back what was done, last first, and reports every error. False if something is left.
pub(super) fn take_down(done: &Journal, journal: &JournalFile) -> bool {
    if done.undo.is_empty() {
        return true;
    }
    // Sysctls are root's to write, by its user id.
    let as_root = !done.needs_net_admin() && nix::unistd::geteuid().is_root();
    if !privileges::has(caps::Capability::CAP_NET_ADMIN) && !as_root {
        tracing::info!(
            event = "wiring-kept",
            "the wiring is kept: hawser setup made it, and removing it needs CAP_NET_ADMIN"
        );
        return true;
    }
    let raised = if as_root {
        Ok(())
    } else {
        privileges::raise_net_admin()
    };
    let result = raised.and_then(|()| block_on(async { Ok(undo(&mut Linux::open()?, done, journal).await) }));
    match result {
        Ok(failures) => {
            for failure in &failures {
                tracing::error!(event = "wiring-undo-failed", "{}", chain(failure));
            }
            failures.is_empty()
        }
        Err(failure) => {
            tracing::error!(event = "wiring-undo-failed", "{failure}");
            false
        }
    }
}

/// Logs what the user should know although nothing is wrong.
pub(super) fn note(notes: &[String]) {
    for note in notes {
        tracing::warn!(event = "wiring-note", "{note}");
    }
}
