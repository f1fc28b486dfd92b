//! MQTT behind the HTTP port: the handshake, and a device that meets others there.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use mainstem_tests::{Mqtt, Server};
use rumqttc::QoS;

fn shake_hands(port: u16, subprotocols: &str) -> (TcpStream, String) {
    shake_hands_from(port, subprotocols, "")
}

/// With further lines in the head of the request.
fn shake_hands_from(port: u16, subprotocols: &str, lines: &str) -> (TcpStream, String) {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(
        socket,
        "GET /mqtt HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: {subprotocols}\r\n{lines}\r\n"
    )
    .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    (socket, String::from_utf8(head).unwrap().to_ascii_lowercase())
}

/// A binary frame; its mask is zero, so that the payload is what it is.
fn say(socket: &mut TcpStream, payload: &[u8]) {
    let len = 0x80 | u8::try_from(payload.len()).unwrap();
    socket.write_all(&[&[0x82, len, 0, 0, 0, 0], payload].concat()).unwrap();
}

/// The payload of the next frame.
fn hear(socket: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    socket.read_exact(&mut head).unwrap();
    let mut payload = vec![0; usize::from(head[1])];
    socket.read_exact(&mut payload).unwrap();
    (head[0], payload)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_comes_by_websocket() {
    let server = Server::start();
    let mut reader = Mqtt::connect(server.ports().mqtt, "reader").await;
    reader.subscribe("t", QoS::AtLeastOnce).await;
    let (mut device, head) = shake_hands(server.ports().http, "other, mqtt");
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("sec-websocket-protocol: mqtt\r\n"), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
    // One packet in two frames, then two packets in one.
    say(&mut device, b"\x10\x0d\0\x04MQTT\x04");
    say(&mut device, b"\x02\0\0\0\x01d");
    assert_eq!(hear(&mut device), (0x82, b"\x20\x02\0\0".to_vec()));
    say(&mut device, b"\x32\x06\0\x01t\0\x07x\xc0\0");
    let mut heard = Vec::new();
    while heard.len() < 6 {
        heard.extend(hear(&mut device).1);
    }
    heard.sort_unstable();
    let mut wanted = b"\x40\x02\0\x07\xd0\0".to_vec();
    wanted.sort_unstable();
    assert_eq!(heard, wanted);
    assert_eq!(reader.next().await.body, b"x");
    // Take-over does not care which way the next one came.
    let (mut second, _) = shake_hands(server.ports().http, "mqtt");
    say(&mut second, b"\x10\x12\0\x04MQTT\x04\x02\0\0\0\x06reader");
    assert_eq!(hear(&mut second).1, b"\x20\x02\0\0");
    reader.end().await;
    // A text frame ends it, with the status that says why.
    second.write_all(b"\x81\x80\0\0\0\0").unwrap();
    assert_eq!(hear(&mut second), (0x88, 1003_u16.to_be_bytes().to_vec()));
}

#[test]
fn a_websocket_of_another_subprotocol_is_refused() {
    let server = Server::start();
    let (_, head) = shake_hands(server.ports().http, "amqp");
    assert!(head.starts_with("http/1.1 400 "), "{head}");
}

#[test]
fn the_pages_of_other_machines_stay_outside() {
    let server = Server::start_with(&["http.origins=['https://panel.example']"]);
    let port = server.ports().http;
    let status = |origin: &str| {
        let (_, head) = shake_hands_from(port, "mqtt", &format!("Origin: {origin}\r\n"));
        head.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!(status("http://localhost:3000"), "101");
    assert_eq!(status("https://panel.example"), "101");
    assert_eq!(status("https://evil.example"), "403");
    // Its own name, which leads here.
    assert_eq!(status("http://x"), "403");
    // Nor do they publish: such a request needs no permission by the browser.
    let mut page = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let post = "POST /topics/t HTTP/1.1\r\nHost: x\r\nOrigin: https://evil.example\r\n\
                Content-Type: text/plain\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx";
    page.write_all(post.as_bytes()).unwrap();
    let mut said = String::new();
    page.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 403 "), "{said}");
}

#[test]
fn websockets_count_among_mqtts_connections() {
    let server = Server::start_with(&["mqtt.connections_max=1"]);
    let port = server.ports().http;
    let (mut first, head) = shake_hands(port, "mqtt");
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    say(&mut first, b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01d");
    assert_eq!(hear(&mut first).1, b"\x20\x02\0\0");
    let (_, head) = shake_hands(port, "mqtt");
    assert!(head.starts_with("http/1.1 503 "), "{head}");
    // A ping of WebSocket's own, beside MQTT's.
    first.write_all(b"\x89\x82\0\0\0\0hi").unwrap();
    assert_eq!(hear(&mut first), (0x8a, b"hi".to_vec()));
    say(&mut first, b"\xe0\0");
    assert_eq!(hear(&mut first), (0x88, 1000_u16.to_be_bytes().to_vec()));
    drop(first);
    let free = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        shake_hands(port, "mqtt").1.starts_with("http/1.1 101 ")
    });
    assert!(free, "the place of one that left is taken again");
}

#[test]
fn a_websocket_is_told_that_the_server_shuts_down() {
    let mut server = Server::start();
    let (mut device, _) = shake_hands(server.ports().http, "mqtt");
    say(&mut device, b"\x10\x0e\0\x04MQTT\x05\x02\0\0\0\0\x01d");
    assert_eq!(hear(&mut device).1[0], 0x20);
    assert!(server.terminate().success());
    let (first, farewell) = hear(&mut device);
    assert_eq!((first, farewell[0], farewell[2]), (0x82, 0xe0, 0x8b), "server shutting down");
    assert_eq!(hear(&mut device), (0x88, 1000_u16.to_be_bytes().to_vec()));
}
