//! Wishes for an interface that its binding or cloud-hypervisor cannot fulfil. Each is refused by its field.

use crate::document::report::{FieldPath, Report};
use crate::guest::{Binding, DhcpOptions, Interface, LinkState, PciAddress};
use crate::plugins::DomainAttachment;

/// The most PCI segments that cloud-hypervisor has.
const PCI_SEGMENTS: u16 = 96;
/// passt's own hardware address, which the guest sees as the source of everything.
const PASST_MAC: [u8; 6] = [0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55];

pub(super) fn check(interface: &Interface, path: &FieldPath, report: &mut Report) {
    // The guest has no such NIC.
    if interface.state == LinkState::Absent {
        return;
    }
    if interface.acpi_index.is_some() {
        report.refuse(
            path.key("acpiIndex"),
            "not supported: cloud-hypervisor gives NICs no ACPI index",
        );
    }
    if let Some(problem) = interface.pci_address.and_then(no_such_slot) {
        report.refuse(path.key("pciAddress"), problem);
    }
    match &interface.binding {
        _ if interface.state == LinkState::Down => check_down(interface, path, report),
        Binding::Masquerade | Binding::Bridge => {}
        Binding::Passt => check_passt(interface, path, report),
        Binding::Sriov => check_sriov(interface, path, report),
        Binding::Plugin { plugin, .. } => {
            if plugin.domain_attachment_type.is_some() && interface.dhcp_options != DhcpOptions::default() {
                report.refuse(
                    path.key("dhcpOptions"),
                    "hawser serves no DHCP to a NIC of a binding plugin",
                );
            }
        }
    }
}

/// Why the guest's PCI has no such address: cloud-hypervisor has one bus a segment, and one function a slot.
fn no_such_slot(wanted: PciAddress) -> Option<String> {
    if wanted.bus != 0 || wanted.function != 0 {
        return Some(format!(
            "cloud-hypervisor has bus 00 and function 0 alone, found {wanted}"
        ));
    }
    if wanted.domain >= PCI_SEGMENTS {
        return Some(format!(
            "cloud-hypervisor has domains up to {:04x}",
            PCI_SEGMENTS - 1
        ));
    }
    (wanted.slot == 0).then(|| format!("slot 00 is the host bridge's, found {wanted}"))
}

/// Only a device that hawser makes can be one on which no frame passes.
fn check_down(interface: &Interface, path: &FieldPath, report: &mut Report) {
    if let Binding::Plugin { name, plugin } = &interface.binding
        && plugin.domain_attachment_type != Some(DomainAttachment::ManagedTap)
    {
        report.refuse(
            path.key("state"),
            format!("down is not possible here: the NIC's device is that of the plugin {name}"),
        );
    }
}

/// passt has a DHCP server of its own, with fewer options.
fn check_passt(interface: &Interface, path: &FieldPath, report: &mut Report) {
    let options = &interface.dhcp_options;
    let given = [
        ("ntpServers", !options.ntp_servers.is_empty()),
        ("tftpServerName", options.tftp_server_name.is_some()),
        ("bootFileName", options.boot_file_name.is_some()),
        ("privateOptions", !options.private_options.is_empty()),
    ];
    for (field, _) in given.into_iter().filter(|(_, is_given)| *is_given) {
        report.refuse(
            path.key("dhcpOptions").key(field),
            "not with passt, whose DHCP server has no such option: use masquerade or bridge",
        );
    }
    if interface.mac.is_some_and(|mac| mac.0 == PASST_MAC) {
        report.refuse(path.key("macAddress"), "passt's own, found 9a:55:9a:55:9a:55");
    }
}

fn check_sriov(interface: &Interface, path: &FieldPath, report: &mut Report) {
    if interface.boot_order.is_some() {
        report.refuse(
            path.key("bootOrder"),
            "not supported: cloud-hypervisor boots from no VF",
        );
    }
    if interface.dhcp_options != DhcpOptions::default() {
        report.refuse(
            path.key("dhcpOptions"),
            "not possible on SR-IOV: the VF's network has its own server, or none",
        );
    }
}
