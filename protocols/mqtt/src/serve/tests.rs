//! Whole conversations with a real store behind: what one connection must see of another.

mod dead;
mod everybody;
mod marks;
mod named;
mod script;
mod wills;

use std::sync::Arc;
use std::{net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use everybody::Everybody;
use mainstem_broker::{Bounded, Config, Scope};
use mainstem_schemas::{Credentials, Origin, Secret, Views};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

use super::*;
use crate::codec::{Frame, frame};

struct Server {
    address: SocketAddr,
    broker: Broker,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    dir: tempfile::TempDir,
}

/// QoS 2 messages of all sessions that the store remembers.
const WRITERS_MAX: usize = 64;

async fn start_with(limits: Limits) -> Server {
    start_in(tempfile::tempdir().unwrap(), limits).await
}

async fn start_in(dir: tempfile::TempDir, limits: Limits) -> Server {
    start_within(dir, limits, 0).await
}

async fn start_within(dir: tempfile::TempDir, limits: Limits, log_bytes_max: u64) -> Server {
    let mut config = Config::new(dir.path().to_owned());
    config.durability = mainstem_broker::config::Durability::None;
    config.segment_bytes = 8 << 20;
    config.log_bytes_max = log_bytes_max;
    config.message_bytes_max = 2 << 20;
    config.writers_max = WRITERS_MAX;
    let views = Views::default().with(Origin::Mqtt, crate::view);
    let broker = Broker::open(config, Arc::new(Everybody), views).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let service = Service::new(broker.clone(), Arc::new(limits), shutdown.clone());
    service.see_to_wills(&["/".to_owned()]).await;
    let task = tokio::spawn(service.run(listener, None));
    Server { address, broker, shutdown, task, dir }
}

async fn start() -> Server {
    start_with(Limits::default()).await
}

/// A client that says exactly what a test tells it to.
struct Peer {
    stream: TcpStream,
    input: BytesMut,
}

/// What a CONNECT is made of.
#[derive(Clone, Copy)]
struct Hello {
    id: &'static str,
    clean: bool,
    keep_alive_s: u8,
    expiry_s: u8,
    /// Delay of a will to topic `w` with payload `gone`.
    will_delay_s: Option<u8>,
}

const HELLO: Hello =
    Hello { id: "a", clean: true, keep_alive_s: 0, expiry_s: 0, will_delay_s: None };

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    bytes::BufMut::put_u8(&mut out, first);
    crate::codec::output::put_varint(&mut out, body.len());
    out.extend_from_slice(body);
    out.to_vec()
}

fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
}

impl Hello {
    fn bytes(self) -> Vec<u8> {
        let will = self.will_delay_s.map_or(0, |_| 0x04);
        let flags = u8::from(self.clean) << 1 | will;
        let mut body = [b"\0\x04MQTT\x05".as_slice(), &[flags, 0, self.keep_alive_s]].concat();
        body.extend([5, 0x11, 0, 0, 0, self.expiry_s]);
        body.extend(text(self.id));
        if let Some(delay_s) = self.will_delay_s {
            body.extend([5, 0x18, 0, 0, 0, delay_s]);
            body.extend([text("w"), text("gone")].concat());
        }
        packet(0x10, &body)
    }
}

impl Peer {
    async fn open(server: &Server) -> Self {
        let stream = TcpStream::connect(server.address).await.unwrap();
        Self { stream, input: BytesMut::new() }
    }

    /// Connects, and tells whether a session was found.
    async fn hello(server: &Server, hello: Hello) -> (Self, bool) {
        let mut peer = Self::open(server).await;
        peer.say(&hello.bytes()).await;
        let connack = peer.hear().await.unwrap();
        assert_eq!((connack.first, connack.body[1]), (0x20, 0), "{connack:?}");
        let present = connack.body[0] == 1;
        (peer, present)
    }

