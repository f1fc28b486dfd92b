//! Peers that send what no client would: each ends its own connection, and nothing else.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use mainstem_tests::{Amqp, Mqtt, Server, http};
use rumqttc::QoS;

/// An HTTP/2 connection preface and an empty SETTINGS frame (RFC 9113 §3.4).
const HTTP2_START: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const SETTINGS: u8 = 4;
/// How long the server may let a peer hang that has said nonsense.
const PATIENCE: Duration = Duration::from_secs(15);

/// Clients that were there before the bad peers, and must not notice them.
struct Witnesses {
    server: Server,
    panics: usize,
    amqp: Amqp,
    mqtt: Mqtt,
}

impl Witnesses {
    async fn start() -> Self {
        let server = Server::start();
        let ports = server.ports();
        let amqp = Amqp::connect(ports.amqp).await;
        amqp.queue("witness", None).await;
        let mut mqtt = Mqtt::connect(ports.mqtt, "witness").await;
        mqtt.subscribe("witness", QoS::AtLeastOnce).await;
        let panics = server.log().iter().filter(|line| line.contains("panicked")).count();
        Self { server, panics, amqp, mqtt }
    }

    /// All four protocols still serve, the old connections included, and nothing panicked.
    async fn check(&mut self) {
        let ports = self.server.ports();
        assert!(self.server.is_running());
        self.amqp.publish("", "witness", b"amqp").await;
        assert_eq!(self.amqp.take("witness").await.as_deref(), Some(b"amqp".as_slice()));
        self.mqtt.publish("witness", false, b"mqtt").await;
        assert_eq!(self.mqtt.next().await.body, b"mqtt");
        Amqp::connect(ports.amqp).await;
        Mqtt::connect(ports.mqtt, "another").await.disconnect().await;
        assert_eq!(http::get(ports.http, "/readyz").status, 200);
        let mut grpc = Raw::connect(ports.rocketmq);
        grpc.send(HTTP2_START);
        assert_eq!(grpc.read_some(4).get(3), Some(&SETTINGS), "no HTTP/2 on the RocketMQ port");
        let log = self.server.log();
        let now: Vec<_> = log.iter().filter(|line| line.contains("panicked")).collect();
        assert_eq!(now.len(), self.panics, "{now:?}");
    }
}

/// A socket without a protocol.
struct Raw(TcpStream);

impl Raw {
    fn connect(port: u16) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// Sends; the server may have hung up already, which is what some of these tests want.
    fn send(&mut self, bytes: &[u8]) {
        let _hung_up = self.0.write_all(bytes);
    }

