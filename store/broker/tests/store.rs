//! The store through its one door: what is confirmed is kept, routed and delivered by the rules.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

#[path = "store/door.rs"]
mod door;
#[path = "store/limits.rs"]
mod limits;
#[path = "store/rights.rs"]
mod rights;
#[path = "store/rules.rs"]
mod rules;
#[path = "store/topics.rs"]
mod topics;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use mainstem_broker::{
    Bind, Broker, Claim, Client, Config, Consume, DeclareQueue, Delivery, DeliveryPolicy, Fetch,
    Inbox, Notice, OpenError, OpenSession, Policy, Publish, Published, QueueDef, Refusal,
    Retention, Source, Start, Subscribe,
};
use mainstem_schemas::{
    Address, ConsumerId, Filter, Record, RecordDraft, Settlement, Table, UnixMillis, Verdict,
    Views, flags,
};
use tempfile::TempDir;

use door::{login, queue};

fn open(dir: &TempDir) -> Broker {
    door::open(door::config(dir.path(), 4 << 20, 1 << 20), Views::default()).unwrap()
}

fn record(address: &Address, body: &[u8]) -> Record {
    let mut draft = RecordDraft::new(address, "/", b"", body);
    draft.flags = flags::DURABLE;
    draft.qos = 1;
    // So late that no retention ends it.
    draft.now = UnixMillis(1 << 50);
    draft.encode().unwrap()
}

fn topic(topic: &str, body: &str) -> Record {
    record(&Address::mqtt(Bytes::copy_from_slice(topic.as_bytes())), body.as_bytes())
}

fn direct(queue: &str, body: &str) -> Record {
    let queue = Bytes::copy_from_slice(queue.as_bytes());
    record(&Address::amqp(Bytes::new(), queue), body.as_bytes())
}

async fn publish(client: &Client, record: Record) -> Published {
    let receipt = client.publish(vec![Publish::new(record)]).await.unwrap();
    receipt.await.unwrap().remove(0)
}

fn readers(published: &Published) -> u32 {
    match published {
        Published::Taken { readers, .. } => *readers,
        other => panic!("not taken: {other:?}"),
    }
}

async fn declare(client: &Client, name: &str, durable: bool) -> mainstem_broker::QueueStats {
    let def = QueueDef { durable, ..queue(name) };
    client.declare_queue(DeclareQueue { def }).await.unwrap().stats
}

fn consumer(queue: &str, limit: u32) -> Consume {
    Consume {
        source: Source::Queue(queue.to_owned()),
        consumer: ConsumerId(1),
        options: 0,
        pool: 1,
        limit,
        settle_at_once: false,
        exclusive: false,
        priority: 0,
    }
}

async fn consume(client: &Client, queue: &str, limit: u32) {
    client.consume(consumer(queue, limit)).await.unwrap();
}

/// The next `count` deliveries, bodies read.
async fn take(client: &Client, inbox: &mut Inbox, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    while deliveries.len() < count {
        let mut notices = Vec::new();
        let wait = client.recv(inbox, &mut notices);
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("deliveries come");
        for notice in notices {
            if let Notice::Delivery(delivery) = notice {
                deliveries.push(delivery);
            }
        }
    }
    client.resolve(&mut deliveries).await.unwrap();
    assert_eq!(deliveries.len(), count);
    deliveries
}

async fn nothing_comes(client: &Client, inbox: &mut Inbox) {
    let mut notices = Vec::new();
    let wait = client.recv(inbox, &mut notices);
    let came = tokio::time::timeout(Duration::from_millis(50), wait).await;
    assert!(came.is_err(), "{notices:?}");
}

fn bodies(deliveries: &[Delivery]) -> Vec<String> {
    let body = |delivery: &Delivery| {
        String::from_utf8(delivery.record.as_ref().unwrap().data().to_vec()).unwrap()
    };
    deliveries.iter().map(body).collect()
}

async fn settle(client: &Client, deliveries: &[Delivery], verdict: Verdict) {
    let batch = deliveries.iter().map(|d| Settlement { id: d.id, verdict }).collect();
    assert!(client.settle_durably(batch).await.unwrap().iter().all(|was| *was));
}

