//! The crash test: publishers of all three protocols work with confirms while the server is
//! killed again and again; then everything that was confirmed is read back by each protocol.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints what it counted"
)]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, PublisherConfirm,
    options::{
        BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        QueueBindOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use mainstem_tests::{Deadline, Language, Peer, Server};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Outgoing, Packet, QoS};
use serde_json::json;
use tokio::{task, time};
use tokio_stream::StreamExt;

/// `CRASH_CYCLES` may ask for another number.
const CYCLES: u64 = 20;
/// Messages a publisher may have unconfirmed.
const WINDOW: usize = 50;
/// A publisher sends this many, then pauses this long: the crash is what is tested, not the rate.
const BURST: usize = 8;
const PACE: Duration = Duration::from_millis(10);
const RETRY: Duration = Duration::from_millis(20);
/// Long enough for gRPC's own back-off after a lost connection.
const PROGRESS_S: u64 = 20;
/// One in so many kills comes right after a start, without waiting for progress.
const EARLY_KILLS: u32 = 4;
const ROCKETMQ_PUBLISHERS: usize = 2;
/// How long a reader waits for something new before the rest is lost.
const READ_BACK_S: u64 = 30;
/// When nothing has come for so long, there is nothing left.
const QUIET: Duration = Duration::from_millis(700);

/// What each publisher knows to be confirmed: its messages 0 to `confirmed`, excluding the last.
#[derive(Clone, Default)]
struct Progress {
    confirmed: Arc<Mutex<BTreeMap<String, u64>>>,
    stop: Arc<AtomicBool>,
}

impl Progress {
    fn note(&self, publisher: &str, confirmed: u64) {
        self.confirmed.lock().unwrap().insert(publisher.to_owned(), confirmed);
    }

