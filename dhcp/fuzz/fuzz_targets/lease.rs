//! The lease that both targets answer from: something of everything, so that every option is written.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use hawser_dhcp::{Lease, LeaseV4, LeaseV6, Mac, Responder, Route4};

pub const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 42];

pub fn responder() -> Responder {
    Responder::new(Lease {
        guest_mac: Mac(GUEST_MAC),
        server_mac: Mac([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        hostname: Some("guest".into()),
        domain: Some("example".into()),
        search: (0..12)
            .map(|n| format!("team-{n}.a-long-enough-domain.example"))
            .collect(),
        v4: Some(LeaseV4 {
            address: Ipv4Addr::new(10, 0, 2, 2),
            prefix_len: 24,
            server: Ipv4Addr::new(10, 0, 2, 1),
            routers: vec![Ipv4Addr::new(10, 0, 2, 1)],
            routes: vec![Route4 {
                destination: ipnet::Ipv4Net::default(),
                via: Ipv4Addr::new(10, 0, 2, 1),
            }],
            dns: vec![Ipv4Addr::new(10, 96, 0, 10)],
            ntp_servers: vec![Ipv4Addr::new(192, 0, 2, 1)],
            tftp_server_name: Some("192.0.2.1".into()),
            boot_file_name: Some("pxelinux.0".into()),
            private_options: BTreeMap::from([(224, vec![1; 300]), (254, vec![2; 40])]),
            ipv6_only_wait: Some(1800),
        }),
        v6: Some(LeaseV6 {
            address: Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, 2),
            on_link: "fd10::/120".parse().ok(),
            server: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
            default_router: true,
            router_on_link: false,
            dns: vec![Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 10)],
        }),
    })
}

/// What holds of every reply: it is no longer than the link carries, and saying what happened is safe to log.
pub fn check(responder: &Responder, frame: &[u8]) {
    let answer = responder.answer(frame);
    assert!(answer.reply.is_none_or(|reply| reply.len() <= 14 + 1500));
    let text = answer.event.to_string();
    assert!(
        text.len() < 1024 && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()),
        "{text}"
    );
}
