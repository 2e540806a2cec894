//! Packets that no ordinary program would send, and the sockets to send and see them with.

use std::io::IoSliceMut;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6,
    SockaddrLike, bind, recvmsg, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeSpec;

/// A router advertisement with a lifetime of half an hour and nothing else, from the calling thread's namespace.
pub(crate) fn send_router_advertisement(to: Ipv6Addr, interface: &str) -> Result<()> {
    let socket = socket(
        AddressFamily::Inet6,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::IcmpV6,
    )?;
    // Anything less is not from a neighbour and is dropped (RFC 4861, 6.1.2).
    setsockopt(&socket, sockopt::Ipv6Ttl, &255)?;
    let mut packet = vec![134, 0, 0, 0, 64, 0];
    packet.extend(1800_u16.to_be_bytes());
    packet.extend([0; 8]);
    let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, if_nametoindex(interface)?));
    sendto(socket.as_raw_fd(), &packet, &to, MsgFlags::empty())?;
    Ok(())
}

/// Ethernet, IPv4 and UDP around `payload`; the UDP checksum is left out, as IPv4 allows.
pub(crate) fn udp4_frame(
    (source_mac, destination_mac): ([u8; 6], [u8; 6]),
    (source, source_port): ([u8; 4], u16),
    (destination, destination_port): ([u8; 4], u16),
    payload: &[u8],
) -> Vec<u8> {
    let udp_length = 8 + payload.len();
    let mut ip = vec![0x45, 0];
    ip.extend((20 + udp_length as u16).to_be_bytes());
    ip.extend([0, 1, 0, 0, 64, 17, 0, 0]);
    ip.extend(source);
    ip.extend(destination);
    let sum = checksum(&ip);
    ip.splice(10..12, sum.to_be_bytes());
    let mut frame = Vec::new();
    frame.extend(destination_mac);
    frame.extend(source_mac);
    frame.extend([8, 0]);
    frame.extend(ip);
    frame.extend(source_port.to_be_bytes());
    frame.extend(destination_port.to_be_bytes());
    frame.extend((udp_length as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

/// Ethernet, IPv6 and ICMPv6 around `body`, whose checksum is filled in.
pub(crate) fn icmp6_frame(
    (source_mac, destination_mac): ([u8; 6], [u8; 6]),
    source: Ipv6Addr,
    destination: Ipv6Addr,
    body: &[u8],
) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    let mut pseudo = Vec::new();
    pseudo.extend(source.octets());
    pseudo.extend(destination.octets());
    pseudo.extend(length);
    pseudo.extend([0, 0, 0, libc::IPPROTO_ICMPV6 as u8]);
    pseudo.extend(body);
    let sum = checksum(&pseudo);
    let mut body = body.to_vec();
    body.splice(2..4, sum.to_be_bytes());
    let mut frame = Vec::new();
    frame.extend(destination_mac);
    frame.extend(source_mac);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((body.len() as u16).to_be_bytes());
    frame.extend([libc::IPPROTO_ICMPV6 as u8, 255]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend(body);
    frame
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
            [high] => u32::from(u16::from_be_bytes([*high, 0])),
            _ => 0,
        })
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A MAC as written, `02:…`.
pub(crate) fn mac(text: &str) -> Result<[u8; 6]> {
    let mut bytes = [0; 6];
    for (to, from) in bytes.iter_mut().zip(text.trim().split(':')) {
        *to = u8::from_str_radix(from, 16)?;
    }
    Ok(bytes)
}

/// Every frame that passes an interface of the calling thread's namespace from now on, loopback's left out.
#[derive(Debug)]
pub(crate) struct Capture(std::os::fd::OwnedFd);

impl Capture {
    pub(crate) fn start() -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
        setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20))?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        Ok(Self(socket))
    }

    /// The same of one interface. Of all of them the buffer would not hold what passes meanwhile.
    pub(crate) fn start_on(interface: &str) -> Result<Self> {
        let this = Self::start()?;
        // SAFETY: all zeros is a value of this type, and the address is one of the family that its first field says.
        let address = unsafe {
            let mut raw: libc::sockaddr_ll = std::mem::zeroed();
            raw.sll_family = libc::AF_PACKET as u16;
            raw.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
            raw.sll_ifindex = i32::try_from(if_nametoindex(interface)?)?;
            let length = u32::try_from(size_of_val(&raw))?;
            LinkAddr::from_raw((&raw const raw).cast(), Some(length)).context("no link address")?
        };
        bind(this.0.as_raw_fd(), &address)?;
        // What came from other interfaces before.
        this.frames()?;
        Ok(this)
    }

    /// The same with the time at which the kernel had each, since the beginning of 1970 in UTC.
    pub(crate) fn timed_frames(&self) -> Result<Vec<(Duration, Vec<u8>)>> {
        let mut frames = Vec::new();
        let mut space = nix::cmsg_space!(TimeSpec);
        loop {
            let mut frame = vec![0; 65536];
            let mut parts = [IoSliceMut::new(&mut frame)];
            let (length, time) = match recvmsg::<()>(
                self.0.as_raw_fd(),
                &mut parts,
                Some(&mut space),
                MsgFlags::empty(),
            ) {
                Ok(message) => {
                    let time = message.cmsgs()?.find_map(|control| match control {
                        ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
                        _ => None,
                    });
                    (message.bytes, time)
                }
                Err(nix::Error::EAGAIN) => return Ok(frames),
                Err(error) => return Err(error.into()),
            };
            frame.truncate(length);
            if let Some(time) = time
                && frame.get(6..12) != Some(&[0; 6])
            {
                frames.push((time, frame));
            }
        }
    }

    /// What has come by now.
    pub(crate) fn frames(&self) -> Result<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        loop {
            let mut frame = vec![0; 65536];
            match nix::sys::socket::recv(self.0.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                Ok(length) => {
                    frame.truncate(length);
                    if frame.get(6..12) != Some(&[0; 6]) {
                        frames.push(frame);
                    }
                }
                Err(nix::Error::EAGAIN) => return Ok(frames),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
