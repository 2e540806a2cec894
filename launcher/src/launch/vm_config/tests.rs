use hawser_linux::landlock::Allowed;
use hawser_netsetup::{CniDevice, CniNic, FamilyPlan, GuestNic, Joined, Masqueraded};

use serde_json::Value;

use super::*;
use crate::disks::ImageType;
use crate::pod::boot_source::KernelFiles;
use crate::spec::Mac;
use crate::vmm::config::take_late_nics;

const MANIFEST: &str = "
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: web}
spec:
  domain:
    cpu: {sockets: 1, cores: 2, threads: 2}
    memory: {guest: 256Mi}
    firmware:
      uuid: 5d307ca9-b3ef-428c-8861-06e72d69f223
      kernelBoot:
        container: {image: guest, kernelPath: /vmlinux, initrdPath: /initrd}
        kernelArgs: console=ttyS0 --api-socket=/x
    devices: {interfaces: [{name: default, masquerade: {}}]}
  networks: [{name: default, pod: {}}]
";

fn nic() -> GuestNic {
    GuestNic {
        name: "default".into(),
        pod_interface: "eth0".into(),
        queue_pairs: 4,
        guest_mac: Mac([0x02, 0x11, 0x22, 0x33, 0x44, 0x55]),
        mtu: 1450,
        joined: Joined::Masquerade(Masqueraded {
            tap: "tap0".into(),
            server_tap: "srv0".into(),
            v4: Some(FamilyPlan {
                network: "10.0.2.0/24".parse().unwrap(),
                gateway: "10.0.2.1".parse().unwrap(),
                guest: "10.0.2.2".parse().unwrap(),
                pod: "10.244.0.7".parse().unwrap(),
                resolver: None,
            }),
            v6: None,
        }),
    }
}

fn attachment() -> Attachment {
    Attachment {
        device: Device::Net(NetConfig::tap(&nic())),
        server: None,
        passt: None,
    }
}

fn kernel() -> Boot {
    Boot::Kernel(KernelFiles {
        kernel: "/guest/vmlinux".into(),
        initrd: Some("/guest/initrd".into()),
        cmdline: "console=ttyS0 --api-socket=/x".into(),
    })
}

fn drive(name: &str, boot_order: Option<u32>) -> Drive {
    Drive {
        name: name.into(),
        path: format!("/disks/{name}").into(),
        image_type: ImageType::Raw,
        base: None,
        readonly: false,
        direct: false,
        shared: false,
        serial: None,
        boot_order,
        boots: None,
        make: None,
    }
}

fn no_functions() -> PciFunctions {
    PciFunctions {
        vfs: Vec::new(),
        host: Vec::new(),
        access: Access::Group,
        nodes: Vec::new(),
    }
}

fn vm_config(guest: &GuestSpec, boot: &Boot, drives: &[Drive], attachments: &[Attachment]) -> VmConfig {
    let parts = Parts {
        guest,
        boot,
        cpus: None,
        drives,
        attachments,
        functions: &no_functions(),
        root_keys: &[],
        directory: Path::new("/run/vmm"),
    };
    parts.vm_config()
}

#[test]
fn the_configuration_of_a_masqueraded_guest() {
    let guest = crate::spec::load(MANIFEST).unwrap().spec;
    insta::assert_json_snapshot!(vm_config(&guest, &kernel(), &[], &[attachment()]));
}

#[test]
fn the_vmm_may_reach_what_this_plan_names_and_no_more() {
    let guest = crate::spec::load(MANIFEST).unwrap().spec;
    let readonly = Drive {
        readonly: true,
        ..drive("readonly", None)
    };
    let overlay = Drive {
        base: Some("/images/base".into()),
        make: Some(crate::disks::Make::Empty(512)),
        ..drive("overlay", None)
    };
    let functions = PciFunctions {
        nodes: vec!["/dev/vfio/vfio".into(), "/dev/vfio/7".into()],
        ..no_functions()
    };
    let parts = |attachments| {
        Parts {
            guest: &guest,
            boot: &kernel(),
            cpus: None,
            drives: &[readonly.clone(), overlay.clone()],
            attachments,
            functions: &functions,
            root_keys: &[],
            directory: Path::new("/run/vmm"),
        }
        .vmm_may(Path::new("/bin/vmm"))
    };
    let every = Allowed::program(Path::new("/bin/vmm"))
        .write("/dev/kvm")
        .read("/dev/urandom")
        .read("/sys/devices/system/cpu")
        .read("/run/vmm/migration-tls")
        .tcp_port(49153);
    let rest = |allowed: Allowed| {
        allowed
            .write("/dev/vfio/vfio")
            .write("/dev/vfio/7")
            .read("/guest/vmlinux")
            .read("/guest/initrd")
            .read_found("/disks/readonly")
            .write("/disks/overlay")
            .read_found("/images/base")
    };
    let with_tap = every
        .clone()
        .write("/dev/net/tun")
        .read("/sys/class/net")
        .read("/sys/devices/virtual/net");
    let tap = [attachment()];
    assert_eq!(parts(&tap), rest(with_tap));
    assert_eq!(parts(&[]), rest(every));
}

