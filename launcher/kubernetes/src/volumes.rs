//! What the pod mounts for each of the manifest's volumes, at the paths at which hawser looks for them.

use std::collections::BTreeMap;

use hawser_manifest::{FieldPath, Kind, Report, VolumeSource, network_data_volume, quoted};
use serde_json::{Value, json};

use crate::names;
use crate::source::{Source, text, written};

/// hawser's state directory, with `images` and `volumes` below it.
pub(crate) const STATE: &str = "/run/hawser";
/// Where block devices are: a directory of devices cannot be below a volume.
const BLOCK: &str = "/dev/hawser-volumes";
/// Names of the pod's own volumes begin so.
pub(crate) const OWN_PREFIX: &str = "hawser-";
/// hawser's name for the image of `firmware.kernelBoot`.
const KERNEL_BOOT: &str = "kernel-boot";
/// The lifetime that Kubernetes gives tokens by default, in seconds; the kubelet renews them before that.
const TOKEN_SECONDS: u32 = 3607;

/// What the pod has for the guest's volumes.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    /// `spec.volumes` of the pod.
    pub(crate) volumes: Vec<Value>,
    /// `volumeMounts` of the guest's container.
    pub(crate) mounts: Vec<Value>,
    /// `volumeDevices` of the guest's container.
    pub(crate) devices: Vec<Value>,
    /// Names of the secrets by which images are pulled.
    pub(crate) pull_secrets: Vec<String>,
    /// The service account whose files the guest has.
    pub(crate) service_account: Option<String>,
    /// Field of a volume that rules out a user namespace, and why.
    pub(crate) no_user_namespace: Option<(FieldPath, &'static str)>,
    /// Field of the first claim that the pod mounts as a directory.
    pub(crate) mounted_claim: Option<FieldPath>,
    /// Field of a claim that the guest writes.
    pub(crate) written_claim: Option<FieldPath>,
    /// Bytes of disks that are made empty.
    pub(crate) empty_disks: u64,
    /// How many disks have an overlay for what the guest writes.
    pub(crate) overlays: u64,
}

impl Volumes {
    pub(crate) fn of(source: &Source<'_>, report: &mut Report) -> Self {
        let mut this = Self::default();
        let mut names = Vec::new();
        for (path, volume) in source.volumes() {
            let Some(name) = text(volume, "name") else {
                continue;
            };
            names.push(name);
            if name.starts_with(OWN_PREFIX) {
                report.refuse(
                    path.key("name"),
                    format!("names of volumes that begin with {OWN_PREFIX} are the pod's own: rename it"),
                );
            }
            this.add(source, name, &path, volume, report);
        }
        for name in &source.options.block_volumes {
            if !names.contains(&name.as_str()) {
                let there = names.join(", ");
                report.refuse_owner(
                    FieldPath::of("--block"),
                    format!("no volume is named {}; the manifest has: {there}", quoted(name)),
                );
            }
        }
        this.kernel_boot(source);
        this.public_keys(source);
        this.pull_secrets.sort_unstable();
        this.pull_secrets.dedup();
        this
    }

    fn add(
        &mut self,
        source: &Source<'_>,
        name: &str,
        path: &FieldPath,
        volume: &Value,
        report: &mut Report,
    ) {
        let of = |field: &str| written(Some(volume), field).map(|value| (path.key(field), value));
        if let Some((_, disk)) = of("containerDisk") {
            self.overlays += 1;
            self.image(name, name, disk);
        } else if let Some((at, claim)) = of("persistentVolumeClaim") {
            let readonly = claim.get("readOnly").and_then(Value::as_bool).unwrap_or(false);
            self.claim(source, (name, text(claim, "claimName")), readonly, &at, report);
        } else if let Some((at, volume)) = of("dataVolume") {
            self.claim(source, (name, text(volume, "name")), false, &at, report);
        } else if let Some((at, ephemeral)) = of("ephemeral") {
            self.overlays += 1;
            let at = at.key("persistentVolumeClaim");
            let claim = written(Some(ephemeral), "persistentVolumeClaim");
            let claim = claim.and_then(|claim| text(claim, "claimName"));
            self.claim(source, (name, claim), true, &at, report);
        } else if let Some((at, disk)) = of("hostDisk") {
            self.host_disk(name, &at, disk);
        } else if of("emptyDisk").is_some() {
            self.empty_disks = self.empty_disks.saturating_add(capacity(source, name));
        } else if let Some((_, seed)) = of("cloudInitNoCloud").or_else(|| of("cloudInitConfigDrive")) {
            self.seed(name, seed);
        } else if let Some((_, map)) = of("configMap") {
            self.files(
                name,
                "configMap",
                json!({"name": map.get("name"), "optional": map.get("optional")}),
            );
        } else if let Some((_, secret)) = of("secret") {
            let source = json!({"secretName": secret.get("secretName"), "optional": secret.get("optional")});
            self.files(name, "secret", source);
        } else if let Some((at, account)) = of("serviceAccount") {
            self.service_account(source, name, &at, account, report);
        } else if let Some((_, downward)) = of("downwardAPI") {
            self.files(name, "downwardAPI", json!({"items": downward.get("fields")}));
        }
    }

