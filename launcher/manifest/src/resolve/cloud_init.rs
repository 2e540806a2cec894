//! `cloudInitNoCloud` and `cloudInitConfigDrive`: user data and network data, each from one place.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::document::report::{FieldPath, Report};
use crate::document::text::given;
use crate::guest::storage::{CloudInit, CloudInitSource, SeedData, Text};
use crate::v1::storage;

/// Bytes of user data or network data in a manifest; KubeVirt's own limit. A secret may hold more.
const INLINE_MAX: usize = 2048;

/// One of the two, in its three ways to be written.
struct Ways<'a> {
    what: &'static str,
    plain: (&'static str, Option<&'a str>),
    base64: (&'static str, Option<&'a str>),
    secret: (&'static str, Option<&'a storage::Reference>),
}

/// What became of one of the two.
enum Seed {
    NotWritten,
    /// The report says why.
    Refused,
    Data(SeedData),
}

impl Seed {
    fn data(self) -> Option<SeedData> {
        match self {
            Self::Data(data) => Some(data),
            Self::NotWritten | Self::Refused => None,
        }
    }
}

pub(crate) fn resolve(
    data: &storage::CloudInit,
    source: CloudInitSource,
    path: &FieldPath,
    report: &mut Report,
) -> Option<CloudInit> {
    let user = Ways {
        what: "user data",
        plain: ("userData", given(&data.user_data)),
        base64: ("userDataBase64", given(&data.user_data_base64)),
        secret: ("secretRef", data.secret_ref.as_ref()),
    };
    let network = Ways {
        what: "network data",
        plain: ("networkData", given(&data.network_data)),
        base64: ("networkDataBase64", given(&data.network_data_base64)),
        secret: ("networkDataSecretRef", data.network_data_secret_ref.as_ref()),
    };
    if user.written().is_empty() && network.written().is_empty() {
        report.refuse(path.clone(), "user data or network data is required");
        return None;
    }
    match (user.resolve(path, report), network.resolve(path, report)) {
        (Seed::Refused, _) | (_, Seed::Refused) => None,
        (user, network) => Some(CloudInit {
            source,
            user_data: user.data(),
            network_data: network.data(),
            public_keys: Vec::new(),
        }),
    }
}

impl Ways<'_> {
    fn written(&self) -> Vec<&'static str> {
        let ways = [
            self.plain.1.map(|_| self.plain.0),
            self.base64.1.map(|_| self.base64.0),
            self.secret.1.map(|_| self.secret.0),
        ];
        ways.into_iter().flatten().collect()
    }

    fn resolve(&self, path: &FieldPath, report: &mut Report) -> Seed {
        let written = self.written();
        if let [_, second, ..] = written.as_slice() {
            let message = format!(
                "{} comes from one place, found {}",
                self.what,
                written.join(" and ")
            );
            report.refuse(path.key(second), message);
            return Seed::Refused;
        }
        if let Some(reference) = self.secret.1 {
            // An absent name has been refused by the check against the schema.
            let Some(name) = &reference.name else {
                return Seed::Refused;
            };
            if name.is_empty() {
                report.refuse(path.key(self.secret.0).key("name"), "required");
                return Seed::Refused;
            }
            return Seed::Data(SeedData::Secret { name: name.clone() });
        }
        let (field, bytes) = match (self.plain.1, self.base64.1) {
            (Some(text), _) => (self.plain.0, text.as_bytes().to_vec()),
            (None, Some(text)) => match STANDARD.decode(text.trim_end()) {
                Ok(bytes) => (self.base64.0, bytes),
                Err(error) => {
                    report.refuse(path.key(self.base64.0), format!("expected base64: {error}"));
                    return Seed::Refused;
                }
            },
            (None, None) => return Seed::NotWritten,
        };
        // KubeVirt counts the text as written.
        let length = self.plain.1.or(self.base64.1).map_or(0, str::len);
        if length > INLINE_MAX {
            let message = format!(
                "at most {INLINE_MAX} bytes, found {length}: put more into a secret and name it in {}",
                self.secret.0
            );
            report.refuse(path.key(field), message);
            return Seed::Refused;
        }
        Seed::Data(SeedData::Inline(Text(bytes)))
    }
}
