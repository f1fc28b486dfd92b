//! Compiles the vendored `apache.rocketmq.v2` files and our own without a `protoc` on the machine.

use std::error::Error;

const ROOT: &str = "../../schemas/proto";
const FILES: [&str; 3] = [
    "apache/rocketmq/v2/service.proto",
    "apache/rocketmq/v2/admin.proto",
    "mainstem/v1/admin.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    let files = protox::compile(FILES, [ROOT])?;
    // `Bytes` for every bytes field: a body goes from the log to the socket without a copy.
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
