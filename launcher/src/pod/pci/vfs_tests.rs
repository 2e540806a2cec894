use std::path::Path;

use super::*;
use crate::nic::with_vf;

/// `red` and `blue` are VFs, `default` is masquerade.
fn guest(red: &str) -> GuestSpec {
    let manifest = format!(
        "{{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {{name: web}}, spec: {{domain: {{
        memory: {{guest: 256Mi}}, firmware: {{kernelBoot: {{container: {{image: g, kernelPath: /k}}}}}}, devices: {{
        interfaces: [{{name: default, masquerade: {{}}}}, {{name: red, sriov: {{}}{red}}}, {{name: blue, sriov: {{}}}}]}}}},
        networks: [{{name: default, pod: {{}}}}, {{name: red, multus: {{networkName: sriov}}}},
          {{name: blue, multus: {{networkName: sriov}}}}]}}}}"
    );
    crate::spec::load(&manifest).unwrap().spec
}

fn resources(variables: &[(&str, &str)]) -> Resources {
    let pairs = variables
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()));
    Resources::parse(pairs).unwrap()
}

fn no_claim(_: &Claim) -> Result<PciAddress, Failure> {
    Err(Failure::unfit("no claim", ""))
}

fn choice(
    guest: &GuestSpec,
    status: Option<&str>,
    variables: &[(&str, &str)],
) -> Result<Vec<String>, Failure> {
    let networks = status.map(|text| PodNetworks::parse(text, Path::new("/status")).unwrap());
    let (vfs, _) = choose(
        guest,
        &with_vf(guest),
        networks.as_ref(),
        &resources(variables),
        no_claim,
    )?;
    Ok(vfs
        .iter()
        .map(|vf| format!("{} {}", vf.name, vf.address))
        .collect())
}

fn refusal(guest: &GuestSpec, status: Option<&str>, variables: &[(&str, &str)]) -> String {
    let failure = choice(guest, status, variables).unwrap_err();
    assert_eq!(failure.code(), ExitCode::PodUnfit);
    let text = failure.to_string();
    assert!(text.contains("\n  remedy: "), "{text}");
    text.lines().next().unwrap_or_default().to_owned()
}

const RED: &str = r#"{"network": "red", "mac": "02:00:00:00:00:01", "mtu": 9000, "deviceInfo": {"pci": {"pci-address": "0000:01:10.2"}}}"#;
const BLUE: &str = r#"{"network": "blue", "deviceInfo": {"pci": {"pci-address": "0000:01:10.0"}}}"#;

fn info(entries: &[&str]) -> String {
    format!("{{\"interfaces\": [{}]}}", entries.join(","))
}

#[test]
fn what_the_status_says_comes_before_the_variables() {
    let guest = guest("");
    let both = info(&[RED, BLUE]);
    let expected = ["red 0000:01:10.2", "blue 0000:01:10.0"];
    assert_eq!(choice(&guest, Some(&both), &[]).unwrap(), expected);
    let variables = [("PCIDEVICE_A", "0000:01:10.0,0000:01:10.2")];
    assert_eq!(choice(&guest, Some(&both), &variables).unwrap(), expected);
    // The one that is left over.
    assert_eq!(choice(&guest, Some(&info(&[RED])), &variables).unwrap(), expected);
}

#[test]
fn two_networks_of_one_resource_take_its_vfs_in_order() {
    let guest = guest("");
    let variables = [
        ("PCIDEVICE_A", "0000:01:10.2,0000:01:10.0"),
        ("PCIDEVICE_A_INFO", "{}"),
    ];
    let expected = ["red 0000:01:10.2", "blue 0000:01:10.0"];
    assert_eq!(choice(&guest, None, &variables).unwrap(), expected);
}

#[test]
fn each_network_of_the_resource_that_is_named_for_it() {
    let guest = guest("");
    let variables = [
        ("PCIDEVICE_EXAMPLE_COM_A", "0000:01:10.0"),
        ("PCIDEVICE_EXAMPLE_COM_B", "0000:01:10.2"),
        ("KUBEVIRT_RESOURCE_NAME_red", "example.com/b"),
        ("KUBEVIRT_RESOURCE_NAME_blue", "example.com/a"),
    ];
    let expected = ["red 0000:01:10.2", "blue 0000:01:10.0"];
    assert_eq!(choice(&guest, None, &variables).unwrap(), expected);
}

