//! A panic anywhere in the supervisor is a fault of hawser's own, and ends the guest by its power button.
//!
//! A task that panics ends alone, and what it did is then done by nobody: a guest without a DHCP server would lose its lease
//! hours later, and no log would say why. So the hook reports every panic to the supervisor's loop, which stops the guest, and
//! the exit code is that of an internal error.

use std::panic;

use tokio::sync::mpsc::{self, UnboundedReceiver};

/// From here on, the reports of all panics of this process. The message and place of each are in the log.
pub(super) fn watch() -> UnboundedReceiver<()> {
    let (reports, faults) = mpsc::unbounded_channel();
    panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let payload = panic.payload();
        let message = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("a panic without a message");
        tracing::error!(
            event = "internal-error",
            place,
            "internal error, please report it: {message}; hawser now shuts the guest down"
        );
        let _ = reports.send(());
    }));
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_and_a_thread_that_panic_are_reported() {
        let before = panic::take_hook();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut faults = watch();
            let _ = tokio::spawn(async { panic!("in a task") }).await;
            assert!(faults.try_recv().is_ok(), "no report");
            let _ = tokio::task::spawn_blocking(|| panic!("in a thread")).await;
            assert!(faults.try_recv().is_ok(), "no report");
            assert!(faults.try_recv().is_err(), "one report each");
        });
        panic::set_hook(before);
    }
}
