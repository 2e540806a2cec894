//! What a plan looks like: as text, as JSON, and as a drawing of the pod for Graphviz.

mod drawing;

use std::fmt::Write;
use std::path::PathBuf;

use hawser_netsetup::{Bridged, GuestNic, Plan, Router6};
use serde_json::{Value, json};

use crate::binding::{Attachment, ports_text};
use crate::error::Failure;
use crate::image::KernelFiles;
use crate::resolv::Resolv;
use crate::spec::{GuestSpec, Interface, Mac};
use crate::vmm::config::vm_config;

pub(crate) struct Picture<'a> {
    pub(crate) guest: &'a GuestSpec,
    pub(crate) plan: &'a Plan,
    pub(crate) attachments: Vec<Attachment>,
    /// Where a plan is made, the guest's image need not be.
    pub(crate) files: Result<KernelFiles, Failure>,
    pub(crate) resolv: &'a Resolv,
    /// Where those of a live migration would be.
    pub(crate) certificates: PathBuf,
}

impl Picture<'_> {
    pub(crate) fn text(&self) -> String {
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
        match &self.files {
            Ok(files) => {
                let _ = writeln!(out, "kernel {}", files.kernel.display());
            }
            Err(failure) => {
                let _ = writeln!(
                    out,
                    "kernel not found here: {}",
                    failure.to_string().trim_start_matches("hawser: ")
                );
            }
        }
        for nic in &self.plan.nics {
            let how = match nic.bridge {
                Some(_) => "bridge in place of",
                None => "masquerade behind",
            };
            let _ = writeln!(out, "\nNIC {}: {how} {}", nic.name, nic.pod_interface);
            for line in facts(nic, self.interface(nic)) {
                let _ = writeln!(out, "  {line}");
            }
        }
        for note in self.plan.notes.iter().chain(&self.resolv.notes) {
            let _ = writeln!(out, "\nnote: {note}");
        }
        if self.plan.steps.is_empty() {
            let _ = writeln!(out, "\nnothing to do: the pod is wired already");
        } else {
            let _ = writeln!(out, "\nsteps:");
            for (index, step) in self.plan.steps.iter().enumerate() {
                let _ = writeln!(out, "  {}. {step}", index.saturating_add(1));
            }
        }
        out
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "guest": self.guest,
            "plan": self.plan,
            "leases": self.attachments.iter().filter_map(|attachment| Some(&attachment.server.as_ref()?.lease)).collect::<Vec<_>>(),
            "vmConfig": self.files.as_ref().ok().map(|files| vm_config(self.guest, files, &self.attachments, &self.certificates)),
            "notes": self.resolv.notes,
        })
    }

    pub(crate) fn dot(&self) -> String {
        drawing::dot(self.guest, self.plan, &self.attachments)
    }

    fn interface(&self, nic: &GuestNic) -> Option<&Interface> {
        self.guest
            .interfaces
            .iter()
            .find(|interface| interface.name == nic.name)
    }
}

fn facts(nic: &GuestNic, interface: Option<&Interface>) -> Vec<String> {
    let mut lines = vec![format!(
        "guest MAC {}, MTU {}, {} queue pair(s), TAP {}",
        Mac(nic.guest_mac),
        nic.mtu,
        nic.queue_pairs,
        nic.tap
    )];
    if let Some(v4) = &nic.v4 {
        lines.push(format!(
            "IPv4 {} by DHCP, gateway {}; others use {}",
            v4.guest, v4.gateway, v4.pod
        ));
    }
    if let Some(v6) = &nic.v6 {
        lines.push(format!(
            "IPv6 {} by DHCPv6, default route by RA; others use {}",
            v6.guest, v6.pod
        ));
    }
    if let Some(bridged) = &nic.bridge {
        lines.extend(bridged_facts(bridged));
        return lines;
    }
    let ports = interface.map(|interface| ports_text(&interface.ports));
    lines.push(format!(
        "ports of the pod that are the guest's: {}",
        ports.unwrap_or_default()
    ));
    lines
}

fn bridged_facts(bridged: &Bridged) -> Vec<String> {
    let mut lines = vec![format!(
        "the pod's interface is {} on the bridge {}",
        bridged.port, bridged.bridge
    )];
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
            Router6::Unknown => "no default route".to_owned(),
        };
        lines.push(format!("IPv6 {} by DHCPv6, {router}", v6.address));
    }
    if !bridged.is_served() {
        lines.push("no address in the pod: the network's own servers have the guest to themselves".into());
    }
    lines
}