#[tokio::test]
async fn what_was_confirmed_and_not_settled_comes_again_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir);
    let (client, mut inbox) = login(&broker).await;
    declare(&client, "q", true).await;
    for number in 0..10 {
        assert_eq!(readers(&publish(&client, direct("q", &number.to_string())).await), 1);
    }
    consume(&client, "q", 4).await;
    let first = take(&client, &mut inbox, 4).await;
    assert_eq!(bodies(&first), ["0", "1", "2", "3"]);
    assert!(first.iter().all(|d| !d.redelivered && d.attempt == 1));
    nothing_comes(&client, &mut inbox).await;
    settle(&client, &first[..1], Verdict::Accept).await;
    settle(&client, &first[2..3], Verdict::Accept).await;
    drop(client);
    broker.stop().await;

    let broker = open(&dir);
    let (client, mut inbox) = login(&broker).await;
    assert_eq!(declare(&client, "q", true).await.ready, 8);
    consume(&client, "q", 0).await;
    let again = take(&client, &mut inbox, 8).await;
    assert_eq!(bodies(&again), ["1", "3", "4", "5", "6", "7", "8", "9"]);
    assert!(again.iter().all(|d| d.redelivered));
    broker.stop().await;
}

#[tokio::test]
async fn released_records_come_back_in_their_old_place() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir);
    let (client, mut inbox) = login(&broker).await;
    declare(&client, "q", false).await;
    for number in 0..4 {
        publish(&client, direct("q", &number.to_string())).await;
    }
    consume(&client, "q", 3).await;
    let taken = take(&client, &mut inbox, 3).await;
    let release = |at: usize| Settlement { id: taken[at].id, verdict: Verdict::Release };
    client.settle(vec![release(2), release(0)]).await.unwrap();
    let again = take(&client, &mut inbox, 2).await;
    assert_eq!(bodies(&again), ["0", "2"]);
    assert!(again.iter().all(|d| d.redelivered && d.attempt == 2));
    assert!(!client.settle_durably(vec![release(0)]).await.unwrap()[0], "the old id is stale");
    broker.stop().await;
}

#[tokio::test]
async fn a_lost_client_gives_back_what_it_had() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir);
    let (first, mut first_inbox) = login(&broker).await;
    let (second, mut second_inbox) = login(&broker).await;
    declare(&first, "q", true).await;
    publish(&first, direct("q", "a")).await;
    consume(&first, "q", 1).await;
    take(&first, &mut first_inbox, 1).await;
    consume(&second, "q", 1).await;
    nothing_comes(&second, &mut second_inbox).await;
    first.close().await;
    assert!(take(&second, &mut second_inbox, 1).await[0].redelivered);
    broker.stop().await;
}

#[tokio::test]
async fn an_index_built_from_the_log_equals_the_one_that_ran() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir);
    let (client, mut inbox) = login(&broker).await;
    for queue in ["a", "b", "gone"] {
        declare(&client, queue, true).await;
        let bind = Bind {
            source: "amq.topic".to_owned(),
            destination: queue.to_owned(),
            to_exchange: false,
            key: Bytes::from_static(b"x.#"),
            arguments: Table::new(),
        };
        client.bind(bind).await.unwrap();
    }
    let session = OpenSession { id: "device".to_owned(), clean: false, expiry_s: 3600, limit: 10 };
    client.open_session(session).await.unwrap();
    for (filter, share) in [("x/+", None), ("x/#", Some("group".to_owned()))] {
        let filter = Filter::parse(filter).unwrap();
        client.subscribe(Subscribe { filter, share, options: 3, live: false }).await.unwrap();
    }
    client.open_topic("x".to_owned(), true).await.unwrap();
    let group =
        client.open_group("x".to_owned(), "g".to_owned(), DeliveryPolicy::default()).await.unwrap();
    for number in 0..300 {
        publish(&client, topic("x/y", &format!("{number}"))).await;
    }
    let kept = Address::mqtt("x/r".into());
    let mut retained = RecordDraft::new(&kept, "/", b"", b"kept");
    retained.flags = flags::DURABLE | flags::RETAIN;
    publish(&client, retained.encode().unwrap()).await;
    consume(&client, "a", 200).await;
    let deliveries = take(&client, &mut inbox, 210).await;
    let some: Vec<Delivery> = deliveries.into_iter().step_by(3).collect();
    settle(&client, &some, Verdict::Accept).await;
    let claim = Claim::Lease { ms: 60_000 };
    let fetched = client.fetch(Fetch { group, max: 7, claim, wait_ms: 1000 }).await.unwrap();
    settle(&client, &fetched, Verdict::Accept).await;
    client.delete_queue("gone".to_owned(), false, false).await.unwrap();
    broker.stop().await;
    drop((client, inbox, broker));

    // A copy without an index has only the log to go by.
    let copy = TempDir::new().unwrap();
    std::fs::create_dir(copy.path().join("log")).unwrap();
    for file in std::fs::read_dir(dir.path().join("log")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join("log").join(file.file_name())).unwrap();
    }
    assert_eq!(hash(&dir).await, hash(&copy).await);
}

