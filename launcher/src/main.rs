//! The container's entrypoint.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;

use clap::Parser;
use hawser::cli::Cli;
use hawser::{ExitCode, log};
use tracing_subscriber::EnvFilter;

fn main() {
    let cli = Cli::parse();
    // stdout is the guest's console, or the data that was asked for; what hawser itself has to say goes to stderr.
    let filter = EnvFilter::try_from_env("HAWSER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(log::writer())
        .with_target(false)
        .with_ansi(false)
        // A line that cannot be written must not end the guest: the crate would report it by eprintln!, which panics.
        .log_internal_errors(false)
        .init();
    let code = match catch_unwind(AssertUnwindSafe(|| hawser::dispatch(cli))) {
        Ok(Ok(code)) => code,
        Ok(Err(failure)) => {
            log::error(&failure);
            failure.code()
        }
        // Its own message is on standard error by now.
        Err(_) => ExitCode::Internal,
    };
    process::exit(code as i32);
}