    fn read_some(&mut self, at_least: usize) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buffer = [0; 4096];
        while all.len() < at_least {
            match self.0.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) => all.extend(buffer.get(..count).unwrap_or_default()),
            }
        }
        all
    }

    /// Whether the server ends this connection before its patience with us should be over.
    fn is_ended(&mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match self.0.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => {
                    return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_any_port_ends_that_connection_only() {
    let mut witnesses = Witnesses::start().await;
    let ports = witnesses.server.ports();
    let mut random = fastrand::Rng::with_seed(7);
    for port in [ports.amqp, ports.mqtt, ports.rocketmq, ports.http] {
        for size in [1, 7, 300, 70_000] {
            let mut peer = Raw::connect(port);
            let garbage: Vec<u8> = (0..size).map(|_| random.u8(0x80..)).collect();
            peer.send(&garbage);
            let half_closed = peer.0.shutdown(std::net::Shutdown::Write);
            assert!(
                half_closed.is_err() || peer.is_ended(),
                "port {port}, {size} bytes: still open"
            );
        }
    }
    witnesses.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_frame_and_gone_leaves_nothing_behind() {
    let mut witnesses = Witnesses::start().await;
    let ports = witnesses.server.ports();
    for _ in 0..50 {
        let mut peer = Raw::connect(ports.amqp);
        peer.send(b"AMQP\0\0\x09\x01");
        peer.read_some(8);
        peer.send(&[1, 0, 0, 0, 0, 1, 0, 0, 10]);
        let mut peer = Raw::connect(ports.mqtt);
        peer.send(&[0x10, 100, 0, 4, b'M', b'Q']);
        let mut peer = Raw::connect(ports.rocketmq);
        peer.send(HTTP2_START.get(..30).unwrap_or_default());
        let mut peer = Raw::connect(ports.http);
        peer.send(b"POST /topics/a HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf");
    }
    witnesses.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_over_every_limit_is_refused_at_its_header() {
    let mut witnesses = Witnesses::start().await;
    let ports = witnesses.server.ports();
    let mut peer = Raw::connect(ports.amqp);
    peer.send(b"AMQP\0\0\x09\x01");
    peer.read_some(8);
    // A method frame that announces 4 GiB.
    peer.send(&[1, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    assert!(peer.is_ended(), "AMQP waits for 4 GiB");
    let mut peer = Raw::connect(ports.mqtt);
    // A CONNECT that announces 256 MiB.
    peer.send(&[0x10, 0xff, 0xff, 0xff, 0x7f]);
    assert!(peer.is_ended(), "MQTT waits for 256 MiB before it knows who asks");
    let mut peer = Raw::connect(ports.mqtt);
    // A remaining length of five bytes ([MQTT-1.5.5-1]).
    peer.send(&[0x10, 0xff, 0xff, 0xff, 0xff, 0x01]);
    assert!(peer.is_ended(), "MQTT accepts a length of five bytes");
    let mut peer = Raw::connect(ports.rocketmq);
    peer.send(HTTP2_START);
    // A DATA frame of 16 MiB - 1 on a stream that was never opened.
    peer.send(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]);
    assert!(peer.is_ended(), "HTTP/2 waits for 16 MiB");
    witnesses.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_nested_without_end_is_refused() {
    let mut witnesses = Witnesses::start().await;
    let port = witnesses.server.ports().amqp;
    for nest in [nested_tables as fn(usize) -> Vec<u8>, nested_arrays] {
        let mut peer = amqp_logged_in(port);
        let headers = nest(100_000);
        // basic.publish to the default exchange, then a content header whose only property is
        // `headers` (bit 13).
        peer.send(&frame(1, 1, &[0, 60, 0, 40, 0, 0, 0, 1, b'q', 0]));
        let mut header = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0];
        header.extend(&headers);
        peer.send(&frame(2, 1, &header));
        assert!(peer.is_ended(), "nesting without end was taken");
        let mut peer = Raw::connect(port);
        peer.send(b"AMQP\0\0\x09\x01");
        peer.read_some(8);
        let mut start_ok = vec![0, 10, 0, 11];
        start_ok.extend(&headers);
        start_ok.extend(b"\x05PLAIN\0\0\0\x0c\0guest\0guest\x05en_US");
        peer.send(&frame(1, 0, &start_ok));
        assert!(peer.is_ended(), "nesting without end was taken before the login");
    }
    witnesses.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_short_gets_of_a_large_message_take_little_memory() {
    const GETS: usize = 700;
    const RESIDENT_KIB_MAX: u64 = 300 << 10;
    let mut witnesses = Witnesses::start().await;
    let mut peer = amqp_logged_in(witnesses.server.ports().amqp);
    // An exclusive queue with a message of 1 MiB.
    peer.send(&frame(1, 1, b"\0\x32\0\x0a\0\0\x03big\x04\0\0\0\0"));
    peer.send(&frame(1, 1, b"\0\x3c\0\x28\0\0\0\x03big\0"));
    peer.send(&frame(2, 1, &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0]));
    (0..16).for_each(|_| peer.send(&frame(3, 1, &[b'x'; 1 << 16])));
    // basic.get, and basic.recover, after which it is there to be got again.
    let get = frame(1, 1, b"\0\x3c\0\x46\0\0\x03big\0");
    let recover = frame(1, 1, &[0, 60, 0, 110, 1]);
    peer.send(&[get, recover].concat().repeat(GETS));
    let mut left = GETS << 20;
    let mut buffer = vec![0; 1 << 20];
    while left > 0 {
        let count = peer.0.read(&mut buffer).unwrap();
        assert!(count > 0, "the connection ended");
        left = left.saturating_sub(count);
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", witnesses.server.pid()));
    let status = status.unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < RESIDENT_KIB_MAX, "{peak} KiB");
    witnesses.check().await;
}

/// An AMQP connection with channel 1 open, spoken by hand.
fn amqp_logged_in(port: u16) -> Raw {
    let mut peer = Raw::connect(port);
    peer.send(b"AMQP\0\0\x09\x01");
    peer.read_some(8);
    let start_ok = b"\x00\x0a\x00\x0b\0\0\0\0\x05PLAIN\0\0\0\x0c\0guest\0guest\x05en_US";
    peer.send(&frame(1, 0, start_ok));
    peer.read_some(8);
    // tune-ok: 2047 channels, frames of 128 KiB, no heartbeat; open "/".
    peer.send(&frame(1, 0, &[0, 10, 0, 31, 0x07, 0xff, 0, 2, 0, 0, 0, 0]));
    peer.send(&frame(1, 0, &[0, 10, 0, 40, 1, b'/', 0, 0]));
    peer.read_some(8);
    peer.send(&frame(1, 1, &[0, 20, 0, 10, 0]));
    peer.read_some(8);
    peer
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap();
    let head = [kind].into_iter().chain(channel.to_be_bytes()).chain(size.to_be_bytes());
    head.chain(payload.iter().copied()).chain([0xce]).collect()
}

/// A field table of about `size` bytes that holds a table that holds a table.
fn nested_tables(size: usize) -> Vec<u8> {
    nested(size, b"\x01aF", b"")
}

/// A field table whose one value is an array that holds an array.
fn nested_arrays(size: usize) -> Vec<u8> {
    nested(size, b"A", b"\x01a")
}

fn nested(size: usize, level: &[u8], first: &[u8]) -> Vec<u8> {
    let step = level.len() + 4;
    let levels = (size - first.len()) / step;
    let mut bytes = Vec::new();
    let length = |inner: usize| u32::try_from(inner).unwrap().to_be_bytes();
    bytes.extend(length(levels * step + first.len()));
    bytes.extend(first);
    for index in 0..levels {
        bytes.extend(level);
        bytes.extend(length((levels - index - 1) * step));
    }
    bytes
}
