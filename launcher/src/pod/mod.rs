//! What this pod has for its guest. Everything here only reads.

pub(crate) mod boot_source;
pub(crate) mod cpus;
pub(crate) mod host_devices;
pub(crate) mod hugepages;
pub(crate) mod networks;
pub(crate) mod resolv;
pub(crate) mod vfio;
