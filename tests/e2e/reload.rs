//! SIGHUP: what is followed at once, what is said to wait, and certificates that change under load.

use std::{
    fs,
    io::Write,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use mainstem_tests::{Deadline, Server, Setup, authority, http};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Waits for the line of a reload that says this.
fn said(server: &Server, words: &str, times: usize) {
    let what = format!("'{words}' to be logged {times} times");
    Deadline::seconds(20).until(&what, || {
        let log = server.log();
        (log.iter().filter(|line| line.contains(words)).count() >= times).then_some(())
    });
}

#[test]
fn the_level_is_followed_and_the_rest_is_said_to_wait() {
    let folder = TempDir::new().unwrap();
    let beside = folder.path().join("conf.d");
    fs::create_dir(&beside).unwrap();
    let file = folder.path().join("m.toml");
    fs::write(&file, "[log]\nlevel = \"info\"\n").unwrap();
    let mut setup = Setup::new(folder.path());
    setup.file = Some(file.clone());
    let server = Server::start_setup(setup);
    fs::write(beside.join("a.toml"), "[log]\nlevel = \"debug\"\n[store]\nwriters_max = 9\n")
        .unwrap();
    server.signal("HUP");
    said(&server, "key=\"store.writers_max\"", 1);
    // An ended connection is told of at this level only.
    let port = server.ports().http;
    assert!(server.log().iter().all(|line| !line.contains("an HTTP connection ended early")));
    let mut odd = TcpStream::connect(("127.0.0.1", port)).unwrap();
    odd.write_all(b"no request\r\n\r\n").unwrap();
    said(&server, "an HTTP connection ended early", 1);
    fs::write(beside.join("a.toml"), "[lg]\nlevel = \"debug\"\n").unwrap();
    server.signal("HUP");
    said(&server, "unknown key 'lg' (did you mean 'log'?)", 1);
    assert_eq!(http::get(port, "/readyz").status, 200);
}

/// A new certificate in the place of the server's own.
fn replace(server: &Server) {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let folder = server.data_dir().join("tls");
    fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_change_under_load_and_nobody_is_dropped() {
    let server = Arc::new(Server::start_with(&["listeners.mqtts.bind=127.0.0.1:0"]));
    let is_over = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for number in 0..16 {
        let mut stream = authority::connect(&server, "MQTTS", None).await;
        let is_over = is_over.clone();
        clients.push(tokio::spawn(async move {
            let connect =
                [b"\x10\x0e\0\x04MQTT\x04\x02\0\0\0\x02d".as_slice(), &[b'a' + number]].concat();
            stream.write_all(&connect).await.unwrap();
            let mut connack = [0; 4];
            stream.read_exact(&mut connack).await.unwrap();
            assert_eq!(connack, [0x20, 2, 0, 0]);
            let mut pings = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                stream.write_all(b"\xc0\0").await.unwrap();
                let mut answer = [0; 2];
                stream.read_exact(&mut answer).await.unwrap();
                assert_eq!(answer, [0xd0, 0]);
                pings += 1;
            }
            pings
        }));
    }
    for times in 1..=5 {
        replace(&server);
        server.signal("HUP");
        said(&server, "the certificate is read again", times);
        // It trusts what stands in the file, which is the new one.
        drop(authority::connect(&server, "MQTTS", None).await);
    }
    // One that cannot be used takes nobody's place.
    let certificate = server.data_dir().join("tls/cert.pem");
    let good = fs::read(&certificate).unwrap();
    fs::write(&certificate, "no certificate").unwrap();
    server.signal("HUP");
    said(&server, "the certificate stays as it was", 1);
    fs::write(&certificate, good).unwrap();
    drop(authority::connect(&server, "MQTTS", None).await);
    is_over.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
    let left = http::metric(server.ports().http, "mainstem_tls_certificate_not_after_seconds");
    assert!(left.unwrap() > 2e9, "{left:?}");
}