#[test]
fn each_vcpu_has_its_cpu() {
    let guest = crate::spec::load(MANIFEST).unwrap().spec;
    let pinning = Pinning {
        vcpus: vec![4, 12, 5, 13],
        rest: Some(6),
    };
    let parts = Parts {
        guest: &guest,
        boot: &kernel(),
        cpus: Some(&pinning),
        drives: &[],
        attachments: &[],
        functions: &no_functions(),
        root_keys: &[],
        directory: Path::new("/run/vmm"),
    };
    let cpus = serde_json::to_value(parts.vm_config()).unwrap()["cpus"].clone();
    assert_eq!(
        cpus["affinity"],
        serde_json::json!([
            {"vcpu": 0, "host_cpus": [4]}, {"vcpu": 1, "host_cpus": [12]},
            {"vcpu": 2, "host_cpus": [5]}, {"vcpu": 3, "host_cpus": [13]},
        ])
    );
}

#[test]
fn a_console_that_is_not_to_be_logged_is_written_nowhere() {
    for (field, mode) in [
        ("", "Tty"),
        ("logSerialConsole: false, ", "Tty"),
        ("autoattachSerialConsole: false, ", "Off"),
    ] {
        let text = MANIFEST.replace("devices: {", &format!("devices: {{{field}"));
        let guest = crate::spec::load(&text).unwrap().spec;
        let config = serde_json::to_value(vm_config(&guest, &kernel(), &[], &[attachment()])).unwrap();
        assert_eq!(config["serial"]["mode"], mode, "{field}");
    }
}

/// A guest with so many disks and these interfaces.
fn with_disks(count: usize, interfaces: &str) -> (GuestSpec, Vec<Drive>) {
    let volumes: Vec<_> = (0..count)
        .map(|n| format!("{{name: d{n}, emptyDisk: {{capacity: 1Mi}}}}"))
        .collect();
    let text = format!("{MANIFEST}  volumes: [{}]\n", volumes.join(", "));
    let text = text.replace("{name: default, masquerade: {}}", interfaces);
    let drives = (0..count).map(|n| drive(&format!("d{n}"), None)).collect();
    (crate::spec::load(&text).unwrap().spec, drives)
}

#[test]
fn disks_that_the_first_pci_segment_has_no_slots_for() {
    let segments = |count: usize, interfaces: &str| {
        let (guest, drives) = with_disks(count, interfaces);
        let config = serde_json::to_value(vm_config(&guest, &kernel(), &drives, &[attachment()])).unwrap();
        let disks = config["disks"].as_array().unwrap().clone();
        let of: Vec<_> = disks
            .iter()
            .map(|disk| disk["pci_segment"].as_u64().unwrap_or(0))
            .collect();
        let count = |wanted: u64| of.iter().filter(|segment| **segment == wanted).count();
        assert!(
            of.is_sorted(),
            "the first disks are those that the firmware finds"
        );
        (
            count(0),
            count(1),
            count(2),
            config["platform"]["num_pci_segments"].as_u64(),
        )
    };
    let plain = "{name: default, masquerade: {}}";
    assert_eq!(segments(27, plain), (27, 0, 0, None));
    assert_eq!(segments(28, plain), (27, 1, 0, Some(2)));
    assert_eq!(segments(60, plain), (27, 31, 2, Some(3)));
    let elsewhere = "{name: default, masquerade: {}, pciAddress: 0001:00:05.0}";
    assert_eq!(segments(60, elsewhere), (28, 30, 2, Some(3)));
}

#[test]
fn the_platform_is_named_as_the_release_names_it() {
    let (guest, _) = with_disks(0, "{name: default, masquerade: {}}");
    let mut config = serde_json::to_value(vm_config(&guest, &kernel(), &[], &[attachment()])).unwrap();
    let uuid = config["platform"]["system_uuid"].clone();
    assert!(uuid.is_string() && config["platform"].get("uuid").is_none());
    crate::vmm::config::with_names_of_52(&mut config);
    assert_eq!(config["platform"]["uuid"], uuid);
    assert!(config["platform"].get("system_uuid").is_none());
}

