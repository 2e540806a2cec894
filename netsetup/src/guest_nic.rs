//! A guest's NIC as a plan makes it: what the rule set, the VM's configuration and the guest's lease are made from.
//!
//! What every NIC has is in [`GuestNic`], and what depends on how it is joined to the pod's network is in the variant of
//! [`Joined`]. So a NIC without a TAP has no TAP's name that something could be done to by mistake.

use std::net::{Ipv4Addr, Ipv6Addr};

use hawser_mac::Mac;
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GuestNic {
    pub name: String,
    pub pod_interface: String,
    pub queue_pairs: u16,
    pub guest_mac: Mac,
    /// Bytes.
    pub mtu: u32,
    #[serde(flatten)]
    pub joined: Joined,
}

/// How a NIC is joined to its network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "joined", rename_all = "lowercase")]
pub enum Joined {
    Masquerade(Masqueraded),
    Bridge(Bridged),
    /// passt serves the guest over vhost-user, with what the pod's interface has.
    Passt(Handed),
    /// The link is down: a TAP that leads nowhere.
    Down {
        tap: String,
    },
}

/// A NIC behind NAT: the guest has addresses of its own for each family that the pod has an address of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Masqueraded {
    pub tap: String,
    /// Helper TAP of the DHCP and router-advertisement server.
    pub server_tap: String,
    pub v4: Option<FamilyPlan<Ipv4Net, Ipv4Addr>>,
    pub v6: Option<FamilyPlan<Ipv6Net, Ipv6Addr>>,
}

/// One address family of a masqueraded NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FamilyPlan<N, A> {
    pub network: N,
    pub gateway: A,
    pub guest: A,
    /// The address that others use.
    pub pod: A,
    /// Answers at the gateway's port 53.
    pub resolver: Option<Resolver<A>>,
}

/// A name server on the pod's loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Resolver<A> {
    pub address: A,
    /// Ports by which it takes what is sent to its port 53.
    pub udp: u16,
    pub tcp: u16,
}

/// A NIC that takes the place of the pod's interface on its network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bridged {
    pub tap: String,
    /// Helper TAP of the DHCP and router-advertisement server; made only for a guest that is served.
    pub server_tap: String,
    pub bridge: String,
    /// The bridge's.
    pub mac: Mac,
    /// The pod interface's, and the guest's too where the manifest names no other.
    pub pod_mac: Mac,
    /// What DHCP offers the guest. A family that the interface has no address of is neither answered nor intercepted.
    pub v4: Option<BridgedV4>,
    pub v6: Option<BridgedV6>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BridgedV4 {
    pub address: Ipv4Addr,
    /// 32 on a point-to-point link, and where the others of the prefix are behind a gateway.
    pub prefix_len: u8,
    /// Next hop of the default route.
    pub router: Option<Ipv4Addr>,
    /// Destination and next hop, 0.0.0.0 for the link itself, in an order in which each next hop can be reached.
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BridgedV6 {
    pub address: Ipv6Addr,
    pub on_link: Option<Ipv6Net>,
    pub router: Router6,
}

/// Where the guest's IPv6 default route comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Router6 {
    /// The network's own router advertises itself; the bridge forwards its advertisements.
    Advertises,
    /// A router of this link-local address does not: hawser advertises it to the guest in its name.
    Silent(Ipv6Addr),
    /// A router of this MAC has no link-local address that is known: hawser advertises an address of its own, and its rules
    /// address what the guest sends there to the router.
    By(Mac),
    /// There is none, or none that an advertisement could name.
    Unknown,
}

/// What the pod's interface has, by family, for passt to offer to the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handed {
    pub v4: Option<HandedV4>,
    pub v6: Option<Ipv6Addr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedV4 {
    pub address: Ipv4Addr,
    pub prefix_len: u8,
    /// Of the pod's default route here, where it has one with a gateway.
    pub gateway: Option<Ipv4Addr>,
}

impl GuestNic {
    /// The TAP that carries the guest's frames; a NIC that passt serves has none.
    pub fn tap(&self) -> Option<&str> {
        match &self.joined {
            Joined::Masquerade(Masqueraded { tap, .. })
            | Joined::Bridge(Bridged { tap, .. })
            | Joined::Down { tap } => Some(tap),
            Joined::Passt(_) => None,
        }
    }

    /// The helper TAP of our server, where the guest is served by DHCP and router advertisement of ours.
    pub fn server_tap(&self) -> Option<&str> {
        match &self.joined {
            Joined::Masquerade(masqueraded) => Some(&masqueraded.server_tap),
            Joined::Bridge(bridged) => bridged.is_served().then_some(&bridged.server_tap),
            Joined::Passt(_) | Joined::Down { .. } => None,
        }
    }

    pub fn masqueraded(&self) -> Option<&Masqueraded> {
        match &self.joined {
            Joined::Masquerade(masqueraded) => Some(masqueraded),
            _ => None,
        }
    }

    pub fn bridged(&self) -> Option<&Bridged> {
        match &self.joined {
            Joined::Bridge(bridged) => Some(bridged),
            _ => None,
        }
    }

    /// What passt offers to the guest, where it serves the guest.
    pub fn passt(&self) -> Option<&Handed> {
        match &self.joined {
            Joined::Passt(handed) => Some(handed),
            _ => None,
        }
    }

    pub fn is_down(&self) -> bool {
        matches!(self.joined, Joined::Down { .. })
    }
}

impl Bridged {
    /// Whether hawser serves the guest in any family.
    pub fn is_served(&self) -> bool {
        self.v4.is_some() || self.v6.is_some()
    }
}
