//! The socket that a target waits at.
//!
//! `[::]` means both families here, whatever the pod's `net.ipv6.bindv6only` says: one socket takes a source that has an IPv4
//! address and one that has IPv6 alone. The kernel gives IPv4 peers of such a socket as IPv4-mapped addresses; [`super::port`]
//! takes them for what they are. A kernel without IPv6 has no such socket, and `[::]` then is `0.0.0.0`.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6, TcpListener};
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn6, bind, listen, setsockopt, socket, sockopt,
};

/// Connections that the kernel keeps until they are accepted. A source opens up to 129 at once.
const BACKLOG: i32 = 1024;

pub(super) fn at(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let socket = match address {
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => match both_families(v6) {
            Err(Errno::EAFNOSUPPORT) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, v6.port())),
            made => made.map_err(io::Error::from),
        },
        other => TcpListener::bind(other),
    }?;
    socket.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(socket)
}

fn both_families(address: SocketAddrV6) -> Result<TcpListener, Errno> {
    let made = socket(
        AddressFamily::Inet6,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    setsockopt(&made, sockopt::Ipv6V6Only, &false)?;
    // The last launcher's connections may still be closing.
    setsockopt(&made, sockopt::ReuseAddr, &true)?;
    bind(made.as_raw_fd(), &SockaddrIn6::from(address))?;
    listen(&made, Backlog::new(BACKLOG)?)?;
    Ok(made.into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn the_unspecified_address_of_ipv6_is_that_of_both_families() {
        let listener = at("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "::1"] {
            TcpStream::connect((host, port)).unwrap();
            let (_, from) = listener.accept().await.unwrap();
            assert_eq!(from.ip().to_canonical().to_string(), host);
        }
    }

    #[tokio::test]
    async fn one_address_is_that_address_alone() {
        let listener = at("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(TcpStream::connect(("::1", port)).is_err());
        assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
    }
}
