use super::*;
use crate::plugins;

const BINDINGS: &str = "
device: {domainAttachmentType: tap}
managed: {domainAttachmentType: managedTap}
proxy: {sidecarImage: i}
";

#[test]
fn the_table() {
    let registry = plugins::parse(BINDINGS, "FILE").unwrap();
    let row = |written: &str| {
        // A VF is on no pod network.
        let source = if written.contains("sriov") {
            "multus: {networkName: b}"
        } else {
            "pod: {}"
        };
        let manifest = format!(
                "{{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {{name: web}},
                  spec: {{domain: {{memory: {{guest: 256Mi}}, firmware: {{kernelBoot: {{container: {{image: x, kernelPath: /k}}}}}},
                    devices: {{interfaces: [{{name: b, {written}}}]}}}}, networks: [{{name: b, {source}}}]}}}}"
            );
        let loaded = crate::spec::load_with(&manifest, &registry);
        let guest = loaded.unwrap_or_else(|refusals| panic!("{refusals}")).spec;
        let interface = &guest.interfaces[0];
        let kind = Kind::of(interface);
        format!(
            "{:<30} {:<16} tap {:<5} pod interface {:<9} wired {:<5} daemon {:?}",
            written,
            kind.label(interface),
            kind.needs_tap,
            format!("{:?}", kind.pod_interface),
            kind.is_wired(),
            kind.daemon,
        )
    };
    let rows = [
        "masquerade: {}",
        "bridge: {}",
        "passt: {}",
        "sriov: {}",
        "binding: {name: device}",
        "binding: {name: managed}",
        "binding: {name: proxy}",
        "passt: {}, state: down",
    ];
    let table: Vec<_> = rows.into_iter().map(row).collect();
    insta::assert_snapshot!(table.join("\n"), @r"
    masquerade: {}                 masquerade       tap true  pod interface Wanted    wired true  daemon None
    bridge: {}                     bridge           tap true  pod interface Wanted    wired true  daemon None
    passt: {}                      passt            tap false pod interface Wanted    wired true  daemon Some(Passt)
    sriov: {}                      sriov            tap false pod interface None      wired false daemon None
    binding: {name: device}        plugin device    tap true  pod interface MadeByCni wired false daemon None
    binding: {name: managed}       plugin managed   tap true  pod interface Wanted    wired true  daemon None
    binding: {name: proxy}         plugin proxy     tap true  pod interface None      wired false daemon None
    passt: {}, state: down         link down        tap true  pod interface Wanted    wired true  daemon None
    ");
}
