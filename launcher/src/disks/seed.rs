//! The disk by which cloud-init in the guest learns what it is to do: the data sources NoCloud and ConfigDrive, as KubeVirt
//! fills them.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::fat::{Files, Problem};
use super::iso;
use crate::spec::{CloudInitSource, GuestSpec, VolumeLabel};

const CONFIG_DRIVE_META: &str = "openstack/latest/meta_data.json";

/// A device that the manifest tags, as KubeVirt's metadata has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct TaggedDevice {
    #[serde(rename = "type")]
    kind: &'static str,
    bus: &'static str,
    /// In the guest.
    address: String,
    /// Of a virtio NIC; hawser does not know that of a PCI function.
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
    tags: [String; 1],
}

impl TaggedDevice {
    pub(crate) fn nic(address: String, mac: Option<String>, tag: String) -> Self {
        Self {
            kind: "nic",
            bus: "pci",
            address,
            mac,
            tags: [tag],
        }
    }
}

/// Such a disk, before it is written.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Seed {
    source: CloudInitSource,
    label: VolumeLabel,
    files: Files,
}

impl Seed {
    pub(crate) fn new(source: CloudInitSource, (label, files): (VolumeLabel, Files)) -> Self {
        Self { source, label, files }
    }

    pub(crate) fn image(&self) -> Result<Vec<u8>, Problem> {
        iso::image(&self.label, &self.files)
    }

    /// As in KubeVirt, only ConfigDrive has a place for it.
    pub(crate) fn add_devices(&mut self, devices: &[TaggedDevice]) {
        if devices.is_empty() || self.source != CloudInitSource::ConfigDrive {
            return;
        }
        if let Some(meta) = self.files.get_mut(CONFIG_DRIVE_META)
            && let Ok(Value::Object(mut data)) = serde_json::from_slice(meta)
        {
            data.insert("devices".to_owned(), json!(devices));
            *meta = Value::Object(data).to_string().into_bytes();
        }
    }
}

/// cloud-init finds the disk by its label, and the files by their names.
pub(crate) fn seed(
    source: CloudInitSource,
    guest: &GuestSpec,
    user_data: Vec<u8>,
    network_data: Option<Vec<u8>>,
    public_keys: &[String],
) -> (VolumeLabel, Files) {
    let names = match source {
        CloudInitSource::NoCloud => (VolumeLabel::NO_CLOUD, "meta-data", "user-data", "network-config"),
        CloudInitSource::ConfigDrive => (
            VolumeLabel::CONFIG_DRIVE,
            CONFIG_DRIVE_META,
            "openstack/latest/user_data",
            "openstack/latest/network_data.json",
        ),
    };
    let (label, meta, user, network) = names;
    // Both files have to be there, even if empty.
    let mut files = Files::from([
        (meta.to_owned(), meta_data(source, guest, public_keys)),
        (user.to_owned(), user_data),
    ]);
    if let Some(data) = network_data {
        files.insert(network.to_owned(), data);
    }
    (label, files)
}