#[test]
fn what_is_ambiguous_names_the_candidates() {
    let guest = guest("");
    assert_eq!(
        refusal(&guest, None, &[]),
        "hawser: spec.networks[1]: cannot determine the VF of network red in this pod"
    );
    assert_eq!(
        refusal(
            &guest,
            None,
            &[
                ("PCIDEVICE_A", "0000:01:10.0"),
                ("PCIDEVICE_B", "0000:01:10.2,0000:01:10.4")
            ]
        ),
        "hawser: spec.networks[1]: network red may have a VF of any of PCIDEVICE_A=0000:01:10.0 \
         PCIDEVICE_B=0000:01:10.2,0000:01:10.4"
    );
    assert_eq!(
        refusal(
            &guest,
            None,
            &[("PCIDEVICE_A", "0000:01:10.0,0000:01:10.2,0000:01:10.4")]
        ),
        "hawser: networks red, blue: of the resource A there are 3 VFs for 2: 0000:01:10.0,0000:01:10.2,0000:01:10.4"
    );
    assert_eq!(
        refusal(&guest, None, &[("PCIDEVICE_A", "0000:01:10.0")]),
        "hawser: networks red, blue: of the resource A there are 1 VFs for 2: 0000:01:10.0"
    );
    let twice = info(&[RED, &BLUE.replace("10.0", "10.2")]);
    assert_eq!(
        refusal(&guest, Some(&twice), &[]),
        "hawser: spec.networks[2]: network blue has the VF 0000:01:10.2, and so has red"
    );
}

#[test]
fn a_claims_device_is_the_claims() {
    let manifest =
        "{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {name: web}, spec: {domain: {
        memory: {guest: 256Mi}, firmware: {kernelBoot: {container: {image: g, kernelPath: /k}}}, devices: {
        interfaces: [{name: red, sriov: {}}]}}, resourceClaims: [{name: nets, resourceClaimTemplateName: t}],
        networks: [{name: red, resourceClaim: {claimName: nets, requestName: vf}}]}}";
    let guest = crate::spec::load(manifest).unwrap().spec;
    let claimed = |claim: &Claim| {
        assert_eq!((claim.name.as_str(), claim.request.as_str()), ("nets", "vf"));
        Ok("0000:01:10.6".parse().unwrap())
    };
    let (vfs, _) = choose(&guest, &with_vf(&guest), None, &resources(&[]), claimed).unwrap();
    assert_eq!(vfs[0].address.to_string(), "0000:01:10.6");
    let failure = choose(
        &guest,
        &with_vf(&guest),
        None,
        &resources(&[("PCIDEVICE_A", "0000:01:10.0")]),
        no_claim,
    )
    .unwrap_err();
    assert!(failure.to_string().contains("no claim"));
}

#[test]
fn a_mac_is_compared_with_what_was_set_on_the_physical_function() {
    let both = info(&[RED, BLUE]);
    let same = guest(", macAddress: '02:00:00:00:00:01'");
    assert!(choice(&same, Some(&both), &[]).is_ok());
    let other = guest(", macAddress: '02:00:00:00:00:09'");
    assert_eq!(
        refusal(&other, Some(&both), &[]),
        "hawser: spec.domain.devices.interfaces[1].macAddress: 02:00:00:00:00:09 is wanted, but the VF 0000:01:10.2 has \
         02:00:00:00:00:01"
    );
    let variables = resources(&[("PCIDEVICE_A", "0000:01:10.2,0000:01:10.0")]);
    let (vfs, notes) = choose(&other, &with_vf(&other), None, &variables, no_claim).unwrap();
    assert_eq!((vfs.len(), notes.len()), (2, 1), "{notes:?}");
    assert!(
        notes[0].starts_with("spec.domain.devices.interfaces[1].macAddress: 02:00:00:00:00:09 is wanted")
    );
    let networks = PodNetworks::parse(&both, Path::new("/status")).unwrap();
    let (vfs, notes) = choose(&same, &with_vf(&same), Some(&networks), &resources(&[]), no_claim).unwrap();
    assert_eq!((vfs[0].mtu, vfs[1].mtu), (Some(9000), None));
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn a_vf_is_shown_with_what_is_known_of_it() {
    let both = info(&[RED, BLUE]);
    let networks = PodNetworks::parse(&both, Path::new("/status")).unwrap();
    let (vfs, _) = choose(
        &guest(""),
        &with_vf(&guest("")),
        Some(&networks),
        &resources(&[]),
        no_claim,
    )
    .unwrap();
    let shown: Vec<_> = vfs.iter().map(Vf::to_string).collect();
    assert_eq!(
        shown,
        [
            "red: the VF 0000:01:10.2, MAC 02:00:00:00:00:01, MTU 9000",
            "blue: the VF 0000:01:10.0, MAC not known here, MTU not known here",
        ]
    );
    let spec = guest("");
    let text = crate::nic::explanation_text(&crate::nic::explain(&spec, &[]));
    assert!(text.contains("interface red: sriov on a VF\n"), "{text}");
    assert!(
        text.contains("can migrate  yes: hawser unplugs the VF before the migration"),
        "{text}"
    );
}
