//! Certificates as an operator would issue them, made on the fly.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// A CA that signs for sources and targets of migrations, and for the parts of a cluster.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate and its key, in PEM.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    /// Of the CA itself, in PEM.
    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A client and server called `name`, of the group `organization`, that is reached at `addresses`.
    pub(crate) fn identity(
        &self,
        name: &str,
        organization: Option<&str>,
        addresses: &[String],
    ) -> Result<Identity> {
        let mut params = CertificateParams::new(addresses)?;
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(organization) = organization {
            params
                .distinguished_name
                .push(DnType::OrganizationName, organization);
        }
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let key = KeyPair::generate()?;
        Ok(Identity {
            certificate: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }

    /// Writes all that either side needs, for the launchers called `name` that are reached at `addresses`.
    pub(crate) fn issue(&self, directory: &Path, name: &str, addresses: &[IpAddr]) -> Result<()> {
        let names = addresses.iter().map(IpAddr::to_string);
        let names: Vec<_> = std::iter::once(name.to_owned()).chain(names).collect();
        put(directory, "ca-cert.pem", &self.certificate)?;
        for (who, usage) in [
            ("client", ExtendedKeyUsagePurpose::ClientAuth),
            ("server", ExtendedKeyUsagePurpose::ServerAuth),
        ] {
            let mut params = CertificateParams::new(names.clone())?;
            params.extended_key_usages.push(usage);
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &self.issuer)?;
            put(directory, &format!("{who}-cert.pem"), &certificate.pem())?;
            put(directory, &format!("{who}-key.pem"), &key.serialize_pem())?;
        }
        Ok(())
    }
}

/// Readable for the launcher's user, as a volume with `fsGroup` is.
fn put(directory: &Path, name: &str, text: &str) -> Result<()> {
    let path = directory.join(name);
    fs::write(&path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o644))?)
}
