//! NICs: how each interface of the guest is joined to the pod.
//!
//! An interface is of one `Kind`. That is its binding; of a plugin it is what the plugin is registered to attach, and
//! of any interface whose link is down it is `down`. A kind is one file with one row: what it needs from the pod, from
//! the VMM and from DHCP, whether a guest may migrate with it, and what `hawser explain` answers. `Kind::of` is the
//! only place that compares bindings; other modules ask the kind. What reads the pod (`pod`) does not know kinds: the
//! survey passes it the interfaces that its questions are about.

mod attachment;
mod bridge;
mod cni_device;
mod describe;
mod down;
mod explain;
mod guest_networks;
mod lease;
mod managed_tap;
mod masquerade;
mod own_mac;
mod passt;
mod pci_slots;
mod plugin;
mod sidecar;
mod sriov;
mod tap;

use std::path::Path;

use hawser_netsetup::{CniNic, CniSpec, GuestNic, NetSpec, Nic, Owner};

use crate::may_migrate::MayMigrate;
use crate::pod::networks::PodInterface;
use crate::pod::pci::{Access, PciFunctions, Vf};
use crate::pod::resolv::Resolv;
use crate::spec::{Binding, DomainAttachment, GuestSpec, Interface, LinkState};
use crate::vmm::config::DeviceConfig;

pub(crate) use attachment::{Attachment, Device, Server};
pub(crate) use describe::{describe, pod_interfaces};
pub(crate) use explain::{Explanation, ports_text, text as explanation_text};
pub(crate) use pci_slots::tagged;
pub(crate) use plugin::plugin_with_sidecar;

/// A row of the table. Each file of a kind has one.
#[derive(Debug)]
pub(crate) struct Kind {
    /// As users and other launchers know it. A plugin's own name comes behind it.
    name: &'static str,
    /// The VMM opens /dev/net/tun for it, or may have to.
    pub(crate) needs_tap: bool,
    /// Whether the pod has to have an interface on the network.
    pub(crate) pod_interface: PodInterface,
    pub(crate) device: Source,
    /// Its addresses are the pod's own, which are others in another pod.
    has_pods_addresses: bool,
    /// The program that has to run behind it.
    pub(crate) daemon: Option<Daemon>,
    /// What a user should know although nothing is wrong.
    notes: fn(&GuestSpec, &Interface) -> Vec<String>,
    may_migrate: fn(&GuestSpec, &Interface, Option<&CniNic>) -> MayMigrate,
    explain: fn(&GuestSpec, &Interface, Option<&CniNic>) -> Explanation,
}

/// Who makes the NIC's device, and what becomes of it.
#[derive(Debug)]
pub(crate) enum Source {
    /// hawser, in the pod's network namespace.
    Wired {
        nic: fn(&GuestSpec, &Interface) -> Nic,
        attach: fn(&Context<'_>, &Interface, &GuestNic) -> Attachment,
    },
    /// A CNI plugin: it is looked for in the pod's network namespace.
    Cni {
        wanted: fn(&GuestSpec, &Interface) -> CniSpec,
        attach: fn(&CniNic) -> Attachment,
    },
    /// The node: a VF, which the pod's device plugin, CNI plugin or DRA driver names.
    Vf { attach: fn(&Vf, Access) -> Attachment },
    /// The sidecar of a binding plugin, once the VM's configuration is ready.
    Sidecar {
        attach: fn(&GuestSpec, &Interface) -> Attachment,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Daemon {
    Passt,
}

/// What an interface that hawser wires is attached with, besides its own plan.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    guest: &'a GuestSpec,
    resolv: &'a Resolv,
    /// The unprivileged half's, for sockets.
    directory: &'a Path,
}

/// What the pod has for the interfaces that are not wired here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found<'a> {
    /// Devices that CNI plugins have made.
    pub(crate) cni: &'a [CniNic],
    pub(crate) pci: &'a PciFunctions,
}

impl Kind {
    /// The table.
    pub(crate) fn of(interface: &Interface) -> &'static Self {
        if interface.state == LinkState::Down {
            return &down::ROW;
        }
        match &interface.binding {
            Binding::Masquerade => &masquerade::ROW,
            Binding::Bridge => &bridge::ROW,
            Binding::Passt => &passt::ROW,
            Binding::Sriov => &sriov::ROW,
            Binding::Plugin { plugin, .. } => match plugin.domain_attachment_type {
                Some(DomainAttachment::Tap) => &cni_device::ROW,
                Some(DomainAttachment::ManagedTap) => &managed_tap::ROW,
                None => &sidecar::ROW,
            },
        }
    }

