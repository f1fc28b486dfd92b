//! Compiles the vendored `apache.rocketmq.v2` files without a `protoc` on the machine.

use std::error::Error;

const ROOT: &str = "../../schemas/proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    let files = protox::compile(["apache/rocketmq/v2/service.proto"], [ROOT])?;
    // `Bytes` for every bytes field: a body goes from the log to the socket without a copy.
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
