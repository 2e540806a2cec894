//! Serves a sample lease on the descriptor that is standard input, and prints what happens.
//!
//! For trying DHCP clients by hand: give it a TAP (opened without packet information) as standard input, and run
//! a client on that TAP. The first argument is the TAP's hardware address.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use hawser_dhcp::{Lease, LeaseV4, LeaseV6, Mac, serve};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mac: Mac = std::env::args().nth(1).ok_or("usage: on_stdin MAC")?.parse()?;
    let gateway = Ipv4Addr::new(10, 0, 2, 1);
    let lease = Lease {
        guest_mac: mac,
        server_mac: Mac([2, 0, 0, 0, 0, 1]),
        mtu: 1450,
        hostname: Some("guest".into()),
        domain: Some("default.svc.cluster.local".into()),
        search: vec![
            "default.svc.cluster.local".into(),
            "svc.cluster.local".into(),
            "cluster.local".into(),
        ],
        v4: Some(LeaseV4 {
            address: Ipv4Addr::new(10, 0, 2, 2),
            prefix_len: 24,
            server: gateway,
            routers: vec![gateway],
            routes: Vec::new(),
            dns: vec![Ipv4Addr::new(10, 96, 0, 10)],
            ntp_servers: Vec::new(),
            tftp_server_name: None,
            boot_file_name: None,
            private_options: BTreeMap::new(),
            ipv6_only_wait: None,
        }),
        v6: Some(LeaseV6 {
            address: Ipv6Addr::new(0xfd10, 0, 2, 0, 0, 0, 0, 2),
            on_link: "fd10:0:2::/120".parse().ok(),
            server: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
            default_router: true,
            router_on_link: false,
            dns: vec![Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 10)],
        }),
    };
    let channel = io::stdin().as_fd().try_clone_to_owned()?;
    serve(
        channel,
        lease,
        |event| println!("{event}"),
        std::future::pending(),
    )
    .await?;
    Ok(())
}
