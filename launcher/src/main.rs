//! The container's entrypoint.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;

use clap::Parser;
use hawser::cli::Cli;
use hawser::{ExitCode, log};

fn main() {
    let cli = Cli::parse();
    log::begin(cli.log_format);
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