    async fn new(server: &Server, id: &'static str) -> Self {
        Self::hello(server, Hello { id, ..HELLO }).await.0
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next packet; `None` at the end of the connection.
    async fn hear(&mut self) -> Option<Frame> {
        let next = async {
            loop {
                if let Some(frame) = frame::next(&mut self.input, usize::MAX).unwrap() {
                    return Some(frame);
                }
                if self.stream.read_buf(&mut self.input).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(5), next).await.expect("the server says something")
    }

    #[track_caller]
    fn expect(&mut self, bytes: &'static [u8]) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let frame = self.hear().await;
            let heard = frame.map(|frame| packet(frame.first, &frame.body)).unwrap_or_default();
            assert_eq!(Bytes::from(heard), Bytes::from_static(bytes), "at {caller}");
        }
    }

    /// Nothing else comes: the answer to a ping is the next packet.
    async fn expect_nothing(&mut self) {
        self.say(&[0xc0, 0]).await;
        self.expect(&[0xd0, 0]).await;
    }

    async fn expect_disconnect(&mut self, reason: u8) {
        let frame = self.hear().await.expect("a DISCONNECT");
        assert_eq!((frame.first, frame.body[0]), (0xe0, reason));
        assert!(self.hear().await.is_none(), "the connection ends after DISCONNECT");
    }

    async fn subscribe(&mut self, filter: &str, options: u8) {
        let body = [b"\0\x01\0".as_slice(), &text(filter), &[options]].concat();
        self.say(&packet(0x82, &body)).await;
        let suback = self.hear().await.unwrap();
        assert_eq!((suback.first, &suback.body[..3]), (0x90, [0, 1, 0].as_slice()));
        assert_eq!(suback.body[3], options & 3);
    }

    /// Publishes with QoS 1 and waits until it is stored.
    async fn publish(&mut self, topic: &str, payload: &str) {
        let body = [&text(topic), [0, 9, 0].as_slice(), payload.as_bytes()].concat();
        self.say(&packet(0x32, &body)).await;
        let puback = self.hear().await.unwrap();
        // Nobody may be there to read it.
        let reason = puback.body.get(2).copied().unwrap_or(0);
        assert_eq!((puback.first, &puback.body[..2]), (0x40, [0, 9].as_slice()));
        assert!([0, 0x10].contains(&reason), "{puback:?}");
    }

    async fn disconnect(mut self, body: &[u8]) {
        self.say(&packet(0xe0, body)).await;
        assert!(self.hear().await.is_none());
    }

    /// A lost network: no DISCONNECT.
    async fn lose(mut self) {
        self.stream.shutdown().await.unwrap();
        while self.hear().await.is_some() {}
    }
}

const WILL: &[u8] = b"\x30\x08\0\x01w\0gone";

#[tokio::test]
async fn the_old_connection_is_told_before_the_new_one_is_greeted_mqtt_3_1_4_3() {
    let server = start().await;
    let mut old = Peer::new(&server, "a").await;
    let _new = Peer::new(&server, "a").await;
    // The new one was greeted, so the farewell is there already.
    old.expect_disconnect(0x8e).await;
}

#[tokio::test]
async fn everything_in_one_segment_is_answered_in_order() {
    let server = start().await;
    let mut peer = Peer::open(&server).await;
    let subscribe = packet(0x82, b"\0\x01\0\0\x01t\x01");
    let publish = packet(0x32, b"\0\x01t\0\x02\0hi");
    peer.say(&[HELLO.bytes(), subscribe, publish].concat()).await;
    assert_eq!(peer.hear().await.unwrap().first, 0x20);
    peer.expect(&[0x90, 4, 0, 1, 0, 1]).await;
    // The acknowledgement and the message itself may come in either order.
    let (one, two) = (peer.hear().await.unwrap().first, peer.hear().await.unwrap().first);
    assert_eq!([one.min(two), one.max(two)], [0x32, 0x40]);
}

#[tokio::test]
async fn a_will_is_published_when_the_network_is_lost_mqtt_3_1_2_8() {
    let server = start().await;
    let mut watcher = Peer::new(&server, "watcher").await;
    watcher.subscribe("w", 0).await;
    let (peer, _) = Peer::hello(&server, Hello { will_delay_s: Some(0), ..HELLO }).await;
    peer.lose().await;
    watcher.expect(WILL).await;
}

#[tokio::test]
async fn only_a_normal_disconnect_discards_the_will_mqtt_3_14_4_3() {
    let server = start().await;
    let mut watcher = Peer::new(&server, "watcher").await;
    watcher.subscribe("w", 0).await;
    let hello = Hello { will_delay_s: Some(0), ..HELLO };
    Peer::hello(&server, hello).await.0.disconnect(&[]).await;
    watcher.expect_nothing().await;
    Peer::hello(&server, hello).await.0.disconnect(&[4]).await;
    watcher.expect(WILL).await;
    // A client that breaks the rules is closed by the server, and that counts as lost.
    let (mut peer, _) = Peer::hello(&server, hello).await;
    peer.say(&[0x00, 0]).await;
    peer.expect_disconnect(0x81).await;
    watcher.expect(WILL).await;
}

#[tokio::test]
async fn connections_count_with_their_namespace_and_user() {
    let server = start().await;
    let limit = async |scope: &Scope, max| {
        server.broker.set_limit(scope, Bounded::Connections, max).await.unwrap();
    };
    let (all, user) = (Scope::Namespace("/".to_owned()), Scope::User("anybody".to_owned()));
    let v311 = packet(0x10, b"\0\x04MQTT\x04\x02\0\0\0\x01c");
    for scope in [&all, &user] {
        limit(scope, Some(1)).await;
        let _first = Peer::new(&server, "a").await;
        // One that takes over its own client id is not one more.
        let first = Peer::new(&server, "a").await;
        for (connect, code) in [(&Hello { id: "b", ..HELLO }.bytes(), 0x97), (&v311, 3)] {
            let mut peer = Peer::open(&server).await;
            peer.say(connect).await;
            let connack = peer.hear().await.unwrap();
            assert_eq!((connack.first, connack.body[1]), (0x20, code), "{scope:?}");
            assert!(peer.hear().await.is_none());
        }
        first.disconnect(&[]).await;
        limit(scope, None).await;
    }
}

#[tokio::test]
async fn a_refused_connect_has_no_will() {
    let server = start().await;
    let mut watcher = Peer::new(&server, "watcher").await;
    watcher.subscribe("w", 0).await;
    let mut peer = Peer::open(&server).await;
    let body = b"\0\x04MQTT\x05\xc6\0\0\0\0\x01a\0\0\x01w\0\x04gone\0\x01u\0\x03bad";
    peer.say(&packet(0x10, body)).await;
    let connack = peer.hear().await.unwrap();
    assert_eq!((connack.first, connack.body[1]), (0x20, 0x86));
    assert!(peer.hear().await.is_none());
    watcher.expect_nothing().await;
}

#[tokio::test]
async fn take_over_publishes_the_will_unless_the_session_goes_on_mqtt_3_1_3_9() {
    let server = start().await;
    let mut watcher = Peer::new(&server, "watcher").await;
    watcher.subscribe("w", 0).await;
    let hello = |will_delay_s, expiry_s, clean| Hello { will_delay_s, expiry_s, clean, ..HELLO };
    // Its delay is zero.
    let _first = Peer::hello(&server, hello(Some(0), 60, true)).await;
    let _second = Peer::hello(&server, hello(Some(60), 60, false)).await;
    watcher.expect(WILL).await;
    // It has a delay, and the session goes on.
    let _third = Peer::hello(&server, hello(Some(60), 60, false)).await;
    watcher.expect_nothing().await;
    // It has a delay, and the session does not.
    let _fourth = Peer::hello(&server, hello(Some(60), 0, true)).await;
    watcher.expect(WILL).await;
    // It has a delay, and the session ends with the connection.
    let _fifth = Peer::hello(&server, hello(None, 60, false)).await;
    watcher.expect(WILL).await;
}

#[tokio::test]
async fn a_delayed_will_waits_and_is_cancelled_by_the_session_mqtt_3_1_3_9() {
    let server = start().await;
    let mut watcher = Peer::new(&server, "watcher").await;
    watcher.subscribe("w", 0).await;
    let hello = Hello { will_delay_s: Some(1), expiry_s: 60, clean: false, ..HELLO };
    Peer::hello(&server, hello).await.0.lose().await;
    watcher.expect_nothing().await;
    watcher.expect(WILL).await;
    Peer::hello(&server, hello).await.0.lose().await;
    let (peer, present) = Peer::hello(&server, hello).await;
    assert!(present);
    peer.disconnect(&[]).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    watcher.expect_nothing().await;
}

#[tokio::test]
async fn a_will_does_not_outwait_its_session_mqtt_3_1_2_10() {
    let server = start().await;
    let mut watcher = Peer::new(&server, "watcher").await;
    watcher.subscribe("w", 0).await;
    let hello = Hello { will_delay_s: Some(200), expiry_s: 1, ..HELLO };
    Peer::hello(&server, hello).await.0.lose().await;
    watcher.expect_nothing().await;
    watcher.expect(WILL).await;
}

#[tokio::test]
async fn qos_2_from_a_client_is_stored_once_over_a_reconnect_mqtt_4_3_3_10() {
    let server = start().await;
    let mut watcher = Peer::new(&server, "watcher").await;
    watcher.subscribe("t", 0).await;
    let hello = Hello { expiry_s: 60, clean: false, ..HELLO };
    let (mut peer, _) = Peer::hello(&server, hello).await;
    peer.say(&packet(0x34, b"\0\x01t\0\x05\0hi")).await;
    peer.expect(&[0x50, 2, 0, 5]).await;
    watcher.expect(b"\x30\x06\0\x01t\0hi").await;
    peer.lose().await;
    let (mut peer, present) = Peer::hello(&server, hello).await;
    assert!(present);
    peer.say(&packet(0x3c, b"\0\x01t\0\x05\0hi")).await;
    peer.expect(&[0x50, 2, 0, 5]).await;
    peer.say(&[0x62, 2, 0, 5]).await;
    peer.expect(&[0x70, 2, 0, 5]).await;
    peer.say(&[0x62, 2, 0, 5]).await;
    peer.expect(&[0x70, 3, 0, 5, 0x92]).await;
    watcher.expect_nothing().await;
}

#[tokio::test]
async fn qos_2_messages_of_sessions_that_ended_are_forgotten() {
    let server = start().await;
    // What nobody reads need not be remembered.
    let mut reader = Peer::new(&server, "reader").await;
    reader.subscribe("t", 1).await;
    let hello = Hello { expiry_s: 60, ..HELLO };
    for ends_itself in [true, false] {
        for _ in 0..WRITERS_MAX {
            // A clean start ends the session before.
            let (mut peer, _) = Peer::hello(&server, hello).await;
            peer.say(&packet(0x34, b"\0\x01t\0\x05\0hi")).await;
            peer.expect(&[0x50, 2, 0, 5]).await;
            if ends_itself {
                peer.disconnect(&[0, 5, 0x11, 0, 0, 0, 0]).await;
            }
        }
    }
}

#[tokio::test]
async fn a_stranger_does_not_hold_up_the_shutdown() {
    let server = start().await;
    let _stranger = Peer::open(&server).await;
    let mut silent = Peer::open(&server).await;
    silent.say(b"\x10").await;
    // The server knows of both.
    drop(Peer::new(&server, "a").await);
    server.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(2), server.task).await.unwrap().unwrap();
    server.broker.stop().await;
}

