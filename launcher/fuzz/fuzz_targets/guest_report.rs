#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hawser::fuzzing::guest_report(bytes));