/// The instance's identity must be the same at every start of the same VMI, or cloud-init does everything again: the
/// machine's UUID where the manifest sets it, as KubeVirt has it, else the object's own, else its name.
fn meta_data(source: CloudInitSource, guest: &GuestSpec, public_keys: &[String]) -> Vec<u8> {
    let name = format!("{}.{}", guest.name, guest.namespace);
    let uuid = guest.firmware_uuid.as_ref().or(guest.uid.as_ref());
    let mut data = match source {
        CloudInitSource::NoCloud => json!({
            "instance-id": uuid.unwrap_or(&name),
            "local-hostname": guest.hostname,
        }),
        CloudInitSource::ConfigDrive => {
            let mut data = json!({
                "instance-id": name,
                "local-hostname": guest.hostname,
                "instance_id": name,
                "local_hostname": guest.hostname,
                "hostname": guest.hostname,
            });
            if let (Some(uuid), Some(map)) = (uuid, data.as_object_mut()) {
                map.insert("uuid".to_owned(), json!(uuid));
            }
            data
        }
    };
    if let (false, Some(map)) = (public_keys.is_empty(), data.as_object_mut()) {
        let field = match source {
            CloudInitSource::NoCloud => "public-keys",
            CloudInitSource::ConfigDrive => "public_keys",
        };
        let numbered = public_keys.iter().enumerate();
        let keys: Map<String, Value> = numbered
            .map(|(number, key)| (number.to_string(), json!(key)))
            .collect();
        map.insert(field.to_owned(), keys.into());
    }
    data.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance,
        metadata: {name: web.one, namespace: tenant, uid: 0b9a},
        spec: {hostname: front, domain: {memory: {guest: 256Mi}},
            volumes: [{name: root, emptyDisk: {capacity: 1Gi}}]}}";

    fn text(files: &Files, name: &str) -> String {
        String::from_utf8(files[name].clone()).unwrap()
    }

    #[test]
    fn no_cloud() {
        let guest = crate::spec::load(MANIFEST).unwrap().spec;
        let (label, files) = seed(
            CloudInitSource::NoCloud,
            &guest,
            b"#cloud-config".to_vec(),
            None,
            &[],
        );
        assert_eq!(label.as_str(), "cidata");
        assert_eq!(files.keys().collect::<Vec<_>>(), ["meta-data", "user-data"]);
        assert_eq!(
            text(&files, "meta-data"),
            r#"{"instance-id":"0b9a","local-hostname":"front"}"#
        );
        assert_eq!(text(&files, "user-data"), "#cloud-config");
        let plain = crate::spec::load(&MANIFEST.replace(", uid: 0b9a", ""))
            .unwrap()
            .spec;
        let (_, files) = seed(
            CloudInitSource::NoCloud,
            &plain,
            Vec::new(),
            Some(b"version: 2".to_vec()),
            &[],
        );
        assert!(text(&files, "meta-data").contains(r#""instance-id":"web.one.tenant""#));
        assert_eq!(text(&files, "network-config"), "version: 2");
    }

    #[test]
    fn config_drive() {
        let mut guest = crate::spec::load(MANIFEST).unwrap().spec;
        guest.firmware_uuid = Some("5d307ca9-b3ef-428c-8861-06e72d69f223".into());
        let (label, files) = seed(
            CloudInitSource::ConfigDrive,
            &guest,
            b"u".to_vec(),
            Some(b"{}".to_vec()),
            &[],
        );
        assert_eq!(label.as_str(), "config-2");
        assert_eq!(
            text(&files, "openstack/latest/meta_data.json"),
            r#"{"instance-id":"web.one.tenant","local-hostname":"front","instance_id":"web.one.tenant","local_hostname":"front","hostname":"front","uuid":"5d307ca9-b3ef-428c-8861-06e72d69f223"}"#
        );
        assert_eq!(text(&files, "openstack/latest/user_data"), "u");
        assert_eq!(text(&files, "openstack/latest/network_data.json"), "{}");
    }

    #[test]
    fn public_keys_are_in_the_metadata() {
        let guest = crate::spec::load(MANIFEST).unwrap().spec;
        let keys = ["ssh-ed25519 AAAA one".to_owned(), "ssh-rsa BBBB two".to_owned()];
        for (source, meta, field) in [
            (CloudInitSource::NoCloud, "meta-data", "public-keys"),
            (CloudInitSource::ConfigDrive, CONFIG_DRIVE_META, "public_keys"),
        ] {
            let (_, files) = seed(source, &guest, Vec::new(), None, &keys);
            let data: Value = serde_json::from_slice(&files[meta]).unwrap();
            assert_eq!(data[field], json!({"0": keys[0], "1": keys[1]}));
        }
    }

    #[test]
    fn tagged_devices_are_told_where_there_is_a_place_for_it() {
        let devices = || {
            vec![TaggedDevice::nic(
                "0000:00:04.0".to_owned(),
                Some("02:00:00:00:00:01".to_owned()),
                "red".to_owned(),
            )]
        };
        for (source, meta, told) in [
            (CloudInitSource::ConfigDrive, CONFIG_DRIVE_META, true),
            (CloudInitSource::NoCloud, "meta-data", false),
        ] {
            let guest = crate::spec::load(MANIFEST).unwrap().spec;
            let mut seed = Seed::new(source, super::seed(source, &guest, Vec::new(), None, &[]));
            let before = seed.clone();
            seed.add_devices(&[]);
            assert!(seed == before, "nothing to tell");
            seed.add_devices(&devices());
            let data: Value = serde_json::from_slice(&seed.files[meta]).unwrap();
            let expected = json!([{"type": "nic", "bus": "pci", "address": "0000:00:04.0", "mac": "02:00:00:00:00:01",
                "tags": ["red"]}]);
            assert_eq!(data.get("devices"), told.then_some(&expected));
            let image = seed.image().unwrap();
            assert_eq!(image.windows(12).any(|bytes| bytes == b"0000:00:04.0"), told);
        }
    }
}
