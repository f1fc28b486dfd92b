//! What operators bound: what waits for clients that are away, and how fast clients publish.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use mainstem_tests::{Deadline, Language, Mqtt, Server, http, peer};
use rumqttc::QoS;

/// What comes before the server knows that a client has left is under way to it.
fn nobody_is_connected(server: &Server) {
    Deadline::seconds(20).until("the clients to be gone", || {
        let page = http::get(server.ports().http, "/metrics").body;
        page.contains("mainstem_connections{proto=\"mqtt\"} 0\n").then_some(())
    });
}

/// Sends a session away, publishes numbers, and tells what it gets when it is back.
async fn offline(server: &Server, numbers: std::ops::Range<u32>) -> Vec<u32> {
    let port = server.ports().mqtt;
    let mut sleeper = Mqtt::resume(port, "sleeper").await;
    sleeper.subscribe("t/#", QoS::AtLeastOnce).await;
    sleeper.disconnect().await;
    nobody_is_connected(server);
    let mut publisher = Mqtt::connect(port, "publisher").await;
    for number in numbers {
        publisher.publish("t/x", false, format!("{number:04}").as_bytes()).await;
    }
    let mut sleeper = Mqtt::resume(port, "sleeper").await;
    assert!(sleeper.session_present);
    publisher.publish("t/end", false, b"9999").await;
    let mut received = Vec::new();
    loop {
        let number = String::from_utf8(sleeper.next().await.body).unwrap().parse().unwrap();
        if number == 9999 {
            sleeper.disconnect().await;
            return received;
        }
        received.push(number);
    }
}

