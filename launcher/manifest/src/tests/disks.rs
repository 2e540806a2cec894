//! Disks and volumes that are accepted, and what becomes of them.

use serde_json::{Value, json};

use super::{accepted, load};
use crate::*;

const VOLUMES: &str = "/spec/volumes";
const DISKS: &str = "/spec/domain/devices/disks";

fn one(source: Value) -> Disk {
    let mut volume = json!({"name": "a"});
    volume
        .as_object_mut()
        .unwrap()
        .extend(source.as_object().unwrap().clone());
    let loaded = accepted(&[(VOLUMES, json!([volume]))]);
    assert_eq!(loaded.warnings, []);
    let [disk] = loaded.spec.disks.as_slice() else {
        panic!()
    };
    disk.clone()
}

#[test]
fn the_shape_of_kubevirts_examples_boots_by_uefi_with_a_note() {
    let text = include_str!("../testdata/disks.yaml").replace("SECOND", "bridge");
    let Loaded { spec, warnings, .. } = load(&text).unwrap();
    let [note] = warnings.as_slice() else {
        panic!("{warnings:?}")
    };
    assert_eq!(
        note.to_string(),
        "spec.domain.firmware: no bootloader is named: the guest boots by UEFI, since cloud-hypervisor has no BIOS"
    );
    assert_eq!(spec.kernel_boot, None);
    let [root, seed] = spec.disks.as_slice() else {
        panic!("{:?}", spec.disks)
    };
    assert_eq!(
        (root.name.as_str(), root.path.as_str()),
        ("root", "spec.domain.devices.disks[0]")
    );
    // No disk names it, and it gets one all the same.
    assert_eq!(
        (seed.name.as_str(), seed.path.as_str()),
        ("cloudinit", "spec.volumes[1]")
    );
    assert_eq!(seed.volume.path, "spec.volumes[1].cloudInitNoCloud");
    assert!(seed.readonly && !root.readonly);
}

#[test]
fn every_source() {
    let files = |label: &str, optional| VolumeSource::Files {
        optional,
        label: VolumeLabel::new(label).unwrap(),
    };
    let claim = |name: &str| VolumeSource::Claim { name: name.into() };
    let cases = [
        (
            json!({"containerDisk": {"image": "i", "path": "/disk/a.img", "imagePullPolicy": "Always"}}),
            VolumeSource::ContainerDisk {
                image: "i".into(),
                path: Some("/disk/a.img".into()),
            },
            false,
        ),
        (
            json!({"hostDisk": {"path": "/data/x/disk.img", "type": "Disk"}}),
            VolumeSource::HostDisk {
                file: "disk.img".into(),
                create: None,
            },
            false,
        ),
        (
            json!({"hostDisk": {"path": "/data/new.img", "type": "DiskOrCreate", "capacity": "1000"}}),
            VolumeSource::HostDisk {
                file: "new.img".into(),
                create: Some(1024),
            },
            false,
        ),
        (
            json!({"persistentVolumeClaim": {"claimName": "c"}}),
            claim("c"),
            false,
        ),
        (
            json!({"persistentVolumeClaim": {"claimName": "c", "readOnly": true}}),
            claim("c"),
            true,
        ),
        (json!({"dataVolume": {"name": "d"}}), claim("d"), false),
        (
            json!({"emptyDisk": {"capacity": "2Gi"}}),
            VolumeSource::EmptyDisk { capacity: 2 << 30 },
            false,
        ),
        (
            json!({"ephemeral": {"persistentVolumeClaim": {"claimName": "e"}}}),
            VolumeSource::Ephemeral { name: "e".into() },
            false,
        ),
        (json!({"configMap": {"name": "m"}}), files("cfgdata", false), true),
        (
            json!({"secret": {"secretName": "s", "optional": true, "volumeLabel": "keys"}}),
            files("keys", true),
            true,
        ),
        (
            json!({"serviceAccount": {"serviceAccountName": "a"}}),
            files("cfgdata", false),
            true,
        ),
        (
            json!({"downwardAPI": {"fields": [{"path": "labels"}]}}),
            files("cfgdata", false),
            true,
        ),
    ];
    for (written, source, readonly) in cases {
        let disk = one(written);
        assert_eq!((&disk.volume.source, disk.readonly), (&source, readonly));
    }
}

