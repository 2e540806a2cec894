//! Connections of the namespace's processes, and what they listen at on its loopback, from /proc/net (proc_pid_net(5)).

use hawser_linux::proc_net::{self, Socket};

use crate::observed::{Connection, Listener};
use crate::spec::Protocol;

/// A socket's states (include/net/tcp_states.h); UDP's connected sockets have the first one.
const ESTABLISHED: u8 = 1;
const CLOSED: u8 = 7;
const LISTENS: u8 = 10;
const TIME_WAIT: u8 = 6;

/// None where there is no such file. What is not understood is left out: then such a connection is treated as if it were new.
pub(super) fn read() -> (Vec<Connection>, Vec<Listener>) {
    let files = [
        ("tcp", Protocol::Tcp),
        ("tcp6", Protocol::Tcp),
        ("udp", Protocol::Udp),
        ("udp6", Protocol::Udp),
    ];
    let mut all = Vec::new();
    let mut listeners = Vec::new();
    for (name, protocol) in files {
        // The namespace is the thread's.
        let text = proc_net::read(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
        let sockets = text.lines().filter_map(proc_net::parse);
        for socket in sockets {
            // Sockets may share a tuple (SO_REUSEPORT).
            if let Some(connection) = connection(&socket, protocol).filter(|one| !all.contains(one)) {
                all.push(connection);
            }
            if let Some(listener) = listener(&socket, protocol).filter(|one| !listeners.contains(one)) {
                listeners.push(listener);
            }
        }
    }
    (all, listeners)
}

fn listener(socket: &Socket, protocol: Protocol) -> Option<Listener> {
    let waits = match protocol {
        Protocol::Tcp => socket.state == LISTENS,
        Protocol::Udp => socket.state == CLOSED,
    };
    let local = socket.local;
    (waits && local.ip().is_loopback()).then_some(Listener { protocol, local })
}

fn connection(socket: &Socket, protocol: Protocol) -> Option<Connection> {
    let open = match protocol {
        // One that has ended here and only waits is not worth the confusion with the next of the same ports.
        Protocol::Tcp => ![CLOSED, LISTENS, TIME_WAIT].contains(&socket.state),
        Protocol::Udp => socket.state == ESTABLISHED,
    };
    let Socket { local, remote, .. } = *socket;
    open.then_some(Connection {
        protocol,
        local,
        remote,
    })
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
        let (found, listeners) = read();
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
        let waits = |protocol, local| listeners.contains(&Listener { protocol, local });
        assert!(
            waits(Protocol::Tcp, listener.local_addr().unwrap()),
            "{listeners:?}"
        );
        assert!(waits(Protocol::Udp, unconnected), "{listeners:?}");
        assert!(
            !waits(Protocol::Udp, connected.local_addr().unwrap()),
            "{listeners:?}"
        );
    }
}
