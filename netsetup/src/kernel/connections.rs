//! Connections of the namespace's processes, from /proc/net (proc_pid_net(5)).

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::observed::Connection;
use crate::spec::Protocol;

/// A socket's states (include/net/tcp_states.h); UDP's connected sockets have the first one.
const ESTABLISHED: u8 = 1;
const CLOSED: u8 = 7;
const LISTENS: u8 = 10;
const TIME_WAIT: u8 = 6;

/// None where there is no such file. What is not understood is left out: then such a connection is treated as if it were new.
pub(super) fn read() -> Vec<Connection> {
    let files = [
        ("tcp", Protocol::Tcp),
        ("tcp6", Protocol::Tcp),
        ("udp", Protocol::Udp),
        ("udp6", Protocol::Udp),
    ];
    let mut all = Vec::new();
    for (name, protocol) in files {
        // The namespace is the thread's.
        let text = fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
        for connection in text.lines().skip(1).filter_map(|line| parse(line, protocol)) {
            // Sockets may share a tuple (SO_REUSEPORT).
            if !all.contains(&connection) {
                all.push(connection);
            }
        }
    }
    all
}

fn parse(line: &str, protocol: Protocol) -> Option<Connection> {
    let mut words = line.split_whitespace().skip(1);
    let (local, remote) = (socket(words.next()?)?, socket(words.next()?)?);
    let state = u8::from_str_radix(words.next()?, 16).ok()?;
    let open = match protocol {
        // One that has ended here and only waits is not worth the confusion with the next of the same ports.
        Protocol::Tcp => ![CLOSED, LISTENS, TIME_WAIT].contains(&state),
        Protocol::Udp => state == ESTABLISHED,
    };
    open.then_some(Connection {
        protocol,
        local,
        remote,
    })
}

/// `ADDRESS:PORT` in hexadecimal, the address in words of the machine's byte order. IPv4 in IPv6's form is IPv4.
fn socket(text: &str) -> Option<SocketAddr> {
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

    #[test]
    fn what_the_kernel_says_of_sockets_here() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let connected = std::net::UdpSocket::bind("[::1]:0").unwrap();
        connected.connect("[::1]:9").unwrap();
        let alone = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let of = |protocol, local, remote| Connection {
            protocol,
            local,
            remote,
        };
        let (near, far) = (client.local_addr().unwrap(), server.local_addr().unwrap());
        let found = read();
        assert!(found.contains(&of(Protocol::Tcp, near, far)), "{found:?}");
        assert!(found.contains(&of(Protocol::Tcp, far, near)), "{found:?}");
        let udp = of(
            Protocol::Udp,
            connected.local_addr().unwrap(),
            "[::1]:9".parse().unwrap(),
        );
        assert!(found.contains(&udp), "{found:?}");
        let unconnected = alone.local_addr().unwrap();
        assert!(!found.iter().any(|one| one.local == unconnected), "{found:?}");
        assert!(!found.iter().any(|one| one.remote.port() == 0), "{found:?}");
    }

    #[test]
    fn lines_of_no_connection_are_left_out() {
        for line in [
            "",
            "   0: 0100007F:1F90 00000000:0000 0A",
            "   0: 0100007F:1F90 0200007F:1F91 06",
            "   0: 0100007F 0200007F:1F91 01",
            "   0: 0100:1F90 0200007F:1F91 01",
            "   0: zz00007F:1F90 0200007F:1F91 01",
            "   0: 0100007F:1F90 0200007F:1F91",
        ] {
            assert_eq!(parse(line, Protocol::Tcp), None, "{line}");
        }
    }
}