    fn is_wired(&self) -> bool {
        matches!(self.device, Source::Wired { .. })
    }

    /// hawser names the device to the VMM, whoever made it; else a sidecar does.
    pub(crate) fn is_attached(&self) -> bool {
        !matches!(self.device, Source::Sidecar { .. })
    }

    fn label(&self, interface: &Interface) -> String {
        match (&self.name, plugin::Registered::of(interface).name) {
            (&plugin::NAME, name) => format!("{} {name}", plugin::NAME),
            (name, _) => (*name).to_owned(),
        }
    }
}

/// What every interface of the guest wants from the pod's namespace.
pub(crate) fn net_spec(guest: &GuestSpec, owner: Owner, resolv: &Resolv) -> NetSpec {
    let nic = |interface: &Interface| match Kind::of(interface).device {
        Source::Wired { nic, .. } => Some(nic(guest, interface)),
        Source::Cni { .. } | Source::Vf { .. } | Source::Sidecar { .. } => None,
    };
    NetSpec {
        nics: guest.interfaces.iter().filter_map(nic).collect(),
        owner,
        peers: resolv.peers(),
        resolvers: resolv.resolvers(),
    }
}

/// The interfaces whose device a CNI plugin has made.
pub(crate) fn cni_specs(guest: &GuestSpec) -> Vec<CniSpec> {
    let wanted = |interface: &Interface| match Kind::of(interface).device {
        Source::Cni { wanted, .. } => Some(wanted(guest, interface)),
        Source::Wired { .. } | Source::Vf { .. } | Source::Sidecar { .. } => None,
    };
    guest.interfaces.iter().filter_map(wanted).collect()
}

/// Every interface with what the plan made of it, or with the device that was found for it, in the manifest's order.
/// Sockets are below `directory`.
pub(crate) fn attachments(
    guest: &GuestSpec,
    nics: &[GuestNic],
    found: &Found<'_>,
    resolv: &Resolv,
    directory: &Path,
) -> Vec<Attachment> {
    let context = Context {
        guest,
        resolv,
        directory,
    };
    let attach = |interface: &Interface| {
        let name = &interface.name;
        Some(match Kind::of(interface).device {
            Source::Wired { attach, .. } => {
                let nic = nics.iter().find(|nic| nic.name == *name)?;
                attach(&context, interface, nic)
            }
            Source::Cni { attach, .. } => attach(found.cni.iter().find(|nic| nic.name == *name)?),
            Source::Vf { attach } => {
                let vf = found.pci.vfs.iter().find(|vf| vf.name == *name)?;
                attach(vf, found.pci.access)
            }
            Source::Sidecar { attach } => attach(guest, interface),
        })
    };
    let mut attachments: Vec<_> = guest.interfaces.iter().filter_map(attach).collect();
    pci_slots::assign(guest, &mut attachments);
    attachments
}

/// The node's functions as the VM has them.
pub(crate) fn devices(attachments: &[Attachment]) -> Vec<DeviceConfig> {
    let function = |attachment: &Attachment| match &attachment.device {
        Device::Vfio(config) => Some(config.clone()),
        Device::Net(_) => None,
    };
    attachments.iter().filter_map(function).collect()
}

/// What a user should know of the NICs although nothing is wrong, one line each.
pub(crate) fn notes(guest: &GuestSpec) -> Vec<String> {
    let notes = |interface: &Interface| (Kind::of(interface).notes)(guest, interface);
    guest.interfaces.iter().flat_map(notes).collect()
}

