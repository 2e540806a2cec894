//! Whether a connection on the loopback interface is the VMM's own.
//!
//! The port at which the VMM meets its launcher is open to every process of the pod: the containers share their network. So the
//! kernel is asked for the socket at the other end, and whose it is: by its number, which is among the VMM's open files, and by
//! its user. A connection that no process of the pod has, such as one that was forwarded, has no such socket.

use std::fs;
use std::io::{self, BufRead, ErrorKind};
use std::net::SocketAddr;

use hawser_linux::proc_net::{self, Socket};
use nix::unistd::{Pid, geteuid};

/// Whose a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Vmm,
    /// Of the VMM's user. The kernel does not show whether it is the VMM's.
    SameUser,
    /// Its process has closed it already, and is not known any more.
    Closed,
    Other,
}

/// Of the connection that has `ours` at this end and `theirs` at the other.
pub(super) fn owner(vmm: Pid, ours: SocketAddr, theirs: SocketAddr) -> io::Result<Owner> {
    if !ours.is_ipv4() {
        return Ok(Owner::Other);
    }
    let look = || find(proc_net::read("/proc/self/net/tcp")?.as_bytes(), theirs, ours);
    let Some(socket) = look()? else {
        return Ok(Owner::Other);
    };
    if socket.inode == 0 {
        return Ok(Owner::Closed);
    }
    if socket.uid != geteuid().as_raw() {
        return Ok(Owner::Other);
    }
    match has(vmm, socket.inode) {
        Ok(true) => Ok(Owner::Vmm),
        // It may have closed it between the two.
        Ok(false) => Ok(match look()? {
            Some(Socket { inode: 0, .. }) => Owner::Closed,
            _ => Owner::Other,
        }),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(Owner::SameUser),
        Err(error) => Err(error),
    }
}

/// In the kernel's list, the socket at `local` that is connected to `remote`.
fn find(list: impl BufRead, local: SocketAddr, remote: SocketAddr) -> io::Result<Option<Socket>> {
    for line in list.lines() {
        let socket = proc_net::parse(&line?);
        if let Some(socket) = socket.filter(|socket| socket.local == local && socket.remote == remote) {
            return Ok(Some(socket));
        }
    }
    Ok(None)
}

/// Whether this socket is among a process's open files.
fn has(process: Pid, socket: u64) -> io::Result<bool> {
    let wanted = format!("socket:[{socket}]");
    for file in fs::read_dir(format!("/proc/{process}/fd"))? {
        match fs::read_link(file?.path()) {
            Ok(target) if target.as_os_str() == wanted.as_str() => return Ok(true),
            Ok(_) => {}
            // Closed meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_connection_is_known_by_the_process_that_has_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = listener.local_addr().unwrap();
        let mine = TcpStream::connect(ours).unwrap();
        let (_, theirs) = listener.accept().unwrap();
        assert_eq!(owner(Pid::this(), ours, theirs).unwrap(), Owner::Vmm);

        // Another process of the same user.
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{} && read line <&0", ours.port());
        let mut other = Command::new("bash")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let (_accepted, theirs) = listener.accept().unwrap();
        assert_eq!(owner(Pid::this(), ours, theirs).unwrap(), Owner::Other);
        let its = Pid::from_raw(other.id().cast_signed());
        assert_eq!(owner(its, ours, theirs).unwrap(), Owner::Vmm);
        drop(other.stdin.take());
        other.wait().unwrap();
        drop(mine);
        let gone = TcpStream::connect(ours).unwrap();
        let (_accepted, theirs) = listener.accept().unwrap();
        drop(gone);
        assert_eq!(owner(Pid::this(), ours, theirs).unwrap(), Owner::Closed);
    }
}
