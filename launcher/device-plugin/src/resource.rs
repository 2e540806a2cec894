//! What is offered: for each resource its name, and where its node is below /dev.

use std::fmt;
use std::str::FromStr;

use crate::v1beta1::Device;

/// One device node that any number of containers may open.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Resource {
    /// What containers ask for, after the domain. KubeVirt's names, where it has one.
    pub name: &'static str,
    /// Relative to /dev.
    pub node: &'static str,
}

impl Resource {
    pub const ALL: [Self; 4] = [
        Self::new("kvm", "kvm"),
        Self::new("tun", "net/tun"),
        Self::new("vhost-net", "vhost-net"),
        // Of VFIO the container only: the node of an IOMMU group is one VF's, and its own plugin's to give.
        Self::new("vfio", "vfio/vfio"),
    ];

    const fn new(name: &'static str, node: &'static str) -> Self {
        Self { name, node }
    }

    /// In the kubelet's directory.
    pub(crate) fn socket(&self) -> String {
        format!("hawser-{}.sock", self.name)
    }

    /// The list for the kubelet. A device that is unhealthy counts towards the node's capacity and not towards what can be
    /// allocated: a node whose module is not loaded says 1000 and 0, and one without this plugin says nothing. So what never
    /// was there is treated as what is there no more.
    pub(crate) fn devices(&self, count: u16, healthy: bool) -> Vec<Device> {
        let health = if healthy { "Healthy" } else { "Unhealthy" };
        (0..count)
            .map(|number| Device {
                // Short: the kubelet writes all of them to its checkpoint at each allocation.
                id: format!("{}{number}", self.name),
                health: health.to_owned(),
            })
            .collect()
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.name)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("there is no such device; there are kvm, tun, vhost-net and vfio")]
pub struct UnknownResource;

impl FromStr for Resource {
    type Err = UnknownResource;

    fn from_str(name: &str) -> Result<Self, UnknownResource> {
        let found = Self::ALL.into_iter().find(|resource| resource.name == name);
        found.ok_or(UnknownResource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_all_healthy_or_all_unhealthy_and_have_names_of_their_own() {
        let tun: Resource = "tun".parse().unwrap();
        let devices = tun.devices(3, true);
        let ids: Vec<_> = devices.iter().map(|device| device.id.as_str()).collect();
        assert_eq!(ids, ["tun0", "tun1", "tun2"]);
        assert!(devices.iter().all(|device| device.health == "Healthy"));
        assert!(
            tun.devices(3, false)
                .iter()
                .all(|device| device.health == "Unhealthy")
        );
        // The kubelet's limit.
        let last = Resource::ALL.map(|resource| resource.devices(u16::MAX, true).pop().unwrap().id);
        assert!(last.iter().all(|id| id.len() <= 63), "{last:?}");
        assert!("sev".parse::<Resource>().is_err());
    }
}
