//! How fast the guest may use its NICs and disks.

use std::collections::BTreeMap;

use serde::Serialize;

/// The limits of one device. A NIC's hold for each direction by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rate {
    /// Bytes a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Reads and writes of a disk, or frames of a NIC, a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operations: Option<u64>,
}

/// By the names of interfaces and of disks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rates {
    pub interfaces: BTreeMap<String, Rate>,
    pub disks: BTreeMap<String, Rate>,
}

impl Rates {
    pub fn is_empty(&self) -> bool {
        self.interfaces.is_empty() && self.disks.is_empty()
    }
}
