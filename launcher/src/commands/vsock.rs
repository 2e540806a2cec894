//! `hawser vsock`: standard input and output as a connection to a port of the guest's virtio socket, for ssh's ProxyCommand and
//! whatever else speaks through one.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use clap::Args;

use super::args::StateDirArgs;
use crate::console::print_to_the_end;
use crate::control;
use crate::error::{ExitCode, Failure};
use crate::state_dir::vmm_dir;

#[derive(Debug, Args)]
pub struct VsockArgs {
    #[command(flatten)]
    pub state_dir: StateDirArgs,
    /// The port in the guest. systemd 256 and newer has sshd at 22.
    pub port: u32,
}

pub(super) fn vsock(args: &VsockArgs) -> Result<ExitCode, Failure> {
    let (stream, from_guest) = control::vsock_port(&vmm_dir(&args.state_dir.state_dir), args.port)?;
    // A thread, since both directions wait. It ends with the process.
    std::thread::spawn(move || send(&stream));
    print_to_the_end(from_guest)
        .map(|()| ExitCode::Success)
        .map_err(|error| Failure::new(ExitCode::Internal, "the connection to the guest").because(error))
}

fn send(mut stream: &UnixStream) {
    // One that the guest has ended takes no more.
    let _ = io::copy(&mut io::stdin().lock(), &mut stream);
    let _ = stream.shutdown(Shutdown::Write);
}
