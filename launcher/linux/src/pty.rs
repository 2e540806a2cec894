//! A pseudoterminal through which bytes pass as they are: no echo, no lines, no signals for a Ctrl-C (pty(7), termios(3)).

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

/// What is written to one end is read from the other.
#[derive(Debug)]
pub struct Pty {
    /// A process that has this end sees a terminal.
    pub terminal: OwnedFd,
    pub other: OwnedFd,
}

/// Neither end becomes anybody's controlling terminal, and neither outlives an exec by itself.
pub fn raw() -> io::Result<Pty> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let other = posix_openpt(flags)?;
    grantpt(&other)?;
    unlockpt(&other)?;
    let terminal = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags((OFlag::O_NOCTTY | OFlag::O_CLOEXEC).bits())
        .open(ptsname_r(&other)?)?;
    let mut settings = tcgetattr(&terminal)?;
    cfmakeraw(&mut settings);
    tcsetattr(&terminal, SetArg::TCSANOW, &settings)?;
    Ok(Pty {
        terminal: terminal.into(),
        other: other.into(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{IsTerminal, Read, Write};

    use super::*;

    #[test]
    fn every_byte_passes_and_none_comes_back() {
        let Pty { terminal, other } = raw().unwrap();
        assert!(terminal.is_terminal());
        let (mut terminal, mut other) = (File::from(terminal), File::from(other));
        // Ctrl-C, Ctrl-D, a carriage return, and no end of a line.
        let typed = b"\x03\x04\rlogin";
        other.write_all(typed).unwrap();
        let mut read = [0; 8];
        terminal.read_exact(&mut read).unwrap();
        assert_eq!(&read, typed);
        nix::fcntl::fcntl(&other, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        assert_eq!(
            other.read(&mut read).unwrap_err().kind(),
            io::ErrorKind::WouldBlock,
            "an echo"
        );
    }
}
