//! Certificates for the VMMs' own TLS, made for one hand-off and worth nothing after it.
//!
//! The guest's memory goes over cloud-hypervisor's TLS. Handing it the user's certificates would not do: landlock keeps
//! it from every directory that was not named when the VM was made, long before `hawser migrate` names one; and each
//! VMM meets the other through a relay on its own loopback address, which no user's certificate is for. So the source
//! makes a CA and a certificate for each side, and sends the target's over the launchers' channel, which the user's
//! certificates protect. They lie in a directory that is fixed, below the state directory.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use super::message::ServerCredentials;

const FILES: [&str; 5] = [
    "ca-cert.pem",
    "client-cert.pem",
    "client-key.pem",
    "server-cert.pem",
    "server-key.pem",
];

/// Below the VMM's directory. The VM's landlock rules name it.
pub(crate) fn directory(vmm_dir: &Path) -> PathBuf {
    vmm_dir.join("migration-tls")
}

/// Before the VMM starts, since a landlock rule needs something to hold on to.
pub(crate) fn make_directory(vmm_dir: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(directory(vmm_dir)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Writes the source's half and returns the target's.
pub(crate) fn issue(vmm_dir: &Path) -> io::Result<ServerCredentials> {
    let made = make().map_err(io::Error::other)?;
    clear(vmm_dir);
    write(vmm_dir, "ca-cert.pem", &made.server.ca_cert)?;
    write(vmm_dir, "client-cert.pem", &made.client_cert)?;
    write(vmm_dir, "client-key.pem", &made.client_key)?;
    Ok(made.server)
}

/// Writes what the source has sent.
pub(crate) fn accept(vmm_dir: &Path, credentials: &ServerCredentials) -> io::Result<()> {
    clear(vmm_dir);
    write(vmm_dir, "ca-cert.pem", &credentials.ca_cert)?;
    write(vmm_dir, "server-cert.pem", &credentials.server_cert)?;
    write(vmm_dir, "server-key.pem", &credentials.server_key)
}

/// What was made for one hand-off is of no use to the next.
pub(crate) fn clear(vmm_dir: &Path) {
    for file in FILES {
        // Not there, mostly.
        let _ = fs::remove_file(directory(vmm_dir).join(file));
    }
}

struct Made {
    server: ServerCredentials,
    client_cert: String,
    client_key: String,
}

fn make() -> Result<Made, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "one hand-off");
    let key = KeyPair::generate()?;
    let ca_cert = params.self_signed(&key)?.pem();
    let issuer = Issuer::new(params, key);
    let issue = |usage| {
        // Where each VMM finds the relay.
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
        params.extended_key_usages.push(usage);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;
        Ok::<_, rcgen::Error>((certificate.pem(), key.serialize_pem()))
    };
    let (server_cert, server_key) = issue(ExtendedKeyUsagePurpose::ServerAuth)?;
    let (client_cert, client_key) = issue(ExtendedKeyUsagePurpose::ClientAuth)?;
    Ok(Made {
        server: ServerCredentials {
            ca_cert,
            server_cert,
            server_key,
        },
        client_cert,
        client_key,
    })
}

fn write(vmm_dir: &Path, name: &str, text: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(directory(vmm_dir).join(name))?
        .write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::fresh_id::fresh_id;
    use crate::migration::tls::{Security, check};

    #[test]
    fn each_side_gets_its_own_half_and_they_fit() {
        let source = tempfile::tempdir().unwrap();
        let target = tempfile::tempdir().unwrap();
        for dir in [&source, &target] {
            make_directory(dir.path()).unwrap();
            make_directory(dir.path()).unwrap();
        }
        let credentials = issue(source.path()).unwrap();
        accept(target.path(), &credentials).unwrap();
        let tls = |dir: &tempfile::TempDir| Security::Tls(directory(dir.path()));
        check(&tls(&source), false).unwrap();
        check(&tls(&target), true).unwrap();
        assert!(
            check(&tls(&source), true).is_err(),
            "the target's key stays on the target"
        );
        issue(source.path()).unwrap();
        clear(source.path());
        assert_eq!(fs::read_dir(directory(source.path())).unwrap().count(), 0);
        assert_ne!(fresh_id().unwrap(), fresh_id().unwrap());
    }
}
