//! Test suites that others wrote, run against the server unmodified. They are not in the clone:
//! `interop/suites/run.py` fetches them.

#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a test prints what it counted, and fails by panicking"
)]

use std::{env, path::Path, process::Stdio};

use mainstem_tests::{Language, server, untried};

const QUICK: [&str; 14] = [
    "pika",
    "amqp",
    "kombu",
    "amqplib",
    "amqp091-go",
    "java",
    "spring",
    "celery",
    "hivemq",
    "paho-go",
    "rabbitmqadmin",
    "exporter",
    "flower",
    "rabbit-hole",
];
/// They take minutes to compile or to run, and are left to `make interop`.
const SLOW: [&str; 5] = ["gmqtt", "paho-python", "paho-c", "lapin", "rabbitmqadmin-ng"];

/// With `MAINSTEM_SUITES` everything has to be tried; without it, what this machine cannot do is
/// said and passed over.
#[test]
fn clients_find_what_their_own_suites_want() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/suites/run.py");
    let mut command = Language::Python.command(&script);
    if env::var_os("MAINSTEM_SUITES").is_some() {
        command.arg("--strict").arg(server::binary()).args(QUICK).args(SLOW);
    } else {
        command.arg(server::binary()).args(QUICK);
    }
    let output = command.stdin(Stdio::null()).output().expect("python runs the suites");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    println!("{said}");
    for line in said.lines().filter(|line| line.starts_with("not tried")) {
        untried::say(&format!("suites: {line}"));
    }
    assert!(output.status.success(), "a suite failed: {said}");
}
