//! One case for every refusal of disks, volumes and firmware, with its exact path and message.

use serde_json::{Value, json};

use super::refused::check;

const VOLUMES: &str = "/spec/volumes";
const DISKS: &str = "/spec/domain/devices/disks";

/// An empty disk `a` on a disk with `fields` added.
fn disk(fields: Value, expected: &[&str]) {
    let mut disk = json!({"name": "a"});
    disk.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    let volumes = json!([{"name": "a", "emptyDisk": {"capacity": "1Gi"}}]);
    check(&[(VOLUMES, volumes), (DISKS, json!([disk]))], expected);
}

/// A volume `a` with the source given, and nothing that names it.
fn volume(source: Value, expected: &[&str]) {
    let mut volume = json!({"name": "a"});
    volume
        .as_object_mut()
        .unwrap()
        .extend(source.as_object().unwrap().clone());
    let expected: Vec<String> = expected
        .iter()
        .map(|text| format!("spec.volumes[0]{text}"))
        .collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    check(&[(VOLUMES, json!([volume]))], &expected);
}

#[test]
fn names_on_both_sides() {
    let empty = |name: &str| json!({"name": name, "emptyDisk": {"capacity": "1Gi"}});
    let pair = |disks: Value, volumes: Value, expected: &[&str]| {
        check(&[(DISKS, disks), (VOLUMES, volumes)], expected);
    };
    pair(
        json!([{"name": "a"}, {"name": "b"}]),
        json!([empty("a")]),
        &["disks[1].name: no volume is named \"b\""],
    );
    pair(
        json!([{"name": "a"}, {"name": "a"}]),
        json!([empty("a")]),
        &["disks[1].name: duplicate name \"a\": a volume has one disk"],
    );
    pair(
        json!([]),
        json!([empty("a"), empty("a")]),
        &["spec.volumes[1].name: duplicate name \"a\": a volume has one disk"],
    );
    let form =
        "expected at most 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit, found \"a_b\"";
    pair(
        json!([{"name": "a_b"}]),
        json!([empty("a_b")]),
        &[
            &format!("disks[0].name: {form}"),
            &format!("spec.volumes[0].name: {form}"),
        ],
    );
    pair(
        json!([{"name": ""}]),
        json!([{"name": "", "emptyDisk": {"capacity": 1}}]),
        &["disks[0].name: required", "spec.volumes[0].name: required"],
    );
    // A volume that is refused itself is not called missing.
    pair(
        json!([{"name": "a"}]),
        json!([{"name": "a"}]),
        &["spec.volumes[0]: expected exactly one source, found none"],
    );
    let many: Vec<Value> = (0..245).map(|n| empty(&format!("a{n}"))).collect();
    pair(
        json!([{"name": "a0"}]),
        json!(many),
        &["disks: at most 244 disks beside 1 other devices, found 245"],
    );
}

#[test]
fn kinds_and_settings_of_a_disk() {
    let cases = [
        (
            json!({"lun": {}}),
            "lun: not supported: cloud-hypervisor has no SCSI: the volume can be a disk",
        ),
        (json!({"floppy": {}}), "floppy: unknown field"),
        (json!({"tag": "t"}), "tag: not supported"),
        (
            json!({"shareable": true}),
            "shareable: unsupported value true: expected false",
        ),
        (
            json!({"cache": "writethrough"}),
            "cache: unsupported value \"writethrough\": expected \"none\" or \"writeback\"",
        ),
        (
            json!({"io": "threads"}),
            "io: unsupported value \"threads\": expected \"native\"",
        ),
        (
            json!({"errorPolicy": "stop"}),
            "errorPolicy: unsupported value \"stop\": expected \"report\"",
        ),
        (
            json!({"blockSize": {"custom": {}}}),
            "blockSize.custom: not supported",
        ),
        (
            json!({"blockSize": {"matchVolume": {"enabled": false}}}),
            "blockSize.matchVolume.enabled: unsupported value false: expected true",
        ),
        (json!({"bootOrder": 0}), "bootOrder: must be at least 1, found 0"),
        (
            json!({"serial": "a b"}),
            "serial: expected at most 256 letters, digits, '_', '.', '+' and '-', found \"a b\"",
        ),
        (
            json!({"disk": {"bus": "ide"}}),
            "disk.bus: unsupported value \"ide\": expected \"virtio\" or \"sata\" or \"scsi\" or \"usb\"",
        ),
        (
            json!({"disk": {"bus": "sata", "readonly": true}}),
            "disk.bus: a sata disk cannot be read-only, except as cdrom",
        ),
        (
            json!({"disk": {"pciAddress": "0000:00:05.0"}}),
            "disk.pciAddress: not supported: disks have the slots in the order in which the guest boots from them",
        ),
        (
            json!({"cdrom": {"bus": "virtio"}}),
            "cdrom.bus: a cdrom cannot be on the bus virtio",
        ),
        (
            json!({"cdrom": {"tray": "open"}}),
            "cdrom.tray: unsupported value \"open\": expected \"closed\"",
        ),
    ];
    for (fields, expected) in cases {
        disk(fields, &[&format!("disks[0].{expected}")]);
    }
    disk(
        json!({"disk": {}, "cdrom": {}}),
        &["disks[0]: expected at most one of disk and cdrom, found both"],
    );
    disk(
        json!({"serial": "x".repeat(257)}),
        &[
            "disks[0].serial: expected at most 256 letters, digits, '_', '.', '+' and '-', found \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…\"",
        ],
    );
}

