//! What happened, for the log. Whatever the guest wrote is escaped and bounded before it gets in here.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// One event of the exchange with the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A DHCPv4 message was understood.
    Dhcp4 {
        /// What the guest sent.
        request: Dhcp4,
        /// What came of it.
        outcome: Dhcp4Outcome,
        /// The host name that the guest calls itself by (option 12), escaped.
        hostname: Option<String>,
        /// The guest's vendor class (option 60), escaped.
        vendor: Option<String>,
    },
    /// A DHCPv6 message was understood.
    Dhcp6 {
        /// What the guest sent.
        request: Dhcp6,
        /// What came of it.
        outcome: Dhcp6Outcome,
    },
    /// The guest asked for a router advertisement; `unicast` is whether the answer goes to it alone.
    RouterSolicitation {
        /// The solicitation came from an address, so the answer goes to that.
        unicast: bool,
    },
    /// The guest asked for the hardware address of its router, which this server stands for.
    NeighbourSolicitation,
    /// An unsolicited router advertisement was sent.
    RouterAdvertisement,
    /// A frame that is not for this server.
    Ignored(Ignored),
    /// A frame for this server that breaks its protocol.
    Malformed {
        /// The protocol broken.
        protocol: Protocol,
        /// The rule broken.
        why: &'static str,
    },
    /// Frames beyond the allowed rate were dropped unread, this many since the last report.
    Throttled {
        /// How many.
        frames: u64,
    },
    /// A frame could not be read; the server continues.
    ReadFailed {
        /// Why, by the kernel's name for it.
        error: &'static str,
    },
    /// Reply frames could not be written and were dropped, this many in all.
    WriteDropped {
        /// How many since the start.
        frames: u64,
        /// Why the last one was, by the kernel's name for it.
        error: &'static str,
    },
}

/// The protocol of [`Event::Malformed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Ethernet, IP or UDP framing.
    Framing,
    /// DHCPv4.
    Dhcp4,
    /// DHCPv6.
    Dhcp6,
    /// ICMPv6 router solicitation.
    RouterSolicitation,
    /// ICMPv6 neighbor solicitation.
    NeighbourSolicitation,
}

/// Why a frame was not for this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// From another hardware address than the guest's.
    ForeignMac,
    /// Neither DHCP nor a router solicitation.
    OtherProtocol,
    /// The guest has no lease of this address family.
    NoLease,
    /// BOOTP without a DHCP message type.
    Bootp,
    /// Sent by a relay, or to be relayed.
    Relayed,
    /// A message that only servers send.
    ServerMessage,
    /// Meant for another server.
    OtherServer,
    /// DHCPv6 sent to a unicast address, which RFC 9915 no longer has.
    Unicast,
    /// A question that only a server that knows more than this one could answer.
    Unanswerable,
}

/// The DHCPv4 messages of a client; DHCPREQUEST by the state it is sent in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dhcp4 {
    /// DHCPDISCOVER.
    Discover,
    /// DHCPREQUEST that accepts an offer.
    Selecting,
    /// DHCPREQUEST that verifies an address kept over a reboot.
    InitReboot,
    /// DHCPREQUEST that extends the lease, sent to us.
    Renewing,
    /// DHCPREQUEST that extends the lease, sent to anyone.
    Rebinding,
    /// DHCPDECLINE.
    Decline,
    /// DHCPRELEASE.
    Release,
    /// DHCPINFORM.
    Inform,
}

/// What came of a DHCPv4 message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dhcp4Outcome {
    /// DHCPOFFER of this address.
    Offered(Ipv4Addr),
    /// DHCPACK of this address, or of no address for DHCPINFORM.
    Acknowledged(Option<Ipv4Addr>),
    /// DHCPNAK: the guest wanted this address, which is not its own.
    Refused(Ipv4Addr),
    /// The guest found this address in use by someone else. It stays the guest's: there is no other.
    Declined(Ipv4Addr),
    /// The guest gave up its address. It stays reserved for the guest.
    Released(Ipv4Addr),
    /// No reply fits the link's MTU.
    TooLarge,
}

/// The DHCPv6 messages of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dhcp6 {
    /// Solicit.
    Solicit,
    /// Request.
    Request,
    /// Confirm.
    Confirm,
    /// Renew.
    Renew,
    /// Rebind.
    Rebind,
    /// Release.
    Release,
    /// Decline.
    Decline,
    /// Information-request.
    InformationRequest,
}

/// What came of a DHCPv6 message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dhcp6Outcome {
    /// Advertise; with the address, if one was asked for.
    Advertised(Option<Ipv6Addr>),
    /// Reply; with the address, if one was asked for.
    Replied(Option<Ipv6Addr>),
    /// Reply to Confirm: the guest is where its addresses belong.
    OnLink,
    /// Reply after which the guest starts over, because its addresses do not belong here.
    NotOnLink,
    /// The guest found its address in use by someone else. It stays the guest's: there is no other.
    Declined,
    /// The guest gave up its address. It stays reserved for the guest.
    Released,
    /// No reply fits the link's MTU.
    TooLarge,
}

