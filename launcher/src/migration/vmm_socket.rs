//! Whether a connection on the loopback interface is the VMM's own.
//!
//! The port at which the VMM meets its launcher is open to every process of the pod: the containers share their network. So the
//! kernel is asked for the socket at the other end, and whose it is: by its number, which is among the VMM's open files, and by
//! its user. A connection that no process of the pod has, such as one that was forwarded, has no such socket.

use std::fmt::Write;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::net::{SocketAddr, SocketAddrV4};

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
    let (SocketAddr::V4(ours), SocketAddr::V4(theirs)) = (ours, theirs) else {
        return Ok(Owner::Other);
    };
    let look = || find(BufReader::new(File::open("/proc/self/net/tcp")?), theirs, ours);
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

#[derive(Debug, PartialEq, Eq)]
struct Socket {
    uid: u32,
    inode: u64,
}

/// In the kernel's list (proc_pid_net(5)), the socket at `local` that is connected to `remote`. One that no process has any
/// more has no number.
fn find(list: impl BufRead, local: SocketAddrV4, remote: SocketAddrV4) -> io::Result<Option<Socket>> {
    let (local, remote) = (as_listed(local), as_listed(remote));
    for line in list.lines() {
        let line = line?;
        let mut words = line.split_ascii_whitespace().skip(1);
        if words.next() != Some(&local) || words.next() != Some(&remote) {
            continue;
        }
        // State, queues, timer and retransmissions are between.
        let uid = words.nth(4).and_then(|uid| uid.parse().ok());
        let inode = words.nth(1).and_then(|inode| inode.parse().ok());
        return Ok(match (uid, inode) {
            (Some(uid), Some(inode)) => Some(Socket { uid, inode }),
            _ => None,
        });
    }
    Ok(None)
}

/// As the kernel lists an address: its four bytes as one number of this machine's order.
fn as_listed(address: SocketAddrV4) -> String {
    let mut text = String::new();
    let number = u32::from_ne_bytes(address.ip().octets());
    // A string takes everything.
    let _ = write!(text, "{number:08X}:{:04X}", address.port());
    text
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
    fn a_line_of_the_list() {
        let list = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                    0: 0100007F:C001 0100007F:8000 01 00000000:00000000 00:00000000 00000000   107        0 4242 1 0 20 4 30 10 -1\n   \
                    1: 0100007F:C001 0100007F:8001 06 00000000:00000000 03:00000000 00000000     0        0 0 3 0\n";
        let address = |port| SocketAddrV4::new([127, 0, 0, 1].into(), port);
        if cfg!(target_endian = "big") {
            return;
        }
        let found = find(list.as_bytes(), address(0xc001), address(0x8000)).unwrap();
        assert_eq!(
            found,
            Some(Socket {
                uid: 107,
                inode: 4242
            })
        );
        let closed = find(list.as_bytes(), address(0xc001), address(0x8001)).unwrap();
        assert_eq!(closed.map(|socket| socket.inode), Some(0));
        assert_eq!(
            find(list.as_bytes(), address(0x8000), address(0xc001)).unwrap(),
            None
        );
    }

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
