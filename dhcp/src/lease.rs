//! What the guest is offered, as plain data. Each launcher makes it from its own network plan; a live migration does not
//! transfer it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use hawser_mac::Mac;
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// How long a lease lasts, in seconds, for DHCPv4 and DHCPv6 alike: 999 days.
///
/// A lease never ends under a running guest: this server lives as long as the guest does and grants every
/// renewal. "Infinity" (0xffffffff) would express that more directly, but clients that keep the time in a signed 32-bit
/// number or add it to a clock of 32 bits renew without pause or drop the address at once. 999 days is below
/// 2^31, no client is known to mishandle it, and KubeVirt's guests have been given it for years.
pub const LEASE_SECONDS: u32 = 999 * 24 * 3600;

/// Everything that our one guest is offered on one interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The only hardware address that is served.
    pub guest_mac: Mac,
    /// The hardware address that replies come from, and the source of the DHCPv6 server's DUID.
    pub server_mac: Mac,
    /// Bytes of the largest IP packet on the link. No reply is larger.
    pub mtu: u16,
    /// Host name (option 12), without the domain.
    pub hostname: Option<String>,
    /// Domain name (option 15).
    pub domain: Option<String>,
    /// DNS search list, most significant first. Names that are not domain names are left out of replies.
    pub search: Vec<String>,
    /// IPv4, if the guest has any.
    pub v4: Option<LeaseV4>,
    /// IPv6, if the guest has any.
    pub v6: Option<LeaseV6>,
}

/// The IPv4 half of a [`Lease`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseV4 {
    /// The guest's address.
    pub address: Ipv4Addr,
    /// Length of the subnet mask, in bits. Over 32 counts as 32.
    pub prefix_len: u8,
    /// Server identifier, and source of the replies.
    pub server: Ipv4Addr,
    /// Default routers, most preferred first.
    pub routers: Vec<Ipv4Addr>,
    /// Further routes, in the order in which the guest should add them.
    pub routes: Vec<Route4>,
    /// DNS servers, most preferred first.
    pub dns: Vec<Ipv4Addr>,
    /// NTP servers (option 42), most preferred first.
    pub ntp_servers: Vec<Ipv4Addr>,
    /// TFTP server name (option 66, and the header's `sname`).
    pub tftp_server_name: Option<String>,
    /// Boot file name (option 67, and the header's `file`).
    pub boot_file_name: Option<String>,
    /// Private options 224 to 254, as raw bytes. Other codes in here are not sent.
    pub private_options: BTreeMap<u8, Vec<u8>>,
    /// Seconds for option 108 (RFC 8925). It makes a capable guest switch IPv4 off, so it is sent only if it is
    /// set here, the guest asks for it, and there is IPv6 for it to live on.
    pub ipv6_only_wait: Option<u32>,
}

/// One route of [`LeaseV4::routes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route4 {
    /// Where to.
    pub destination: Ipv4Net,
    /// Through which router; 0.0.0.0 means on the link itself (RFC 3442).
    pub via: Ipv4Addr,
}

/// The IPv6 half of a [`Lease`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseV6 {
    /// The guest's address.
    pub address: Ipv6Addr,
    /// The prefix that the guest reaches without a router, if there is one.
    pub on_link: Option<Ipv6Net>,
    /// Our link-local address, for instance fe80::1: source of the replies and next hop of the default route.
    pub server: Ipv6Addr,
    /// Whether the guest's default route leads to `server`.
    pub default_router: bool,
    /// `server` is the address of a router on the guest's own link that does not advertise itself: it is announced in
    /// its name, and which hardware address it has is for the guest to ask it.
    #[serde(default)]
    pub router_on_link: bool,
    /// DNS servers, most preferred first.
    pub dns: Vec<Ipv6Addr>,
}
