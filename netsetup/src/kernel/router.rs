//! The link-local address of a router that is known by a global one; and neighbours that are never asked.
//!
//! A CNI plugin's IPv6 default route is usually by a global address of the node, and the one thing that gives a guest
//! a default route, a router advertisement, can only name a link-local address. Most routers have the one that
//! follows from their MAC (RFC 4291, appendix A). Whether this one has is asked, not assumed: the pod's own kernel
//! looks up the neighbour, as it would for the pod's first packet.

use std::net::{IpAddr, Ipv6Addr, SocketAddrV6, UdpSocket};
use std::time::Duration;

use futures_util::TryStreamExt;
use hawser_mac::Mac;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use tokio::time::{Instant, sleep};

use super::netlink::{Netlink, failure};
use crate::addressing::Route;
use crate::error::StepFailure;
use crate::observed::Link;

/// Neighbours answer within milliseconds; one that takes longer than a kernel's first try is not there.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// RFC 863: whatever is sent there is thrown away.
const DISCARD: u16 = 9;

impl Netlink {
    /// Fills in [`Route::link_local`] and [`Route::router_mac`] of the link's default routes where it can be found.
    pub(super) async fn find_routers(&self, link: &mut Link) -> Result<(), StepFailure> {
        let index = link.index;
        for route in link.routes.iter_mut().filter(|route| wants_router(route)) {
            if let Some(IpAddr::V6(gateway)) = route.gateway
                && let Some(mac) = self.look_up(index, gateway).await?
            {
                let candidate = mac.link_local();
                let owner = self.look_up(index, candidate).await?;
                route.link_local = (owner == Some(mac)).then_some(candidate);
                route.router_mac = Some(mac);
            }
        }
        Ok(())
    }

    /// IPv4 neighbours that were set, not found by asking.
    pub(super) async fn read_permanent_neighbours(&self, links: &mut [Link]) -> Result<(), StepFailure> {
        let neighbours = self.ipv4_neighbours().await?;
        let permanent = neighbours
            .iter()
            .filter(|neighbour| neighbour.header.state == NeighbourState::Permanent);
        for neighbour in permanent {
            let link = links
                .iter_mut()
                .find(|link| link.index == neighbour.header.ifindex);
            let ip = neighbour.attributes.iter().find_map(|attribute| match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(*ip),
                _ => None,
            });
            if let (Some(link), Some(ip)) = (link, ip) {
                link.permanent_neighbours.push(ip);
            }
        }
        Ok(())
    }

    /// The MAC of a neighbour, if it answers.
    async fn look_up(&self, index: u32, ip: Ipv6Addr) -> Result<Option<Mac>, StepFailure> {
        let asked = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))
            .and_then(|socket| socket.send_to(&[], SocketAddrV6::new(ip, DISCARD, 0, index)));
        if asked.is_err() {
            return Ok(None);
        }
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            let neighbours: Vec<NeighbourMessage> = self
                .handle
                .neighbours()
                .get()
                .set_address_family(AddressFamily::Inet6)
                .execute()
                .try_collect()
                .await
                .map_err(failure("list neighbours"))?;
            let found = neighbours
                .iter()
                .filter(|neighbour| neighbour.header.ifindex == index)
                .find_map(|neighbour| mac_of(neighbour, ip));
            if found.is_some() || Instant::now() >= deadline {
                return Ok(found);
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}

fn wants_router(route: &Route) -> bool {
    let global = matches!(route.gateway, Some(IpAddr::V6(gateway)) if !gateway.is_unicast_link_local());
    global && route.is_default() && !route.is_advertised()
}

fn mac_of(neighbour: &NeighbourMessage, ip: Ipv6Addr) -> Option<Mac> {
    let named = neighbour.attributes.iter().any(|attribute| {
        matches!(attribute, NeighbourAttribute::Destination(NeighbourAddress::Inet6(other)) if *other == ip)
    });
    let mac = neighbour.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(mac) => mac.as_slice().try_into().ok().map(Mac),
        _ => None,
    });
    mac.filter(|_| named)
}