    /// An image, mounted by the kubelet (Kubernetes 1.33 and newer).
    fn image(&mut self, volume: &str, name: &str, written: &Value) {
        self.volumes.push(json!({
            "name": volume,
            "image": {"reference": written.get("image"), "pullPolicy": text(written, "imagePullPolicy")},
        }));
        self.mounts.push(json!({
            "name": volume,
            "mountPath": format!("{STATE}/images/{name}"),
            "readOnly": true,
        }));
        self.pull_secrets
            .extend(text(written, "imagePullSecret").map(str::to_owned));
    }

    fn kernel_boot(&mut self, source: &Source<'_>) {
        if let Some(image) = source.vmi.pointer("/spec/domain/firmware/kernelBoot/container") {
            self.image(&format!("{OWN_PREFIX}{KERNEL_BOOT}"), KERNEL_BOOT, image);
        }
    }

    /// A claim's directory, or its block device.
    fn claim(
        &mut self,
        source: &Source<'_>,
        (name, claim): (&str, Option<&str>),
        readonly: bool,
        path: &FieldPath,
        report: &mut Report,
    ) {
        // The kubelet mounts a claim once a pod, by the first of its volumes: read-only there is read-only for all of them. What
        // the container may do is in its mount.
        let all_read = readonly && !is_written(source, claim);
        self.volumes.push(json!({
            "name": name,
            "persistentVolumeClaim": {"claimName": claim, "readOnly": all_read.then_some(true)},
        }));
        if !readonly {
            self.written_claim.get_or_insert_with(|| path.clone());
        }
        let is_block = match (
            source.options.block_volumes.contains(name),
            mode_of(source, claim),
        ) {
            (true, _) | (false, Some(Mode::Block)) => true,
            (false, Some(Mode::Filesystem)) => false,
            (false, None) => {
                report.note(
                    path.clone(),
                    format!(
                        "the claim is taken for a file system with a disk.img: if it is a block device \
                         (volumeMode: Block), add --block {name}"
                    ),
                );
                false
            }
        };
        if is_block {
            self.no_user_namespace.get_or_insert_with(|| {
                (
                    path.clone(),
                    "a block device has no place in a pod with a user namespace",
                )
            });
            self.devices
                .push(json!({"name": name, "devicePath": format!("{BLOCK}/{name}")}));
        } else {
            self.mounted_claim.get_or_insert_with(|| path.clone());
            self.mount(name, readonly);
        }
    }

    fn host_disk(&mut self, name: &str, path: &FieldPath, disk: &Value) {
        let file = text(disk, "path").unwrap_or_default();
        let directory = match file.rsplit_once('/') {
            Some(("", _)) | None => "/",
            Some((directory, _)) => directory,
        };
        let kind = match text(disk, "type") {
            Some("DiskOrCreate") => "DirectoryOrCreate",
            _ => "Directory",
        };
        self.written_claim.get_or_insert_with(|| path.clone());
        self.volumes
            .push(json!({"name": name, "hostPath": {"path": directory, "type": kind}}));
        self.mount(name, false);
    }

    /// The secrets that a seed takes its data from. Two have a directory each, as both may have the same keys.
    fn seed(&mut self, name: &str, seed: &Value) {
        let secret = |field: &str| written(Some(seed), field).and_then(|reference| text(reference, "name"));
        match (secret("secretRef"), secret("networkDataSecretRef")) {
            (None, None) => {}
            (Some(one), Some(other)) if one != other => {
                self.files(name, "secret", json!({"secretName": one}));
                let volume = own_name(&format!("networkdata-{name}"));
                self.secret(&volume, &network_data_volume(name), other);
            }
            (Some(secret), _) | (None, Some(secret)) => {
                self.files(name, "secret", json!({"secretName": secret}));
            }
        }
    }

