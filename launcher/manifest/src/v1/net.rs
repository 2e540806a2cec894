//! Interfaces and networks as written, in KubeVirt's full syntax.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::document::fields::{Empty, List, fields};

fields! {
    Interface {
        #[schemars(required)] name: Option<String>,
        model: Option<Model>,
        masquerade: Option<Empty>,
        bridge: Option<Empty>,
        passt: Option<Empty>,
        // KubeVirt's newer name of the same binding.
        passt_binding: Option<Empty>,
        sriov: Option<Empty>,
        binding: Option<PluginBinding>,
        ports: Option<List<Port>>,
        port_ranges: Option<List<PortRange>>,
        mac_address: Option<String>,
        #[schemars(range(min = 1))] boot_order: Option<u32>,
        pci_address: Option<String>,
        dhcp_options: Option<DhcpOptions>,
        tag: Option<String>,
        acpi_index: Option<u32>,
        state: Option<State>,
    } accepted {}
}

/// The models that KubeVirt knows. cloud-hypervisor has virtio only, so the others become that, with a warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Model {
    Virtio,
    E1000,
    E1000e,
    #[serde(rename = "ne2k_pci")]
    Ne2kPci,
    Pcnet,
    Rtl8139,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Up,
    Down,
    Absent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

fields! {
    PluginBinding {
        #[schemars(required)] name: Option<String>,
    } accepted {}
}

fields! {
    Port {
        name: Option<String>,
        protocol: Option<Protocol>,
        #[schemars(required, range(min = 1, max = 65535))] port: Option<u16>,
    } accepted {}
}

fields! {
    PortRange {
        protocol: Option<Protocol>,
        #[schemars(required, range(min = 1, max = 65535))] start: Option<u16>,
        #[schemars(required, range(min = 1, max = 65535))] end: Option<u16>,
    } accepted {}
}

fields! {
    DhcpOptions {
        boot_file_name: Option<String>,
        tftp_server_name: Option<String>,
        #[serde(default)] ntp_servers: List<String>,
        #[serde(default)] private_options: List<PrivateOption>,
    } accepted {}
}

fields! {
    PrivateOption {
        #[schemars(required, range(min = 224, max = 254))] option: Option<u8>,
        #[schemars(required)] value: Option<String>,
    } accepted {}
}

fields! {
    Network {
        #[schemars(required)] name: Option<String>,
        pod: Option<PodNetwork>,
        multus: Option<MultusNetwork>,
        resource_claim: Option<ClaimRequest>,
    } accepted {}
}

fields! {
    ClaimRequest {
        #[schemars(required)] claim_name: Option<String>,
        #[schemars(required)] request_name: Option<String>,
    } accepted {}
}

fields! {
    /// The pod's own entry of the same name has the claim in it.
    ResourceClaim {
        #[schemars(required)] name: Option<String>,
        resource_claim_name: Option<String>,
        resource_claim_template_name: Option<String>,
    } accepted {}
}

fields! {
    PodNetwork {
        #[serde(rename = "vmNetworkCIDR")] vm_network_cidr: Option<String>,
        #[serde(rename = "vmIPv6NetworkCIDR")] vm_ipv6_network_cidr: Option<String>,
    } accepted {}
}

fields! {
    MultusNetwork {
        #[schemars(required)] network_name: Option<String>,
        #[serde(default)] default: bool,
    } accepted {}
}
