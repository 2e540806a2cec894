//! A scripted test double that stands where cloud-hypervisor does. It runs no guest.
//!
//! It answers the part of the API that a launcher uses, writes the events that go with it, opens the TAP by name as
//! the real one does, and carries its frames to a *guest port*: a TAP in another network namespace, where ordinary
//! DHCP clients play the guest. `standin.json` beside its own executable scripts its faults; see [`standin::script`].

#[path = "../standin/mod.rs"]
mod standin;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.first().map(String::as_str) {
        Some("--version" | "-V") => {
            println!("standin-vmm 0.1.0 (a test double, not cloud-hypervisor)");
            Ok(())
        }
        Some("guest-port") => standin::port::main(args.get(1..).unwrap_or_default()),
        _ => standin::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("standin-vmm: {error:#}");
            ExitCode::FAILURE
        }
    }
}