#[tokio::test]
async fn what_was_under_way_is_sent_again_in_order_mqtt_4_4_0_1() {
    let server = start().await;
    let hello = Hello { id: "reader", expiry_s: 60, clean: false, ..HELLO };
    let (mut reader, _) = Peer::hello(&server, hello).await;
    reader.subscribe("t", 2).await;
    let mut writer = Peer::new(&server, "writer").await;
    for id in 1..=2 {
        writer.say(&packet(0x34, &[b"\0\x01t\0".as_slice(), &[id, 0, id]].concat())).await;
        assert_eq!(writer.hear().await.unwrap().first, 0x50);
    }
    reader.expect(b"\x34\x07\0\x01t\0\x01\0\x01").await;
    reader.expect(b"\x34\x07\0\x01t\0\x02\0\x02").await;
    reader.say(&[0x50, 2, 0, 1]).await;
    reader.expect(&[0x62, 2, 0, 1]).await;
    reader.lose().await;
    writer.publish("t", "new").await;
    let (mut reader, present) = Peer::hello(&server, hello).await;
    assert!(present);
    reader.expect(&[0x62, 2, 0, 1]).await;
    reader.expect(b"\x3c\x07\0\x01t\0\x02\0\x02").await;
    reader.expect(b"\x32\x09\0\x01t\x02\x01\0new").await;
    reader.say(&[0x70, 2, 0, 1, 0x50, 2, 0, 2, 0x40, 2, 2, 1]).await;
    reader.expect(&[0x62, 2, 0, 2]).await;
    reader.say(&[0x70, 2, 0, 2]).await;
    reader.expect_nothing().await;
    // All of it is settled: the next connection gets nothing.
    reader.disconnect(&[]).await;
    Peer::hello(&server, hello).await.0.expect_nothing().await;
}

