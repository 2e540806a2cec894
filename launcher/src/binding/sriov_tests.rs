use super::*;
use crate::spec::GuestSpec;

fn guest(red: &str) -> GuestSpec {
    let manifest = format!(
        "{{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {{name: web}}, spec: {{domain: {{
        memory: {{guest: 256Mi}}, firmware: {{kernelBoot: {{container: {{image: g, kernelPath: /k}}}}}}, devices: {{
        interfaces: [{{name: default, masquerade: {{}}}}, {{name: red, sriov: {{}}{red}}}]}}}},
        networks: [{{name: default, pod: {{}}}}, {{name: red, multus: {{networkName: sriov}}}}]}}}}"
    );
    crate::spec::load(&manifest).unwrap().spec
}

#[test]
fn what_cannot_be_heeded_is_refused_by_its_field() {
    let guest = |more: &str| {
        let guest = guest(more);
        refusals(&guest.interfaces[1])
    };
    let path = "spec.domain.devices.interfaces[1]";
    assert_eq!(
        guest(", acpiIndex: 3, bootOrder: 1, dhcpOptions: {ntpServers: [192.0.2.1]}"),
        [
            format!("{path}.acpiIndex: not supported: cloud-hypervisor gives NICs no ACPI index"),
            format!("{path}.bootOrder: not supported: cloud-hypervisor boots from no VF"),
            format!(
                "{path}.dhcpOptions: not possible on SR-IOV: the VF's network has its own server, or none"
            ),
        ]
    );
    assert_eq!(guest(", pciAddress: '0000:81:00.0'").len(), 1);
}
