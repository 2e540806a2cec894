//! Bridges and their ports.

use futures_util::TryStreamExt;
use hawser_mac::Mac;
use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecUnspec, BridgeStpState, InetDevConf, InfoBridge, InfoBridgePort, InfoData, InfoKind,
    InfoPortData, InfoPortKind, LinkAttribute, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::netlink::{Netlink, failure, index};
use crate::error::StepFailure;
use crate::step::{BridgeStep, PortStep};

impl Netlink {
    pub(super) async fn make_bridge(&self, bridge: &BridgeStep) -> Result<(), StepFailure> {
        let made = index(&bridge.name).is_err();
        let mut result = self.make_and_configure(bridge, made).await;
        if result.is_ok() {
            result = self.heard();
        }
        if made && result.is_err() && index(&bridge.name).is_ok() {
            // It may have no alias yet, by which it would be known as hawser's when the journal is undone. The socket may be what
            // has failed, so by another.
            Self::open()?.delete(&bridge.name).await?;
        }
        result
    }

    async fn make_and_configure(&self, bridge: &BridgeStep, make: bool) -> Result<(), StepFailure> {
        if make {
            let settings = vec![
                InfoBridge::StpState(BridgeStpState::Disabled),
                InfoBridge::ForwardDelay(0),
                InfoBridge::MulticastSnooping(false),
            ];
            let data = LinkInfo::Data(InfoData::Bridge(settings));
            self.create(
                &bridge.name,
                bridge.mac,
                bridge.mtu,
                vec![LinkInfo::Kind(InfoKind::Bridge), data],
            )
            .await?;
        }
        self.no_link_local_address(&bridge.name).await?;
        let mut conf = InetDevConf::default();
        // Only for addresses of its own, of which it has none: the pod's, though down, count as this host's too.
        conf.arp_ignore = 1;
        let message = LinkUnspec::new_with_index(index(&bridge.name)?)
            .address(bridge.mac.0.to_vec())
            .mtu(bridge.mtu)
            .alias(&bridge.alias)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![
                AfSpecInet::DevConfRequest(conf),
            ])]))
            .up()
            .build();
        self.set(message, "configure the bridge").await
    }

    /// A port that learns nothing: between two ports, frames can only be for the other one.
    pub(super) async fn make_port(&self, name: &str, bridge: &str) -> Result<(), StepFailure> {
        let message = LinkUnspec::new_with_index(index(name)?)
            .controller(index(bridge)?)
            .build();
        self.set(message, "attach the port to the bridge").await?;
        let message = LinkUnspec::new_with_index(index(name)?)
            .set_port_kind(InfoPortKind::Bridge)
            .set_port_data(InfoPortData::BridgePort(vec![InfoBridgePort::Learning(false)]))
            .build();
        self.handle
            .link()
            .set_port(message)
            .execute()
            .await
            .map_err(failure("disable address learning on the port"))
    }

    /// The interface keeps its MAC, which is the guest's as well. A bridge enters a port's MAC as an address of the
    /// host's own, and would keep the guest's frames; without that entry they pass on like any others.
    pub(super) async fn move_to_bridge(&self, step: &PortStep) -> Result<(), StepFailure> {
        let PortStep { interface, bridge } = step;
        self.make_port(interface, bridge).await?;
        let index = index(interface)?;
        let mac = self
            .links()
            .await?
            .into_iter()
            .find(|link| link.index == index)
            .and_then(|link| link.mac)
            .ok_or_else(|| StepFailure::NoLink(interface.clone()))?;
        self.forget_address(index, mac).await?;
        self.forget_neighbours(index).await?;
        self.up(interface).await
    }

    async fn forget_address(&self, port: u32, mac: Mac) -> Result<(), StepFailure> {
        let mut entry = NeighbourMessage::default();
        entry.header.family = AddressFamily::Bridge;
        entry.header.ifindex = port;
        entry.header.flags = NeighbourFlags::Controller;
        entry
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        match self.handle.neighbours().del(entry).execute().await {
            // An earlier start has done it.
            Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -nix::libc::ENOENT => {
                Ok(())
            }
            other => other.map_err(failure("delete the port's own address from the bridge's table")),
        }
    }

    pub(super) async fn ipv4_neighbours(&self) -> Result<Vec<NeighbourMessage>, StepFailure> {
        let request = self.handle.neighbours().get();
        let answers = request.set_address_family(AddressFamily::Inet).execute();
        answers.try_collect().await.map_err(failure("list neighbours"))
    }

    /// IPv4 neighbours that the pod's kernel has spoken to lately: it would ask for them again, in the guest's name and
    /// perhaps with another MAC. Rules for IP do not see ARP.
    async fn forget_neighbours(&self, index: u32) -> Result<(), StepFailure> {
        let all = self.ipv4_neighbours().await?;
        let kept = [NeighbourState::Permanent, NeighbourState::Noarp];
        for neighbour in all {
            if neighbour.header.ifindex == index && !kept.contains(&neighbour.header.state) {
                // The kernel may have deleted it by itself.
                let _ = self.handle.neighbours().del(neighbour).execute().await;
            }
        }
        Ok(())
    }

    async fn create(&self, name: &str, mac: Mac, mtu: u32, info: Vec<LinkInfo>) -> Result<(), StepFailure> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(info),
        ];
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(failure("create the interface"))
    }

    async fn up(&self, name: &str) -> Result<(), StepFailure> {
        let message = LinkUnspec::new_with_index(index(name)?).up().build();
        self.set(message, "bring the interface up").await
    }
}