#[tokio::test]
async fn what_was_not_sent_comes_after_a_reconnect() {
    let server = start_with(Limits { in_flight_max: 1, ..Limits::default() }).await;
    let hello = Hello { id: "reader", expiry_s: 60, clean: false, ..HELLO };
    let (mut reader, _) = Peer::hello(&server, hello).await;
    reader.subscribe("t", 1).await;
    let mut writer = Peer::new(&server, "writer").await;
    for payload in ["1", "2", "3"] {
        writer.publish("t", payload).await;
    }
    reader.expect(b"\x32\x07\0\x01t\0\x01\x001").await;
    reader.lose().await;
    let (mut reader, _) = Peer::hello(&server, hello).await;
    reader.expect(b"\x3a\x07\0\x01t\0\x01\x001").await;
    reader.say(&[0x40, 2, 0, 1]).await;
    reader.expect(b"\x32\x07\0\x01t\0\x02\x002").await;
    reader.say(&[0x40, 2, 0, 2]).await;
    reader.expect(b"\x32\x07\0\x01t\0\x03\x003").await;
}

#[tokio::test]
async fn a_shared_subscriptions_unacknowledged_message_goes_to_another_member_mqtt_4_8_2_5() {
    let server = start().await;
    let mut one = Peer::new(&server, "one").await;
    one.subscribe("$share/g/t", 1).await;
    let mut writer = Peer::new(&server, "writer").await;
    writer.publish("t", "x").await;
    one.expect(b"\x32\x07\0\x01t\0\x01\0x").await;
    let mut two = Peer::new(&server, "two").await;
    two.subscribe("$share/g/t", 1).await;
    one.lose().await;
    two.expect(b"\x32\x07\0\x01t\0\x01\0x").await;
}

