//! `spec.accessCredentials` as written, in KubeVirt's syntax. Passwords need an agent in the guest.

use crate::document::fields::{Empty, List, fields};

fields! {
    AccessCredential {
        ssh_public_key: Option<SshPublicKey>,
    } accepted {}
}

fields! {
    SshPublicKey {
        #[schemars(required)] source: Option<Source>,
        #[schemars(required)] propagation_method: Option<Propagation>,
    } accepted {}
}

fields! {
    Source {
        secret: Option<SecretSource>,
    } accepted {}
}

fields! {
    SecretSource {
        #[schemars(required)] secret_name: Option<String>,
    } accepted {}
}

fields! {
    Propagation {
        no_cloud: Option<Empty>,
        config_drive: Option<Empty>,
        qemu_guest_agent: Option<GuestAgent>,
    } accepted {}
}

fields! {
    GuestAgent {
        #[schemars(required)] users: Option<List<String>>,
    } accepted {}
}
