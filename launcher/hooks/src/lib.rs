//! The protocol between hawser and the sidecars of binding plugins, as Rust types: client, server and messages, made from
//! `proto/hawser/hooks/v1alpha1/hooks.proto`, which has the rules. hawser is the client; a sidecar written in Rust takes
//! the server from here (`examples/passt_sidecar.rs`).
//!
//! It is gRPC over one connection of HTTP/2 that both sides hold: no pool, no reconnecting, because the end of the
//! connection says something.

mod client;
mod server;

// What tonic and prost make of the file is theirs to lint.
#[allow(clippy::all, unreachable_pub)]
pub mod v1alpha1 {
    tonic::include_proto!("hawser.hooks.v1alpha1");
}

pub use client::{Client, Connection, connect};
pub use server::serve;
pub use tonic::{Code, Request, Response, Status, async_trait};

/// The version of the protocol that is spoken here: the last component of the package's name.
pub const VERSION: &str = "v1alpha1";

/// The most that an `OnDefineVmResponse` may hold, in bytes: the limit of cloud-hypervisor's API for a VM's configuration.
pub const MAX_VM_CONFIG: usize = 51_200;
