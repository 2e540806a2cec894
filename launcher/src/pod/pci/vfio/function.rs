//! What sysfs says of a function (Documentation/ABI/testing/sysfs-bus-pci, sysfs-kernel-iommu_groups).

use std::fmt;
use std::fs;
use std::path::Path;

use super::Roots;
use crate::error::Failure;
use crate::spec::PciAddress;

/// A PCI function that is bound to a VFIO driver, alone in its IOMMU group or among others that do no harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) address: PciAddress,
    pub(crate) group: u32,
    /// Name of its own node below /dev/vfio/devices, where the kernel has iommufd.
    pub(crate) cdev: Option<String>,
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, group, .. } = self;
        write!(f, "{address}: bound to a VFIO driver, IOMMU group {group}")
    }
}

/// Drivers that leave DMA to others (`driver_managed_dma`), so that the kernel lets a group be had beside them.
const HARMLESS: [&str; 3] = ["pcieport", "shpchp", "pci-stub"];

/// vfio-pci and the vendors' variants of it, such as mlx5_vfio_pci.
fn is_vfio(driver: &str) -> bool {
    driver == "vfio-pci" || driver.ends_with("-vfio-pci") || driver.ends_with("_vfio_pci")
}

impl Roots {
    pub(super) fn function(&self, address: PciAddress) -> Result<Function, Failure> {
        let device = self.sys.join("bus/pci/devices").join(address.to_string());
        if !device.exists() {
            return Err(Failure::unfit(
                format!("{address}: no such PCI device on this node"),
                "check what assigned the address: the network-status file, the device plugin's variable or the claim's metadata",
            ));
        }
        match target(&device.join("driver")) {
            Some(driver) if is_vfio(&driver) => {}
            driver => {
                let bound = driver.map_or("to no driver".to_owned(), |driver| format!("to {driver}"));
                return Err(Failure::unfit(
                    format!("{address}: bound {bound}, not to vfio-pci"),
                    format!(
                        "on the node: driverctl set-override {address} vfio-pci; with the SR-IOV network operator: \
                         deviceType: vfio-pci"
                    ),
                ));
            }
        }
        let group = device.join("iommu_group");
        let number = target(&group).and_then(|name| name.parse().ok());
        let no_iommu = fs::read_to_string(group.join("name")).is_ok_and(|name| name.trim() == "vfio-noiommu");
        let Some(number) = number.filter(|_| !no_iommu) else {
            return Err(Failure::unfit(
                format!("{address}: in no IOMMU group"),
                "switch the node's IOMMU on: in its firmware (VT-d, AMD-Vi), and with intel_iommu=on on its kernel's \
                 command line",
            ));
        };
        let others = others(&group);
        if !others.is_empty() {
            return Err(Failure::unfit(
                format!(
                    "{address}: IOMMU group {number} is not viable: {}",
                    others.join(", ")
                ),
                "bind every device of the group to vfio-pci or to no driver, or use a slot whose ports have ACS",
            ));
        }
        Ok(Function {
            address,
            group: number,
            cdev: first_name(&device.join("vfio-dev")),
        })
    }
}

/// Devices of the group that a driver of the node's has.
fn others(group: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(group.join("devices"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let driver = target(&entry.path().join("driver"));
        if let Some(driver) = driver.filter(|name| !is_vfio(name) && !HARMLESS.contains(&name.as_str())) {
            found.push(format!(
                "{} is bound to {driver}",
                entry.file_name().to_string_lossy()
            ));
        }
    }
    found.sort();
    found
}

/// The last part of what a link points to.
fn target(link: &Path) -> Option<String> {
    let target = fs::read_link(link).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

fn first_name(directory: &Path) -> Option<String> {
    let entry = fs::read_dir(directory).ok()?.next()?.ok()?;
    entry.file_name().into_string().ok()
}
