//! `mainstem rabbitmqctl`: what it says beside what RabbitMQ's own said, and what it does to a running server.

use std::{
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
    process::{Command, Stdio},
};

use mainstem_tests::{Amqp, Deadline, Mqtt, Server, http, server};
use serde_json::Value as Json;
use tempfile::TempDir;

/// Calls in their order, with what RabbitMQ 3.10.8 of Debian answered. Where neither `out` nor `err` is there the
/// words are its own, and the exit code counts.
const RECORDED: &str = include_str!("../interop/rabbitmqctl.json");

/// What a call gave.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn run(mut command: Command, arguments: &[&str], stdin: &str) -> Said {
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // One that does not read it has ended already.
    let _unread = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn ctl(data: &Path, arguments: &[&str], stdin: &str) -> Said {
    let mut command = server::program();
    command.arg("rabbitmqctl").arg("--set").arg(format!("data_dir={}", data.display()));
    run(command, arguments, stdin)
}

/// Calls it, expects success, and answers what it said.
fn fine(server: &Server, arguments: &[&str]) -> String {
    let said = ctl(server.data_dir(), arguments, "");
    assert_eq!(said.code, Some(0), "{arguments:?}: {said:?}");
    said.out
}

/// The words of a call, as a shell reads them: with quotes and nothing else.
fn words(call: &str) -> Vec<String> {
    let (mut words, mut quoted) = (Vec::new(), false);
    let mut word: Option<String> = None;
    for letter in call.chars() {
        match letter {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

/// Lines of a list have no order, and JSON separates them by a comma before all but the first.
fn lines(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.trim_start_matches(',').to_owned());
    let mut lines: Vec<_> = lines.collect();
    lines.sort();
    lines
}

#[test]
fn it_says_what_rabbitmqs_says() {
    let server = Server::start();
    let recorded: Vec<Json> = serde_json::from_str(RECORDED).unwrap();
    let given = format!("--set data_dir={} ", server.data_dir().display());
    let mut odd = Vec::new();
    for one in &recorded {
        let (call, stdin) = (one["call"].as_str().unwrap(), one["stdin"].as_str().unwrap_or(""));
        let words = words(call);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let said = ctl(server.data_dir(), &words, stdin);
        let mut same = said.code.map(i64::from) == one["code"].as_i64();
        if let (Some(out), Some(err)) = (one["out"].as_str(), one["err"].as_str()) {
            same &= lines(&said.out) == lines(out);
            same &= said.err.replace(&given, "").trim() == err.trim();
        }
        if !same {
            odd.push(format!("{call}\n  RabbitMQ: {one}\n  here: {said:?}"));
        }
    }
    assert!(odd.is_empty() && recorded.len() > 100, "{}", odd.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_listed_and_closed() {
    let server = Server::start();
    let amqp = Amqp::connect(server.ports().amqp).await;
    amqp.queue("live", None).await;
    let mut mqtt = Mqtt::resume(server.ports().mqtt, "device").await;
    mqtt.subscribe("plant/#", rumqttc::QoS::AtLeastOnce).await;
    let listed =
        fine(&server, &["-q", "list_connections", "protocol", "user", "channels", "state"]);
    let expected = ["AMQP 0-9-1\tguest\t1\trunning", "protocol\tuser\tchannels\tstate"];
    assert!(expected.iter().all(|line| listed.contains(line)), "{listed}");
    assert!(listed.contains("MQTT 3-1-1\tanonymous\t0\trunning"), "{listed}");
    let channels = fine(&server, &["-s", "list_channels", "connection", "number", "vhost"]);
    let pids = fine(&server, &["list_connections", "-s", "pid", "protocol"]);
    let pid = pids.lines().find_map(|line| line.strip_suffix("\tAMQP 0-9-1")).unwrap();
    assert_eq!(channels.trim_end(), format!("{pid}\t1\t/"));
    fine(&server, &["close_connection", pid, "moved"]);
    let deadline = Deadline::seconds(10);
    deadline
        .until("the connection to end", || (!amqp.connection.status().connected()).then_some(()));
    deadline.until("the connection to be gone", || {
        let left = fine(&server, &["-s", "list_connections", "protocol"]);
        (left == "MQTT 3-1-1\n").then_some(())
    });
    let closed = fine(&server, &["close_all_connections", "--global", "over"]);
    assert!(closed.ends_with("Closed 1 connections\n"), "{closed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_go_out_and_in_again() {
    let server = Server::start();
    let amqp = Amqp::connect(server.ports().amqp).await;
    amqp.queue("kept", Some(("amq.topic", "plant.#"))).await;
    fine(&server, &["add_user", "ann", "secret"]);
    fine(&server, &["set_permissions", "ann", ".*", ".*", ".*"]);
    let file = server.data_dir().join("definitions.json");
    fine(&server, &["export_definitions", file.to_str().unwrap()]);
    let other = Server::start();
    fine(&other, &["import_definitions", file.to_str().unwrap()]);
    assert_eq!(fine(&other, &["-s", "list_queues", "name", "durable"]), "kept\ttrue\n");
    assert_eq!(fine(&other, &["authenticate_user", "-q", "ann", "secret"]), "Success\n");
    let status = fine(&other, &["status"]);
    for line in
        ["RabbitMQ version: 3.13.7", "Queue count: 1", "Virtual host count: 1", "protocol: mqtt"]
    {
        assert!(status.contains(line), "{line}: {status}");
    }
    let json: Json =
        serde_json::from_str(&fine(&other, &["cluster_status", "--formatter=json"])).unwrap();
    assert_eq!(json["running_nodes"], json["disk_nodes"]);
}

#[test]
fn the_operators_file_opens_this_start_only_and_goes_with_it() {
    let mut server = Server::start();
    let file = server.data_dir().join("operator.json");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let token = |text: &str| {
        serde_json::from_str::<Json>(text).unwrap()["token"].as_str().unwrap().to_owned()
    };
    let ask = |server: &Server, method: &str, path: &str, token: &str| {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close");
        let request = format!("{head}\r\nAuthorization: Bearer {token}\r\n\r\n");
        http::request(server.ports().http, &request).status
    };
    let first = token(&fs::read_to_string(&file).unwrap());
    assert_eq!(ask(&server, "GET", "/api/users", &first), 200);
    let wrong = first.replace(|letter: char| letter.is_ascii_lowercase(), "x");
    assert_eq!(ask(&server, "GET", "/api/users", &wrong), 401);
    // An administrator is not the operator, and nobody can take the name.
    assert_eq!(http::as_guest(server.ports().http, "POST", "/api/v1/stop", "").status, 401);
    let taken = http::as_guest(server.ports().http, "PUT", "/api/users/$operator", "{}");
    assert_eq!(taken.status, 400, "{}", taken.body);
    server.restart();
    assert_eq!(ask(&server, "GET", "/api/users", &first), 401);
    fine(&server, &["await_startup", "--timeout", "5"]);
    let said = fine(&server, &["stop"]);
    assert!(said.starts_with("Stopping and halting node "), "{said}");
    let deadline = Deadline::seconds(10);
    assert!(deadline.until("the server to end", || server.ended()).success());
    assert!(!file.exists());
    let gone = ctl(server.data_dir(), &["list_users"], "");
    assert_eq!(gone.code, Some(69), "{gone:?}");
    assert!(gone.err.contains("no server is running on "), "{gone:?}");
    assert_eq!(ctl(server.data_dir(), &["stop", "--idempotent"], "").code, Some(0));
}

#[test]
fn it_is_called_by_rabbitmqs_name() {
    let server = Server::start();
    let folder = TempDir::new().unwrap();
    let program = folder.path().join("rabbitmqctl");
    symlink(server::binary(), &program).unwrap();
    let data = format!("data_dir={}", server.data_dir().display());
    let said = run(Command::new(&program), &["--set", &data, "-q", "list_vhosts"], "");
    assert_eq!((said.code, said.out.as_str()), (Some(0), "name\n/\n"), "{said:?}");
    let said = run(Command::new(&program), &["list_usres"], "");
    assert_eq!(said.code, Some(64));
    assert!(said.err.contains("Did you mean 'list_users'?"), "{said:?}");
    let said = run(Command::new(&program), &["eval", "1+1."], "");
    assert_eq!(said.code, Some(70));
    let said = run(Command::new(&program), &["set_vm_memory_high_watermark", "0.5"], "");
    assert_eq!(said.code, Some(70));
    assert!(said.err.contains("nothing was set"), "{said:?}");
}
