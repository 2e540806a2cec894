//! Requests over one rtnetlink socket.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use futures_util::TryStreamExt;
use hawser_mac::Mac;
use rtnetlink::packet_core::DefaultNla;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InetDevConf, LinkAttribute, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteMessage, RouteType};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use tokio::task::JoinHandle;

use super::link;
use crate::error::StepFailure;
use crate::observed::Link;
use crate::step::TapStep;

/// linux/if_link.h: IFLA_INET_CONF, nested, and the attribute of forwarding within it (linux/ip.h).
const INET_CONF_NESTED: u16 = 1 | 1 << 15;
const DEVCONF_FORWARDING: u16 = 1;

/// Metric of our route to ::1; the one by `lo` has none and so comes first.
const BEHIND_THE_KERNELS: u32 = 1024;

#[derive(Debug)]
pub(super) struct Netlink {
    pub(super) handle: Handle,
    /// Serves the socket; it ends with the first error of sending or receiving.
    connection: JoinHandle<()>,
}

impl Netlink {
    pub(super) fn open() -> Result<Self, StepFailure> {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|source| StepFailure::system("open an rtnetlink socket", source))?;
        Ok(Self {
            handle,
            connection: tokio::spawn(connection),
        })
    }

    /// Whether the kernel's answers were heard to their end. A request whose socket has failed has no answer, which the
    /// crate does not tell from success, or from the end of a list.
    pub(super) fn heard(&self) -> Result<(), StepFailure> {
        match self.connection.is_finished() {
            false => Ok(()),
            true => Err(StepFailure::system(
                "hear the kernel's answer",
                ErrorKind::BrokenPipe,
            )),
        }
    }

    pub(super) async fn links(&self) -> Result<Vec<Link>, StepFailure> {
        let messages: Vec<_> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(failure("list links"))?;
        Ok(messages.iter().map(link::link).collect())
    }

    pub(super) async fn read_addresses(&self, links: &mut [Link]) -> Result<(), StepFailure> {
        let messages: Vec<_> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(failure("list addresses"))?;
        for message in &messages {
            let owner = links.iter_mut().find(|link| link.index == message.header.index);
            if let (Some(owner), Some(address)) = (owner, link::address(message)) {
                owner.addresses.push(address);
                owner.assigned.extend(link::assigned(message, owner.mac));
            }
        }
        Ok(())
    }

    pub(super) async fn read_routes(&self, links: &mut [Link]) -> Result<(), StepFailure> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut wanted = RouteMessage::default();
            wanted.header.address_family = family;
            let messages: Vec<RouteMessage> = self
                .handle
                .route()
                .get(wanted)
                .execute()
                .try_collect()
                .await
                .map_err(failure("list routes"))?;
            for (table, indexes) in messages.iter().filter_map(link::other_table) {
                for link in links.iter_mut().filter(|link| indexes.contains(&link.index)) {
                    if !link.other_tables.contains(&table) {
                        link.other_tables.push(table);
                    }
                }
            }
            for (index, route) in messages.iter().flat_map(link::routes) {
                let Some(link) = links.iter_mut().find(|link| link.index == index) else {
                    continue;
                };
                if route.is_kernels() {
                    for assigned in &mut link.assigned {
                        assigned.on_link |= assigned.is_of(&route);
                    }
                } else {
                    link.default_route_by_ra |=
                        family == AddressFamily::Inet6 && route.is_advertised() && route.is_default();
                    link.routes.push(route);
                }
            }
        }
        Ok(())
    }

    /// Everything about a TAP.
    pub(super) async fn configure(&self, tap: &TapStep) -> Result<(), StepFailure> {
        self.no_link_local_address(&tap.name).await?;
        let mut settings = Vec::new();
        if tap.gateway {
            let mut conf = InetDevConf::default();
            conf.forwarding = 1;
            // So that replies to the pod's own 127.0.0.1 come back in; the rules drop what a guest itself sends there.
            conf.route_localnet = 1;
            settings.push(AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(conf)]));
        }
        let message = LinkUnspec::new_with_index(index(&tap.name)?)
            .address(tap.mac.0.to_vec())
            .mtu(tap.mtu)
            .alias(&tap.alias)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(settings))
            .arp(tap.gateway)
            .up()
            .build();
        self.set(message, "configure the TAP").await?;
        match &tap.bridge {
            Some(bridge) => self.make_port(&tap.name, bridge).await,
            None => Ok(()),
        }
    }

    /// The gateway's link-local address is fixed and the helper speaks no IP, so the kernel is to make none up.
    ///
    /// In a message of its own: of one message, the kernel sees to the flags (up, and with it the address) first
    /// and to the address families last. By then a small MTU may have taken IPv6 off the interface.
    pub(super) async fn no_link_local_address(&self, name: &str) -> Result<(), StepFailure> {
        let settings = Path::new("/proc/sys/net/ipv6/conf").join(name);
        if !settings.exists() {
            return Ok(());
        }
        // Nor to learn routers from what comes by it. Often /proc/sys is read-only, or another user's; the rules let no
        // advertisement in either.
        match fs::write(settings.join("accept_ra"), "0") {
            Err(error)
                if !matches!(
                    error.kind(),
                    ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied
                ) =>
            {
                return Err(StepFailure::system("switch off accept_ra", error));
            }
            _ => {}
        }
        let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let message = LinkUnspec::new_with_index(index(name)?)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![none])]))
            .build();
        self.set(message, "set the IPv6 address generation").await
    }

    pub(super) async fn set_alias(&self, name: &str, alias: &str) -> Result<(), StepFailure> {
        let message = LinkUnspec::new_with_index(index(name)?).alias(alias).build();
        self.set(message, "set the alias").await
    }

    /// Per interface and by netlink, since /proc/sys may be read-only and CAP_NET_ADMIN suffices here.
    pub(super) async fn forward_ipv4(&self, name: &str, value: bool) -> Result<(), StepFailure> {
        // The crate's own type leaves zeros out, and zero is what has to be said to switch it off.
        let nested = DefaultNla::new(DEVCONF_FORWARDING, u32::from(value).to_ne_bytes().to_vec());
        let mut bytes = vec![0; rtnetlink::packet_core::Emitable::buffer_len(&nested)];
        rtnetlink::packet_core::Emitable::emit(&nested, &mut bytes);
        let conf = AfSpecInet::Other(DefaultNla::new(INET_CONF_NESTED, bytes));
        let message = LinkUnspec::new_with_index(index(name)?)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![conf])]))
            .build();
        self.set(message, "set IPv4 forwarding").await
    }

    pub(super) async fn add_address(
        &self,
        name: &str,
        ip: IpAddr,
        prefix_len: u8,
    ) -> Result<(), StepFailure> {
        let mut request = self.handle.address().add(index(name)?, ip, prefix_len).replace();
        if ip.is_ipv6() {
            // Nobody else is on this link, and an address that is still being probed answers no solicitation.
            let flags = AddressAttribute::Flags(AddressFlags::Nodad);
            request.message_mut().attributes.push(flags);
        }
        request.execute().await.map_err(failure("add the address"))
    }

    pub(super) async fn add_neighbour(&self, name: &str, ip: IpAddr, mac: Mac) -> Result<(), StepFailure> {
        let index = index(name)?;
        let request = self
            .handle
            .neighbours()
            .add(index, ip)
            .link_layer_address(&mac.0)
            .replace();
        request.execute().await.map_err(failure("add the neighbour"))
    }

    pub(super) async fn add_loopback_route(&self, name: &str) -> Result<(), StepFailure> {
        let message = RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(Ipv6Addr::LOCALHOST, 128)
            .output_interface(index(name)?)
            .table_id(nix::libc::RT_TABLE_LOCAL.into())
            .kind(RouteType::Local)
            .priority(BEHIND_THE_KERNELS)
            .build();
        let request = self.handle.route().add(message).replace();
        request.execute().await.map_err(failure("add the route"))
    }

    pub(super) async fn delete(&self, name: &str) -> Result<(), StepFailure> {
        let index = index(name)?;
        self.handle
            .link()
            .del(index)
            .execute()
            .await
            .map_err(failure("delete the interface"))
    }

    /// Deletes an interface that hawser has created, and no other.
    pub(super) async fn delete_ours(&self, name: &str) -> Result<(), StepFailure> {
        let links = self.links().await?;
        match links.iter().find(|link| link.name == name) {
            None => Err(StepFailure::NoLink(name.to_owned())),
            Some(link) if link.is_ours() => self.delete(name).await,
            Some(_) => Err(StepFailure::NotOurs(name.to_owned())),
        }
    }

    pub(super) async fn set(&self, message: LinkMessage, what: &'static str) -> Result<(), StepFailure> {
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(failure(what))
    }
}

/// A system call instead of a netlink round trip: the same answer, sooner.
pub(super) fn index(name: &str) -> Result<u32, StepFailure> {
    nix::net::if_::if_nametoindex(name).map_err(|_| StepFailure::NoLink(name.to_owned()))
}

pub(super) fn failure(request: &'static str) -> impl Fn(rtnetlink::Error) -> StepFailure {
    move |error| StepFailure::Netlink {
        request,
        source: Box::new(error),
    }
}