#[test]
fn one_boot_order_for_disks_and_interfaces() {
    let volumes =
        json!([{"name": "a", "emptyDisk": {"capacity": 1}}, {"name": "b", "emptyDisk": {"capacity": 1}}]);
    check(
        &[
            (VOLUMES, volumes),
            (
                DISKS,
                json!([{"name": "a", "bootOrder": 1}, {"name": "b", "bootOrder": 2}]),
            ),
            ("/spec/domain/devices/interfaces/0/bootOrder", json!(2)),
        ],
        &["disks[1].bootOrder: the same as that of spec.domain.devices.interfaces[0]"],
    );
}

#[test]
fn sources() {
    let none = ": expected exactly one source, found ";
    volume(json!({}), &[&format!("{none}none")]);
    volume(
        json!({"emptyDisk": {"capacity": 1}, "secret": {"secretName": "s"}}),
        &[&format!("{none}emptyDisk and secret")],
    );
    for field in ["downwardMetrics", "sysprep", "memoryDump"] {
        volume(json!({field: {}}), &[&format!(".{field}: not supported")]);
    }
    let cases = [
        (json!({"containerDisk": {}}), "containerDisk.image: required"),
        (
            json!({"containerDisk": {"image": ""}}),
            "containerDisk.image: required",
        ),
        (
            json!({"containerDisk": {"image": "i", "path": "disk.img"}}),
            "containerDisk.path: must be an absolute path, found \"disk.img\"",
        ),
        (
            json!({"containerDisk": {"image": "i", "path": "/disk/../../x"}}),
            "containerDisk.path: must not contain '..', found \"/disk/../../x\"",
        ),
        (
            json!({"containerDisk": {"image": "i", "path": "/disk//x"}}),
            "containerDisk.path: must be without relative or empty components, found \"/disk//x\"",
        ),
        (
            json!({"hostDisk": {"path": "", "type": "Disk"}}),
            "hostDisk.path: required",
        ),
        (
            json!({"hostDisk": {"path": "/d/", "type": "Disk"}}),
            "hostDisk.path: must name a file, found \"/d/\"",
        ),
        (
            json!({"hostDisk": {"path": "/d", "type": "File"}}),
            "hostDisk.type: unsupported value \"File\": expected \"Disk\" or \"DiskOrCreate\"",
        ),
        (
            json!({"hostDisk": {"path": "/d", "type": "Disk", "capacity": 1}}),
            "hostDisk.capacity: only together with the type DiskOrCreate",
        ),
        (
            json!({"hostDisk": {"path": "/d", "type": "DiskOrCreate"}}),
            "hostDisk.capacity: required with the type DiskOrCreate",
        ),
        (
            json!({"hostDisk": {"path": "/d", "type": "Disk", "shared": true}}),
            "hostDisk.shared: unsupported value true: expected false",
        ),
        (
            json!({"persistentVolumeClaim": {"claimName": ""}}),
            "persistentVolumeClaim.claimName: required",
        ),
        (json!({"dataVolume": {}}), "dataVolume.name: required"),
        (json!({"emptyDisk": {}}), "emptyDisk.capacity: required"),
        (
            json!({"emptyDisk": {"capacity": "0"}}),
            "emptyDisk.capacity: must be from 1 byte to 1Ei, found 0 bytes",
        ),
        (
            json!({"emptyDisk": {"capacity": "2Ei"}}),
            "emptyDisk.capacity: must be from 1 byte to 1Ei, found 2305843009213693952 bytes",
        ),
        (
            json!({"ephemeral": {}}),
            "ephemeral.persistentVolumeClaim: required",
        ),
        (
            json!({"ephemeral": {"persistentVolumeClaim": {"claimName": ""}}}),
            "ephemeral.persistentVolumeClaim.claimName: required",
        ),
        (json!({"configMap": {"name": ""}}), "configMap.name: required"),
        (
            json!({"secret": {"secretName": ""}}),
            "secret.secretName: required",
        ),
        (
            json!({"serviceAccount": {"serviceAccountName": ""}}),
            "serviceAccount.serviceAccountName: required",
        ),
        (
            json!({"configMap": {"name": "m", "volumeLabel": "twelve-chars"}}),
            "configMap.volumeLabel: the disk is a FAT volume, whose label is at most 11 letters, digits, '-' and '_', found \"twelve-chars\"",
        ),
    ];
    for (source, expected) in cases {
        volume(source, &[&format!(".{expected}")]);
    }
    let account = json!({"serviceAccountName": "x"});
    check(
        &[(
            VOLUMES,
            json!([{"name": "a", "serviceAccount": account}, {"name": "b", "serviceAccount": account}]),
        )],
        &["spec.volumes[1].serviceAccount: only one service account, and volumes[0] is one already"],
    );
}

