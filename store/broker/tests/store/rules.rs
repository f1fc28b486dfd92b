//! Policies: what is asked of queues and exchanges by their names holds at once, for those there are
//! and those to come, after a restart, and when the log's beginning is gone.

#![allow(clippy::indexing_slicing, reason = "a failed test is a panic")]

use std::{ops::ControlFlow, path::Path, time::Duration};

use bytes::Bytes;
use mainstem_broker::{
    ApplyTo, Authority, Bind, Broker, Client, Consume, DeclareExchange, DeclareQueue, ExchangeDef,
    ExchangeKind, Notice, Publish, Published, QueueDef, Refusal, Rule, Source,
    survey::{Seen, walk},
};
use mainstem_schemas::{
    Address, ConsumerId, Position, RecordDraft, Settlement, Table, Value, Verdict, Views, flags,
};
use tempfile::TempDir;

use crate::door::{self, login, queue};

const SEGMENT_BYTES: u64 = 256 << 10;
const LOOK: Duration = Duration::from_millis(5);
const LOOKS_MAX: u32 = 2000;

fn open(dir: &Path) -> Broker {
    door::open(door::config(dir, SEGMENT_BYTES, 16 << 10), Views::default()).unwrap()
}

fn table(entries: &[(&str, Value)]) -> Table {
    entries.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

async fn declare(client: &Client, name: &str, durable: bool, arguments: &[(&str, Value)]) {
    let def = QueueDef { durable, arguments: table(arguments), ..queue(name) };
    client.declare_queue(DeclareQueue { def }).await.unwrap();
}

async fn exchange(client: &Client, name: &str) {
    let def = ExchangeDef {
        name: name.to_owned(),
        kind: ExchangeKind::Fanout,
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: Table::new(),
    };
    client.declare_exchange(DeclareExchange { def }).await.unwrap();
}

async fn bind(client: &Client, source: &str, destination: &str) {
    let bind = Bind {
        source: source.to_owned(),
        destination: destination.to_owned(),
        to_exchange: false,
        key: Bytes::new(),
        arguments: Table::new(),
    };
    client.bind(bind).await.unwrap();
}

async fn publish(client: &Client, exchange: &str, key: &str, body: &[u8]) -> Published {
    let part = |part: &str| Bytes::copy_from_slice(part.as_bytes());
    let address = Address::amqp(part(exchange), part(key));
    let mut draft = RecordDraft::new(&address, "/", b"", body);
    draft.flags = flags::DURABLE;
    draft.qos = 1;
    draft.now = client.broker().now();
    let batch = vec![Publish::new(draft.encode().unwrap())];
    client.publish(batch).await.unwrap().await.unwrap().remove(0)
}

async fn ready(client: &Client, queue: &str) -> u64 {
    client.find_queue(queue.to_owned()).await.unwrap().stats.ready
}

async fn until_ready(client: &Client, queue: &str, count: u64) {
    for _ in 0..LOOKS_MAX {
        if ready(client, queue).await == count {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
    panic!("{queue} has {} ready, not {count}", ready(client, queue).await);
}

/// Where the log begins.
fn first_position(dir: &Path) -> u64 {
    let mut first = 0;
    let mut on_entry = |seen: Seen<'_>| {
        first = seen.place.position.0;
        ControlFlow::Break(())
    };
    walk(dir, Position(0), &mut on_entry, &mut |_| {}).unwrap();
    first
}

/// Sets a user's rule for everything.
async fn set(broker: &Broker, name: &str, pattern: &str, definition: &[(&str, Value)]) {
    set_as(broker, Authority::User, name, pattern, definition).await.unwrap();
}

async fn set_as(
    broker: &Broker,
    authority: Authority,
    name: &str,
    pattern: &str,
    definition: &[(&str, Value)],
) -> Result<(), Refusal> {
    let rule = Rule {
        name: name.to_owned(),
        pattern: pattern.to_owned(),
        apply_to: ApplyTo::All,
        priority: 0,
        definition: table(definition),
    };
    broker.set_policy("/", authority, rule).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_holds_at_once_and_no_longer_than_it_is_asked() {
    let dir = TempDir::new().unwrap();
    let broker = open(dir.path());
    let (client, _inbox) = login(&broker).await;
    for (name, durable) in [("work", true), ("quick", false), ("other", true)] {
        declare(&client, name, durable, &[]).await;
        for body in ["1", "2", "3", "4"] {
            publish(&client, "", name, body.as_bytes()).await;
        }
    }
    set(&broker, "short", "^(work|quick|new)$", &[("max-length", Value::Int(2))]).await;
    for name in ["work", "quick"] {
        until_ready(&client, name, 2).await;
        let (delivery, _) = client.get(name.to_owned(), true).await.unwrap().unwrap();
        let mut deliveries = vec![delivery];
        client.resolve(&mut deliveries).await.unwrap();
        assert_eq!(deliveries[0].record.as_ref().unwrap().data(), "3", "the oldest went");
    }
    assert_eq!(ready(&client, "other").await, 4);
    declare(&client, "new", true, &[]).await;
    for _ in 0..3 {
        publish(&client, "", "new", b"x").await;
    }
    until_ready(&client, "new", 2).await;
    // Replaced, then taken back.
    set(
        &broker,
        "short",
        "^new$",
        &[("max-length", Value::Int(2)), ("overflow", text("reject-publish"))],
    )
    .await;
    let outcome = publish(&client, "", "new", b"x").await;
    assert_eq!(outcome, Published::Refused(Refusal::QueueFull("new".to_owned())));
    assert!(matches!(publish(&client, "", "work", b"x").await, Published::Taken { .. }));
    assert!(broker.delete_policy("/", Authority::User, "short").await.unwrap());
    assert!(!broker.delete_policy("/", Authority::User, "short").await.unwrap());
    publish(&client, "", "new", b"x").await;
    assert_eq!(ready(&client, "new").await, 3);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_already_expires_and_dies_where_the_rule_says() {
    let dir = TempDir::new().unwrap();
    let broker = open(dir.path());
    let (client, _inbox) = login(&broker).await;
    declare(&client, "dead", true, &[]).await;
    declare(&client, "work", true, &[]).await;
    publish(&client, "", "work", b"old").await;
    set(
        &broker,
        "p",
        "^work$",
        &[
            ("message-ttl", Value::Int(100)),
            ("dead-letter-exchange", text("")),
            ("dead-letter-routing-key", text("dead")),
        ],
    )
    .await;
    until_ready(&client, "dead", 1).await;
    publish(&client, "", "work", b"new").await;
    until_ready(&client, "dead", 2).await;
    assert_eq!(ready(&client, "work").await, 0);
    broker.delete_policy("/", Authority::User, "p").await.unwrap();
    publish(&client, "", "work", b"stays").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((ready(&client, "work").await, ready(&client, "dead").await), (1, 2));
    // An operator's word bounds the user's.
    set(&broker, "long", "", &[("expires", Value::Int(600_000))]).await;
    set_as(&broker, Authority::Operator, "brief", "^work$", &[("expires", Value::Int(50))])
        .await
        .unwrap();
    for look in 0..=LOOKS_MAX {
        match client.find_queue("work".to_owned()).await {
            Err(Refusal::NoQueue(_)) => break,
            // A look is a use; let it be.
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
        assert!(look < 100, "an unused queue goes");
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_are_counted_by_the_rule_of_now() {
    let dir = TempDir::new().unwrap();
    let broker = open(dir.path());
    let (client, mut inbox) = login(&broker).await;
    declare(&client, "work", true, &[("x-queue-type", text("quorum"))]).await;
    let consume = Consume {
        source: Source::Queue("work".to_owned()),
        consumer: ConsumerId(1),
        options: 0,
        pool: 1,
        limit: 1,
        settle_at_once: false,
        exclusive: false,
        priority: 0,
    };
    client.consume(consume).await.unwrap();
    publish(&client, "", "work", b"poison").await;
    let mut seen = 0;
    // Without a rule the declaration holds, which here has no limit.
    while seen < 6 {
        if seen == 3 {
            set(&broker, "p", "work", &[("delivery-limit", Value::Int(4))]).await;
        }
        let mut notices = Vec::new();
        let came = client.recv(&mut inbox, &mut notices);
        if tokio::time::timeout(Duration::from_millis(500), came).await.is_err() {
            break;
        }
        for notice in notices {
            let Notice::Delivery(delivery) = notice else { continue };
            seen += 1;
            assert_eq!(delivery.attempt, seen);
            let settlement = Settlement { id: delivery.id, verdict: Verdict::Release };
            client.settle(vec![settlement]).await.unwrap();
        }
    }
    assert_eq!(seen, 5, "handed out once more than it may come back");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanges_follow_rules_too_but_their_arguments_first() {
    let dir = TempDir::new().unwrap();
    let broker = open(dir.path());
    let (client, _inbox) = login(&broker).await;
    for name in ["in", "rest"] {
        exchange(&client, name).await;
    }
    declare(&client, "spare", true, &[]).await;
    bind(&client, "rest", "spare").await;
    publish(&client, "in", "k", b"lost").await;
    set(&broker, "ae", "^in$", &[("alternate-exchange", text("rest"))]).await;
    publish(&client, "in", "k", b"kept").await;
    assert_eq!(ready(&client, "spare").await, 1);
    // A topic's queue is a reader by address, which a private exchange is hidden from.
    client.open_topic("in".to_owned(), true).await.unwrap();
    let offset = |published: Published| match published {
        Published::Taken { offset, .. } => offset.map(|offset| offset.0),
        other => panic!("{other:?}"),
    };
    assert_eq!(offset(publish(&client, "in", "k", b"seen").await), Some(0));
    set(&broker, "ae", "^in$", &[("address", text("none"))]).await;
    assert_eq!(offset(publish(&client, "in", "k", b"hidden").await), None);
    assert_eq!(ready(&client, "spare").await, 2, "the rule before asked for an alternate");
    broker.delete_policy("/", Authority::User, "ae").await.unwrap();
    assert_eq!(offset(publish(&client, "in", "k", b"seen").await), Some(1));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_outlive_restarts_and_the_segments_they_were_written_in() {
    let dir = TempDir::new().unwrap();
    let broker = open(dir.path());
    let (client, inbox) = login(&broker).await;
    declare(&client, "work", true, &[]).await;
    declare(&client, "bulk", true, &[]).await;
    set(&broker, "gone", "", &[("max-length", Value::Int(1))]).await;
    set(&broker, "ttl", "^work$", &[("message-ttl", Value::Int(3_600_000))]).await;
    set_as(&broker, Authority::Operator, "cap", "^work$", &[("max-length", Value::Int(3))])
        .await
        .unwrap();
    broker.delete_policy("/", Authority::User, "gone").await.unwrap();
    for number in 0..5 {
        publish(&client, "", "work", format!("{number}").as_bytes()).await;
    }
    until_ready(&client, "work", 3).await;
    let body = vec![7; 8 << 10];
    // Until the log has let go of what it began with.
    for _ in 0..LOOKS_MAX {
        if first_position(dir.path()) >= 3 * SEGMENT_BYTES {
            break;
        }
        publish(&client, "", "bulk", &body).await;
        client.get("bulk".to_owned(), true).await.unwrap();
    }
    assert!(first_position(dir.path()) >= 3 * SEGMENT_BYTES, "the log is not cleaned");
    broker.checkpoint().await.unwrap();
    let rules = broker.list_policies("/", Authority::User).await.unwrap();
    assert_eq!(rules.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>(), ["ttl"]);
    broker.stop().await;
    drop((client, inbox, broker));
    let mut hashes = Vec::new();
    for without_index in [false, true] {
        if without_index {
            std::fs::remove_dir_all(dir.path().join("index")).unwrap();
        }
        let broker = open(dir.path());
        let (client, inbox) = login(&broker).await;
        assert_eq!(broker.list_policies("/", Authority::User).await.unwrap(), rules);
        let capped = broker.list_policies("/", Authority::Operator).await.unwrap();
        assert_eq!(capped.len(), 1);
        assert_eq!(ready(&client, "work").await, 3);
        publish(&client, "", "work", b"more").await;
        until_ready(&client, "work", 3).await;
        hashes.push(broker.checkpoint().await.unwrap());
        broker.stop().await;
        drop((client, inbox, broker));
    }
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    let broker = open(dir.path());
    hashes.push(broker.checkpoint().await.unwrap());
    broker.stop().await;
    assert_eq!(hashes[1], hashes[2], "an index made anew from the log is another one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_makes_no_sense_is_refused_and_not_kept() {
    let dir = TempDir::new().unwrap();
    let broker = open(dir.path());
    let why = set_as(&broker, Authority::User, "p", "(", &[]).await.unwrap_err();
    assert!(matches!(why, Refusal::BadArguments(_)), "{why:?}");
    let definition = [("alternate-exchange", text("x"))];
    set_as(&broker, Authority::Operator, "p", "", &definition).await.unwrap_err();
    assert_eq!(broker.list_policies("/", Authority::User).await.unwrap(), []);
    assert_eq!(broker.list_policies("/", Authority::Operator).await.unwrap(), []);
    broker.stop().await;
}
