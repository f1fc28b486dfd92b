//! Disks that are full, and records that are damaged: what is refused, what goes on, and what comes
//! back by itself.

use std::{fs, path::PathBuf, time::Duration};

use lapin::{BasicProperties, Confirmation, options::BasicPublishOptions};
use mainstem_tests::{Amqp, Deadline, Mqtt, Server, Setup, http, server};
use serde_json::Value;
use tempfile::TempDir;

const BODY_BYTES: usize = 100_000;
const RECOVERY_S: u64 = 60;
/// A client that has heard nothing for so long is blocked.
const BLOCKED: Duration = Duration::from_secs(3);

/// A server on a file system of its own that is this large.
fn start_on(disk_bytes: u64, settings: &[&str]) -> (Server, TempDir) {
    let data = TempDir::new().unwrap();
    let mut setup = Setup::new(data.path());
    setup.disk_bytes = Some(disk_bytes);
    setup.settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
    (Server::start_setup(setup), data)
}

/// Publishes, and tells whether it was taken.
async fn is_taken(amqp: &Amqp, queue: &str, body: &[u8]) -> bool {
    let persistent = BasicProperties::default().with_delivery_mode(2);
    let options = BasicPublishOptions::default();
    let sent = amqp.channel.basic_publish("".into(), queue.into(), options, body, persistent);
    match sent.await.unwrap().await.unwrap() {
        Confirmation::Ack(_) => true,
        Confirmation::Nack(_) => false,
        Confirmation::NotRequested => panic!("the channel confirms"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_publishes_keeps_consuming_and_recovers_by_itself() {
    let settings = ["store.segment_bytes=1048576", "store.message_bytes_max=262144"];
    if !server::can_mount() {
        return;
    }
    let (mut server, _data) = start_on(32 << 20, &settings);
    let ports = server.ports();
    let amqp = Amqp::connect(ports.amqp).await;
    amqp.queue("q", None).await;
    let body = vec![7; BODY_BYTES];
    let mut taken = 0;
    // Once it is told connection.blocked, this client stops by itself.
    while let Ok(true) = tokio::time::timeout(BLOCKED, is_taken(&amqp, "q", &body)).await {
        taken += 1;
        assert!(taken < 400, "a disk of 32 MiB took {taken} records of 100 kB");
    }
    // One that was not told is told by basic.nack.
    let amqp = Amqp::connect(ports.amqp).await;
    assert!(!is_taken(&amqp, "q", &body).await, "the disk is full");
    assert!(taken > 100, "a disk of 32 MiB took {taken} records of 100 kB only");

    // The others say it in their own words.
    let answer = http::post(ports.http, "/topics/a", "x");
    assert_eq!(answer.status, 507, "{}", answer.body);
    assert_eq!(mqtt_5_reason(ports.mqtt), 0x97, "[MQTT-5 3.4.2.1] quota exceeded");

    // One more may have been taken whose confirm the blocked client did not see.
    let ready = amqp.ready("q").await;
    assert!(ready == taken || ready == taken + 1, "{ready} of {taken} that were confirmed");
    for _ in 0..ready {
        assert_eq!(amqp.take("q").await.as_deref(), Some(body.as_slice()));
    }
    let deadline = Deadline::seconds(RECOVERY_S);
    while !is_taken(&amqp, "q", &body).await {
        assert!(
            !deadline.passed(),
            "no publish is taken {RECOVERY_S} s after the disk was drained"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for _ in 0..50 {
        assert!(is_taken(&amqp, "q", &body).await, "there is room again");
    }
    let mut mqtt = Mqtt::connect(ports.mqtt, "after").await;
    mqtt.publish("a", false, b"x").await;
    assert_eq!(http::post(ports.http, "/topics/a", "x").status, 200);
    // The one above, the fifty, and at most the one that the blocked client still had to say.
    let ready = amqp.ready("q").await;
    assert!((51..=52).contains(&ready), "{ready} are ready of 51 that were confirmed");
    assert!(server.is_running());
}

/// What an MQTT 5 publisher is told, spoken by hand: CONNECT, then PUBLISH with QoS 1.
fn mqtt_5_reason(port: u16) -> u8 {
    use std::io::{Read, Write};
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.write_all(b"\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01a").unwrap();
    let mut head = [0; 2];
    socket.read_exact(&mut head).unwrap();
    assert_eq!(head[0], 0x20, "CONNACK");
    let mut rest = vec![0; usize::from(head[1])];
    socket.read_exact(&mut rest).unwrap();
    socket.write_all(b"\x32\x07\0\x01t\0\x01\0x").unwrap();
    let mut ack = [0; 5];
    socket.read_exact(&mut ack).unwrap();
    assert_eq!((ack[0], ack[2], ack[3]), (0x40, 0, 1), "PUBACK for packet 1");
    ack[4]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_costs_that_record_alone_and_is_named() {
    // A tail cache of nothing, so that every body is read from the disk.
    let server = Server::start_with(&["store.tail_cache_bytes=0"]);
    let ports = server.ports();
    let amqp = Amqp::connect(ports.amqp).await;
    amqp.queue("q", None).await;
    for number in 0..20 {
        amqp.publish("", "q", format!("record number {number}").as_bytes()).await;
    }
    let (file, offset, position) = place_of(&server, 7);
    super::log_command::flip(&file, offset);

    let mut got = Vec::new();
    let deadline = Deadline::seconds(RECOVERY_S);
    while got.len() < 19 {
        assert!(!deadline.passed(), "got {got:?}");
        if let Some(body) = amqp.take("q").await {
            got.push(String::from_utf8(body).unwrap());
        }
    }
    let others = (0..20).filter(|number| *number != 7);
    assert_eq!(got, others.map(|number| format!("record number {number}")).collect::<Vec<_>>());
    let named = deadline.until("the damaged record to be named", || {
        server.log().into_iter().find(|line| line.contains("record_unreadable"))
    });
    assert!(named.contains(&position.to_string()), "{named}");
    deadline.until("it to be counted", || {
        (http::metric(ports.http, "mainstem_unreadable_total") >= Some(1.0)).then_some(())
    });
    // The server lives on, and so does the record's place: it was not settled behind anybody's
    // back.
    amqp.publish("", "q", b"after").await;
    assert_eq!(amqp.take("q").await.as_deref(), Some(b"after".as_slice()));
    let file = fs::metadata(&file).unwrap();
    assert!(file.len() > 0, "what is around it stays");
}

/// The file, a byte of its body in it, and the position of the record published as number
/// `number`.
fn place_of(server: &Server, number: usize) -> (PathBuf, u64, u64) {
    let mut command = server::program();
    command.args(["log", "inspect", "--json", "--kind=publish", "--data"]).arg(server.data_dir());
    let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let entry: Value = serde_json::from_str(said.lines().nth(number).unwrap()).unwrap();
    let file = server.data_dir().join("log").join(entry["file"].as_str().unwrap());
    let end = entry["file_offset"].as_u64().unwrap() + entry["size"].as_u64().unwrap();
    (file, end - 3, entry["position"].as_u64().unwrap())
}
