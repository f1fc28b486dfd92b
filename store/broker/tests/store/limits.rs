//! Each limit of what the store holds in memory, filled: what it does then is what the settings
//! say.

#![expect(clippy::await_holding_lock, reason = "the lock is the gate that the store waits at")]

use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use mainstem_broker::{
    Bind, Broker, Claim, Client, Config, Consume, DeclareExchange, DeclareQueue, Delivery,
    DeliveryPolicy, ExchangeDef, ExchangeKind, Fetch, Inbox, Notice, Publish, Published, Refusal,
    Source, Terms,
};
use mainstem_schemas::{
    Address, ConsumerId, Origin, Record, RecordDraft, Settlement, Table, UnixMillis, Value,
    Verdict, View, Views, flags, view::ViewFn,
};
use tempfile::TempDir;

use crate::door::{self, login, queue};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at something that nothing announces.
const LOOK: Duration = Duration::from_millis(5);

struct Store {
    _dir: TempDir,
    /// Held, since the last handle ends the store's threads.
    _broker: Broker,
    client: Client,
    inbox: Inbox,
}

/// A store with one setting changed.
async fn store(set: impl FnOnce(&mut Config)) -> Store {
    store_with(set, Views::default()).await
}

async fn store_with(set: impl FnOnce(&mut Config), views: Views) -> Store {
    let dir = TempDir::new().unwrap();
    let mut config = door::config(dir.path(), 8 << 20, 1 << 20);
    set(&mut config);
    let broker = door::open(config, views).unwrap();
    let (client, inbox) = login(&broker).await;
    Store { _dir: dir, _broker: broker, client, inbox }
}

fn record(address: &Address, partition: u64, body: &[u8]) -> Record {
    let mut draft = RecordDraft::new(address, "/", b"", body);
    draft.flags = flags::DURABLE;
    draft.qos = 1;
    draft.partition = partition;
    draft.now = UnixMillis(1 << 50);
    draft.encode().unwrap()
}

/// A record whose server took it in long ago.
fn old(queue: &str) -> Record {
    let address = Address::amqp(Bytes::new(), Bytes::copy_from_slice(queue.as_bytes()));
    let mut draft = RecordDraft::new(&address, "/", b"", b"x");
    draft.flags = flags::DURABLE;
    draft.now = UnixMillis(1);
    draft.encode().unwrap()
}

fn direct(queue: &str, body: &[u8]) -> Record {
    let queue = Bytes::copy_from_slice(queue.as_bytes());
    record(&Address::amqp(Bytes::new(), queue), 0, body)
}

impl Store {
    async fn declare(&self, name: &str) {
        self.client.declare_queue(DeclareQueue { def: queue(name) }).await.unwrap();
    }

    async fn publish(&self, publish: Publish) -> Published {
        self.client.publish(vec![publish]).await.unwrap().await.unwrap().remove(0)
    }

    /// Publishes so many records of a KiB.
    async fn fill(&self, queue: &str, count: usize) {
        let batch = (0..count).map(|_| Publish::new(direct(queue, &[7; 1024]))).collect();
        let all = self.client.publish(batch).await.unwrap().await.unwrap();
        assert!(all.iter().all(|one| matches!(one, Published::Taken { readers: 1, .. })));
    }

    async fn consume(&self, queue: &str) {
        let consume = Consume {
            source: Source::Queue(queue.to_owned()),
            consumer: ConsumerId(1),
            options: 0,
            pool: 1,
            limit: 0,
            settle_at_once: false,
            exclusive: false,
            priority: 0,
        };
        self.client.consume(consume).await.unwrap();
    }

    /// What the inbox gives in one go.
    async fn take(&mut self) -> Vec<Delivery> {
        let mut notices = Vec::new();
        let wait = self.client.recv(&mut self.inbox, &mut notices);
        tokio::time::timeout(PATIENCE, wait).await.expect("deliveries come");
        let deliveries = notices.into_iter().map(|notice| match notice {
            Notice::Delivery(delivery) => delivery,
            other => panic!("not a delivery: {other:?}"),
        });
        deliveries.collect()
    }