#[test]
fn cloud_init() {
    for field in ["cloudInitNoCloud", "cloudInitConfigDrive"] {
        let seed =
            |data: Value, expected: &str| volume(json!({field: data}), &[&format!(".{field}{expected}")]);
        seed(json!({}), ": user data or network data is required");
        seed(
            json!({"userData": "a", "userDataBase64": "YQ=="}),
            ".userDataBase64: user data comes from one place, found userData and userDataBase64",
        );
        seed(
            json!({"networkData": "a", "networkDataSecretRef": {"name": "s"}}),
            ".networkDataSecretRef: network data comes from one place, found networkData and networkDataSecretRef",
        );
        seed(json!({"secretRef": {"name": ""}}), ".secretRef.name: required");
        seed(
            json!({"userDataBase64": "a"}),
            ".userDataBase64: expected base64: Invalid input length: 1",
        );
        seed(
            json!({"userData": "x".repeat(2049)}),
            ".userData: at most 2048 bytes, found 2049: put more into a secret and name it in secretRef",
        );
        seed(
            json!({"networkDataBase64": "A".repeat(2052)}),
            ".networkDataBase64: at most 2048 bytes, found 2052: put more into a secret and name it in networkDataSecretRef",
        );
    }
}

#[test]
fn firmware() {
    let path = "spec.domain.firmware";
    let bootloader = |value: Value, expected: &str| {
        let changes = [
            ("/spec/domain/firmware", json!({"bootloader": value})),
            (VOLUMES, json!([{"name": "a", "emptyDisk": {"capacity": 1}}])),
        ];
        check(&changes, &[&format!("{path}.bootloader.{expected}")]);
    };
    bootloader(
        json!({"bios": {}}),
        "bios: not supported: cloud-hypervisor has no BIOS: for an image that boots by UEFI too, write efi: {secureBoot: false}",
    );
    bootloader(
        json!({"efi": {}}),
        "efi.secureBoot: secure boot is not supported, and efi without secureBoot asks for it: write secureBoot: false",
    );
    bootloader(
        json!({"efi": {"secureBoot": true}}),
        "efi.secureBoot: secure boot is not supported: write secureBoot: false",
    );
    bootloader(
        json!({"efi": {"secureBoot": false, "persistent": true}}),
        "efi.persistent: unsupported value true: expected false",
    );
    check(
        &[("/spec/domain/firmware", json!({}))],
        &[&format!(
            "{path}.kernelBoot: required: there is no disk to boot from"
        )],
    );
}
