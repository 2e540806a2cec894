//! `kubectl hawser`.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match hawser_kubectl::run(hawser_kubectl::Cli::parse()) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit_code()
        }
    }
}
