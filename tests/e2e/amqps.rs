//! AMQP with TLS: a client's certificate stands for its password, and only one that the configured
//! authority signed.

use mainstem_tests::{
    Deadline, Server,
    authority::{self, Authority},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

/// The class and method of the next frame, and all of its payload.
async fn hear(stream: &mut TlsStream<TcpStream>) -> Option<((u16, u16), Vec<u8>)> {
    let heard = async {
        let mut head = [0; 7];
        stream.read_exact(&mut head).await.ok()?;
        let size = u32::from_be_bytes(*head.last_chunk()?);
        let mut payload = vec![0; usize::try_from(size).unwrap() + 1];
        stream.read_exact(&mut payload).await.ok()?;
        let method = (
            u16::from_be_bytes(*payload.first_chunk()?),
            u16::from_be_bytes([payload[2], payload[3]]),
        );
        Some((method, payload))
    };
    timeout(Deadline::seconds(20).left(), heard).await.expect("the server says something")
}

async fn say(stream: &mut TlsStream<TcpStream>, (class, method): (u16, u16), arguments: &[u8]) {
    let mut frame = vec![1, 0, 0];
    frame.extend(u32::try_from(arguments.len() + 4).unwrap().to_be_bytes());
    frame.extend([class.to_be_bytes(), method.to_be_bytes()].concat());
    frame.extend(arguments);
    frame.push(0xce);
    stream.write_all(&frame).await.unwrap();
}

/// The mechanisms that are offered to this client.
async fn greet(stream: &mut TlsStream<TcpStream>) -> String {
    stream.write_all(b"AMQP\0\0\x09\x01").await.unwrap();
    let (method, payload) = hear(stream).await.unwrap();
    assert_eq!(method, (10, 10));
    String::from_utf8_lossy(&payload).into_owned()
}

/// Logs in by certificate, as a client that wants to be told when it fails.
async fn log_in(stream: &mut TlsStream<TcpStream>) {
    let inner = b"\x1cauthentication_failure_closet\x01";
    let mut table = b"\x0ccapabilitiesF".to_vec();
    table.extend(u32::try_from(inner.len()).unwrap().to_be_bytes());
    table.extend(inner);
    let mut arguments = u32::try_from(table.len()).unwrap().to_be_bytes().to_vec();
    arguments.extend(table);
    arguments.extend(b"\x08EXTERNAL\0\0\0\0\x05en_US");
    say(stream, (10, 11), &arguments).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_the_authority_stands_for_a_password() {
    let folder = TempDir::new().unwrap();
    let ca = folder.path().join("ca.pem");
    let ours = Authority::new("ours", &ca);
    let theirs = Authority::new("theirs", &folder.path().join("other.pem"));
    let client_ca = format!("listeners.amqps.client_ca={}", ca.display());
    let server = Server::start_with(&["listeners.amqps.bind=127.0.0.1:0", &client_ca]);

    let mut guest = authority::connect(&server, "AMQPS", Some(ours.sign("guest"))).await;
    assert!(greet(&mut guest).await.contains("EXTERNAL"));
    log_in(&mut guest).await;
    assert_eq!(hear(&mut guest).await.unwrap().0, (10, 30), "tune");
    say(&mut guest, (10, 31), &[0, 10, 0, 0, 32, 0, 0, 0]).await;
    say(&mut guest, (10, 40), b"\x01/\0\0").await;
    assert_eq!(hear(&mut guest).await.unwrap().0, (10, 41), "open-ok");

    let mut stranger = authority::connect(&server, "AMQPS", Some(ours.sign("nobody"))).await;
    greet(&mut stranger).await;
    log_in(&mut stranger).await;
    let (method, payload) = hear(&mut stranger).await.unwrap();
    assert_eq!((method, &payload[4..6]), ((10, 50), &403_u16.to_be_bytes()[..]), "close");

    let mut plain = authority::connect(&server, "AMQPS", None).await;
    let offered = greet(&mut plain).await;
    assert!(offered.contains("PLAIN") && !offered.contains("EXTERNAL"), "{offered}");

    // Refused in the handshake, which the client may learn of with its first word only.
    let mut forged = authority::connect(&server, "AMQPS", Some(theirs.sign("guest"))).await;
    let _said = forged.write_all(b"AMQP\0\0\x09\x01").await;
    assert!(hear(&mut forged).await.is_none());
}