impl Event {
    /// What happened, for the log's `event` field: stable, whatever the text becomes.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Dhcp4 { outcome, .. } => match outcome {
                Dhcp4Outcome::Offered(_) => "dhcpv4-offered",
                Dhcp4Outcome::Acknowledged(_) => "dhcpv4-acknowledged",
                Dhcp4Outcome::Refused(_) => "dhcpv4-refused",
                Dhcp4Outcome::Declined(_) => "dhcpv4-declined",
                Dhcp4Outcome::Released(_) => "dhcpv4-released",
                Dhcp4Outcome::TooLarge => "dhcpv4-reply-too-large",
            },
            Self::Dhcp6 { outcome, .. } => match outcome {
                Dhcp6Outcome::Advertised(_) => "dhcpv6-advertised",
                Dhcp6Outcome::Replied(_) => "dhcpv6-replied",
                Dhcp6Outcome::OnLink => "dhcpv6-on-link",
                Dhcp6Outcome::NotOnLink => "dhcpv6-not-on-link",
                Dhcp6Outcome::Declined => "dhcpv6-declined",
                Dhcp6Outcome::Released => "dhcpv6-released",
                Dhcp6Outcome::TooLarge => "dhcpv6-reply-too-large",
            },
            Self::RouterSolicitation { .. } => "router-solicitation-answered",
            Self::NeighbourSolicitation => "neighbor-solicitation-answered",
            Self::RouterAdvertisement => "router-advertisement-sent",
            Self::Ignored(_) => "frame-ignored",
            Self::Malformed { .. } => "frame-malformed",
            Self::Throttled { .. } => "frames-throttled",
            Self::ReadFailed { .. } => "frame-read-failed",
            Self::WriteDropped { .. } => "replies-dropped",
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dhcp4 {
                request,
                outcome,
                hostname,
                vendor,
            } => {
                write!(f, "{request}: {outcome}")?;
                if let Some(name) = hostname {
                    write!(f, ", host name \"{name}\"")?;
                }
                if let Some(vendor) = vendor {
                    write!(f, ", vendor class \"{vendor}\"")?;
                }
                Ok(())
            }
            Self::Dhcp6 { request, outcome } => write!(f, "DHCPv6 {request}: {outcome}"),
            Self::RouterSolicitation { unicast: true } => {
                write!(f, "router solicitation answered by unicast")
            }
            Self::RouterSolicitation { unicast: false } => {
                write!(f, "router solicitation answered to all nodes")
            }
            Self::NeighbourSolicitation => write!(f, "neighbor solicitation for the router answered"),
            Self::RouterAdvertisement => write!(f, "router advertisement sent"),
            Self::Ignored(why) => write!(f, "frame ignored: {why}"),
            Self::Malformed { protocol, why } => write!(f, "the guest sent a malformed {protocol}: {why}"),
            Self::Throttled { frames } => {
                write!(f, "the guest sends too many requests: {frames} frames dropped")
            }
            Self::ReadFailed { error } => write!(f, "cannot read a frame: {error}"),
            Self::WriteDropped { frames, error } => write!(
                f,
                "{frames} replies to the guest dropped so far: cannot write: {error}"
            ),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Framing => "frame",
            Self::Dhcp4 => "DHCPv4 message",
            Self::Dhcp6 => "DHCPv6 message",
            Self::RouterSolicitation => "router solicitation",
            Self::NeighbourSolicitation => "neighbor solicitation",
        })
    }
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ForeignMac => "its source is not the guest's MAC",
            Self::OtherProtocol => "it is neither DHCP nor a router solicitation",
            Self::NoLease => "the guest has no lease of its address family",
            Self::Bootp => "it is BOOTP, not DHCP",
            Self::Relayed => "it is for a DHCP relay, or from one",
            Self::ServerMessage => "it is a message that only servers send",
            Self::OtherServer => "it is for another DHCP server",
            Self::Unicast => "DHCPv6 clients send to multicast addresses only",
            Self::Unanswerable => "hawser does not have what it asks for",
        })
    }
}

/// By the names that RFC 2131 gives messages and states.
impl fmt::Display for Dhcp4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Discover => "DHCPDISCOVER",
            Self::Selecting => "DHCPREQUEST (SELECTING)",
            Self::InitReboot => "DHCPREQUEST (INIT-REBOOT)",
            Self::Renewing => "DHCPREQUEST (RENEWING)",
            Self::Rebinding => "DHCPREQUEST (REBINDING)",
            Self::Decline => "DHCPDECLINE",
            Self::Release => "DHCPRELEASE",
            Self::Inform => "DHCPINFORM",
        })
    }
}

impl fmt::Display for Dhcp4Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offered(address) => write!(f, "DHCPOFFER {address}"),
            Self::Acknowledged(Some(address)) => write!(f, "DHCPACK {address}"),
            Self::Acknowledged(None) => f.write_str("DHCPACK"),
            Self::Refused(address) => write!(f, "DHCPNAK, the guest requested {address}"),
            Self::Declined(address) => write!(f, "the guest reports that another host uses {address}"),
            Self::Released(address) => write!(f, "{address} stays reserved for the guest"),
            Self::TooLarge => f.write_str("no reply: none fits the MTU"),
        }
    }
}

/// By the names of RFC 9915.
impl fmt::Display for Dhcp6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Solicit => "Solicit",
            Self::Request => "Request",
            Self::Confirm => "Confirm",
            Self::Renew => "Renew",
            Self::Rebind => "Rebind",
            Self::Release => "Release",
            Self::Decline => "Decline",
            Self::InformationRequest => "Information-request",
        })
    }
}

impl fmt::Display for Dhcp6Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Advertised(Some(address)) => write!(f, "Advertise {address}"),
            Self::Advertised(None) => f.write_str("Advertise"),
            Self::Replied(Some(address)) => write!(f, "Reply {address}"),
            Self::Replied(None) => f.write_str("Reply"),
            Self::OnLink => f.write_str("Reply, on link"),
            Self::NotOnLink => f.write_str("Reply, not on link"),
            Self::Declined => f.write_str("the guest reports that another host uses its address"),
            Self::Released => f.write_str("the address stays reserved for the guest"),
            Self::TooLarge => f.write_str("no reply: none fits the MTU"),
        }
    }
}