#[test]
fn a_device_for_panics() {
    let text = MANIFEST.replace("devices: {", "devices: {panicDevices: [{model: pvpanic}], ");
    let guest = crate::spec::load(&text).unwrap().spec;
    let config = serde_json::to_value(vm_config(&guest, &kernel(), &[], &[attachment()])).unwrap();
    assert_eq!(config["pvpanic"], true);
}

fn cni(name: &str, device: CniDevice) -> Attachment {
    let nic = CniNic {
        name: name.into(),
        interface: format!("tap-{name}"),
        device,
        queue_pairs: 2,
        guest_mac: Mac([2, 0, 0, 0, 0, 3]),
        mac: Mac([2, 0, 0, 0, 0, 3]),
        mtu: 1500,
    };
    Attachment {
        device: Device::Net(NetConfig::of_cni(&nic)),
        server: None,
        passt: None,
    }
}

#[test]
fn a_device_of_a_cni_plugin_keeps_its_mac_and_a_macvtap_has_no_name() {
    let guest = crate::spec::load(MANIFEST).unwrap().spec;
    let config = vm_config(
        &guest,
        &kernel(),
        &[],
        &[
            cni("red", CniDevice::Tap),
            cni("blue", CniDevice::Macvtap { index: 4 }),
        ],
    );
    insta::assert_json_snapshot!(config.net, @r#"
        [
          {
            "id": "red",
            "tap": "tap-red",
            "mac": "02:00:00:00:00:03",
            "num_queues": 4,
            "queue_size": 256
          },
          {
            "id": "blue",
            "mac": "02:00:00:00:00:03",
            "num_queues": 4,
            "queue_size": 256
          }
        ]
        "#);
    assert_eq!(config.landlock_rules.len(), 3);
    let config = vm_config(
        &guest,
        &kernel(),
        &[],
        &[cni("blue", CniDevice::Macvtap { index: 4 })],
    );
    assert_eq!(config.landlock_rules.len(), 1);
}

#[test]
fn nics_are_added_late_from_the_first_macvtap_on() {
    let guest = crate::spec::load(MANIFEST).unwrap().spec;
    let macvtap = |name| cni(name, CniDevice::Macvtap { index: 4 });
    let attachments = [
        attachment(),
        macvtap("blue"),
        cni("red", CniDevice::Tap),
        macvtap("last"),
    ];
    let config = vm_config(&guest, &kernel(), &[], &attachments);
    let ids = |nics: &[Value]| -> Vec<String> {
        nics.iter()
            .map(|nic| nic["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let mut value = serde_json::to_value(&config).unwrap();
    assert_eq!(take_late_nics(&mut value, &[]), [Value::Null; 0]);
    let late = take_late_nics(&mut value, &["blue".into(), "last".into()]);
    assert_eq!(ids(&late), ["blue", "red", "last"]);
    assert_eq!(ids(value["net"].as_array().unwrap()), ["default"]);
}

#[test]
fn memory_is_shared_with_who_serves_a_nic_from_it() {
    let guest = crate::spec::load(MANIFEST).unwrap().spec;
    let mut shared = attachment();
    let nic = nic();
    shared.device = Device::Net(NetConfig::vhost_user(
        &nic,
        Path::new("/run/hawser/vmm/passt.sock"),
    ));
    let config = serde_json::to_value(vm_config(&guest, &kernel(), &[], &[shared])).unwrap();
    assert_eq!(config["memory"]["shared"], true);
    assert_eq!(
        config["net"][0],
        serde_json::json!({"id": "default", "mac": "02:11:22:33:44:55", "vhost_user": true,
                "vhost_socket": "/run/hawser/vmm/passt.sock", "num_queues": 8, "queue_size": 256})
    );
    assert_eq!(
        config["landlock_rules"].as_array().unwrap().len(),
        1,
        "no TAP to look for"
    );
}

#[test]
fn a_nic_whose_backend_is_not_known_yet_may_come_to_have_a_tap() {
    let registry = crate::plugins::parse("proxy: {sidecarImage: i}", "FILE").unwrap();
    let manifest = MANIFEST.replace("masquerade: {}", "binding: {name: proxy}");
    let guest = crate::spec::load_with(&manifest, &registry).unwrap().spec;
    let sidecars = Attachment {
        device: Device::Net(NetConfig::without_backend("default", Mac([2, 0, 0, 0, 0, 1]))),
        server: None,
        passt: None,
    };
    let rules = vm_config(&guest, &kernel(), &[], &[sidecars]).landlock_rules;
    assert!(
        rules.iter().any(|rule| rule.path.ends_with("class/net")),
        "cloud-hypervisor could not look for the TAP: {rules:?}"
    );
}

#[test]
fn a_guest_without_a_nic_needs_no_sysfs() {
    let guest = crate::spec::load(MANIFEST).unwrap().spec;
    let config = vm_config(&guest, &kernel(), &[], &[]);
    assert!(config.net.is_empty() && config.landlock_rules.len() == 1);
    assert!(config.landlock_enable);
}

fn function(name: &str, at: Option<&str>, access: Access) -> Attachment {
    let at = at.map(|address| address.parse().unwrap());
    Attachment {
        device: Device::Vfio(DeviceConfig::function(
            name,
            "0000:01:10.0".parse().unwrap(),
            at,
            access,
        )),
        server: None,
        passt: None,
    }
}

#[test]
fn a_function_is_named_by_its_path_and_landlock_lets_its_nodes_be_opened() {
    let guest = crate::spec::load(MANIFEST).unwrap().spec;
    let attachments = [
        attachment(),
        function("red", None, Access::Group),
        function("blue", Some("0002:00:1f.0"), Access::Group),
    ];
    let config = serde_json::to_value(vm_config(&guest, &kernel(), &[], &attachments)).unwrap();
    insta::assert_json_snapshot!(serde_json::json!({
        "devices": config["devices"], "platform": config["platform"], "landlock_rules": config["landlock_rules"],
    }));
}

#[test]
fn by_iommufd_the_platform_says_so_and_every_device_may_be_read() {
    let guest = crate::spec::load(MANIFEST).unwrap().spec;
    let attachments = [function("red", Some("0000:00:04.0"), Access::Iommufd)];
    let config = serde_json::to_value(vm_config(&guest, &kernel(), &[], &attachments)).unwrap();
    insta::assert_json_snapshot!(serde_json::json!({
        "devices": config["devices"], "platform": config["platform"], "landlock_rules": config["landlock_rules"],
    }));
}

#[test]
fn a_guest_with_a_gpu_a_shared_file_system_and_a_virtio_socket() {
    let devices = "devices:
      autoattachVSOCK: true
      gpus: [{name: g, deviceName: x.io/gpu}]
      filesystems: [{name: data, virtiofs: {}}]
      interfaces:";
    let volumes = "  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]\n";
    let manifest = MANIFEST.replace("devices: {interfaces:", devices);
    let manifest = manifest.replace("masquerade: {}}]}", "masquerade: {}}]") + volumes;
    let guest = crate::spec::load(&manifest).unwrap().spec;
    let functions = PciFunctions {
        host: vec![crate::pod::pci::host_devices::HostFunction {
            name: "g".into(),
            kind: crate::spec::HostDeviceKind::Gpu,
            address: "0000:65:00.0".parse().unwrap(),
        }],
        ..no_functions()
    };
    let parts = Parts {
        guest: &guest,
        boot: &kernel(),
        cpus: None,
        drives: &[],
        attachments: &[attachment()],
        functions: &functions,
        root_keys: &[],
        directory: Path::new("/run/vmm"),
    };
    let config = serde_json::to_value(parts.vm_config()).unwrap();
    insta::assert_json_snapshot!(serde_json::json!({
        "memory": config["memory"], "devices": config["devices"], "fs": config["fs"], "vsock": config["vsock"],
        "landlock_rules": config["landlock_rules"],
    }));
    assert!(config["disks"].is_null(), "a shared volume is no disk");
}

#[test]
fn a_guest_that_boots_from_its_disks_in_their_order() {
    let mut guest = crate::spec::load(MANIFEST).unwrap().spec;
    guest.block_multi_queue = true;
    let overlay = Drive {
        image_type: ImageType::Qcow2,
        base: Some("/images/root/disk/root.img".into()),
        direct: true,
        shared: false,
        serial: Some("S1".into()),
        ..drive("root", Some(1))
    };
    let seed = Drive {
        readonly: true,
        ..drive("seed", None)
    };
    let drives = [drive("data", None), drive("second", Some(2)), seed, overlay];
    let boot = Boot::Firmware("/fw/CLOUDHV.fd".into());
    insta::assert_json_snapshot!(vm_config(&guest, &boot, &drives, &[]));
}