/// The hash of a store's index, brought to the end of its log.
async fn hash(dir: &TempDir) -> u64 {
    let broker = open(dir);
    let hash = broker.checkpoint().await.unwrap();
    broker.stop().await;
    hash
}

#[tokio::test]
async fn sessions_share_a_filters_queue_and_sleep_on_their_cursors() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir);
    let mut sleepers = Vec::new();
    for number in 0..3 {
        let (client, inbox) = login(&broker).await;
        let id = format!("s{number}");
        let open = OpenSession { id, clean: false, expiry_s: 3600, limit: 10 };
        assert!(!client.open_session(open).await.unwrap().present);
        let filter = Filter::parse("fleet/+").unwrap();
        let subscribe = Subscribe { filter, share: None, options: 1, live: false };
        assert!(!client.subscribe(subscribe).await.unwrap().existed);
        sleepers.push((client, inbox));
    }
    let (publisher, _inbox) = login(&broker).await;
    assert_eq!(readers(&publish(&publisher, topic("fleet/news", "one")).await), 1);
    for (client, inbox) in &mut sleepers {
        assert_eq!(bodies(&take(client, inbox, 1).await), ["one"]);
    }
    drop(sleepers);
    publish(&publisher, topic("fleet/news", "two")).await;
    broker.stop().await;

    let broker = open(&dir);
    for number in 0..3 {
        let (client, mut inbox) = login(&broker).await;
        let id = format!("s{number}");
        let open = OpenSession { id, clean: false, expiry_s: 0, limit: 10 };
        let opened = client.open_session(open).await.unwrap();
        assert!(opened.present && opened.subscriptions.len() == 1);
        assert_eq!(bodies(&take(&client, &mut inbox, 2).await), ["one", "two"]);
        client.close().await;
    }
    let (publisher, _inbox) = login(&broker).await;
    assert_eq!(readers(&publish(&publisher, topic("fleet/news", "three")).await), 0);
    broker.stop().await;
}

#[tokio::test]
async fn a_taken_over_session_goes_on_with_its_new_holder() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir);
    let open = || OpenSession { id: "s".to_owned(), clean: false, expiry_s: 60, limit: 10 };
    let (old, mut old_inbox) = login(&broker).await;
    old.open_session(open()).await.unwrap();
    let filter = Filter::parse("t").unwrap();
    old.subscribe(Subscribe { filter, share: None, options: 0, live: false }).await.unwrap();
    publish(&old, topic("t", "a")).await;
    take(&old, &mut old_inbox, 1).await;
    let (new, mut new_inbox) = login(&broker).await;
    assert!(new.open_session(open()).await.unwrap().present);
    let mut notices = Vec::new();
    old.recv(&mut old_inbox, &mut notices).await;
    assert!(matches!(notices[..], [Notice::TakenOver]));
    assert_eq!(bodies(&take(&new, &mut new_inbox, 1).await), ["a"]);
    old.close().await;
    publish(&new, topic("t", "b")).await;
    assert_eq!(bodies(&take(&new, &mut new_inbox, 1).await), ["b"]);
    broker.stop().await;
}