fn dropped(server: &Server, reason: &str) -> String {
    let line = format!("mainstem_dropped_total{{reason=\"{reason}\"}} ");
    Deadline::seconds(20).until("the drops to be counted", || {
        let page = http::get(server.ports().http, "/metrics").body;
        let count = page.lines().find_map(|found| found.strip_prefix(&line))?;
        (count != "0").then(|| count.to_owned())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_session_is_bounded_counted_and_told() {
    let server = Server::start_with(&["mqtt.queued_messages_max=10"]);
    assert_eq!(offline(&server, 0..10).await, (0..10).collect::<Vec<_>>());
    assert_eq!(offline(&server, 0..25).await, (15..25).collect::<Vec<_>>());
    assert_eq!(dropped(&server, "away_messages"), "15");
    Deadline::seconds(20).until("the log to tell", || {
        server.log().iter().any(|line| line.contains("sleeper: t/# of /")).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_may_be_what_is_dropped_and_bytes_what_is_bounded() {
    let settings = ["mqtt.queued_messages_max=10", "mqtt.queued_drop=newest"];
    let server = Server::start_with(&settings);
    assert_eq!(offline(&server, 0..25).await, (0..10).collect::<Vec<_>>());
    // Four bytes each.
    let server = Server::start_with(&["mqtt.queued_bytes_max=43"]);
    assert_eq!(offline(&server, 0..25).await, (15..25).collect::<Vec<_>>());
    assert_eq!(dropped(&server, "away_bytes"), "15");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_too_long_is_dropped() {
    let server = Server::start_with(&["mqtt.queued_age_max_s=2"]);
    let port = server.ports().mqtt;
    let mut sleeper = Mqtt::resume(port, "sleeper").await;
    sleeper.subscribe("t/#", QoS::AtLeastOnce).await;
    sleeper.disconnect().await;
    nobody_is_connected(&server);
    let mut publisher = Mqtt::connect(port, "publisher").await;
    publisher.publish("t/x", false, b"old").await;
    assert_eq!(dropped(&server, "away_age"), "1");
    publisher.publish("t/x", false, b"new").await;
    let mut sleeper = Mqtt::resume(port, "sleeper").await;
    assert_eq!(sleeper.next().await.body, b"new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_publishes_too_fast_waits_and_loses_nothing() {
    let server = Server::start_with(&["mqtt.client_messages_per_s_max=20"]);
    let port = server.ports().mqtt;
    let mut reader = Mqtt::connect(port, "reader").await;
    reader.subscribe("t", QoS::AtLeastOnce).await;
    let mut fast = Mqtt::connect(port, "fast").await;
    let began = Deadline::seconds(60);
    for number in 0..50_u8 {
        fast.publish("t", false, &[number]).await;
    }
    // A second's worth comes at once, the thirty others at their rate.
    assert!(began.elapsed() > Duration::from_millis(1300), "{:?}", began.elapsed());
    for number in 0..50_u8 {
        assert_eq!(reader.next().await.body, [number]);
    }
    // Others have a rate of their own.
    let (began, mut other) = (Deadline::seconds(60), Mqtt::connect(port, "other").await);
    other.publish("u", false, b"x").await;
    assert!(began.elapsed() < Duration::from_millis(1000), "{:?}", began.elapsed());
    assert!(http::metric(server.ports().http, "mainstem_paused_total").unwrap() >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespaces_clients_share_its_bytes() {
    let server = Server::start_with(&["mqtt.namespace_bytes_per_s_max=10000"]);
    let port = server.ports().mqtt;
    let mut one = Mqtt::connect(port, "one").await;
    let mut two = Mqtt::connect(port, "two").await;
    let began = Deadline::seconds(60);
    one.publish("t", false, &[0; 10_000]).await;
    two.publish("t", false, &[0; 10_000]).await;
    one.publish("t", false, &[0; 1]).await;
    two.publish("t", false, &[0; 1]).await;
    assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
}

/// While it is not read, a client cannot be heard, and need not be.
#[test]
fn a_pause_is_no_silence() {
    let server = Server::start_with(&["mqtt.client_messages_per_s_max=2"]);
    let mut device = TcpStream::connect(("127.0.0.1", server.ports().mqtt)).unwrap();
    device.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // Keep alive of a second.
    device.write_all(b"\x10\x0d\0\x04MQTT\x04\x02\0\x01\0\x01d").unwrap();
    let mut connack = [0; 4];
    device.read_exact(&mut connack).unwrap();
    let publish = |id: u8| [0x32, 6, 0, 1, b't', 0, id, b'x'];
    let began = Deadline::seconds(60);
    // Three at once, and seven in three and a half seconds.
    device.write_all(&(1..=10).flat_map(publish).collect::<Vec<u8>>()).unwrap();
    device.write_all(b"\xc0\0").unwrap();
    let mut said = [0; 42];
    device.read_exact(&mut said).unwrap();
    let pubacks = |ids: std::ops::RangeInclusive<u8>| ids.flat_map(|id| [0x40, 2, 0, id]);
    // The ping waits for no disk.
    let pong: Vec<u8> = pubacks(1..=9).chain([0xd0, 0]).chain(pubacks(10..=10)).collect();
    let puback: Vec<u8> = pubacks(1..=10).chain([0xd0, 0]).collect();
    assert!(said[..] == pong || said[..] == puback, "{said:?}");
    assert!(began.elapsed() > Duration::from_millis(3400), "{:?}", began.elapsed());
}

/// paho against all of it.
#[test]
fn paho_is_slowed_and_its_session_cut() {
    let server =
        Server::start_with(&["mqtt.queued_messages_max=10", "mqtt.client_messages_per_s_max=50"]);
    let port = server.ports().mqtt.to_string();
    let (holds, said) = peer::run(Language::Python, "mqtt_limits.py", &[&port]);
    assert!(holds, "{said}");
}

/// mqtt.js proves that it knows the password, and proves it again.
#[test]
fn mqtt_js_proves_that_it_knows_the_password() {
    let server = Server::start_with(&["anonymous=off"]);
    let port = server.ports().mqtt.to_string();
    let (holds, said) = peer::run(Language::Node, "mqtt_scram.js", &[&port]);
    assert!(holds, "{said}");
}

/// Clients that say who they are, and then nothing.
fn idle(port: u16, numbers: std::ops::Range<u32>) -> Vec<TcpStream> {
    let greet = |number| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let id = format!("idle-{number:04}");
        let head = [b"\x10\x15\0\x04MQTT\x04\x02\0\0\0\x09", id.as_bytes()].concat();
        stream.write_all(&head).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [0x20, 2, 0, 0]);
        stream
    };
    numbers.map(greet).collect()
}

fn resident_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn an_idle_client_costs_little_memory() {
    let server = Server::start();
    let port = server.ports().mqtt;
    let mut all = idle(port, 0..200);
    let mut costs = Vec::new();
    for from in [200, 400, 600] {
        let before = resident_kib(&server);
        all.extend(idle(port, from..from + 200));
        costs.push(resident_kib(&server).saturating_sub(before) / 200);
    }
    // 8 at 20,000 clients; with few, what else the server does weighs more.
    assert!(costs.iter().any(|each| *each <= 11), "{costs:?} KiB each");
    assert!(costs.iter().any(|each| *each >= 2), "{costs:?} KiB each");
}
