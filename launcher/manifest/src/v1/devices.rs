//! Devices besides NICs and disks, as written, in KubeVirt's syntax.

use serde::Deserialize;

use crate::document::fields::{Empty, fields};

fields! {
    /// A device of the node's, whatever it is. By a device plugin's resource, or by a claim.
    HostDevice {
        #[schemars(required)] name: Option<String>,
        device_name: Option<String>,
        claim_name: Option<String>,
        request_name: Option<String>,
    } accepted {}
}

fields! {
    Filesystem {
        #[schemars(required)] name: Option<String>,
        #[schemars(required)] virtiofs: Option<Empty>,
    } accepted {}
}

fields! {
    /// There is none, but it may be named and be off.
    Tpm {
        enabled: Option<bool>,
        persistent: Option<bool>,
    } accepted {}
}

fields! {
    /// By which the guest's kernel says that it has panicked.
    PanicDevice {
        model: Option<PanicModel>,
    } accepted {}
}

/// The models that KubeVirt knows. cloud-hypervisor has pvpanic on PCI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PanicModel {
    Hyperv,
    Isa,
    Pvpanic,
}

/// What the cluster has made of the instance. Whatever else is in there cannot matter here.
#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
pub(crate) struct Status {
    /// 0 to 2 and the highest are reserved (vsock(7)).
    #[serde(rename = "VSOCKCID")]
    #[schemars(range(min = 3, max = 0xffff_fffe_u32))]
    pub(crate) vsock_cid: Option<u32>,
}
