//! TLS between the launchers: certificates on both sides, and whom each has to be for.
//!
//! A CA usually signs for more than one guest. So its signature says that a peer is somebody, and the name in its certificate
//! says who: the launchers of one guest have a name of their own ([`peer_name`]). A client without a certificate of the CA
//! gets no further than the handshake; one with another name is told so, in words that tell nothing of the target.
//!
//! The files are called as cloud-hypervisor calls them. Kubernetes renews them in place, so each connection looks whether they
//! have changed, and reads them again if so.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::message::{self, Message};

/// All that a peer with another name is told.
const UNKNOWN: &str =
    "the target does not accept the name in this launcher's certificate; the target's log says why";
/// Bytes that such a peer may still send until it has read that.
const MAX_UNREAD: u64 = 1 << 20;

const CA: &str = "ca-cert.pem";
const SERVER: [&str; 2] = ["server-cert.pem", "server-key.pem"];
const CLIENT: [&str; 2] = ["client-cert.pem", "client-key.pem"];

/// Where the certificates are, or that there are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Security {
    Tls(PathBuf),
    /// Only on the user's word.
    Plain,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("{path}")]
    File {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("certificates in {directory}")]
    Certificates {
        directory: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("the CA certificate in {directory} cannot be used: {why}")]
    Verifier { directory: PathBuf, why: String },
    #[error("{0} is not a name that a certificate can have")]
    Name(String),
    #[error("TLS")]
    Handshake(#[source] io::Error),
    #[error("a certificate of the CA that is not for {wanted}")]
    Unknown {
        wanted: String,
        #[source]
        source: rustls::Error,
    },
}

/// The name that the certificates of a guest's launchers have, if no other is given: as Kubernetes names a service,
/// NAME.NAMESPACE.vmi. A namespace has no dots, so no two guests have the same.
pub(crate) fn peer_name(namespace: &str, name: &str) -> String {
    format!("{name}.{namespace}.vmi")
}

/// Whether a certificate can have this name: a DNS name or an IP address.
pub(crate) fn check_name(text: &str) -> Result<String, String> {
    name(text)
        .map(|_| text.to_owned())
        .map_err(|error| error.to_string())
}

fn name(text: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(text.to_owned()).map_err(|_| TlsError::Name(text.to_owned()))
}

/// Whether all that a side needs is there and fits together, before anything is started with it.
pub(crate) fn check(security: &Security, serves: bool) -> Result<(), TlsError> {
    match security {
        Security::Plain => Ok(()),
        Security::Tls(directory) if serves => server_config(directory).map(drop),
        Security::Tls(directory) => client_config(directory).map(drop),
    }
}

/// Of the source. `name` is whom the target's certificate has to be for; it is looked at before there is a connection.
pub(super) struct Client {
    config: ClientConfig,
    name: ServerName<'static>,
}

impl Client {
    pub(super) fn new(directory: &Path, target: &str) -> Result<Self, TlsError> {
        Ok(Self {
            config: client_config(directory)?,
            name: name(target)?,
        })
    }

    pub(super) async fn connect(self, stream: TcpStream) -> Result<client::TlsStream<TcpStream>, TlsError> {
        let connector = TlsConnector::from(Arc::new(self.config));
        connector
            .connect(self.name, stream)
            .await
            .map_err(TlsError::Handshake)
    }
}

/// Of the target.
#[derive(Debug)]
pub(super) struct Server {
    directory: PathBuf,
    /// Whom a source's certificate has to be for.
    peer: String,
    read: Mutex<Option<(Stamps, Arc<ServerConfig>)>>,
}

/// Of a file: another one, or the same one written to, has another.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);
type Stamps = [Stamp; 3];

impl Server {
    pub(super) fn new(directory: &Path, peer: &str) -> Self {
        Self {
            directory: directory.to_owned(),
            peer: peer.to_owned(),
            read: Mutex::new(None),
        }
    }

