//! Plans carried out in real network namespaces, one of its own for each test.
//!
//! They need root, `ip` and `nft`, so `cargo test` counts them as ignored. `cargo test -- --include-ignored` runs
//! them; what is then missing fails the test and is named.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod bridge;
mod cni;
mod crashes;
mod faults;
mod frames;
mod hostile_guest;
mod passt;
mod pod;
mod tracer;
mod wiring;
