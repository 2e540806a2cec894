//! The kernel's lists of sockets, /proc/net/tcp and its like (proc_pid_net(5)), line by line.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// The least that the kernel fills of a buffer before it stops in the middle of a list: a page.
const PAGE: usize = 4096;
/// More than the longest line has (tcp6: 180).
const LINE: usize = 512;

/// One socket of a network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// IPv4 in IPv6's form is given as IPv4.
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// As the kernel numbers them (include/net/tcp_states.h).
    pub state: u8,
    pub uid: u32,
    /// 0 where no process has it any more.
    pub inode: u64,
}

/// The whole list. For each read, whatever its size, the kernel looks through its table of connections, which is one for all
/// namespaces and takes it about a millisecond. So there are as few as can be: what leaves room for another line was the
/// last (fs/seq_file.c, seq_read_iter).
///
/// # Errors
/// When the file cannot be read.
pub fn read(path: impl AsRef<Path>) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut list = Vec::new();
    let mut buffer = vec![0; 16 * PAGE];
    loop {
        let length = file.read(&mut buffer)?;
        list.extend(buffer.iter().take(length));
        if length < PAGE - LINE {
            return Ok(String::from_utf8_lossy(&list).into_owned());
        }
    }
}

/// The socket of a line; none of the headline, and of what is not understood.
pub fn parse(line: &str) -> Option<Socket> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (local, remote) = (address(words.next()?)?, address(words.next()?)?);
    let state = u8::from_str_radix(words.next()?, 16).ok()?;
    // Queues, timer and retransmissions are between.
    let uid = words.nth(3)?.parse().ok()?;
    let inode = words.nth(1)?.parse().ok()?;
    Some(Socket {
        local,
        remote,
        state,
        uid,
        inode,
    })
}

/// `ADDRESS:PORT` in hexadecimal, the address in words of the machine's byte order.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::new();
    for at in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(at..at.checked_add(8)?)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip: IpAddr = if let Ok(v4) = <[u8; 4]>::try_from(bytes.as_slice()) {
        Ipv4Addr::from(v4).into()
    } else {
        Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?).to_canonical()
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More sockets than one read has room for.
    #[test]
    fn a_list_is_read_to_its_end() {
        let sockets: Vec<_> = (0..600)
            .map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap())
            .collect();
        let list = read("/proc/thread-self/net/udp").unwrap();
        let known: std::collections::HashSet<_> = list
            .lines()
            .filter_map(parse)
            .map(|socket| socket.local)
            .collect();
        for socket in sockets {
            let local = socket.local_addr().unwrap();
            assert!(
                known.contains(&local),
                "{local} is not in {} lines",
                list.lines().count()
            );
        }
    }

    #[test]
    fn lines_as_the_kernel_writes_them() {
        if cfg!(target_endian = "big") {
            return;
        }
        let four = "   0: 0100007F:C001 0100007F:8000 01 00000000:00000000 00:00000000 00000000   107        0 4242 1 0 20 4 30 10 -1";
        let socket = parse(four).unwrap();
        assert_eq!(socket.local, "127.0.0.1:49153".parse().unwrap());
        assert_eq!(socket.remote, "127.0.0.1:32768".parse().unwrap());
        assert_eq!((socket.state, socket.uid, socket.inode), (1, 107, 4242));
        let closed = "   1: 0100007F:C001 0100007F:8001 06 00000000:00000000 03:00000000 00000000     0        0 0 3 0";
        assert_eq!(
            parse(closed).map(|socket| (socket.state, socket.inode)),
            Some((6, 0))
        );
        let six = "   2: 00000000000000000000000001000000:1F90 0000000000000000FFFF00000100007F:0009 01 0:0 0:0 0 0 0 7";
        let socket = parse(six).unwrap();
        assert_eq!(socket.local, "[::1]:8080".parse().unwrap());
        assert_eq!(socket.remote, "127.0.0.1:9".parse().unwrap());
    }

    #[test]
    fn what_is_not_understood_is_none() {
        let rest = "00000000:00000000 00:00000000 00000000 0 0 1";
        for line in [
            "",
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
            "   0: 0100007F:1F90 0200007F:1F91 01",
            &format!("   0: 0100007F 0200007F:1F91 01 {rest}"),
            &format!("   0: 0100:1F90 0200007F:1F91 01 {rest}"),
            &format!("   0: zz00007F:1F90 0200007F:1F91 01 {rest}"),
            &format!("   0: 0100007F:1F90 0200007F:1F91 zz {rest}"),
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
