//! A record's body is written to disk once, whatever the number of readers.

use std::collections::BTreeSet;

use lapin::{ExchangeKind, options::ExchangeDeclareOptions, types::FieldTable};
use mainstem_tests::{Amqp, Deadline, Language, Mqtt, Peer, Server, http};
use rumqttc::QoS;
use serde_json::{Value, json};

const QUEUES: usize = 10;
const SESSIONS: usize = 100;
const GROUPS: usize = 5;
const BODY_BYTES: usize = 1 << 20;
const METRIC_AGE_MS: u64 = 2500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mebibyte_for_a_hundred_and_fifteen_readers_is_a_mebibyte_on_disk() {
    let server = Server::start();
    let ports = server.ports();
    let amqp = Amqp::connect(ports.amqp).await;
    start_groups(&server, &amqp).await;
    for index in 0..QUEUES {
        amqp.queue(&format!("queue-{index}"), Some(("plant", "#"))).await;
    }
    for index in 0..SESSIONS {
        let mut session = Mqtt::resume(ports.mqtt, &format!("session-{index}")).await;
        session.subscribe("plant/#", QoS::AtLeastOnce).await;
        session.disconnect().await;
    }
    let before = settled_log_end(ports.http);
    let body: Vec<u8> = (0..=u8::MAX).cycle().take(BODY_BYTES).collect();
    amqp.publish("plant", "press", &body).await;
    let grown = settled_log_end(ports.http) - before;
    let share = grown / BODY_BYTES as f64;
    println!("one body: the log grew by {grown} bytes for {BODY_BYTES}, {share:.4} of it");
    assert!((1.0..=1.01).contains(&share), "the log grew by {share:.4} of the body");
    for index in 0..QUEUES {
        assert_eq!(amqp.take(&format!("queue-{index}")).await.as_ref(), Some(&body));
    }
    for index in 0..SESSIONS {
        let mut session = Mqtt::resume(ports.mqtt, &format!("session-{index}")).await;
        assert!(session.next().await.body == body, "session {index} got another body");
    }
    let mut peer = read_groups(&server);
    for_each_group(&mut peer, |event| event["size"] == json!(BODY_BYTES));
}

/// Gives each group its place in the topic: it reads one small record, and goes away.
async fn start_groups(server: &Server, amqp: &Amqp) {
    let mut peer = read_groups(server);
    // The topic made the exchange of its name; declaring it again finds the same.
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let (name, kind, none) = ("plant".into(), ExchangeKind::Topic, FieldTable::default());
    amqp.channel.exchange_declare(name, kind, durable, none).await.unwrap();
    amqp.publish("plant", "hello", b"hello").await;
    for_each_group(&mut peer, |event| event["size"] == json!(5));
}

/// Starts a consumer for each group.
fn read_groups(server: &Server) -> Peer {
    let mut peer = Peer::start(Language::Python, "peer.py", server.ports());
    for index in 0..GROUPS {
        let group = format!("group-{index}");
        peer.send(&json!({
            "op": "read", "by": "rocketmq", "reader": group, "group": group,
            "topic": "plant", "expression": "*",
        }));
    }
    let deadline = Deadline::seconds(30);
    for _ in 0..GROUPS {
        await_event(&mut peer, "ready", deadline);
    }
    peer
}

/// Waits until every group has received such a message.
fn for_each_group(peer: &mut Peer, wanted: impl Fn(&Value) -> bool) {
    let deadline = Deadline::seconds(60);
    let mut groups = BTreeSet::new();
    while groups.len() < GROUPS {
        let event = await_event(peer, "received", deadline);
        if wanted(&event) {
            groups.insert(event["reader"].to_string());
        }
    }
}

fn await_event(peer: &mut Peer, kind: &str, deadline: Deadline) -> Value {
    loop {
        let event = peer.next(deadline).unwrap_or_else(|| panic!("no `{kind}` came"));
        assert_ne!(event["event"], "failed", "{event}");
        if event["event"] == kind {
            return event;
        }
    }
}

/// The end of the log, once nothing is being written any more. The metric is a second old at
/// most, so it has to stay the same for longer.
fn settled_log_end(port: u16) -> f64 {
    let mut last = 0.0;
    let mut same = Deadline::millis(METRIC_AGE_MS);
    Deadline::seconds(30).until("the log to rest", || {
        let end = http::metric(port, "mainstem_log_end_bytes").expect("mainstem_log_end_bytes");
        if end.to_bits() != f64::to_bits(last) {
            (last, same) = (end, Deadline::millis(METRIC_AGE_MS));
        }
        same.passed().then_some(end)
    })
}
