//! What is known of each NIC and device of a guest: who gives the IP, what others use, whether it can migrate, what it
//! needs.

use hawser_netsetup::CniNic;
use serde::Serialize;

use crate::devices;
use crate::nic;
use crate::spec::GuestSpec;

#[derive(Debug, Serialize)]
pub(crate) struct Explanations {
    pub(crate) interfaces: Vec<nic::Explanation>,
    devices: Vec<devices::Explanation>,
}

impl Explanations {
    /// `cni` are the devices that CNI plugins have made, where the pod could be read.
    pub(crate) fn new(guest: &GuestSpec, cni: &[CniNic]) -> Self {
        Self {
            interfaces: nic::explain(guest, cni),
            devices: devices::explain(guest),
        }
    }

    /// A table for each.
    pub(crate) fn text(&self) -> String {
        nic::explanation_text(&self.interfaces) + &devices::explanation_text(&self.devices)
    }
}