    fn all(&self) -> BTreeMap<String, u64> {
        self.confirmed.lock().unwrap().clone()
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_confirmed_is_lost_over_twenty_kills() {
    let setting = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = setting("CRASH_SEED").unwrap_or_else(|| fastrand::u64(..));
    let cycles = setting("CRASH_CYCLES").unwrap_or(CYCLES);
    println!("crash test: seed {seed} (repeat with CRASH_SEED={seed})");
    let mut random = fastrand::Rng::with_seed(seed);
    let clock = Deadline::seconds(600);
    let mut server = Server::start();
    let ports = server.ports();
    let progress = Progress::default();
    let mut rocketmq = start_rocketmq(ports, &progress);
    declare_readers(ports).await;
    rocketmq.send(&json!("go"));
    let amqp = task::spawn(publish_amqp(ports.amqp, progress.clone()));
    let mqtt = task::spawn(publish_mqtt(ports.mqtt, progress.clone()));
    for cycle in 0..cycles {
        let before = progress.all();
        if random.u32(..EARLY_KILLS) > 0 || cycle == 0 {
            await_progress(&mut rocketmq, &progress, &before).await;
        }
        time::sleep(Duration::from_millis(random.u64(..600))).await;
        server.kill();
        server.restart();
    }
    let before = progress.all();
    await_progress(&mut rocketmq, &progress, &before).await;
    progress.stop.store(true, Ordering::Relaxed);
    amqp.await.unwrap();
    mqtt.await.unwrap();
    stop_rocketmq(&mut rocketmq, &progress);
    read_back(ports, &progress).await;
    println!("crash test: {cycles} kills, {:.1?}", clock.elapsed());
}

/// Reads what the publishers have confirmed until each of them is further than `before`.
async fn await_progress(rocketmq: &mut Peer, progress: &Progress, before: &BTreeMap<String, u64>) {
    let deadline = Deadline::seconds(PROGRESS_S);
    let publishers = ROCKETMQ_PUBLISHERS + 2;
    loop {
        while let Some(event) = rocketmq.next(Deadline::millis(0)) {
            note_rocketmq(&event, progress);
        }
        let now = progress.all();
        let moved = |(name, count): (&String, &u64)| before.get(name).is_none_or(|b| b < count);
        let ahead = now.iter().filter(|entry| moved(*entry)).count();
        if ahead == publishers {
            return;
        }
        assert!(!deadline.passed(), "no progress since {before:?}, now {now:?}");
        time::sleep(RETRY).await;
    }
}

/// The durable readers, which are away until the end.
async fn declare_readers(ports: mainstem_tests::Ports) {
    let (_connection, channel) = amqp_channel(ports.amqp).await.unwrap();
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("crash".into(), durable, FieldTable::default()).await.unwrap();
    let (bind, none) = (QueueBindOptions::default(), FieldTable::default());
    let root = "amq.topic".into();
    channel.queue_bind("crash".into(), root, "crash.#".into(), bind, none).await.unwrap();
    let (client, mut events) = mqtt_session(ports.mqtt);
    client.subscribe("crash/#", QoS::AtLeastOnce).await.unwrap();
    loop {
        match events.poll().await.unwrap() {
            Event::Incoming(Packet::SubAck(_)) => client.disconnect().await.unwrap(),
            Event::Outgoing(Outgoing::Disconnect) => return,
            _ => {}
        }
    }
}

// --- AMQP -------------------------------------------------------------------------------------

async fn amqp_channel(port: u16) -> lapin::Result<(Connection, Channel)> {
    let uri = format!("amqp://guest:guest@127.0.0.1:{port}/%2f");
    let connection = Connection::connect(&uri, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

async fn publish_amqp(port: u16, progress: Progress) {
    let mut confirmed = 0;
    while !progress.stopped() {
        // An error ends the connection; what it had confirmed is in `confirmed`.
        let _lost = amqp_connection(port, &mut confirmed, &progress).await;
        time::sleep(RETRY).await;
    }
}

async fn amqp_connection(port: u16, confirmed: &mut u64, progress: &Progress) -> lapin::Result<()> {
    let (_connection, channel) = amqp_channel(port).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let persistent = BasicProperties::default().with_delivery_mode(2);
    let mut waiting = VecDeque::new();
    let mut next = *confirmed;
    let mut pace = time::interval(PACE);
    while !progress.stopped() || !waiting.is_empty() {
        tokio::select! {
            // Cancel-safe both: a confirm that is waited for stays at the front.
            confirm = front(&mut waiting) => {
                waiting.pop_front();
                assert!(matches!(confirm?, Confirmation::Ack(_)), "a publish was refused");
                *confirmed += 1;
                progress.note("amqp", *confirmed);
            }
            _ = pace.tick() => for _ in 0..BURST {
                if waiting.len() < WINDOW && !progress.stopped() {
                    let body = format!("amqp:{next}");
                    let options = BasicPublishOptions::default();
                    let (exchange, key) = ("amq.topic".into(), "crash.amqp".into());
                    let body = body.as_bytes();
                    let properties = persistent.clone();
                    let sent = channel.basic_publish(exchange, key, options, body, properties);
                    waiting.push_back(sent.await?);
                    next += 1;
                }
            },
        }
    }
    Ok(())
}

/// The outcome of the first of these; waits for ever when there is none.
async fn front(waiting: &mut VecDeque<PublisherConfirm>) -> lapin::Result<Confirmation> {
    match waiting.front_mut() {
        Some(confirm) => confirm.await,
        None => std::future::pending().await,
    }
}

async fn read_amqp(port: u16, seen: &mut Seen) {
    let (_connection, channel) = amqp_channel(port).await.unwrap();
    channel.basic_qos(500, BasicQosOptions::default()).await.unwrap();
    let options = BasicConsumeOptions { no_ack: false, ..BasicConsumeOptions::default() };
    let consume = channel.basic_consume("crash".into(), "".into(), options, FieldTable::default());
    let mut consumer = consume.await.unwrap();
    while let Ok(delivery) = time::timeout(seen.patience(), consumer.next()).await {
        let delivery = delivery.unwrap().unwrap();
        seen.note(&delivery.data);
        delivery.ack(lapin::options::BasicAckOptions::default()).await.unwrap();
    }
}

// --- MQTT -------------------------------------------------------------------------------------

fn mqtt_session(port: u16) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new("crash-reader", "127.0.0.1", port);
    options.set_clean_session(false);
    AsyncClient::new(options, WINDOW)
}

async fn publish_mqtt(port: u16, progress: Progress) {
    let mut confirmed = 0;
    while !progress.stopped() {
        // An error ends the connection; what it had confirmed is in `confirmed`.
        let _lost = mqtt_connection(port, &mut confirmed, &progress).await;
        time::sleep(RETRY).await;
    }
}

async fn mqtt_connection(
    port: u16,
    confirmed: &mut u64,
    progress: &Progress,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut options = MqttOptions::new("crash-publisher", "127.0.0.1", port);
    options.set_inflight(u16::try_from(WINDOW)?);
    let (client, mut events) = AsyncClient::new(options, WINDOW);
    // A poll that is dropped starts to connect anew, so the pace begins after that.
    while !matches!(events.poll().await?, Event::Incoming(Packet::ConnAck(_))) {}
    let mut pace = time::interval(PACE);
    let mut next = *confirmed;
    let mut waiting = VecDeque::new();
    while !progress.stopped() || next > *confirmed {
        tokio::select! {
            // Cancel-safe both: an event loop that is connected keeps what it has half read.
            event = events.poll() => match event? {
                Event::Outgoing(Outgoing::Publish(id)) => waiting.push_back(id),
                Event::Incoming(Packet::PubAck(ack)) => {
                    // [MQTT-4.6.0-2]: in the order in which the publishes came.
                    assert_eq!(waiting.pop_front(), Some(ack.pkid));
                    *confirmed += 1;
                    progress.note("mqtt", *confirmed);
                }
                _ => {}
            },
            _ = pace.tick() => for _ in 0..BURST {
                if next - *confirmed < WINDOW as u64 && !progress.stopped() {
                    let body = format!("mqtt:{next}");
                    client.try_publish("crash/mqtt", QoS::AtLeastOnce, false, body)?;
                    next += 1;
                }
            },
        }
    }
    Ok(())
}

async fn read_mqtt(port: u16, seen: &mut Seen) {
    let (_client, mut events) = mqtt_session(port);
    while let Ok(event) = time::timeout(seen.patience(), events.poll()).await {
        match event.unwrap() {
            Event::Incoming(Packet::ConnAck(ack)) => assert!(ack.session_present),
            Event::Incoming(Packet::Publish(publish)) => seen.note(&publish.payload),
            _ => {}
        }
    }
}

// --- RocketMQ ---------------------------------------------------------------------------------

/// The publishers, whose topic exists when this returns.
fn start_rocketmq(ports: mainstem_tests::Ports, progress: &Progress) -> Peer {
    let mut peer = Peer::start(Language::Python, "rocketmq_load.py", ports);
    peer.send(&json!(["publish", "crash", ROCKETMQ_PUBLISHERS]));
    await_event(&mut peer, "ready", |event| note_rocketmq(event, progress));
    peer
}

fn stop_rocketmq(peer: &mut Peer, progress: &Progress) {
    peer.send(&json!("stop"));
    await_event(peer, "stopped", |event| note_rocketmq(event, progress));
}

fn note_rocketmq(event: &serde_json::Value, progress: &Progress) {
    if event["event"] == "confirmed" {
        let number = event["number"].as_u64().unwrap();
        progress.note(event["publisher"].as_str().unwrap(), number + 1);
    }
}

fn await_event(peer: &mut Peer, kind: &str, mut other: impl FnMut(&serde_json::Value)) {
    let deadline = Deadline::seconds(PROGRESS_S);
    while let Some(event) = peer.next(deadline) {
        if event["event"] == kind {
            return;
        }
        other(&event);
    }
    panic!("the RocketMQ program did not say `{kind}`");
}

fn read_rocketmq(ports: mainstem_tests::Ports, seen: &mut Seen) {
    let mut peer = Peer::start(Language::Python, "rocketmq_load.py", ports);
    peer.send(&json!(["read", "crash", "crash-group"]));
    await_event(&mut peer, "ready", |_| {});
    let mut empty = 0;
    while empty < 2 && !seen.deadline.passed() {
        let Some(event) = peer.next(seen.deadline) else { break };
        let bodies = event["bodies"].as_array().cloned().unwrap_or_default();
        bodies.iter().for_each(|body| seen.note(body.as_str().unwrap().as_bytes()));
        // A long poll that ended with nothing, once everything has been seen.
        empty = if bodies.is_empty() && seen.is_complete() { empty + 1 } else { 0 };
    }
}

// --- what came back ---------------------------------------------------------------------------

/// Reads everything by each protocol, then judges.
async fn read_back(ports: mainstem_tests::Ports, progress: &Progress) {
    let confirmed = progress.all();
    println!("crash test: confirmed {confirmed:?}");
    let mut amqp = Seen::new("AMQP queue", &confirmed);
    read_amqp(ports.amqp, &mut amqp).await;
    let mut mqtt = Seen::new("MQTT session", &confirmed);
    read_mqtt(ports.mqtt, &mut mqtt).await;
    let mut rocketmq = Seen::new("RocketMQ group", &confirmed);
    read_rocketmq(ports, &mut rocketmq);
    let findings: Vec<_> = [amqp, mqtt, rocketmq].iter().flat_map(Seen::findings).collect();
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

/// What one reader got.
struct Seen {
    reader: &'static str,
    confirmed: BTreeMap<String, u64>,
    numbers: BTreeMap<String, BTreeSet<u64>>,
    first_order: BTreeMap<String, Vec<u64>>,
    copies: u64,
    deadline: Deadline,
}

impl Seen {
    fn new(reader: &'static str, confirmed: &BTreeMap<String, u64>) -> Self {
        Self {
            reader,
            confirmed: confirmed.clone(),
            numbers: BTreeMap::new(),
            first_order: BTreeMap::new(),
            copies: 0,
            deadline: Deadline::seconds(READ_BACK_S),
        }
    }

    fn note(&mut self, body: &[u8]) {
        let (publisher, number) = std::str::from_utf8(body).unwrap().split_once(':').unwrap();
        let number = number.parse().unwrap();
        self.copies += 1;
        if self.numbers.entry(publisher.to_owned()).or_default().insert(number) {
            self.first_order.entry(publisher.to_owned()).or_default().push(number);
            self.deadline = Deadline::seconds(READ_BACK_S);
        }
    }

    /// A publisher's confirmed messages that have not come.
    fn missing(&self, publisher: &str) -> Vec<u64> {
        let seen = self.numbers.get(publisher);
        let is_seen = |number: &u64| seen.is_some_and(|seen| seen.contains(number));
        (0..self.confirmed[publisher]).filter(|number| !is_seen(number)).collect()
    }

    fn is_complete(&self) -> bool {
        let seen = |publisher: &str| self.numbers.get(publisher).map_or(0, BTreeSet::len) as u64;
        let behind = |(publisher, confirmed): (&String, &u64)| seen(publisher) < *confirmed;
        !self.confirmed.iter().any(behind)
    }

    /// How long to wait for the next message.
    fn patience(&self) -> Duration {
        if self.is_complete() { QUIET } else { self.deadline.left() }
    }

    /// None lost, and each publisher's messages first seen in the order it sent them.
    fn findings(&self) -> Vec<String> {
        let distinct: usize = self.numbers.values().map(BTreeSet::len).sum();
        let duplicates = self.copies - distinct as u64;
        let mut lost = 0;
        let (reader, copies) = (self.reader, self.copies);
        let mut findings = Vec::new();
        for publisher in self.confirmed.keys() {
            let missing = self.missing(publisher);
            lost += missing.len();
            if !missing.is_empty() {
                let (count, first) = (missing.len(), missing[0]);
                findings.push(format!("{reader}: of {publisher}, lost {count}, first {first}"));
            }
        }
        for (publisher, order) in &self.first_order {
            if let Some(swapped) = order.windows(2).find(|pair| pair[0] > pair[1]) {
                findings.push(format!("{reader}: {publisher} is out of order at {swapped:?}"));
            }
        }
        println!(
            "crash test: {reader}: {copies} read, {distinct} distinct, {duplicates} duplicates, \
             {lost} lost"
        );
        findings
    }
}
