//! A plan as text and as JSON.

use std::fmt::Write;
use std::path::PathBuf;

use hawser_netsetup::{Bridged, CniDevice, CniNic, GuestNic, Joined, Plan, Router6};
use serde_json::{Value, json};

use crate::daemons::passt;
use crate::devices;
use crate::disks::Drive;
use crate::hooks;
use crate::launch::{Layout, Parts};
use crate::nic::{Attachment, ports_text};
use crate::pod::boot_source::Boot;
use crate::pod::cpus::Pinning;
use crate::pod::finding::Part;
use crate::pod::pci::PciFunctions;
use crate::spec::{GuestSpec, Interface, Ports};
use crate::vmm::config::VmConfig;

pub(super) struct Output<'a> {
    pub(super) guest: &'a GuestSpec,
    pub(super) plan: &'a Plan,
    pub(super) cni: &'a [CniNic],
    pub(super) pci: &'a PciFunctions,
    pub(super) layout: &'a Layout,
    /// What the survey of the pod noted.
    pub(super) notes: Vec<String>,
    /// Where a plan is made, the guest's image, CPUs and disks need not be.
    pub(super) boot: &'a Part<Boot>,
    pub(super) cpus: &'a Part<Option<Pinning>>,
    pub(super) disks: &'a Part<Vec<Drive>>,
    pub(super) root_keys: &'a Part<Vec<String>>,
    /// The unprivileged half's.
    pub(super) directory: PathBuf,
}

impl Output<'_> {
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        let guest = self.guest;
        let _ = writeln!(
            out,
            "guest {}/{}: {} vCPU, {} MiB",
            guest.namespace,
            guest.name,
            guest.vcpus,
            guest.memory >> 20
        );
        if let Some(Some(pinning)) = self.cpus.value() {
            let _ = writeln!(out, "{pinning}");
        }
        not_here(&mut out, "dedicated CPUs", self.cpus);
        if let Some(boot) = self.boot.value() {
            let _ = writeln!(out, "{boot}");
        }
        let what = match guest.kernel_boot {
            Some(_) => "kernel",
            None => "firmware",
        };
        not_here(&mut out, what, self.boot);
        for drive in self.disks.value().into_iter().flatten() {
            let _ = writeln!(out, "{drive}");
        }
        not_here(&mut out, "disk", self.disks);
        not_here(&mut out, "root's public keys", self.root_keys);
        for nic in &self.plan.nics {
            let how = match nic.joined {
                Joined::Masquerade(_) => "masquerade behind",
                Joined::Bridge(_) => "bridge in place of",
                Joined::Passt(_) => "passt beside",
                Joined::Down { .. } => "a link that is down, beside",
            };
            let _ = writeln!(out, "\nNIC {}: {how} {}", nic.name, nic.pod_interface);
            for line in facts(nic, self.interface(nic)) {
                let _ = writeln!(out, "  {line}");
            }
            if let Some(command) = self.passt_commands().find(|command| command.nic == nic.name) {
                let _ = writeln!(out, "  runs passt {}", shell_words(&command.arguments));
            }
        }
        for nic in self.cni {
            let _ = writeln!(out, "\nNIC {}: {}", nic.name, cni_facts(nic));
        }
        for vf in &self.pci.vfs {
            let _ = writeln!(out, "\nNIC {vf}");
            if let Some(address) = vf.guest_address {
                let _ = writeln!(out, "  in the guest at {address}");
            }
        }
        for function in &self.pci.host {
            let _ = writeln!(out, "\n{function}");
        }
        for filesystem in &guest.filesystems {
            let how = if filesystem.readonly { ", read-only" } else { "" };
            let (name, path) = (&filesystem.name, &filesystem.volume.path);
            let _ = writeln!(out, "\nfile system {name}: {path}, by virtiofs{how}");
        }
        if let Some(vsock) = &guest.vsock {
            let socket = devices::vsock::socket(&self.directory);
            let _ = writeln!(out, "\nvsock: CID {}, {}", vsock.cid, socket.display());
        }
        for plugin in hooks::plugins(self.guest) {
            for hooked in plugin.interfaces {
                let name = &plugin.name;
                let _ = writeln!(
                    out,
                    "\nNIC {}: completed by the sidecar of plugin {name}, which is not asked here",
                    hooked.name
                );
            }
        }
        for note in self.plan.notes.iter().chain(self.all_notes()) {
            let _ = writeln!(out, "\nnote: {note}");
        }
        if self.plan.nics.is_empty() {
            let _ = writeln!(out, "\nnothing to do: no NIC needs the pod wired");
        } else if self.plan.steps.is_empty() {
            let _ = writeln!(out, "\nnothing to do: the pod is wired already");
        } else {
            let _ = writeln!(out, "\nsteps:");
            for (index, step) in self.plan.steps.iter().enumerate() {
                let _ = writeln!(out, "  {}. {step}", index.saturating_add(1));
            }
            if self.plan.offloading.is_some() {
                let _ = writeln!(
                    out,
                    "\nthen, if the kernel has flowtables: established connections skip the rules of inet hawser"
                );
            }
        }
        out
    }

    pub(super) fn json(&self) -> Value {
        let servers = self
            .attachments()
            .iter()
            .filter_map(|attachment| attachment.server.as_ref());
        json!({
            "guest": self.guest,
            "plan": self.plan,
            "cni": self.cni,
            "leases": servers.map(|server| &server.lease).collect::<Vec<_>>(),
            "vmConfig": self.vm_config(),
            "passt": self.passt_commands().collect::<Vec<_>>(),
            "functions": self.pci.vfs,
            "hostDevices": self.pci.host,
            "notes": self.all_notes().collect::<Vec<_>>(),
        })
    }

    /// Known once what boots, every disk and the public keys are.
    fn vm_config(&self) -> Option<VmConfig> {
        let (boot, disks) = self.boot.value().zip(self.disks.value())?;
        let root_keys = self.root_keys.value()?;
        let parts = Parts {
            guest: self.guest,
            boot,
            cpus: self.cpus.value().and_then(Option::as_ref),
            drives: disks,
            attachments: self.attachments(),
            functions: self.pci,
            root_keys,
            directory: &self.directory,
        };
        Some(parts.vm_config())
    }

    fn attachments(&self) -> &[Attachment] {
        &self.layout.attachments
    }

    /// Besides those of the plan itself.
    fn all_notes(&self) -> impl Iterator<Item = &String> {
        self.layout.notes.iter().chain(&self.notes)
    }

    fn passt_commands(&self) -> impl Iterator<Item = &passt::Command> {
        self.attachments()
            .iter()
            .filter_map(|attachment| attachment.passt.as_ref())
    }

    pub(super) fn dot(&self) -> String {
        super::dot::dot(self.guest, self.plan, self.layout)
    }

    fn interface(&self, nic: &GuestNic) -> Option<&Interface> {
        self.guest
            .interfaces
            .iter()
            .find(|interface| interface.name == nic.name)
    }
}

