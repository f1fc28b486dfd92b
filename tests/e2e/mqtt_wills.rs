//! Wills of clients that were connected when the server was killed.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use mainstem_tests::{Language, Mqtt, Server, http, peer};
use rumqttc::QoS;

/// An MQTT 5 client with a will to `wills/<id>`, of QoS 1.
fn device(port: u16, id: &str, clean: bool, expiry_s: u8, delay_s: u8) -> TcpStream {
    let text =
        |text: &str| [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat();
    let mut body = text("MQTT");
    body.extend([5, 0x0c | u8::from(clean) << 1, 0, 0, 5, 0x11, 0, 0, 0, expiry_s]);
    body.extend(text(id));
    body.extend([5, 0x18, 0, 0, 0, delay_s]);
    body.extend([text(&format!("wills/{id}")), text("gone")].concat());
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.write_all(&[0x10, u8::try_from(body.len()).unwrap()]).unwrap();
    socket.write_all(&body).unwrap();
    let mut head = [0; 2];
    socket.read_exact(&mut head).unwrap();
    let mut connack = vec![0; usize::from(head[1])];
    socket.read_exact(&mut connack).unwrap();
    assert_eq!((head[0], connack[1]), (0x20, 0), "{connack:?}");
    socket
}

async fn watcher(port: u16) -> Mqtt {
    let mut watcher = Mqtt::resume(port, "watcher").await;
    watcher.subscribe("wills/#", QoS::AtLeastOnce).await;
    watcher
}

/// The topics of the wills that come, until nothing came for a while.
async fn wills(watcher: &mut Mqtt, quiet_ms: u64) -> Vec<String> {
    let mut topics = Vec::new();
    while let Some(message) = watcher.next_within(Duration::from_millis(quiet_ms)).await {
        assert_eq!((message.body.as_slice(), message.qos), (b"gone".as_slice(), 1));
        topics.push(message.topic);
    }
    topics.sort();
    topics
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_the_server_is_a_lost_connection() {
    let mut server = Server::start();
    let port = server.ports().mqtt;
    watcher(port).await.disconnect().await;
    let _at_once = device(port, "at-once", true, 0, 0);
    // A delay is not waited for when the session ends with its connection.
    let _ended = device(port, "ended", true, 0, 60);
    let mut polite = device(port, "polite", true, 0, 0);
    polite.write_all(&[0xe0, 0]).unwrap();
    assert_eq!(polite.read(&mut [0]).unwrap(), 0);
    let _delayed = device(port, "delayed", false, 60, 3);
    let _comes_back = device(port, "comes-back", false, 60, 3);
    server.restart();
    let port = server.ports().mqtt;
    let mut watcher = Mqtt::resume(port, "watcher").await;
    let _back = device(port, "comes-back", false, 60, 3);
    assert_eq!(wills(&mut watcher, 1500).await, ["wills/at-once", "wills/ended"]);
    assert_eq!(wills(&mut watcher, 4000).await, ["wills/delayed"]);
    watcher.disconnect().await;
    // None of them comes again; that of the one who is connected now does.
    server.restart();
    let mut watcher = Mqtt::resume(server.ports().mqtt, "watcher").await;
    assert_eq!(wills(&mut watcher, 4500).await, ["wills/comes-back"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delay_outlasts_the_server() {
    let mut server = Server::start();
    let port = server.ports().mqtt;
    watcher(port).await.disconnect().await;
    // Lost before the crash.
    drop(device(port, "lost", false, 60, 2));
    let _connected = device(port, "connected", false, 60, 2);
    std::thread::sleep(Duration::from_millis(300));
    assert!(server.terminate().success());
    server.restart();
    let mut watcher = Mqtt::resume(server.ports().mqtt, "watcher").await;
    assert_eq!(wills(&mut watcher, 1000).await, Vec::<String>::new());
    assert_eq!(wills(&mut watcher, 3000).await, ["wills/connected", "wills/lost"]);
}

/// What is kept is nobody's message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_will_is_seen_by_nobody() {
    let server = Server::start();
    let port = server.ports().mqtt;
    let mut reader = Mqtt::connect(port, "reader").await;
    for filter in ["#", "$queue/#", "%24queue/#", "$mainstem-will/#", "+/#", "$queue/+"] {
        reader.subscribe(filter, QoS::AtMostOnce).await;
    }
    let amqp = mainstem_tests::Amqp::connect(server.ports().amqp).await;
    amqp.queue("all", Some(("amq.topic", "#"))).await;
    let connected = device(port, "d", true, 0, 0);
    let mut late = Mqtt::connect(port, "late").await;
    late.subscribe("#", QoS::AtLeastOnce).await;
    late.subscribe("%24queue/#", QoS::AtLeastOnce).await;
    assert_eq!(late.next_within(Duration::from_millis(300)).await, None);
    assert_eq!(reader.next_within(Duration::from_millis(300)).await, None);
    assert_eq!(amqp.take("all").await, None);
    drop(connected);
    assert_eq!(late.next().await.topic, "wills/d");
    assert_eq!(http::get(server.ports().http, "/livez").status, 200);
}

/// paho's will, over a kill.
#[test]
fn pahos_will_survives_a_kill() {
    let mut server = Server::start();
    let port = server.ports().mqtt.to_string();
    let (holds, said) = peer::run(Language::Python, "mqtt_wills.py", &[&port, "leave"]);
    assert!(holds, "{said}");
    let (pid, held) = (server.pid().to_string(), "hold");
    let (holds, said) = peer::run(Language::Python, "mqtt_wills.py", &[&port, held, &pid]);
    assert!(holds, "{said}");
    server.restart();
    let port = server.ports().mqtt.to_string();
    let (holds, said) = peer::run(Language::Python, "mqtt_wills.py", &[&port, "read"]);
    assert!(holds, "{said}");
}