#[test]
fn cloud_init_data_from_each_place() {
    let seed = |written: Value| match one(written).volume.source {
        VolumeSource::CloudInit(seed) => seed,
        other => panic!("{other:?}"),
    };
    let text = |text: &str| Some(SeedData::Inline(Text(text.into())));
    let secret = |name: &str| Some(SeedData::Secret { name: name.into() });
    let plain = seed(
        json!({"cloudInitNoCloud": {"userData": "#cloud-config", "networkDataBase64": "dmVyc2lvbjogMg==\n"}}),
    );
    assert_eq!(
        (plain.user_data, plain.network_data),
        (text("#cloud-config"), text("version: 2"))
    );
    assert_eq!(plain.source, CloudInitSource::NoCloud);
    let secrets = json!({"secretRef": {"name": "s"}, "networkDataSecretRef": {"name": "n"}});
    let secrets = seed(json!({"cloudInitConfigDrive": secrets}));
    assert_eq!(
        (secrets.user_data, secrets.network_data),
        (secret("s"), secret("n"))
    );
    assert_eq!(secrets.source, CloudInitSource::ConfigDrive);
    let only = seed(json!({"cloudInitNoCloud": {"networkData": "v"}}));
    assert_eq!((only.user_data, only.network_data), (None, text("v")));
}

#[test]
fn user_data_is_shown_by_nobody() {
    let disk = one(json!({"cloudInitNoCloud": {"userData": "password: sesame"}}));
    let shown = format!("{disk:?} {}", serde_json::to_string(&disk).unwrap());
    assert!(!shown.contains("sesame") && shown.contains("16 bytes"), "{shown}");
}

#[test]
fn every_field_of_a_disk() {
    let volumes = json!([
        {"name": "root", "containerDisk": {"image": "i"}}, {"name": "data", "emptyDisk": {"capacity": "1Gi"}},
        {"name": "cd", "containerDisk": {"image": "c"}}, {"name": "writable", "containerDisk": {"image": "w"}},
    ]);
    let disks = json!([
        {"name": "root", "bootOrder": 2, "cache": "none", "io": "native", "errorPolicy": "report",
         "dedicatedIOThread": true, "shareable": false, "blockSize": {"matchVolume": {"enabled": true}},
         "serial": "0123456789.abcdefghi-JKL", "disk": {"bus": "virtio"}},
        {"name": "data", "cache": "writeback", "disk": {"bus": "scsi", "readonly": true}},
        {"name": "cd", "cdrom": {"bus": "sata", "tray": "closed"}},
        {"name": "writable", "bootOrder": 1, "cdrom": {"readonly": false}},
    ]);
    let loaded = accepted(&[
        (VOLUMES, volumes),
        (DISKS, disks),
        ("/spec/domain/devices/blockMultiQueue", json!(true)),
    ]);
    let notes: Vec<_> = loaded
        .warnings
        .iter()
        .map(|note| note.path.trim_start_matches("spec.domain.devices."))
        .collect();
    assert_eq!(
        notes,
        [
            "disks[0].serial",
            "disks[1].disk.bus",
            "disks[2].cdrom",
            "disks[3].cdrom",
            "blockMultiQueue"
        ]
    );
    assert!(loaded.spec.block_multi_queue);
    let [root, data, cd, writable] = loaded.spec.disks.as_slice() else {
        panic!()
    };
    assert_eq!(
        (root.serial.as_deref(), root.boot_order, root.direct),
        (Some("0123456789.abcdefghi"), Some(2), true)
    );
    assert!(data.readonly && !data.direct && cd.readonly && !writable.readonly);
}

#[test]
fn firmware() {
    let efi = json!({"efi": {"secureBoot": false, "persistent": false}});
    let loaded = accepted(&[
        ("/spec/domain/firmware", json!({"bootloader": efi})),
        (VOLUMES, json!([{"name": "a", "emptyDisk": {"capacity": 1}}])),
    ]);
    assert_eq!((loaded.warnings, loaded.spec.kernel_boot), (Vec::new(), None));
    // A kernel from outside and disks go together.
    let loaded = accepted(&[(VOLUMES, json!([{"name": "a", "emptyDisk": {"capacity": 1}}]))]);
    assert!(loaded.warnings.is_empty() && loaded.spec.kernel_boot.is_some());
}
