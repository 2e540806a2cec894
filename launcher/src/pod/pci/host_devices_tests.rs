use super::*;

fn devices(list: &[(HostDeviceKind, &str, HostDeviceSource)]) -> Vec<HostDevice> {
    let device =
        |(index, (kind, name, source)): (usize, &(HostDeviceKind, &str, HostDeviceSource))| HostDevice {
            path: format!("spec.domain.devices.hostDevices[{index}]"),
            name: (*name).to_owned(),
            kind: *kind,
            source: source.clone(),
        };
    list.iter().enumerate().map(device).collect()
}

fn of(resource: &str) -> HostDeviceSource {
    HostDeviceSource::Resource(resource.to_owned())
}

fn claim(request: &str) -> HostDeviceSource {
    HostDeviceSource::Claim(Claim {
        name: "devices".into(),
        request: request.into(),
        existing: None,
    })
}

fn vf(address: &str) -> Vf {
    Vf {
        name: "red".into(),
        address: address.parse().unwrap(),
        guest_address: None,
        mac: None,
        mtu: None,
    }
}

/// Each request is the function of that number.
fn find(
    list: &[(HostDeviceKind, &str, HostDeviceSource)],
    vfs: &[Vf],
    variables: &[(&str, &str)],
) -> Result<Vec<String>, Failure> {
    let pairs = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let resources = Resources::parse(pairs).unwrap();
    let claimed = |claim: &Claim| Ok(format!("0000:05:00.{}", claim.request).parse().unwrap());
    let found = choose(&devices(list), vfs, &resources, claimed)?;
    Ok(found.iter().map(HostFunction::to_string).collect())
}

use HostDeviceKind::{Gpu, HostDevice as Other};

#[test]
fn devices_of_one_resource_come_in_the_manifests_order_and_never_twice() {
    let list = [
        (Gpu, "a", of("x.io/gpu")),
        (Gpu, "b", of("x.io/gpu")),
        (Other, "c", of("x.io/gpu")),
    ];
    let variables = [(
        "PCI_RESOURCE_X_IO_GPU",
        "0000:65:00.0,0000:17:00.0,0000:18:00.0,0000:19:00.0",
    )];
    assert_eq!(
        find(&list, &[], &variables).unwrap(),
        [
            "GPU a: the function 0000:65:00.0",
            "GPU b: the function 0000:17:00.0",
            "host device c: the function 0000:18:00.0"
        ]
    );
    let failure = find(
        &list,
        &[],
        &[("PCI_RESOURCE_X_IO_GPU", "0000:65:00.0,0000:17:00.0")],
    )
    .unwrap_err();
    assert_eq!(failure.code(), crate::ExitCode::PodUnfit);
    assert_eq!(
        failure.to_string().lines().next().unwrap(),
        "hawser: spec.domain.devices.hostDevices[2].deviceName: PCI_RESOURCE_X_IO_GPU has no function that is free: \
         0000:65:00.0 is that of GPU a, 0000:17:00.0 is that of GPU b"
    );
}

#[test]
fn what_a_network_or_a_claim_has_is_passed_over() {
    let list = [(Other, "a", of("x.io/vf")), (Other, "b", claim("1"))];
    let variables = [("PCIDEVICE_X_IO_VF", "0000:05:00.0,0000:05:00.1,0000:05:00.2")];
    assert_eq!(
        find(&list, &[vf("0000:05:00.0")], &variables).unwrap(),
        [
            "host device a: the function 0000:05:00.2",
            "host device b: the function 0000:05:00.1"
        ]
    );
    let failure = find(&[(Gpu, "g", claim("0"))], &[vf("0000:05:00.0")], &[]).unwrap_err();
    assert!(
        failure
            .to_string()
            .contains("the claim's device 0000:05:00.0 is that of interface red already"),
        "{failure}"
    );
}

#[test]
fn what_is_no_function_is_refused_by_its_field_with_the_reason() {
    let one = |resource: &str, variables: &[(&str, &str)]| {
        let failure = find(&[(Gpu, "g", of(resource))], &[], variables).unwrap_err();
        assert_eq!(failure.code(), crate::ExitCode::PodUnfit);
        let text = failure.to_string();
        assert!(
            text.starts_with("hawser: spec.domain.devices.hostDevices[0].deviceName: "),
            "{text}"
        );
        text
    };
    let text = one("x.io/vgpu", &[("MDEV_PCI_RESOURCE_X_IO_VGPU", "6a1d0f68")]);
    assert!(
        text.contains("a mediated device (MDEV_PCI_RESOURCE_X_IO_VGPU): not supported"),
        "{text}"
    );
    let text = one("x.io/stick", &[("USB_RESOURCE_X_IO_STICK", "1:2")]);
    assert!(text.contains("cloud-hypervisor has no USB"), "{text}");
    let text = one("x.io/gpu", &[("PCI_RESOURCE_OTHER", "0000:65:00.0")]);
    assert!(
        text.contains("no device of x.io/gpu: PCI_RESOURCE_X_IO_GPU and PCIDEVICE_X_IO_GPU are not set"),
        "{text}"
    );
    let text = one("x.io/gpu", &[("PCI_RESOURCE_X_IO_GPU", "")]);
    assert!(text.contains("has no function that is free: none"), "{text}");
}