#[tokio::test]
async fn sessions_end_when_they_should_mqtt_3_1_2_4() {
    let server = start().await;
    let hello = |expiry_s, clean| Hello { expiry_s, clean, ..HELLO };
    let (peer, present) = Peer::hello(&server, hello(60, true)).await;
    assert!(!present);
    peer.lose().await;
    let (peer, present) = Peer::hello(&server, hello(60, false)).await;
    assert!(present, "clean start with an expiry makes a session that is kept");
    // DISCONNECT may shorten it.
    peer.disconnect(&[0, 5, 0x11, 0, 0, 0, 0]).await;
    let (peer, present) = Peer::hello(&server, hello(1, false)).await;
    assert!(!present);
    peer.lose().await;
    tokio::time::sleep(Duration::from_millis(1300)).await;
    let (peer, present) = Peer::hello(&server, hello(0, false)).await;
    assert!(!present, "it expired");
    peer.lose().await;
    assert!(!Peer::hello(&server, hello(0, false)).await.1, "it ended with its connection");
}

#[tokio::test]
async fn a_client_that_breaks_the_rules_is_told_mqtt_4_13_1_1() {
    let server = start().await;
    let connect = HELLO.bytes();
    let cases: [(&[u8], u8); 7] = [
        (&connect, 0x82),
        (&[0x20, 1, 0xff], 0x82),
        (&[0x36, 6, 0, 1, b't', 0, 1, 0], 0x81),
        (&[0x30, 0x80, 0x80, 0x80, 0x00], 0x81),
        (&[0x30, 6, 0, 0, 3, 0x23, 0, 65], 0x94),
        (&[0x30, 6, 0, 0, 3, 0x23, 0, 64], 0x82),
        (&[0x30, 0xff, 0xff, 0xff, 0x7f], 0x95),
    ];
    for (bytes, reason) in cases {
        let mut peer = Peer::new(&server, "a").await;
        peer.say(bytes).await;
        peer.expect_disconnect(reason).await;
    }
    // Before MQTT 5 there are no words for it.
    let mut peer = Peer::open(&server).await;
    peer.say(&packet(0x10, b"\0\x04MQTT\x04\x02\0\0\0\x01a")).await;
    peer.expect(&[0x20, 2, 0, 0]).await;
    peer.say(&[0x36, 5, 0, 1, b't', 0, 1]).await;
    assert!(peer.hear().await.is_none());
}

