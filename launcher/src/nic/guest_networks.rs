//! Networks for a masqueraded guest whose usual one has addresses of the pod's own network, in the order in which they are tried.
//! They follow from the guest's name, so that they are the same in every pod that it is started in.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use sha2::{Digest, Sha256};

use crate::spec::GuestSpec;

/// The private networks (RFC 1918), those that clusters use least first.
const PRIVATE: [(Ipv4Addr, u8); 3] = [
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
];
/// How many there are to try.
const ROUNDS: usize = 3;

pub(super) fn v4(guest: &GuestSpec) -> Vec<Ipv4Net> {
    let one = |(round, (base, prefix_len)): (usize, (Ipv4Addr, u8))| {
        let [a, b, c, d, ..] = hash(guest, round);
        let host_bits = u32::MAX.checked_shr(prefix_len.into()).unwrap_or_default();
        let address = u32::from(base) | u32::from_be_bytes([a, b, c, d]) & host_bits;
        Ipv4Net::new(address.into(), 24).map(|net| net.trunc())
    };
    let bases = (0..ROUNDS).flat_map(|_| PRIVATE);
    bases.enumerate().filter_map(|one_of| one(one_of).ok()).collect()
}

/// Unique local addresses with 40 random bits (RFC 4193).
pub(super) fn v6(guest: &GuestSpec) -> Vec<Ipv6Net> {
    let one = |round| {
        let [a, b, c, d, e, ..] = hash(guest, round);
        let pair = u16::from_be_bytes;
        let address = Ipv6Addr::new(pair([0xfd, a]), pair([b, c]), pair([d, e]), 0, 0, 0, 0, 0);
        Ipv6Net::new(address, 120).ok()
    };
    (0..ROUNDS).filter_map(one).collect()
}

fn hash(guest: &GuestSpec, round: usize) -> [u8; 8] {
    let digest = Sha256::digest(format!("{}/{}/{round}", guest.namespace, guest.name));
    let mut bytes = [0; 8];
    bytes
        .iter_mut()
        .zip(digest)
        .for_each(|(byte, random)| *byte = random);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(name: &str) -> GuestSpec {
        let manifest = format!(
            "{{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {{name: {name}}}, spec: {{domain: {{
               memory: {{guest: 256Mi}}, firmware: {{kernelBoot: {{container: {{image: g, kernelPath: /k}}}}}},
               devices: {{interfaces: [{{name: default, masquerade: {{}}}}]}}}}, networks: [{{name: default, pod: {{}}}}]}}}}"
        );
        crate::spec::load(&manifest).unwrap().spec
    }

    #[test]
    fn they_follow_from_the_name_and_are_private() {
        let (web, db) = (guest("web"), guest("db"));
        assert_eq!((v4(&web), v6(&web)), (v4(&guest("web")), v6(&guest("web"))));
        assert!(v4(&web) != v4(&db) && v6(&web) != v6(&db));
        for net in v4(&web) {
            assert!(
                net.addr().is_private() && net.prefix_len() == 24 && net == net.trunc(),
                "{net}"
            );
        }
        assert_eq!(v4(&web).len(), 9);
        for net in v6(&web) {
            assert!(net.addr().is_unique_local() && net == net.trunc(), "{net}");
        }
    }
}