    /// Takes `count` deliveries, and answers the sizes of the goes they came in.
    async fn take_all(&mut self, count: usize) -> Vec<usize> {
        let mut goes = Vec::new();
        while goes.iter().sum::<usize>() < count {
            goes.push(self.take().await.len());
        }
        assert_eq!(goes.iter().sum::<usize>(), count, "{goes:?}");
        goes
    }

    /// Waits until no queue gives out any more.
    async fn until_quiet(&self, queue: &str) {
        let mut before = None;
        loop {
            let ready = self.client.find_queue(queue.to_owned()).await.unwrap().stats.ready;
            if before.replace(ready) == Some(ready) {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Makes the commit thread ask for a view as soon as something is published to `gate`.
    async fn hang_gate(&self) {
        self.declare("behind").await;
        let def = ExchangeDef {
            name: "gate".to_owned(),
            kind: ExchangeKind::Headers,
            durable: true,
            auto_delete: false,
            internal: false,
            arguments: Table::new(),
        };
        self.client.declare_exchange(DeclareExchange { def }).await.unwrap();
        let bind = Bind {
            source: "gate".to_owned(),
            to_exchange: false,
            destination: "behind".to_owned(),
            key: Bytes::new(),
            arguments: vec![("colour".to_owned(), Value::Text("red".to_owned()))],
        };
        self.client.bind(bind).await.unwrap();
    }

    /// Holds the commit thread in a view until the guard is dropped.
    async fn close_gate(&self, gate: &'static Gate) -> MutexGuard<'static, ()> {
        let held = gate.lock.lock().unwrap();
        let through = record(&Address::amqp("gate".into(), Bytes::new()), 0, b"");
        let _receipt = self.client.publish(vec![Publish::new(through)]).await.unwrap();
        while !gate.is_reached.load(Ordering::SeqCst) {
            tokio::time::sleep(LOOK).await;
        }
        held
    }
}

/// A place where the commit thread can be made to wait.
struct Gate {
    lock: Mutex<()>,
    is_reached: AtomicBool,
}

impl Gate {
    const fn new() -> Self {
        Self { lock: Mutex::new(()), is_reached: AtomicBool::new(false) }
    }

    fn pass(&self) -> View {
        self.is_reached.store(true, Ordering::SeqCst);
        drop(self.lock.lock().unwrap());
        View::default()
    }

    fn views(view: ViewFn) -> Views {
        Views::default().with(Origin::Amqp, view)
    }
}

#[tokio::test]
async fn message_bytes_max_refuses_that_record_alone() {
    let store = store(|config| config.message_bytes_max = 1000).await;
    store.declare("q").await;
    let batch = [1000, 1001, 1].map(|size| Publish::new(direct("q", &vec![0; size])));
    let receipt = store.client.publish(batch.into()).await.unwrap();
    let outcome = receipt.await.unwrap();
    let refused = Published::Refused(Refusal::TooLarge { size: 1001, max: 1000 });
    assert!(matches!(outcome.first(), Some(Published::Taken { readers: 1, .. })));
    assert_eq!(outcome.get(1), Some(&refused));
    assert!(matches!(outcome.get(2), Some(Published::Taken { readers: 1, .. })));
}

#[tokio::test]
async fn commands_max_makes_callers_wait() {
    static GATE: Gate = Gate::new();
    let views = Gate::views(|_| GATE.pass());
    let store = store_with(|config| config.commands_max = 4, views).await;
    store.hang_gate().await;
    let held = store.close_gate(&GATE).await;
    for _ in 0..4 {
        let settled = at_once(store.client.settle(Vec::new())).await;
        assert_eq!(settled, Some(Ok(())), "there is room for four");
    }
    let mut fifth = Box::pin(store.client.settle(Vec::new()));
    assert_eq!(at_once(&mut fifth).await, None, "the fifth waits");
    drop(held);
    tokio::time::timeout(PATIENCE, fifth).await.expect("room again").unwrap();
}

#[tokio::test]
async fn uncommitted_bytes_max_makes_publishers_wait() {
    static GATE: Gate = Gate::new();
    let views = Gate::views(|_| GATE.pass());
    let store = store_with(|config| config.uncommitted_bytes_max = 10_000, views).await;
    store.hang_gate().await;
    store.declare("q").await;
    let held = store.close_gate(&GATE).await;
    let publish = || store.client.publish(vec![Publish::new(direct("q", &[0; 4000]))]);
    let first = at_once(publish()).await.expect("room for the first").unwrap();
    let second = at_once(publish()).await.expect("and the second").unwrap();
    let mut forget = Box::pin(store.client.forget(vec!["w".repeat(4000)]));
    assert!(at_once(&mut forget).await.is_none(), "who has writers forgotten waits");
    let mut third = Box::pin(publish());
    assert!(at_once(&mut third).await.is_none(), "and so does the third");
    drop(held);
    let forgotten = tokio::time::timeout(PATIENCE, forget).await.expect("room again").unwrap();
    assert_eq!(forgotten.await.unwrap(), [false]);
    let third = tokio::time::timeout(PATIENCE, third).await.expect("room again").unwrap();
    for receipt in [first, second, third] {
        let published = receipt.await.unwrap();
        assert!(matches!(published.first(), Some(Published::Taken { readers: 1, .. })));
    }
    // One that is larger than the whole bound goes alone.
    let large = Publish::new(direct("q", &[0; 50_000]));
    assert!(matches!(store.publish(large).await, Published::Taken { readers: 1, .. }));
}

#[tokio::test]
async fn tail_cache_bytes_keeps_the_newest_records_and_no_others() {
    let mut store = store(|config| config.tail_cache_bytes = 10 * 1024).await;
    store.declare("q").await;
    for _ in 0..4 {
        store.fill("q", 10).await;
    }
    // What is not down yet stays whatever the bound; this one goes when that is down.
    store.fill("q", 1).await;
    store.consume("q").await;
    let mut deliveries = Vec::new();
    while deliveries.len() < 41 {
        deliveries.append(&mut store.take().await);
    }
    let cached = deliveries.iter().rev().take_while(|delivery| delivery.record.is_some()).count();
    assert!((1..10).contains(&cached), "{cached} of 10 KiB are in 10 KiB with their headers");
    let others = deliveries.iter().filter(|delivery| delivery.record.is_none()).count();
    assert_eq!(others, 41 - cached, "only the newest are in memory");
    store.client.resolve(&mut deliveries).await.unwrap();
    assert!(deliveries.len() == 41 && deliveries.iter().all(|delivery| delivery.record.is_some()));
}

#[tokio::test]
async fn inbox_deliveries_max_holds_the_rest_back() {
    let mut store = store(|config| config.inbox_deliveries_max = 10).await;
    store.declare("q").await;
    store.fill("q", 100).await;
    store.consume("q").await;
    store.until_quiet("q").await;
    let goes = store.take_all(100).await;
    assert!(goes.iter().all(|go| *go <= 10), "{goes:?}");
}

#[tokio::test]
async fn inbox_bytes_max_holds_the_rest_back() {
    let mut store = store(|config| config.inbox_bytes_max = 10 * 1024).await;
    store.declare("q").await;
    store.fill("q", 100).await;
    store.consume("q").await;
    store.until_quiet("q").await;
    let goes = store.take_all(100).await;
    // One more than fits: the bound is looked at before each.
    assert!(goes.iter().all(|go| *go <= 10), "{goes:?}");
    // A record larger than the whole bound comes alone.
    let large = Publish::new(direct("q", &[0; 50_000]));
    assert!(matches!(store.publish(large).await, Published::Taken { readers: 1, .. }));
    assert_eq!(store.take_all(1).await, [1]);
}

#[tokio::test]
async fn parked_per_cursor_max_stops_a_group_until_some_went() {
    let store = store(|config| config.parked_per_cursor_max = 2).await;
    store.client.open_topic("t".to_owned(), true).await.unwrap();
    let policy = DeliveryPolicy { ordered: true, ..DeliveryPolicy::default() };
    let opened = store.client.open_group("t".to_owned(), "g".to_owned(), policy);
    let group = opened.await.unwrap();
    let address = Address::rocketmq("t".into(), Bytes::new());
    for (number, partition) in [1, 1, 1, 1, 2].into_iter().enumerate() {
        let body = number.to_string();
        store.publish(Publish::new(record(&address, partition, body.as_bytes()))).await;
    }
    let fetch = async || {
        let fetch = Fetch { group, max: 10, claim: Claim::Client, wait_ms: 200 };
        let mut deliveries = store.client.fetch(fetch).await.unwrap();
        store.client.resolve(&mut deliveries).await.unwrap();
        deliveries
    };
    let body = |delivery: &Delivery| {
        delivery.record.as_ref().map(|record| record.data()).unwrap_or_default()
    };
    // 1 and 2 are put aside while 0 is out; 3 finds no room, and 4 waits behind it.
    let first = fetch().await;
    assert_eq!(first.iter().map(body).collect::<Vec<_>>(), ["0"]);
    let end = |delivery: &Delivery| vec![Settlement { id: delivery.id, verdict: Verdict::Accept }];
    store.client.settle_durably(first.first().map(end).unwrap()).await.unwrap();
    let second = fetch().await;
    assert_eq!(second.iter().map(body).collect::<Vec<_>>(), ["1", "4"]);
}

#[tokio::test]
async fn writers_max_refuses_a_further_writer() {
    let store = store(|config| config.writers_max = 2).await;
    store.declare("q").await;
    let publish = async |writer: &str, sequence| {
        let once = Some((writer.to_owned(), sequence));
        let terms = Terms { once, ..Terms::default() };
        store.publish(Publish::new(direct("q", b"x")).on(terms)).await
    };
    for writer in ["a", "b"] {
        assert!(matches!(publish(writer, 1).await, Published::Taken { .. }));
    }
    let refused = Published::Refused(Refusal::Limit { name: "writers_max", max: 2 });
    assert_eq!(publish("c", 1).await, refused);
    assert_eq!(publish("a", 1).await, Published::Again, "what is known stays known");
    assert!(matches!(publish("a", 2).await, Published::Taken { .. }));
}

#[tokio::test]
async fn writer_idle_ms_makes_room_for_a_further_writer() {
    let store = store(|config| (config.writers_max, config.writer_idle_ms) = (1, 1)).await;
    store.declare("q").await;
    let publish = async |writer: &str| {
        let once = Some((writer.to_owned(), 1));
        let terms = Terms { once, ..Terms::default() };
        store.publish(Publish::new(old("q")).on(terms)).await
    };
    assert!(matches!(publish("a").await, Published::Taken { .. }));
    let refused = Published::Refused(Refusal::Limit { name: "writers_max", max: 1 });
    let wait = async {
        while publish("b").await == refused {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the first writer is forgotten");
}

#[tokio::test]
async fn undecided_max_refuses_a_further_one_until_one_is_decided() {
    let store = store(|config| config.undecided_max = 2).await;
    store.declare("q").await;
    let publish = async || {
        let terms = Terms { undecided: true, ..Terms::default() };
        store.publish(Publish::new(direct("q", b"x")).on(terms)).await
    };
    let Published::Held(first) = publish().await else { panic!("not held") };
    assert!(matches!(publish().await, Published::Held(_)));
    let refused = Published::Refused(Refusal::Limit { name: "undecided_max", max: 2 });
    assert_eq!(publish().await, refused);
    assert!(store.client.decide(first, true).await.unwrap());
    assert!(matches!(publish().await, Published::Held(_)));
}

/// The future's outcome if it has one at once.
async fn at_once<F: Future>(future: F) -> Option<F::Output> {
    tokio::time::timeout(Duration::ZERO, future).await.ok()
}