#[tokio::test]
async fn empty_client_ids_are_as_each_version_says_mqtt_3_1_3_8() {
    let server = start().await;
    let connack = async |body: &[u8]| {
        let mut peer = Peer::open(&server).await;
        peer.say(&packet(0x10, body)).await;
        peer.hear().await.unwrap().body
    };
    assert_eq!(connack(b"\0\x04MQTT\x04\x02\0\0\0\0").await, [0, 0].as_slice());
    assert_eq!(connack(b"\0\x04MQTT\x04\x00\0\0\0\0").await, [0, 2].as_slice());
    assert_eq!(connack(b"\0\x06MQIsdp\x03\x02\0\0\0\0").await, [0, 2].as_slice());
    let body = connack(b"\0\x04MQTT\x05\x00\0\0\0\0\0").await;
    assert_eq!(body[..2], [0, 0]);
    assert!(body.contains(&0x12), "an identifier was assigned");
}

#[tokio::test]
async fn silence_ends_the_connection_mqtt_3_1_2_22() {
    let server = start().await;
    let (mut peer, _) = Peer::hello(&server, Hello { keep_alive_s: 1, ..HELLO }).await;
    // Half a packet is a sign of life.
    for byte in [0x30, 0x05, 0x00] {
        tokio::time::sleep(Duration::from_millis(800)).await;
        peer.say(&[byte]).await;
    }
    peer.expect_disconnect(0x8d).await;
}

#[tokio::test]
async fn clients_are_told_that_the_server_shuts_down() {
    let server = start().await;
    let mut peer = Peer::new(&server, "a").await;
    server.shutdown.cancel();
    peer.expect_disconnect(0x8b).await;
    server.task.await.unwrap();
    server.broker.stop().await;
}

#[tokio::test]
async fn retained_messages_come_after_suback_with_retain_mqtt_3_3_1_8() {
    let server = start_with(Limits { retained_chunk: 2, ..Limits::default() }).await;
    let mut writer = Peer::new(&server, "writer").await;
    for topic in ["r/1", "r/2", "r/3", "r/4", "r/5"] {
        let body = [&text(topic), [0, 9, 0].as_slice(), b"x"].concat();
        writer.say(&packet(0x33, &body)).await;
        writer.expect(&[0x40, 3, 0, 9, 0x10]).await;
    }
    let mut reader = Peer::new(&server, "reader").await;
    reader.subscribe("r/#", 1).await;
    let mut topics = Vec::new();
    for _ in 0..5 {
        let frame = reader.hear().await.unwrap();
        assert_eq!(frame.first, 0x33);
        topics.push(frame.body[2..5].to_vec());
    }
    topics.sort();
    assert_eq!(topics, [b"r/1", b"r/2", b"r/3", b"r/4", b"r/5"]);
    // [MQTT-3.8.4-4]: not for shared subscriptions.
    let mut shared = Peer::new(&server, "shared").await;
    shared.subscribe("$share/g/r/#", 1).await;
    shared.expect_nothing().await;
}

#[tokio::test]
async fn an_empty_payload_clears_only_with_retain_mqtt_3_3_1_6() {
    let server = start().await;
    let mut peer = Peer::new(&server, "a").await;
    let retained = async |peer: &mut Peer| {
        peer.subscribe("c", 0).await;
        peer.say(&[0xc0, 0]).await;
        let mut count = 0;
        while peer.hear().await.unwrap().first != 0xd0 {
            count += 1;
        }
        count
    };
    peer.say(b"\x31\x05\0\x01c\0x").await;
    assert_eq!(retained(&mut peer).await, 1);
    peer.say(b"\x30\x04\0\x01c\0").await;
    peer.expect(b"\x30\x04\0\x01c\0").await;
    assert_eq!(retained(&mut peer).await, 1);
    peer.say(b"\x31\x04\0\x01c\0").await;
    // Still a message to those who listen.
    peer.expect(b"\x30\x04\0\x01c\0").await;
    assert_eq!(retained(&mut peer).await, 0);
}
