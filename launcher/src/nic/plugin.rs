//! What the kinds of binding plugins have in common: an entry of the registry of `--bindings`, which says what a plugin
//! attaches, whether guests may migrate with it, and what the pod needs besides. Nothing here is about one plugin.

use crate::may_migrate::MayMigrate;
use crate::spec::{Binding, DownwardApi, Interface, MigrationMethod, Overhead, Plugin};

/// What these kinds are called; the plugin's name follows.
pub(super) const NAME: &str = "plugin";

/// Who gives the IP on a plugin's network where hawser attaches the NIC.
pub(super) const IP_FROM: &str =
    "the network of the plugin, by its own server or the guest's own configuration: hawser serves none";
pub(super) const GUEST_ADDRESS: &str = "what that network gives it";

/// The name of an interface's plugin that has a sidecar.
pub(crate) fn plugin_with_sidecar(interface: &Interface) -> Option<&str> {
    let plugin = Registered::of(interface);
    plugin.has_sidecar().then_some(plugin.name)
}

/// The plugin of an interface.
#[derive(Debug, Clone, Copy)]
pub(super) struct Registered<'a> {
    pub(super) name: &'a str,
    plugin: Option<&'a Plugin>,
}

impl<'a> Registered<'a> {
    /// Without a name, and with nothing declared, for an interface of another binding.
    pub(super) fn of(interface: &'a Interface) -> Self {
        match &interface.binding {
            Binding::Plugin { name, plugin } => Self {
                name,
                plugin: Some(plugin),
            },
            _ => Self {
                name: "",
                plugin: None,
            },
        }
    }

    fn has_sidecar(self) -> bool {
        self.plugin.is_some_and(|plugin| plugin.sidecar_image.is_some())
    }

    /// What the plugin declares of migration, as a reason for it; else why a guest cannot migrate.
    pub(super) fn declares_migration(self) -> Result<&'static str, MayMigrate> {
        let name = self.name;
        let Some(declared) = self.plugin.and_then(|plugin| plugin.migration) else {
            return Err(MayMigrate::no(format!("the plugin {name} declares no migration")));
        };
        if self.has_sidecar() {
            return Err(MayMigrate::no(
                "not in this version of hawser: the plugin declares it, but the target's sidecar \
                 is not asked",
            ));
        }
        Ok(match declared.method {
            // As much as cloud-hypervisor has of it: it cannot take the guest's link down, but asks the guest to
            // announce itself.
            Some(MigrationMethod::LinkRefresh) => {
                "the plugin declares it with link-refresh, of which there is this: on the target the guest is asked to announce \
                 itself; its link does not go down and up, as cloud-hypervisor has no state of it to set, so a guest that has to \
                 ask for its addresses or its router anew does not notice that it should"
            }
            None => "the plugin declares it, without anything to be done on the target",
        })
    }

    /// What the pod's author has to add to it.
    pub(super) fn requirements(self, interface: &Interface) -> Vec<String> {
        let Some(plugin) = self.plugin else {
            return Vec::new();
        };
        let network = plugin.network_attachment_definition.as_ref().map(|definition| {
            format!(
                "the pod's annotation names the network {definition} for {} too",
                interface.name
            )
        });
        let info = (plugin.downward_api == Some(DownwardApi::DeviceInfo))
            .then(|| "the pod's network-info as a file (downwardAPI: device-info)".to_owned());
        network.into_iter().chain(info).collect()
    }

    /// Empty where the plugin is registered with none.
    pub(super) fn overhead(self) -> String {
        let mut text = String::new();
        let Some(plugin) = self.plugin else {
            return text;
        };
        let Overhead { requests, limits } = &plugin.compute_resource_overhead;
        for (what, quantities) in [("requests", requests), ("limits", limits)] {
            if quantities.is_empty() {
                continue;
            }
            let list: Vec<String> = quantities
                .iter()
                .map(|(resource, quantity)| format!("{resource} {quantity}"))
                .collect();
            text.push_str(&format!("; {what} more by the pod: {}", list.join(", ")));
        }
        text
    }

    /// A NIC that hawser attaches may be tuned by a sidecar all the same. Empty where there is none.
    pub(super) fn tuning(self) -> String {
        if !self.has_sidecar() {
            return String::new();
        }
        format!(
            "; the container of {}'s sidecar, which decides on the NIC's MAC, queue size and offloads",
            self.name
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins;

    #[test]
    fn a_nic_that_hawser_attaches_is_explained_with_its_sidecar() {
        let tuning = |sidecar: &str| {
            let text = format!("proxy: {{domainAttachmentType: managedTap, sidecarImage: '{sidecar}'}}");
            let registry = plugins::parse(&text, "FILE").unwrap();
            let registered = Registered {
                name: "proxy",
                plugin: registry.find("proxy").ok(),
            };
            registered.tuning()
        };
        assert_eq!(
            tuning("i"),
            "; the container of proxy's sidecar, which decides on the NIC's MAC, queue size and offloads"
        );
        assert_eq!(tuning(""), "");
    }
}
