//! The protocol between hawser and the sidecars of binding plugins, as Rust types: client, server and messages, made from
//! `proto/hawser/hooks/v1alpha1/hooks.proto`, which has the rules. Both sides use it: hawser the client, sidecars written in
//! Rust the server (`examples/passt_sidecar.rs`).

// What tonic and prost make of the file is theirs to lint.
#[allow(clippy::all, clippy::unwrap_used, clippy::indexing_slicing, unreachable_pub)]
pub mod v1alpha1 {
    tonic::include_proto!("hawser.hooks.v1alpha1");
}

/// The version of the protocol that is spoken here: the last component of the package's name.
pub const VERSION: &str = "v1alpha1";
