//! Messages in frames that are right, so that the fuzzer need not find checksums: the first byte chooses between
//! DHCPv4, DHCPv4 behind a good fixed header, DHCPv6, and a router solicitation.
//!
//! From dhcp/: `cargo +nightly fuzz run message -- -max_total_time=60`.
#![no_main]

mod lease;

use std::sync::LazyLock;

use etherparse::PacketBuilder;

static RESPONDER: LazyLock<hawser_dhcp::Responder> = LazyLock::new(lease::responder);

const LOCAL: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x2a];
const SERVERS: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2];

/// Up to the options, with the guest's hardware address.
fn header4() -> Vec<u8> {
    let mut out = vec![1, 1, 6];
    out.resize(28, 0);
    out.extend(lease::GUEST_MAC);
    out.resize(236, 0);
    out.extend([99, 130, 83, 99]);
    out
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else {
        return;
    };
    let ethernet = PacketBuilder::ethernet2(lease::GUEST_MAC, [0xff; 6]);
    let mut frame = Vec::new();
    let written = match choice % 4 {
        0 => ethernet
            .ipv4([0; 4], [255; 4], 64)
            .udp(68, 67)
            .write(&mut frame, data),
        1 => {
            let message = [&header4(), data].concat();
            ethernet
                .ipv4([0; 4], [255; 4], 64)
                .udp(68, 67)
                .write(&mut frame, &message)
        }
        2 => ethernet
            .ipv6(LOCAL, SERVERS, 1)
            .udp(546, 547)
            .write(&mut frame, data),
        _ => ethernet
            .ipv6(LOCAL, SERVERS, 255)
            .icmpv6_raw(133, 0, [0; 4])
            .write(&mut frame, data),
    };
    if written.is_ok() {
        lease::check(&RESPONDER, &frame);
    }
});
