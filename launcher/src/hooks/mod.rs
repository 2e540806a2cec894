//! The sidecars of binding plugins, from hawser's side: gRPC to a container of the pod that completes the NICs of its
//! plugin before the VM is created (docs/hooks.md; the protocol itself is the crate `hooks`).
//!
//! `session` makes the calls in their order and watches the connections until the guest has ended. `rules` compares what
//! a sidecar answers with what it was asked, and takes over what it may set and nothing else, so that a sidecar that
//! lies can at most be refused. `socket` looks at the one thing of it that is in the file system.
//!
//! All of it runs in the unprivileged supervisor: what a sidecar says is read by a process that can do nothing with it
//! but start a VM.

mod error;
pub(crate) mod rules;
mod session;
mod socket;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::nic::{self, Kind};
use crate::spec::GuestSpec;

pub(crate) use error::HookError;
pub(crate) use session::run;

/// Which sidecars are to be asked, and what about.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Hooks {
    /// Absolute; the sidecars' containers share it.
    pub(crate) directory: PathBuf,
    pub(crate) deadlines: Deadlines,
    /// The VirtualMachineInstance, as it was written.
    pub(crate) vmi: Value,
    /// In the order in which the manifest first names them; never empty.
    pub(crate) plugins: Vec<Plugin>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deadlines {
    /// For the sidecars to come up, all together.
    pub(crate) start: Duration,
    /// For one answer: a sidecar may have to start a backend before it gives it.
    pub(crate) call: Duration,
    /// For the answer to Shutdown: the guest has ended, and its pod is not kept waiting.
    pub(crate) farewell: Duration,
}

impl Deadlines {
    pub(crate) fn starting_within(start: Duration) -> Self {
        Self {
            start,
            call: Duration::from_secs(10),
            farewell: Duration::from_secs(2),
        }
    }
}

/// A plugin with a sidecar, and the interfaces that it makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plugin {
    pub(crate) name: String,
    pub(crate) interfaces: Vec<Hooked>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hooked {
    pub(crate) name: String,
    /// Whether the manifest says what MAC the guest's NIC has.
    pub(crate) mac_is_given: bool,
    /// Whether hawser has attached the NIC to a device, as the plugin's domainAttachmentType says.
    pub(crate) attached: bool,
}

/// The plugins of this guest that have sidecars.
pub(crate) fn plugins(guest: &GuestSpec) -> Vec<Plugin> {
    let mut plugins: Vec<Plugin> = Vec::new();
    for interface in &guest.interfaces {
        let Some(name) = nic::plugin_with_sidecar(interface) else {
            continue;
        };
        let hooked = Hooked {
            name: interface.name.clone(),
            mac_is_given: interface.mac.is_some(),
            attached: Kind::of(interface).is_attached(),
        };
        match plugins.iter_mut().find(|plugin| plugin.name == name) {
            Some(plugin) => plugin.interfaces.push(hooked),
            None => plugins.push(Plugin {
                name: name.to_owned(),
                interfaces: vec![hooked],
            }),
        }
    }
    plugins
}
