//! Whole frames: framing, lengths and checksums included.
//!
//! From dhcp/: `cargo +nightly fuzz run frame -- -max_total_time=60`.
#![no_main]

mod lease;

use std::sync::LazyLock;

static RESPONDER: LazyLock<hawser_dhcp::Responder> = LazyLock::new(lease::responder);

libfuzzer_sys::fuzz_target!(|frame: &[u8]| lease::check(&RESPONDER, frame));