    /// The handshake, and whose certificate it is.
    pub(super) async fn accept(&self, stream: TcpStream) -> Result<server::TlsStream<TcpStream>, TlsError> {
        let wanted = name(&self.peer)?;
        let acceptor = TlsAcceptor::from(self.config()?);
        let mut stream = acceptor.accept(stream).await.map_err(TlsError::Handshake)?;
        let known = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(<[_]>::first)
            .ok_or(rustls::Error::NoCertificatesPresented)
            .and_then(ParsedCertificate::try_from)
            .and_then(|certificate| verify_server_name(&certificate, &wanted));
        match known {
            Ok(()) => Ok(stream),
            Err(source) => {
                turn_away(&mut stream).await;
                let wanted = self.peer.clone();
                Err(TlsError::Unknown { wanted, source })
            }
        }
    }

    /// As the files are now.
    fn config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let stamps = stamps(&self.directory);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(now), Some((then, config))) = (&stamps, &*read)
            && now == then
        {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(server_config(&self.directory)?);
        // Of before they were read: what has changed meanwhile is read again.
        *read = stamps.map(|stamps| (stamps, Arc::clone(&config)));
        Ok(config)
    }
}

/// A peer of the CA with another name.
async fn turn_away(stream: &mut server::TlsStream<TcpStream>) {
    let refused = Message::Refused {
        reasons: vec![UNKNOWN.to_owned()],
    };
    // It is rejected whether it hears why or not.
    if message::write(stream, &refused).await.is_ok() && stream.shutdown().await.is_ok() {
        // What it has sent is read, or closing would take the answer away from it.
        let mut unread = stream.take(MAX_UNREAD);
        let mut buffer = [0; 4096];
        while matches!(unread.read(&mut buffer).await, Ok(1..)) {}
    }
}

fn stamps(directory: &Path) -> Option<Stamps> {
    let stamp = |file: &str| -> Option<Stamp> {
        let file = std::fs::metadata(directory.join(file)).ok()?;
        Some((
            file.dev(),
            file.ino(),
            file.len(),
            file.mtime(),
            file.mtime_nsec(),
            file.ctime(),
            file.ctime_nsec(),
        ))
    };
    let [certificate, key] = SERVER;
    Some([stamp(CA)?, stamp(certificate)?, stamp(key)?])
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|source| TlsError::File {
            path: path.to_owned(),
            source,
        })
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| TlsError::File {
        path: path.to_owned(),
        source,
    })
}

fn roots(directory: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&directory.join(CA))? {
        roots.add(certificate).map_err(|source| bad(directory, source))?;
    }
    Ok(roots)
}

fn bad(directory: &Path, source: rustls::Error) -> TlsError {
    TlsError::Certificates {
        directory: directory.to_owned(),
        source,
    }
}

fn client_config(directory: &Path) -> Result<ClientConfig, TlsError> {
    let [certificate, private] = CLIENT;
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|source| bad(directory, source))?
        .with_root_certificates(roots(directory)?)
        .with_client_auth_cert(
            certificates(&directory.join(certificate))?,
            key(&directory.join(private))?,
        )
        .map_err(|source| bad(directory, source))
}

