//! The commands beside `serve`: messages by hand over every protocol, `doctor`, `top`, `config explain`.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    process::{Child, Command, Output, Stdio},
};

use mainstem_tests::{Amqp, Server, http, server};
use serde_json::Value as Json;

/// The program with the ports and data of a server.
fn at(server: &Server, arguments: &[&str]) -> Command {
    let mut command = server::program();
    command.args(arguments).args(["--set", &format!("data_dir={}", server.data_dir().display())]);
    let ports = server.ports();
    let all = [
        ("amqp", ports.amqp),
        ("mqtt", ports.mqtt),
        ("rocketmq", ports.rocketmq),
        ("http", ports.http),
    ];
    for (name, port) in all {
        command.args(["--set", &format!("listeners.{name}.bind=127.0.0.1:{port}")]);
    }
    command
}

fn text(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8(text).unwrap()
}

/// Sends, and expects it to be taken.
fn publish(server: &Server, arguments: &[&str]) {
    let output = at(server, &[&["pub"], arguments].concat()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output));
}

fn declare(server: &Server, queue: &str) {
    let path = format!("/api/queues/%2F/{queue}");
    let made = http::as_guest(server.ports().http, "PUT", &path, "{\"durable\":true}");
    assert_eq!(made.status, 201);
}

/// Waits for messages; each is a JSON object.
fn subscribe(server: &Server, arguments: &[&str]) -> Child {
    let given = [&["sub"], arguments, &["--json", "--wait", "20"]].concat();
    at(server, &given).stdout(Stdio::piped()).spawn().unwrap()
}

fn received(child: Child) -> Vec<Json> {
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_protocol_sends_to_every_other_by_hand() {
    let server = Server::start();
    let amqp = Amqp::connect(server.ports().amqp).await;
    amqp.queue("all", Some(("amq.topic", "plant.#"))).await;
    amqp.queue("rest", Some(("amq.topic", "plant.#"))).await;
    // The group begins where the topic is when it first asks.
    let group = ["plant", "--proto=rocketmq", "--count", "1", "--wait", "0"];
    let first = at(&server, &[&["sub"][..], &group[..]].concat()).output().unwrap();
    assert_eq!(first.status.code(), Some(75), "{}", text(&first));
    publish(&server, &["plant/oven", "by mqtt", "--header", "unit=C", "--qos", "2"]);
    publish(&server, &["plant/oven", "by http", "--proto", "http"]);
    publish(
        &server,
        &["plant", "by rocketmq", "--proto", "rocketmq", "--tag", "oven", "--key", "k7"],
    );
    let exchange =
        ["plant.oven", "by amqp", "--proto=amqp", "--exchange=amq.topic", "--header", "unit=C"];
    publish(&server, &exchange);
    let mut bodies = Vec::new();
    for arguments in [
        &["all", "--proto=amqp", "--count", "4"][..],
        &["rest", "--proto=http", "--count", "4"],
        &["plant", "--proto=rocketmq", "--count", "4"],
    ] {
        let got = received(subscribe(&server, arguments));
        let mut got: Vec<_> =
            got.iter().map(|one| one["payload"].as_str().unwrap().to_owned()).collect();
        got.sort();
        bodies.push(got);
    }
    for got in bodies {
        assert_eq!(got, ["by amqp", "by http", "by mqtt", "by rocketmq"]);
    }
}

#[test]
fn mqtt_subscribers_get_the_properties() {
    let server = Server::start();
    // Retained, so that it does not matter who comes first.
    publish(&server, &["plant/oven", "21.5", "--retain", "--header", "unit=C"]);
    let got = received(subscribe(&server, &["plant/+", "--count", "1"]));
    assert_eq!((&got[0]["name"], &got[0]["payload"]), (&"plant/oven".into(), &"21.5".into()));
    assert_eq!(got[0]["properties"]["unit"], "C");
}

#[test]
fn lines_are_messages_and_refusals_are_told() {
    let server = Server::start();
    declare(&server, "q");
    let arguments = ["pub", "q", "--proto=amqp", "--lines", "--count", "2", "--rate", "1000"];
    let mut child = at(&server, &arguments).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"one\ntwo\n").unwrap();
    assert!(child.wait().unwrap().success());
    let mut reader = at(&server, &["sub", "q", "--proto=amqp", "--count", "4", "--wait", "20"]);
    let mut child = reader.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.collect::<Vec<_>>(), ["one", "two", "one", "two"]);
    assert!(child.wait().unwrap().success());
    for (arguments, code, words) in [
        (&["pub", "nowhere", "x", "--proto=amqp"][..], 70, "no queue takes 'nowhere'"),
        (&["pub", "a", "x", "--proto=amqp", "--user=guest", "--password=no"], 69, "cannot connect"),
        (&["sub", "q", "--proto=amqp", "--count=1", "--wait=0"], 75, ""),
        (&["pub", "a", "x", "--proto=stomp"], 64, "unknown argument '--proto stomp'"),
    ] {
        let output = at(&server, arguments).output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
}