    /// The secrets with public keys, each once.
    fn public_keys(&mut self, source: &Source<'_>) {
        let disks = source.guest.disks.iter();
        let keys = disks.filter_map(|disk| match &disk.volume.source {
            VolumeSource::CloudInit(seed) => Some(&seed.public_keys),
            _ => None,
        });
        let secrets: BTreeMap<String, &str> = keys
            .flatten()
            .chain(&source.guest.root_keys)
            .map(|keys| (keys.volume(), keys.secret.as_str()))
            .collect();
        for (number, (directory, secret)) in secrets.into_iter().enumerate() {
            self.secret(
                &own_name(&format!("access-credential-{number}")),
                &directory,
                secret,
            );
        }
    }

    /// A secret that is no volume of the manifest.
    fn secret(&mut self, volume: &str, directory: &str, secret: &str) {
        self.volumes
            .push(json!({"name": volume, "secret": {"secretName": secret}}));
        self.mounts.push(json!({
            "name": volume,
            "mountPath": format!("{STATE}/volumes/{directory}"),
            "readOnly": true,
        }));
    }

    /// What a pod has below /var/run/secrets/kubernetes.io/serviceaccount.
    fn service_account(
        &mut self,
        source: &Source<'_>,
        name: &str,
        path: &FieldPath,
        account: &Value,
        report: &mut Report,
    ) {
        self.service_account = text(account, "serviceAccountName").map(str::to_owned);
        if source.guest.disks.iter().any(|disk| disk.name == name) {
            report.note(
                path.clone(),
                "the disk has the token as it is when the guest starts, and it expires after an hour: with the volume \
                 in filesystems the guest sees each new one",
            );
        }
        let sources = json!([
            {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        ]);
        self.files(name, "projected", json!({"sources": sources}));
    }

    fn files(&mut self, name: &str, kind: &str, source: Value) {
        self.volumes.push(json!({"name": name, kind: source}));
        self.mount(name, true);
    }

    fn mount(&mut self, name: &str, readonly: bool) {
        self.mounts.push(json!({
            "name": name,
            "mountPath": format!("{STATE}/volumes/{name}"),
            "readOnly": readonly.then_some(true),
        }));
    }
}

/// Whether a volume of the manifest lets the guest write this claim.
fn is_written(source: &Source<'_>, claim: Option<&str>) -> bool {
    source.volumes().any(|(_, volume)| {
        let plain = written(Some(volume), "persistentVolumeClaim").filter(|plain| {
            let readonly = plain.get("readOnly").and_then(Value::as_bool);
            !readonly.unwrap_or(false)
        });
        let names = [
            plain.and_then(|plain| text(plain, "claimName")),
            written(Some(volume), "dataVolume").and_then(|data| text(data, "name")),
        ];
        names.into_iter().flatten().any(|name| Some(name) == claim)
    })
}

/// A claim's `volumeMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Filesystem,
    Block,
}

/// What the manifest says of a claim: it does where it has the template that the claim is made from. With `storage` instead
/// of `pvc`, and without a mode, the cluster's storage profile decides.
fn mode_of(source: &Source<'_>, claim: Option<&str>) -> Option<Mode> {
    let templates = match source.owner {
        Kind::VirtualMachine => "/spec/dataVolumeTemplates",
        Kind::Pool => "/spec/virtualMachineTemplate/spec/dataVolumeTemplates",
        Kind::Instance | Kind::ReplicaSet => return None,
    };
    let templates = source.manifest.pointer(templates)?.as_array()?;
    let template = templates
        .iter()
        .find(|template| template.pointer("/metadata/name").and_then(Value::as_str) == claim)?;
    let mode = |of: &str| {
        template
            .pointer(&format!("/spec/{of}/volumeMode"))
            .and_then(Value::as_str)
    };
    match mode("pvc").or_else(|| mode("storage")) {
        Some("Block") => Some(Mode::Block),
        Some(_) => Some(Mode::Filesystem),
        None => template.pointer("/spec/pvc").map(|_| Mode::Filesystem),
    }
}

/// Bytes of a disk that is made empty.
fn capacity(source: &Source<'_>, name: &str) -> u64 {
    let disk = source.guest.disks.iter().find(|disk| disk.name == name);
    match disk.map(|disk| &disk.volume.source) {
        Some(hawser_manifest::VolumeSource::EmptyDisk { capacity }) => *capacity,
        _ => 0,
    }
}

/// The name of one of the pod's own volumes, which no volume of the manifest has.
pub(crate) fn own_name(name: &str) -> String {
    names::bounded(&format!("{OWN_PREFIX}{name}"), names::LABEL_MAX)
}
