//! What this pod has for its guest. Everything here only reads. `survey` puts the parts together.

pub(crate) mod boot_source;
pub(crate) mod cpus;
pub(crate) mod finding;
pub(crate) mod hugepages;
pub(crate) mod landlock;
pub(crate) mod memory_limit;
pub(crate) mod networks;
pub(crate) mod pci;
pub(crate) mod places;
pub(crate) mod programs;
pub(crate) mod resolv;