#[tokio::test]
async fn a_lease_that_runs_out_gives_the_record_to_the_next_fetch() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir);
    let (client, _inbox) = login(&broker).await;
    client.open_topic("t".to_owned(), true).await.unwrap();
    publish(&client, topic("t/x", "a")).await;
    let group =
        client.open_group("t".to_owned(), "g".to_owned(), DeliveryPolicy::default()).await.unwrap();
    let claim = Claim::Lease { ms: 30 };
    let fetch = Fetch { group, max: 4, claim, wait_ms: 2000 };
    let first = client.fetch(fetch).await.unwrap();
    let second = client.fetch(fetch).await.unwrap();
    assert_eq!((first[0].attempt, second[0].attempt), (1, 2));
    let stale = Settlement { id: first[0].id, verdict: Verdict::Accept };
    assert_eq!(client.settle_durably(vec![stale]).await.unwrap(), [false]);
    let renewed = client.renew(second[0].id, Claim::Client).await.unwrap();
    assert_eq!(client.renew(second[0].id, claim).await, Err(Refusal::Stale));
    let done = Settlement { id: renewed, verdict: Verdict::Accept };
    assert_eq!(client.settle_durably(vec![done]).await.unwrap(), [true]);
    assert!(client.fetch(Fetch { wait_ms: 10, ..fetch }).await.unwrap().is_empty());
    broker.stop().await;
}

#[tokio::test]
async fn a_get_finds_what_its_caller_has_just_published() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir);
    let (client, _inbox) = login(&broker).await;
    declare(&client, "q", true).await;
    for flags in [0, flags::DURABLE] {
        let address = Address::amqp(Bytes::new(), "q".into());
        let mut draft = RecordDraft::new(&address, "/", b"", b"here");
        draft.flags = flags;
        drop(client.publish(vec![Publish::new(draft.encode().unwrap())]).await.unwrap());
        assert!(client.get("q".to_owned(), true).await.unwrap().is_some());
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_queues_time_to_live_ends_its_records() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir);
    let (client, _inbox) = login(&broker).await;
    let policy = Arc::new(Policy { ttl_ms: Some(60_000), ..Policy::default() });
    let def = QueueDef { policy, ..queue("short") };
    client.declare_queue(DeclareQueue { def }).await.unwrap();
    let now = broker.now();
    for (body, age_ms) in [("old", 61_000), ("young", 59_000)] {
        let address = Address::amqp(Bytes::new(), "short".into());
        let mut draft = RecordDraft::new(&address, "/", b"", body.as_bytes());
        draft.now = UnixMillis(now.0 - age_ms);
        publish(&client, draft.encode().unwrap()).await;
    }
    let (got, _) = client.get("short".to_owned(), true).await.unwrap().unwrap();
    let mut got = vec![got];
    client.resolve(&mut got).await.unwrap();
    assert_eq!(bodies(&got), ["young"]);
    assert!(client.get("short".to_owned(), true).await.unwrap().is_none());
    broker.stop().await;
}

#[tokio::test]
async fn a_stream_is_read_from_where_the_consumer_says() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir);
    let (client, mut inbox) = login(&broker).await;
    let def = QueueDef { retention: Retention::Time, ..queue("s") };
    client.declare_queue(DeclareQueue { def }).await.unwrap();
    for number in 0..200 {
        publish(&client, direct("s", &number.to_string())).await;
    }
    for (number, start, first) in [(1, Start::First, "0"), (2, Start::Last, "199")] {
        let consume = Consume {
            source: Source::Stream("s".to_owned(), start),
            consumer: ConsumerId(number),
            options: 0,
            pool: 0,
            limit: 1,
            settle_at_once: false,
            exclusive: false,
            priority: 0,
        };
        client.consume(consume).await.unwrap();
        let taken = take(&client, &mut inbox, 1).await;
        assert_eq!(bodies(&taken), [first]);
        settle(&client, &taken, Verdict::Accept).await;
        client.cancel(ConsumerId(number)).await.unwrap();
        // What followed the settlement and was on its way is of no interest here.
        let mut rest = Vec::new();
        let more = client.recv(&mut inbox, &mut rest);
        let _none = tokio::time::timeout(Duration::from_millis(20), more).await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn room_that_queues_share_goes_round_whatever_else_is_asked() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir);
    let (client, mut inbox) = login(&broker).await;
    client.set_pool(1, 1).await.unwrap();
    for (number, name) in (1..).zip(["a", "b"]) {
        declare(&client, name, true).await;
        let consume = Consume { consumer: ConsumerId(number), ..consumer(name, 0) };
        client.consume(consume).await.unwrap();
        for _ in 0..10 {
            publish(&client, direct(name, name)).await;
        }
    }
    let mut taken = Vec::new();
    for _ in 0..10 {
        let deliveries = take(&client, &mut inbox, 1).await;
        taken.extend(bodies(&deliveries));
        let settle = |delivery: &Delivery| Settlement { id: delivery.id, verdict: Verdict::Accept };
        client.settle(deliveries.iter().map(settle).collect()).await.unwrap();
        // It makes no room, and so takes nobody's turn.
        client.set_pool(1, 1).await.unwrap();
    }
    let a = taken.iter().filter(|body| *body == "a").count();
    assert!((4..=6).contains(&a), "{taken:?}");
    broker.stop().await;
}

