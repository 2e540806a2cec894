//! Makes the protocol's Rust types from the proto file. The compiler of proto files is a crate (protox), so that a clean
//! clone builds without `protoc`.

use std::error::Error;

const PROTO: &str = "proto/hawser/hooks/v1alpha1/hooks.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO}");
    let files = protox::compile([PROTO], ["proto"])?;
    // Without tonic's transport: hawser brings its own connection, to see it end.
    tonic_prost_build::configure()
        .build_transport(false)
        .compile_fds(files)?;
    Ok(())
}
