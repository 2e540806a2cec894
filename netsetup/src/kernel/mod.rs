//! The only system calls for the network: rtnetlink, the TUN driver, /proc/sys and the `nft` tool.

mod bridge;
mod connections;
mod flowtable;
mod interfaces;
mod link;
mod macvtap;
mod netlink;
mod nft;
mod nft_trial;
mod router;
mod sysctl;
mod tap;

use std::path::Path;

use crate::apply::Kernel;
use crate::error::{Error, StepFailure};
use crate::observed::{IPV6_FORWARDING, Observed, PING_GROUP_RANGE, UNPRIVILEGED_PORT_START};
use crate::ruleset;
use crate::spec::{NetSpec, Wiring};
use crate::step::Step;
use crate::undo::Undo;

pub use interfaces::{Interface, interfaces};
pub use macvtap::{MacvtapError, open_macvtap};
pub use nft::{Nft, allow_resets, drop_resets};
pub use nft_trial::missing_expressions;
pub use tap::open_tap;

/// The kernel of this process's network namespace, over one rtnetlink socket.
#[derive(Debug)]
pub struct Linux {
    netlink: netlink::Netlink,
    nft: Option<Nft>,
}

impl Linux {
    /// Opens the netlink socket. Needs a tokio runtime; the socket is served on it.
    pub fn open() -> Result<Self, Error> {
        let netlink = netlink::Netlink::open().map_err(|source| Error::Observe {
            what: "netlink socket",
            source,
        })?;
        Ok(Self { netlink, nft: None })
    }

    /// Has the rule set loaded by an `nft` that was started beside earlier work.
    pub fn with_nft(self, nft: Option<Nft>) -> Self {
        Self { nft, ..self }
    }
}

/// Reads the namespace of this process. Needs no privilege and changes nothing.
///
/// # Errors
/// [`Error::Observe`] with what the kernel would not list.
pub async fn observe() -> Result<Observed, Error> {
    let linux = Linux::open()?;
    let netlink = &linux.netlink;
    let at = |what| move |source| Error::Observe { what, source };
    let mut links = netlink.links().await.map_err(at("interfaces"))?;
    netlink
        .read_addresses(&mut links)
        .await
        .map_err(at("addresses"))?;
    netlink.read_routes(&mut links).await.map_err(at("routes"))?;
    netlink
        .read_permanent_neighbours(&mut links)
        .await
        .map_err(at("neighbours"))?;
    netlink.heard().map_err(at("answers about it"))?;
    for link in &mut links {
        link.accept_ra = sysctl::read(&format!("/proc/sys/net/ipv6/conf/{}/accept_ra", link.name));
    }
    let (connections, listeners) = connections::read();
    Ok(Observed {
        links,
        ipv6_forwarding: sysctl::read(IPV6_FORWARDING),
        ipv6_disabled_by_default: sysctl::read("/proc/sys/net/ipv6/conf/default/disable_ipv6")
            .is_some_and(|sysctl| sysctl.value == "1"),
        ping_group_range: sysctl::read(PING_GROUP_RANGE),
        unprivileged_port_start: sysctl::read(UNPRIVILEGED_PORT_START),
        connections,
        listeners,
    })
}

/// Finds out the link-local addresses of the routers of the interfaces that are to be bridged
/// ([`crate::Route::link_local`]), before their plan is made. Changes nothing; the pod's kernel asks its neighbours.
///
/// # Errors
/// When the kernel's neighbours cannot be read. A router that does not answer is not an error: it has no such address.
pub async fn find_routers(spec: &NetSpec, observed: &mut Observed) -> Result<(), Error> {
    for nic in spec.nics.iter().filter(|nic| nic.wiring == Wiring::Bridge) {
        let link = observed
            .links
            .iter_mut()
            .find(|link| link.name == nic.pod_interface);
        // A port's neighbours are not the pod's any more; what was found before is remembered.
        if let Some(link) = link.filter(|link| link.up && link.controller.is_none()) {
            let found = Linux::open()?.netlink.find_routers(link).await;
            found.map_err(|source| Error::Observe {
                what: "neighbours",
                source,
            })?;
        }
    }
    Ok(())
}

impl Linux {
    /// What came of a request; what follows does not depend on a socket that may have failed with it.
    fn after(&mut self, result: Result<(), StepFailure>) -> Result<(), StepFailure> {
        let result = result.and_then(|()| self.netlink.heard());
        if result.is_err() {
            self.netlink = netlink::Netlink::open()?;
        }
        result
    }

    async fn take_step(&mut self, step: &Step) -> Result<(), StepFailure> {
        match step {
            Step::Tap(tap) => {
                if tap.replace {
                    self.netlink.delete(&tap.name).await?;
                }
                // Until the descriptor is dropped after the persist call, a kill takes the TAP with it: there is
                // never a persistent one without our alias.
                let device = tap::create(tap)?;
                self.netlink.configure(tap).await?;
                // Only one that has its alias may outlive this process: the next start would not know it for ours.
                self.netlink.heard()?;
                tap::persist(&device)
            }
            Step::AddAddress { link, ip, prefix_len } => {
                self.netlink.add_address(link, *ip, *prefix_len).await
            }
            Step::Neighbour { link, ip, mac } => self.netlink.add_neighbour(link, *ip, *mac).await,
            Step::LoopbackRoute { link } => self.netlink.add_loopback_route(link).await,
            Step::Ruleset { document } => nft::replace(self.nft.take(), document),
            Step::Ipv4Forwarding { link } => self.netlink.forward_ipv4(link, true).await,
            Step::Sysctl { path, value } => sysctl::write(path, value),
            Step::Bridge(bridge) => self.netlink.make_bridge(bridge).await,
            Step::Port(port) => self.netlink.move_to_bridge(port).await,
            Step::Mark { link, alias } => self.netlink.set_alias(link, alias).await,
        }
    }

    async fn take_step_back(&mut self, undo: &Undo) -> Result<(), StepFailure> {
        let gone_is_fine = |result| match result {
            Err(StepFailure::NoLink(_)) => Ok(()),
            other => other,
        };
        match undo {
            Undo::DeleteLink { link } => gone_is_fine(self.netlink.delete_ours(link).await),
            Undo::DeleteTables => nft::run(&ruleset::removal()),
            Undo::Ipv4Forwarding { link, value } => {
                gone_is_fine(self.netlink.forward_ipv4(link, *value).await)
            }
            // With its interface the setting goes too.
            Undo::Sysctl { path, .. } if !Path::new(path).exists() => Ok(()),
            Undo::Sysctl { path, value } => sysctl::write(path, value),
        }
    }
}

impl Kernel for Linux {
    async fn perform(&mut self, step: &Step) -> Result<(), StepFailure> {
        let result = self.take_step(step).await;
        self.after(result)
    }

    async fn take_back(&mut self, undo: &Undo) -> Result<(), StepFailure> {
        let result = self.take_step_back(undo).await;
        self.after(result)
    }
}
