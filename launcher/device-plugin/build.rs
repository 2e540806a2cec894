//! Makes the Rust types of the kubelet's protocol from the proto file, without `protoc`.

use std::error::Error;

const PROTO: &str = "proto/kubelet/deviceplugin/v1beta1.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO}");
    let files = protox::compile([PROTO], ["proto"])?;
    // Without tonic's transport: a connection is one Unix socket.
    tonic_prost_build::configure()
        .build_transport(false)
        .compile_fds(files)?;
    Ok(())
}