/// The pod's name servers that the guest is not told of, one line each.
pub(crate) fn dns_notes(nics: &[GuestNic], resolv: &Resolv) -> Vec<String> {
    nics.iter()
        .flat_map(|nic| lease::dns_notes(nic, resolv))
        .collect()
}

/// TCP ports that stay in the pod.
fn kept_tcp(guest: &GuestSpec) -> Vec<u16> {
    let mut all = crate::spec::pod_ports::kept(guest.istio);
    let more = guest.keep_ports.iter().filter(|port| !all.contains(port));
    let more: Vec<u16> = more.copied().collect();
    all.extend(more);
    all
}

fn no_notes(_: &GuestSpec, _: &Interface) -> Vec<String> {
    Vec::new()
}

/// Whether any NIC has something to be made in the pod's namespace.
pub(crate) fn needs_wiring(guest: &GuestSpec) -> bool {
    guest
        .interfaces
        .iter()
        .any(|interface| Kind::of(interface).is_wired())
}

/// Whether hawser makes devices or rules for any NIC, which takes CAP_NET_ADMIN. For passt it writes sysctls at most.
pub(crate) fn needs_net_admin(guest: &GuestSpec) -> bool {
    guest.interfaces.iter().any(|interface| {
        let kind = Kind::of(interface);
        kind.is_wired() && kind.needs_tap
    })
}

/// Whether any NIC's frames come by a TAP.
pub(crate) fn needs_tap(guest: &GuestSpec) -> bool {
    guest
        .interfaces
        .iter()
        .any(|interface| Kind::of(interface).needs_tap)
}

/// The TAPs by which masqueraded guests reach the pod, with the names that they have by convention.
pub(crate) fn masqueraded_taps(guest: &GuestSpec) -> Vec<String> {
    let masqueraded = guest
        .interfaces
        .iter()
        .filter(|interface| interface.binding == Binding::Masquerade && interface.state == LinkState::Up);
    masqueraded
        .map(|interface| hawser_netsetup::tap_name(&interface.network.conventional_interface()))
        .collect()
}

/// The interfaces that have a VF each.
pub(crate) fn with_vf(guest: &GuestSpec) -> Vec<&Interface> {
    let has_vf = |interface: &&Interface| matches!(Kind::of(interface).device, Source::Vf { .. });
    guest.interfaces.iter().filter(has_vf).collect()
}

/// The interface that passt serves. There is one at most, since it is on the pod network.
pub(crate) fn behind_passt(guest: &GuestSpec) -> Option<&Interface> {
    let is_served = |interface: &&Interface| Kind::of(interface).daemon == Some(Daemon::Passt);
    guest.interfaces.iter().find(is_served)
}

/// Why a guest with these NICs cannot migrate, a line for each that prevents it. `cni` are the devices that were found,
/// where the pod could be read.
pub(crate) fn obstacles(guest: &GuestSpec, cni: &[CniNic]) -> Vec<String> {
    let obstacle = |interface: &Interface| {
        let kind = Kind::of(interface);
        let decision = (kind.may_migrate)(guest, interface, made_by_cni(cni, interface));
        let why = decision.obstacle()?;
        Some(format!(
            "interface {} ({}): {why}",
            interface.name,
            kind.label(interface)
        ))
    };
    guest.interfaces.iter().filter_map(obstacle).collect()
}

/// Who gives the IP, and the rest of what is asked about an interface; from the manifest, and from the devices that were
/// found where the pod could be read.
pub(crate) fn explain(guest: &GuestSpec, cni: &[CniNic]) -> Vec<Explanation> {
    let answer =
        |interface: &Interface| (Kind::of(interface).explain)(guest, interface, made_by_cni(cni, interface));
    guest.interfaces.iter().map(answer).collect()
}

fn made_by_cni<'a>(cni: &'a [CniNic], interface: &Interface) -> Option<&'a CniNic> {
    cni.iter().find(|nic| nic.name == interface.name)
}

#[cfg(test)]
mod tests;
