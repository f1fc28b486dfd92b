//! MQTT with TLS: a client's certificate stands for its user name, and only one that the configured
//! authority signed. By hand, and with the clients that devices use.

use mainstem_tests::{
    Deadline, Language, Server,
    authority::{self, Authority},
    peer,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

/// The code of CONNACK in MQTT 3.1.1, unless the connection ends before.
async fn greeted(stream: &mut TlsStream<TcpStream>, connect: &[u8]) -> Option<u8> {
    let answer = async {
        stream.write_all(connect).await.ok()?;
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).await.ok()?;
        assert_eq!(connack[..2], [0x20, 2]);
        Some(connack[3])
    };
    timeout(Deadline::seconds(20).left(), answer).await.expect("the server answers or closes")
}

const NO_NAME: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01d";
const GUEST: &[u8] = b"\x10\x1b\0\x04MQTT\x04\xc2\0\0\0\x01d\0\x05guest\0\x05guest";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_stands_for_a_user_name() {
    let folder = TempDir::new().unwrap();
    let ca = folder.path().join("ca.pem");
    let ours = Authority::new("ours", &ca);
    let theirs = Authority::new("theirs", &folder.path().join("other.pem"));
    let client_ca = format!("listeners.mqtts.client_ca={}", ca.display());
    let settings = ["listeners.mqtts.bind=127.0.0.1:0", &client_ca, "anonymous=off"];
    let server = Server::start_with(&settings);

    let mut guest = authority::connect(&server, "MQTTS", Some(ours.sign("guest"))).await;
    assert_eq!(greeted(&mut guest, NO_NAME).await, Some(0));
    // Nobody of that name is listed.
    let mut stranger = authority::connect(&server, "MQTTS", Some(ours.sign("nobody"))).await;
    assert_eq!(greeted(&mut stranger, NO_NAME).await, Some(4), "bad user name or password");
    // A name that is given goes before the certificate's.
    let mut named = authority::connect(&server, "MQTTS", Some(ours.sign("nobody"))).await;
    assert_eq!(greeted(&mut named, GUEST).await, Some(0));
    // Without a certificate there are the password, and nothing.
    let mut plain = authority::connect(&server, "MQTTS", None).await;
    assert_eq!(greeted(&mut plain, GUEST).await, Some(0));
    let mut nobody = authority::connect(&server, "MQTTS", None).await;
    assert_eq!(greeted(&mut nobody, NO_NAME).await, Some(4));
    let mut forged = authority::connect(&server, "MQTTS", Some(theirs.sign("guest"))).await;
    assert_eq!(greeted(&mut forged, NO_NAME).await, None, "refused in the handshake");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_can_be_demanded() {
    let folder = TempDir::new().unwrap();
    let ca = folder.path().join("ca.pem");
    let ours = Authority::new("ours", &ca);
    let server = Server::start_with(&[
        "listeners.mqtts.bind=127.0.0.1:0",
        &format!("listeners.mqtts.client_ca={}", ca.display()),
        "listeners.mqtts.client_certificate_required=true",
    ]);
    let mut guest = authority::connect(&server, "MQTTS", Some(ours.sign("guest"))).await;
    assert_eq!(greeted(&mut guest, NO_NAME).await, Some(0));
    let mut plain = authority::connect(&server, "MQTTS", None).await;
    assert_eq!(greeted(&mut plain, GUEST).await, None, "refused in the handshake");
}

/// paho and mqtt.js: large messages there and back, with and without a certificate of their own.
#[test]
fn devices_come_with_tls() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let ours = Authority::new("ours", &path("ca.pem"));
    ours.sign_into("guest", &path("guest.pem"), &path("guest.key"));
    let server = Server::start_with(&[
        "listeners.mqtts.bind=127.0.0.1:0",
        &format!("listeners.mqtts.client_ca={}", path("ca.pem").display()),
        "anonymous=off",
    ]);
    let port = authority::port(&server, "MQTTS").to_string();
    let own = server.data_dir().join("tls/cert.pem").display().to_string();
    let certificate = path("guest.pem").display().to_string();
    let key = path("guest.key").display().to_string();
    for (language, script) in [(Language::Python, "mqtts.py"), (Language::Node, "mqtts.js")] {
        let (holds, said) = peer::run(language, script, &[&port, &own, &certificate, &key]);
        assert!(holds, "{script}:\n{said}");
    }
}