fn server_config(directory: &Path) -> Result<ServerConfig, TlsError> {
    let [certificate, private] = SERVER;
    let provider = Arc::new(ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(directory)?), Arc::clone(&provider))
            .build()
            .map_err(|error| TlsError::Verifier {
                directory: directory.to_owned(),
                why: error.to_string(),
            })?;
    ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|source| bad(directory, source))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            certificates(&directory.join(certificate))?,
            key(&directory.join(private))?,
        )
        .map_err(|source| bad(directory, source))
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
    use tokio::net::TcpListener;

    use super::*;

    struct Authority(Issuer<'static, KeyPair>, String);

    impl Authority {
        fn new() -> Self {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().unwrap();
            let certificate = params.self_signed(&key).unwrap().pem();
            Self(Issuer::new(params, key), certificate)
        }

        /// Both sides' files, for whom these are the names.
        fn issue(&self, directory: &Path, names: &[&str]) {
            std::fs::write(directory.join(CA), &self.1).unwrap();
            for ([certificate, private], usage) in [
                (SERVER, ExtendedKeyUsagePurpose::ServerAuth),
                (CLIENT, ExtendedKeyUsagePurpose::ClientAuth),
            ] {
                let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
                let mut params = CertificateParams::new(names).unwrap();
                params.extended_key_usages.push(usage);
                let key = KeyPair::generate().unwrap();
                let signed = params.signed_by(&key, &self.0).unwrap();
                std::fs::write(directory.join(certificate), signed.pem()).unwrap();
                std::fs::write(directory.join(private), key.serialize_pem()).unwrap();
            }
        }
    }

    /// What the target makes of a source, and what the source hears at first.
    async fn meet(server: &Server, source: &Path) -> (Result<(), TlsError>, Option<Message>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = listener.local_addr().unwrap();
        let source = async {
            let client = Client::new(source, "target").unwrap();
            let stream = TcpStream::connect(there).await.unwrap();
            let mut stream = client.connect(stream).await.ok()?;
            // It says what it wants at once.
            let _ = message::write(&mut stream, &Message::Alive).await;
            message::read(&mut stream).await.ok()
        };
        let target = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = server.accept(stream).await?;
            let _ = message::write(&mut stream, &Message::Running).await;
            let _ = message::read(&mut stream).await;
            Ok(())
        };
        tokio::join!(target, source)
    }

    #[tokio::test]
    async fn a_source_is_who_its_certificate_says() {
        let (target, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let authority = Authority::new();
        authority.issue(target.path(), &["target"]);
        let name = peer_name("ns", "web");
        assert_eq!(name, "web.ns.vmi");
        let server = Server::new(target.path(), &name);
        for names in [
            &["web.ns.vmi"][..],
            &["*.ns.vmi"],
            &["other", "10.0.0.7", "web.ns.vmi"],
        ] {
            authority.issue(source.path(), names);
            let (known, heard) = meet(&server, source.path()).await;
            assert!(known.is_ok(), "{names:?}: {known:?}");
            assert_eq!(heard, Some(Message::Running), "{names:?}");
        }
        for names in [
            &["mallory.other-tenant.vmi"][..],
            &["web.other.vmi", "*.other.vmi", "10.0.0.7"],
            &["web.ns.vmi.example", "ns.vmi", "evil.web.ns.vmi"],
            &[],
        ] {
            authority.issue(source.path(), names);
            let (known, heard) = meet(&server, source.path()).await;
            assert!(
                matches!(known, Err(TlsError::Unknown { .. })),
                "{names:?}: {known:?}"
            );
            let told = Message::Refused {
                reasons: vec![UNKNOWN.to_owned()],
            };
            assert_eq!(heard, Some(told), "{names:?}");
        }
        // By its address, where the operator says so.
        authority.issue(source.path(), &["10.0.0.7"]);
        assert!(
            meet(&Server::new(target.path(), "10.0.0.7"), source.path())
                .await
                .0
                .is_ok()
        );
        assert!(
            meet(&Server::new(target.path(), "10.0.0.8"), source.path())
                .await
                .0
                .is_err()
        );
        // The right name, of another CA.
        Authority::new().issue(source.path(), &["web.ns.vmi"]);
        std::fs::copy(target.path().join(CA), source.path().join(CA)).unwrap();
        let (known, heard) = meet(&server, source.path()).await;
        assert!(matches!(known, Err(TlsError::Handshake(_))), "{known:?}");
        assert_eq!(heard, None);
    }

    #[test]
    fn certificates_are_read_again_when_they_have_changed_and_only_then() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        authority.issue(directory.path(), &["target"]);
        let server = Server::new(directory.path(), "x");
        let first = server.config().unwrap();
        assert!(
            Arc::ptr_eq(&first, &server.config().unwrap()),
            "nothing has changed"
        );
        authority.issue(directory.path(), &["target"]);
        let renewed = server.config().unwrap();
        assert!(!Arc::ptr_eq(&first, &renewed), "they were renewed");
        assert!(Arc::ptr_eq(&renewed, &server.config().unwrap()));
        // In the middle of a renewal.
        std::fs::remove_file(directory.path().join(CA)).unwrap();
        assert!(server.config().is_err());
        authority.issue(directory.path(), &["target"]);
        assert!(server.config().is_ok());
    }

    #[test]
    fn names_that_a_certificate_can_have() {
        for good in ["web.ns.vmi", "10.0.0.7", "fd00::7", "a"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "*.ns.vmi", "web/ns", &"a.".repeat(140)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
