//! What hawser tells the guest's systemd: credentials in strings of SMBIOS, type 11 (systemd.system-credentials(7)). A guest
//! without systemd does not read them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::devices::vsock;
use crate::spec::GuestSpec;

/// Of the host, as the guest addresses it (vsock(7)).
const HOST: u32 = 2;

/// A string for each credential. cloud-hypervisor's vsock has streams alone, so the notifications are to come by them.
pub(super) fn strings(guest: &GuestSpec, root_keys: &[String]) -> Vec<String> {
    let mut strings = Vec::new();
    if guest.vsock.is_some() {
        let port = vsock::NOTIFY_PORT;
        strings.push(format!(
            "io.systemd.credential:vmm.notify_socket=vsock-stream:{HOST}:{port}"
        ));
    }
    if !root_keys.is_empty() {
        let keys = STANDARD.encode(root_keys.join("\n") + "\n");
        strings.push(format!(
            "io.systemd.credential.binary:ssh.authorized_keys.root={keys}"
        ));
    }
    strings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_told_what_its_manifest_asks_for_and_nothing_else() {
        let manifest = include_str!("../../manifest/src/testdata/minimal.yaml");
        let plain = crate::spec::load(manifest).unwrap().spec;
        assert!(strings(&plain, &[]).is_empty());
        let with = manifest.replace("      rng: {}", "      rng: {}\n      autoattachVSOCK: true");
        let guest = crate::spec::load(&with).unwrap().spec;
        let keys = ["ssh-ed25519 AAAA one".to_owned(), "ssh-rsa BBBB two".to_owned()];
        assert_eq!(
            strings(&guest, &keys),
            [
                "io.systemd.credential:vmm.notify_socket=vsock-stream:2:49155",
                "io.systemd.credential.binary:ssh.authorized_keys.root=c3NoLWVkMjU1MTkgQUFBQSBvbmUKc3NoLXJzYSBCQkJCIHR3bwo=",
            ]
        );
    }
}
