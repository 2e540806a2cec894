//! What a VMM that its guest has taken over would try.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;

use nix::libc;
use nix::sys::signal::kill;
use nix::unistd::getppid;

use super::script::Attempt;

impl Attempt {
    /// As a line.
    pub(crate) fn outcome(&self) -> String {
        match self.make() {
            Ok(()) => format!("{self:?}: done"),
            Err(error) => format!("{self:?}: refused: {error}"),
        }
    }

    fn make(&self) -> io::Result<()> {
        match self {
            Self::Read(path) => File::open(path).map(drop),
            Self::Write(path) => OpenOptions::new().write(true).open(path).map(drop),
            Self::Create(path) => {
                File::create_new(path)?;
                std::fs::remove_file(path)
            }
            Self::Execute(path) => Command::new(path).output().map(drop),
            Self::SignalLauncher => Ok(kill(getppid(), None)?),
            Self::ReadLauncher => File::open(format!("/proc/{}/mem", getppid())).map(drop),
            Self::Keys => {
                // SAFETY: the call takes two numbers, and returns one (keyctl_get_keyring_ID(3)).
                let keys = unsafe { libc::syscall(libc::SYS_keyctl, 0, -3) };
                match keys {
                    -1 => Err(io::Error::last_os_error()),
                    _ => Ok(()),
                }
            }
            Self::Connect(port) => TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).map(drop),
        }
    }
}