#[tokio::test]
async fn a_second_process_is_refused_the_data_directory() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir);
    let second = door::open(Config::new(dir.path().to_owned()), Views::default());
    assert!(matches!(second, Err(OpenError::Locked(_))));
    broker.stop().await;
}

#[tokio::test]
async fn unsubscribing_gives_back_the_room_of_what_was_in_hand() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir);
    let (client, mut inbox) = login(&broker).await;
    let session = OpenSession { id: "s".to_owned(), clean: true, expiry_s: 0, limit: 2 };
    client.open_session(session).await.unwrap();
    let subscribe = |filter: &str| {
        let filter = Filter::parse(filter).unwrap();
        client.subscribe(Subscribe { filter, share: None, options: 0, live: false })
    };
    subscribe("a").await.unwrap();
    for number in 0..2 {
        publish(&client, topic("a", &number.to_string())).await;
    }
    take(&client, &mut inbox, 2).await;
    assert!(client.unsubscribe(Filter::parse("a").unwrap(), None).await.unwrap());
    subscribe("b").await.unwrap();
    publish(&client, topic("b", "room")).await;
    assert_eq!(bodies(&take(&client, &mut inbox, 1).await), ["room"]);
    broker.stop().await;
}

#[tokio::test]
async fn a_kept_session_may_join_a_share_that_a_passing_one_began() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir);
    let join = |client: Client, id: &str, expiry_s: u32| {
        let session = OpenSession { id: id.to_owned(), clean: false, expiry_s, limit: 10 };
        async move {
            client.open_session(session).await.unwrap();
            let filter = Filter::parse("t").unwrap();
            let share = Some("g".to_owned());
            client.subscribe(Subscribe { filter, share, options: 0, live: false }).await.unwrap();
            client
        }
    };
    let (passing, _passing_inbox) = login(&broker).await;
    let passing = join(passing, "passing", 0).await;
    let (kept, _kept_inbox) = login(&broker).await;
    join(kept, "kept", 3600).await.close().await;
    passing.close().await;
    let (publisher, _inbox) = login(&broker).await;
    assert_eq!(readers(&publish(&publisher, topic("t", "kept")).await), 1);
    broker.stop().await;

    let broker = open(&dir);
    let (kept, mut inbox) = login(&broker).await;
    let session = OpenSession { id: "kept".to_owned(), clean: false, expiry_s: 3600, limit: 10 };
    assert!(kept.open_session(session).await.unwrap().present);
    assert_eq!(bodies(&take(&kept, &mut inbox, 1).await), ["kept"]);
    broker.stop().await;
}

#[tokio::test]
async fn a_retained_record_can_be_read_as_soon_as_it_is_found() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir);
    let (client, _inbox) = login(&broker).await;
    for number in 0..50 {
        let address = Address::mqtt("r/x".into());
        let body = number.to_string();
        let mut draft = RecordDraft::new(&address, "/", b"", body.as_bytes());
        draft.flags = flags::RETAIN;
        drop(client.publish(vec![Publish::new(draft.encode().unwrap())]).await.unwrap());
        let places = client.retained(Filter::parse("r/+").unwrap()).await.unwrap();
        let found = client.read(places).await.expect("what was found is on the disk");
        assert_eq!(found[0].as_ref().unwrap().data(), body.as_bytes());
    }
    broker.stop().await;
}
