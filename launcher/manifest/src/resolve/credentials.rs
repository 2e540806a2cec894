//! `spec.accessCredentials`: public keys that cloud-init finds in its metadata.

use serde_json::Value;

use crate::document::report::{FieldPath, Report, quoted};
use crate::document::text::{given, is_dns_name};
use crate::guest::storage::{CloudInitSource, Disk, PublicKeys, VolumeSource};
use crate::v1;

/// Puts the keys to the disks from which cloud-init reads them.
pub(super) fn resolve(spec: &v1::Spec, disks: &mut [Disk], raw: &Value, report: &mut Report) {
    for (index, credential) in spec.access_credentials.iter() {
        let path = FieldPath::of("spec.accessCredentials").index(index);
        // What else a credential may be is refused by the check.
        let Some(key) = &credential.ssh_public_key else {
            continue;
        };
        let path = path.key("sshPublicKey");
        let Some(method) = &key.propagation_method else {
            continue;
        };
        let at = path.key("propagationMethod");
        let source = match (&method.no_cloud, &method.config_drive) {
            (Some(_), None) => CloudInitSource::NoCloud,
            (None, Some(_)) => CloudInitSource::ConfigDrive,
            (None, None) if is_written(raw, index, "qemuGuestAgent") => continue,
            _ => {
                report.refuse(at, "expected either noCloud or configDrive");
                continue;
            }
        };
        let secret = key.source.as_ref().and_then(|source| source.secret.as_ref());
        let name = secret.and_then(|secret| given(&secret.secret_name));
        let of = path.key("source").key("secret");
        let Some(name) = name else {
            report.refuse(of, "required, with a secretName");
            continue;
        };
        if !is_dns_name(name) {
            let form = "expected a DNS name in lower case";
            report.refuse(of.key("secretName"), format!("{form}, found {}", quoted(name)));
            continue;
        }
        let mut found = false;
        for disk in disks.iter_mut() {
            if let VolumeSource::CloudInit(seed) = &mut disk.volume.source
                && seed.source == source
            {
                found = true;
                seed.public_keys.push(PublicKeys {
                    path: report.in_place(path.clone()).to_string(),
                    secret: name.to_owned(),
                });
            }
        }
        if !found {
            let volume = match source {
                CloudInitSource::NoCloud => "cloudInitNoCloud",
                CloudInitSource::ConfigDrive => "cloudInitConfigDrive",
            };
            report.refuse(
                at,
                format!("the guest finds the keys on a volume of {volume}, and there is none"),
            );
        }
    }
}

/// Whether the method is there, although it has been refused.
fn is_written(raw: &Value, index: usize, method: &str) -> bool {
    let methods = format!("/spec/accessCredentials/{index}/sshPublicKey/propagationMethod");
    raw.pointer(&methods)
        .is_some_and(|methods| methods.get(method).is_some())
}