#[test]
fn doctor_finds_a_taken_port_and_too_few_descriptors() {
    let server = Server::start();
    let well = at(&server, &["doctor"]).output().unwrap();
    let said = text(&well);
    assert!(said.contains("a server is running on this data directory"), "{said}");
    for about in ["ports", "data_dir", "disk room", "fsync", "descriptors", "clock", "certificate"]
    {
        assert!(said.lines().any(|line| line[9..].starts_with(about)), "{about}: {said}");
    }
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let doctor = format!(
        "ulimit -n 256; exec {} doctor --set data_dir={} --set listeners.mqtt.bind=127.0.0.1:{port}",
        server::binary().display(),
        folder.path().join("new").display()
    );
    let ill = Command::new("sh").args(["-c", &doctor]).output().unwrap();
    let said = text(&ill);
    assert_eq!(ill.status.code(), Some(1), "{said}");
    assert!(
        said.contains(&format!("BAD      ports        MQTT 3.1.1 and 5: port {port}")),
        "{said}"
    );
    assert!(said.contains("BAD      descriptors  only 256 files and sockets"), "{said}");
    assert_eq!(folder.path().read_dir().unwrap().count(), 0, "it leaves nothing behind");
}

#[test]
fn top_shows_the_queues() {
    let server = Server::start();
    declare(&server, "fullest");
    publish(&server, &["fullest", "x", "--proto=amqp", "--count", "3"]);
    let output = at(&server, &["top", "--once"]).output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let row: Vec<_> = said
        .lines()
        .find(|line| line.starts_with("fullest "))
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(row, ["fullest", "classic", "3", "0", "0"]);
}

#[test]
fn a_configuration_in_layers_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mainstem.toml");
    fs::write(&file, "[log]\nlevel = \"warn\"\n[[users]]\nname = \"ann\"\npassword = \"s3cret\"\n")
        .unwrap();
    fs::create_dir(folder.path().join("conf.d")).unwrap();
    fs::write(folder.path().join("conf.d/a.toml"), "[mqtt]\nflaps_max = 7\n").unwrap();
    let mut command = server::program();
    command.args(["config", "explain", "--set", "log.format=json"]);
    command.env("MAINSTEM_CONFIG", &file).env("MAINSTEM__STORE__COMMANDS_MAX", "9");
    let said = text(&command.output().unwrap());
    for line in [
        "log.level = \"warn\"  # ",
        "mqtt.flaps_max = 7  # ",
        "store.commands_max = 9  # MAINSTEM__STORE__COMMANDS_MAX",
        "log.format = \"json\"  # --set log.format",
        "drain_ms_max = 10000  # default",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(said.contains("conf.d/a.toml line 2") && !said.contains("s3cret"), "{said}");
}
