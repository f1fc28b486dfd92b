//! HTTP with TLS: the management API, and MQTT over WebSocket.

use mainstem_tests::{Deadline, Server, authority};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

async fn say(stream: &mut TlsStream<TcpStream>, text: &str) -> String {
    stream.write_all(text.as_bytes()).await.unwrap();
    let answer = async {
        let mut heard = Vec::new();
        while !heard.ends_with(b"\r\n\r\n") {
            heard.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(heard).unwrap()
    };
    timeout(Deadline::seconds(20).left(), answer).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_and_websockets_are_there_with_tls() {
    let server = Server::start_with(&["listeners.https.bind=127.0.0.1:0"]);
    let mut api = authority::connect(&server, "HTTPS", None).await;
    let who = "GET /api/whoami HTTP/1.1\r\nHost: localhost\r\n";
    let refused = say(&mut api, &format!("{who}\r\n")).await;
    assert!(refused.starts_with("HTTP/1.1 401 "), "{refused}");
    let mut api = authority::connect(&server, "HTTPS", None).await;
    let known = say(&mut api, &format!("{who}Authorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n\r\n")).await;
    assert!(known.starts_with("HTTP/1.1 200 "), "{known}");

    let mut device = authority::connect(&server, "HTTPS", None).await;
    let upgrade = "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Protocol: mqtt\r\n\r\n";
    let switched = say(&mut device, upgrade).await;
    assert!(switched.starts_with("HTTP/1.1 101 "), "{switched}");
    // CONNECT in one masked message, with a mask that changes nothing.
    let connect = b"\x82\x8f\0\0\0\0\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01d";
    device.write_all(connect).await.unwrap();
    let mut connack = [0; 6];
    let heard = timeout(Deadline::seconds(20).left(), device.read_exact(&mut connack)).await;
    heard.expect("an answer").unwrap();
    assert_eq!(connack, *b"\x82\x04\x20\x02\0\0");

    // Who does not speak TLS holds up nobody.
    let port = authority::port(&server, "HTTPS");
    let mut plain = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    plain.write_all(who.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    let ended = timeout(Deadline::seconds(20).left(), plain.read_to_end(&mut heard)).await;
    assert!(ended.is_ok() && !heard.starts_with(b"HTTP"), "{heard:?}");
}
