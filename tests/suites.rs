//! Test suites that others wrote, run against the server unmodified. They are not in the clone:
//! `interop/suites/run.py` fetches them.

#![allow(clippy::print_stdout, reason = "a test prints what it counted")]

use std::{
    env,
    path::Path,
    process::{Command, Stdio},
};

use mainstem_tests::server;

const QUICK: [&str; 7] = ["pika", "amqp", "kombu", "amqplib", "amqp091-go", "java", "celery"];
/// They take minutes to compile, and are left to `make interop`.
const SLOW: [&str; 1] = ["lapin"];

#[test]
fn rabbitmqs_clients_find_rabbitmq() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/suites/run.py");
    let mut command = Command::new("python3");
    command.arg(script).arg(server::binary()).args(QUICK);
    if env::var_os("MAINSTEM_SUITES").is_some() {
        command.args(SLOW);
    }
    let output = command.stdin(Stdio::null()).output().expect("python3 runs the suites");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    println!("{said}");
    assert!(output.status.success(), "a suite failed: {said}");
}
