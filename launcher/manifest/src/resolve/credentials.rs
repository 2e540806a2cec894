//! `spec.accessCredentials`: public keys that cloud-init finds in its metadata, or systemd among its credentials.

use crate::document::fields::List;
use crate::document::report::{FieldPath, Report, quoted};
use crate::document::text::{given, is_dns_name};
use crate::guest::storage::{CloudInitSource, Disk, PublicKeys, VolumeSource};
use crate::v1;

/// The one user for whom systemd takes keys from outside (`ssh.authorized_keys.root`).
const ROOT: &str = "root";

/// How keys get into the guest.
enum Way {
    CloudInit(CloudInitSource),
    /// As root's.
    Credential,
}

/// Puts the keys to the disks from which cloud-init reads them, and returns those that are root's by a credential. Without
/// disks, these are refused for themselves.
pub(super) fn resolve(
    spec: &v1::Spec,
    mut disks: Option<&mut [Disk]>,
    report: &mut Report,
) -> Vec<PublicKeys> {
    let mut of_root = Vec::new();
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
        let Some(way) = way(method, &at, report) else {
            continue;
        };
        let Some(secret) = secret(key, &path, report) else {
            continue;
        };
        let keys = PublicKeys {
            path: report.in_place(path).to_string(),
            secret,
        };
        match way {
            Way::Credential => of_root.push(keys),
            Way::CloudInit(source) => {
                if let Some(disks) = disks.as_deref_mut() {
                    add_to_seed(disks, source, &keys, at, report);
                }
            }
        }
    }
    of_root
}

fn way(method: &v1::credentials::Propagation, at: &FieldPath, report: &mut Report) -> Option<Way> {
    match (&method.no_cloud, &method.config_drive, &method.qemu_guest_agent) {
        (Some(_), None, None) => Some(Way::CloudInit(CloudInitSource::NoCloud)),
        (None, Some(_), None) => Some(Way::CloudInit(CloudInitSource::ConfigDrive)),
        (None, None, Some(agent)) => {
            let at = at.key("qemuGuestAgent").key("users");
            let users = agent.users.as_ref();
            let others = users
                .into_iter()
                .flat_map(List::iter)
                .filter(|(_, user)| *user != ROOT);
            let mut alone = true;
            for (index, user) in others {
                alone = false;
                report.refuse(
                    at.index(index),
                    format!(
                        "only root's keys get into a guest without an agent, by a credential of systemd's, found {}; write noCloud or \
                         configDrive, whose keys cloud-init gives its default user",
                        quoted(user)
                    ),
                );
            }
            if users.is_some_and(List::is_empty) {
                report.refuse(at, "expected root");
                alone = false;
            }
            alone.then_some(Way::Credential)
        }
        _ => {
            report.refuse(
                at.clone(),
                "expected one of noCloud, configDrive and qemuGuestAgent",
            );
            None
        }
    }
}

/// The name of the secret that has the keys.
fn secret(key: &v1::credentials::SshPublicKey, path: &FieldPath, report: &mut Report) -> Option<String> {
    let secret = key.source.as_ref().and_then(|source| source.secret.as_ref());
    let of = path.key("source").key("secret");
    let Some(name) = secret.and_then(|secret| given(&secret.secret_name)) else {
        report.refuse(of, "required, with a secretName");
        return None;
    };
    if !is_dns_name(name) {
        let form = "expected a DNS name in lower case";
        report.refuse(of.key("secretName"), format!("{form}, found {}", quoted(name)));
        return None;
    }
    Some(name.to_owned())
}

fn add_to_seed(
    disks: &mut [Disk],
    source: CloudInitSource,
    keys: &PublicKeys,
    at: FieldPath,
    report: &mut Report,
) {
    let mut found = false;
    for disk in disks {
        if let VolumeSource::CloudInit(seed) = &mut disk.volume.source
            && seed.source == source
        {
            found = true;
            seed.public_keys.push(keys.clone());
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
