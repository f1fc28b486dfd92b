//! The RocketMQ client stubs, generated from the vendored protocol files without protoc.

use std::{env, error::Error, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let protos = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../schemas/proto");
    let service = "apache/rocketmq/v2/service.proto";
    println!("cargo::rerun-if-changed={}", protos.display());
    let files = protox::compile([service], [&protos])?;
    tonic_prost_build::configure().build_server(false).compile_fds(files)?;
    Ok(())
}
