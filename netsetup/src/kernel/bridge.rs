//! Bridges, their ports, and the pod's interface on its way to one and back.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::packet_core::DefaultNla;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, BridgeStpState, InetDevConf, InfoBridge, InfoBridgePort, InfoData,
    InfoKind, InfoPortData, InfoPortKind, LinkAttribute, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::route::RouteFlags;
use rtnetlink::{LinkUnspec, RouteMessageBuilder};

use super::netlink::{Netlink, failure, index};
use crate::error::StepFailure;
use crate::original::{Assigned, Original, Route};
use crate::step::{BridgeStep, PlaceholderStep, PortStep};

/// linux/if_link.h.
const IFLA_IFALIAS: u16 = 20;

impl Netlink {
    pub(super) async fn make_bridge(&self, bridge: &BridgeStep) -> Result<(), StepFailure> {
        if index(&bridge.name).is_err() {
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
            .address(bridge.mac.to_vec())
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
        self.set(message, "make it a port of the bridge").await?;
        let message = LinkUnspec::new_with_index(index(name)?)
            .set_port_kind(InfoPortKind::Bridge)
            .set_port_data(InfoPortData::BridgePort(vec![InfoBridgePort::Learning(false)]))
            .build();
        self.handle
            .link()
            .set_port(message)
            .execute()
            .await
            .map_err(failure("switch the learning of addresses off"))
    }

    pub(super) async fn remember(&self, interface: &str, port: &str, alias: &str) -> Result<(), StepFailure> {
        let name = if index(port).is_ok() { port } else { interface };
        self.set_alias(name, alias).await
    }

    pub(super) async fn move_to_bridge(&self, step: &PortStep) -> Result<(), StepFailure> {
        let PortStep {
            interface,
            port,
            bridge,
            mac,
        } = step;
        if index(port).is_err() {
            self.down(interface).await?;
            self.rename(interface, port).await?;
        }
        self.no_link_local_address(port).await?;
        self.flush_addresses(port).await?;
        let message = LinkUnspec::new_with_index(index(port)?)
            .address(mac.to_vec())
            .build();
        self.set(message, "set the MAC").await?;
        self.make_port(port, bridge).await?;
        self.up(port).await
    }

    /// A dummy; a bridge without ports where the kernel has no dummies.
    pub(super) async fn make_placeholder(&self, link: &PlaceholderStep) -> Result<(), StepFailure> {
        if index(&link.name).is_err() {
            let mut made = Ok(());
            for kind in [InfoKind::Dummy, InfoKind::Bridge] {
                made = self
                    .create(&link.name, link.mac, link.mtu, vec![LinkInfo::Kind(kind)])
                    .await;
                if made.is_ok() {
                    break;
                }
            }
            made?;
        }
        self.no_link_local_address(&link.name).await?;
        self.set_alias(&link.name, &link.alias).await?;
        for assigned in &link.addresses {
            self.assign(&link.name, assigned).await?;
        }
        Ok(())
    }

    /// Works from whatever point the way to the bridge was left at, and from whatever point of its own. The alias
    /// goes last: until then it says what is left to do.
    pub(super) async fn restore(
        &self,
        interface: &str,
        port: &str,
        original: &Original,
    ) -> Result<(), StepFailure> {
        if index(port).is_ok() {
            if index(interface).is_ok() {
                self.delete(interface).await?;
            }
            let message = LinkUnspec::new_with_index(index(port)?).nocontroller().build();
            self.set(message, "take it off the bridge").await?;
            self.down(port).await?;
            self.rename(port, interface).await?;
        } else if !self.is_remembered(interface).await? {
            return Ok(());
        }
        let mode = AfSpecInet6::AddrGenMode(original.addr_gen_mode.into());
        let message = LinkUnspec::new_with_index(index(interface)?)
            .address(original.mac.to_vec())
            .build();
        self.set(message, "set the MAC back").await?;
        let message = LinkUnspec::new_with_index(index(interface)?)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]))
            .build();
        // Without IPv6 there is nothing to set.
        let _ = self.set(message, "set the IPv6 address generation back").await;
        self.up(interface).await?;
        // The kernel lists IPv4 addresses first come first, and IPv6 addresses last come first.
        let (v4, v6): (Vec<_>, Vec<_>) = original.addresses.iter().partition(|a| a.ip.is_ipv4());
        for assigned in v4.into_iter().chain(v6.into_iter().rev()) {
            self.assign(interface, assigned).await?;
        }
        let (by_gateway, on_link): (Vec<_>, Vec<_>) = original
            .routes
            .iter()
            .filter(|route| !route.is_advertised())
            .partition(|route| route.gateway.is_some());
        let mut failed = None;
        for route in on_link.into_iter().chain(by_gateway) {
            if let Err(error) = self.add_route(interface, route).await {
                failed = failed.or(Some(error));
            }
        }
        let no_alias = LinkAttribute::Other(DefaultNla::new(IFLA_IFALIAS, Vec::new()));
        let message = LinkUnspec::new_with_index(index(interface)?)
            .append_extra_attribute(no_alias)
            .build();
        self.set(message, "take the alias away").await?;
        // One route that cannot be had any more is told, and keeps nothing else from being put back.
        failed.map_or(Ok(()), Err)
    }

    async fn is_remembered(&self, name: &str) -> Result<bool, StepFailure> {
        let index = index(name)?;
        let links = self.links().await?;
        let link = links.iter().find(|link| link.index == index);
        Ok(link
            .and_then(|link| link.alias.as_deref())
            .is_some_and(Original::is_interface_alias))
    }

    async fn create(
        &self,
        name: &str,
        mac: [u8; 6],
        mtu: u32,
        info: Vec<LinkInfo>,
    ) -> Result<(), StepFailure> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(info),
        ];
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(failure("make the interface"))
    }

    async fn up(&self, name: &str) -> Result<(), StepFailure> {
        let message = LinkUnspec::new_with_index(index(name)?).up().build();
        self.set(message, "set it up").await
    }

    async fn down(&self, name: &str) -> Result<(), StepFailure> {
        let message = LinkUnspec::new_with_index(index(name)?).down().build();
        self.set(message, "set it down").await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), StepFailure> {
        let message = LinkUnspec::new_with_index(index(from)?).name(to).build();
        self.set(message, "rename it").await
    }

    async fn flush_addresses(&self, name: &str) -> Result<(), StepFailure> {
        let index = index(name)?;
        let messages: Vec<_> = self
            .handle
            .address()
            .get()
            .set_link_index_filter(index)
            .execute()
            .try_collect()
            .await
            .map_err(failure("list addresses"))?;
        // With the first address of a network the kernel takes the others away too.
        for message in messages.into_iter().rev() {
            let deleted = self.handle.address().del(message).execute().await;
            deleted.map_err(failure("delete the address"))?;
        }
        Ok(())
    }

    /// Sets an address with all that was known of it. The crate's own builder makes a broadcast address up.
    async fn assign(&self, name: &str, assigned: &Assigned) -> Result<(), StepFailure> {
        let Assigned { ip, prefix_len, .. } = *assigned;
        let mut request = self.handle.address().add(index(name)?, ip, prefix_len).replace();
        let message: &mut AddressMessage = request.message_mut();
        message.attributes.retain(|a| {
            !matches!(
                a,
                AddressAttribute::Broadcast(_) | AddressAttribute::Address(_) | AddressAttribute::Local(_)
            )
        });
        message.attributes.push(AddressAttribute::Local(ip));
        message
            .attributes
            .push(AddressAttribute::Address(assigned.peer.unwrap_or(ip)));
        if let Some(broadcast) = assigned.broadcast {
            message.attributes.push(AddressAttribute::Broadcast(broadcast));
        }
        let mut flags = AddressFlags::empty();
        flags.set(AddressFlags::Nodad, assigned.nodad);
        flags.set(AddressFlags::Noprefixroute, assigned.noprefixroute);
        message.attributes.push(AddressAttribute::Flags(flags));
        if matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()) {
            message.header.scope = AddressScope::Link;
        }
        request.execute().await.map_err(failure("add the address"))
    }

    async fn add_route(&self, name: &str, route: &Route) -> Result<(), StepFailure> {
        let mut builder = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(route.destination.addr(), route.destination.prefix_len())
            .map_err(|error| StepFailure::Netlink(format!("add the route: {error}")))?
            .output_interface(index(name)?)
            .protocol(route.protocol.into())
            .scope(route.scope.into());
        if route.metric != 0 {
            builder = builder.priority(route.metric);
        }
        let wrong = |error| StepFailure::Netlink(format!("add the route: {error}"));
        if let Some(gateway) = route.gateway {
            builder = builder.gateway(gateway).map_err(wrong)?;
        }
        if let Some(source) = route.source {
            builder = builder.pref_source(source).map_err(wrong)?;
        }
        let mut message = builder.build();
        message.header.flags.set(RouteFlags::Onlink, route.onlink);
        let request = self.handle.route().add(message).replace();
        request.execute().await.map_err(failure("add the route"))
    }
}
