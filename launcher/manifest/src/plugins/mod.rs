//! Binding plugins: bindings that hawser knows by name only, from a file that says of each what it makes.
//!
//! The file has the shape of KubeVirt's `configuration.network.binding`, so that a cluster's own KubeVirt object can be
//! given as it is. `file` reads it, before the manifest, which then names entries of it. What an entry leads to in the
//! pod is told by `nic/plugin.rs`.

mod file;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Serialize;

pub use file::parse;

/// What is registered, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registry {
    plugins: BTreeMap<String, Plugin>,
    /// The file that it was read from; absent where none was given.
    file: Option<String>,
}

/// One binding plugin, as KubeVirt's `InterfaceBindingPlugin` describes it. It has an attachment or a sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plugin {
    /// What the guest's NIC is attached to; a sidecar makes the NIC where there is none.
    pub domain_attachment_type: Option<DomainAttachment>,
    /// A container in the pod that may change what hawser is about to tell the VMM of this NIC.
    pub sidecar_image: Option<String>,
    /// `name` or `namespace/name` of one more CNI configuration that the pod was started with.
    pub network_attachment_definition: Option<String>,
    /// Absent where a guest with this NIC cannot move to another pod.
    pub migration: Option<Migration>,
    pub downward_api: Option<DownwardApi>,
    pub compute_resource_overhead: Overhead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum DomainAttachment {
    /// The interface that a CNI plugin made: a TAP or a macvtap.
    Tap,
    /// A TAP of hawser's own, bridged to the pod's interface.
    ManagedTap,
}

/// That the plugin lets guests move, and what it needs done for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Migration {
    pub method: Option<MigrationMethod>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MigrationMethod {
    /// On the target the guest's link goes down and up again, so that the guest asks for its address anew.
    LinkRefresh,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DownwardApi {
    /// The plugin needs to know the device behind the network, from the file of `--network-info`.
    DeviceInfo,
}

/// What whoever makes the pod has to add for a NIC of this plugin; quantities as written, by resource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Overhead {
    pub requests: BTreeMap<String, String>,
    pub limits: BTreeMap<String, String>,
}

impl Registry {
    /// Whether `parse` found nothing registered, or there was no file.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.plugins.is_empty()
    }

    /// The plugin of this name, or what to do about there being none.
    pub fn find(&self, name: &str) -> Result<&Plugin, String> {
        if let Some(plugin) = self.plugins.get(name) {
            return Ok(plugin);
        }
        let name = crate::document::report::quoted(name);
        let Some(file) = &self.file else {
            return Err(format!(
                "binding plugin {name} is not registered: pass --bindings FILE"
            ));
        };
        let names: Vec<&str> = self.plugins.keys().map(String::as_str).collect();
        let there = if names.is_empty() {
            "nothing".to_owned()
        } else {
            names.join(", ")
        };
        Err(format!(
            "binding plugin {name} is not registered: {file} registers {there}"
        ))
    }
}