fn not_here<T>(out: &mut String, what: &str, part: &Part<T>) {
    for failure in part.failures() {
        let _ = writeln!(out, "{what} not found here: {}", failure.body());
    }
}

fn facts(nic: &GuestNic, interface: Option<&Interface>) -> Vec<String> {
    let end = nic
        .tap()
        .map_or_else(|| "vhost-user".to_owned(), |tap| format!("TAP {tap}"));
    let mut lines = vec![format!(
        "guest MAC {}, MTU {}, {} queue pair(s), {end}",
        nic.guest_mac, nic.mtu, nic.queue_pairs
    )];
    let ports = match &nic.joined {
        Joined::Masquerade(masqueraded) => {
            lines.extend(masqueraded.v4.map(|v4| {
                format!(
                    "IPv4 {} by DHCP, gateway {}; others use {}",
                    v4.guest, v4.gateway, v4.pod
                )
            }));
            lines.extend(masqueraded.v6.map(|v6| {
                format!(
                    "IPv6 {} by DHCPv6, default route by RA; others use {}",
                    v6.guest, v6.pod
                )
            }));
            interface.map(|interface| ports_text(&interface.ports))
        }
        Joined::Passt(handed) => {
            lines.extend(handed.v4.map(|v4| {
                format!(
                    "IPv4 {}/{} by passt's DHCP; others use the same",
                    v4.address, v4.prefix_len
                )
            }));
            lines.extend(handed.v6.map(|v6| {
                format!("IPv6 {v6} by passt's DHCPv6, default route by its RA; others use the same")
            }));
            interface.map(|interface| match &interface.ports {
                Ports::All => passt::forwards_all_text(),
                listed => ports_text(listed),
            })
        }
        Joined::Bridge(bridged) => {
            lines.extend(bridged_facts(bridged));
            return lines;
        }
        Joined::Down { .. } => {
            lines.push("no frame passes, in or out".into());
            return lines;
        }
    };
    lines.push(format!(
        "ports of the pod that are the guest's: {}",
        ports.unwrap_or_default()
    ));
    lines
}

fn cni_facts(nic: &CniNic) -> String {
    let device = match nic.device {
        CniDevice::Tap => "the TAP".to_owned(),
        CniDevice::Macvtap { index } => format!("/dev/tap{index}, the macvtap"),
    };
    format!(
        "{device} {} of a CNI plugin\n  guest MAC {}, MTU {}, {} queue pair(s); left as it is",
        nic.interface, nic.guest_mac, nic.mtu, nic.queue_pairs
    )
}

fn bridged_facts(bridged: &Bridged) -> Vec<String> {
    let mut lines = vec![format!("the pod's interface is a port of {}", bridged.bridge)];
    if let Some(v4) = &bridged.v4 {
        let router = v4
            .router
            .map_or_else(|| "no default route".into(), |ip| format!("gateway {ip}"));
        lines.push(format!("IPv4 {}/{} by DHCP, {router}", v4.address, v4.prefix_len));
        let routes = v4
            .routes
            .iter()
            .map(|(to, via)| format!("IPv4 route to {to} via {via}"));
        lines.extend(routes);
    }
    if let Some(v6) = &bridged.v6 {
        let router = match v6.router {
            Router6::Advertises => "default route by the network's own RA".to_owned(),
            Router6::Silent(router) => format!("default route by RA in the name of {router}"),
            Router6::By(mac) => format!("default route by RA of hawser's, to the router {mac}"),
            Router6::Unknown => "no default route".to_owned(),
        };
        lines.push(format!("IPv6 {} by DHCPv6, {router}", v6.address));
    }
    if !bridged.is_served() {
        lines.push("no DHCP and no RA of hawser: the network's own servers serve the guest".into());
    }
    lines
}

/// A command line to copy: what is not plain is in single quotes.
fn shell_words(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=.,:/~".contains(c);
    let quoted = words.iter().map(|word| match word.chars().all(plain) {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    });
    quoted.collect::<Vec<_>>().join(" ")
}
