//! MQTT behind the HTTP port: the handshake, and a device that meets others there.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use mainstem_tests::{Mqtt, Server};
use rumqttc::QoS;

fn shake_hands(port: u16, subprotocols: &str) -> (TcpStream, String) {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(
        socket,
        "GET /mqtt HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: {subprotocols}\r\n\r\n"
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
