//! What AMQP queues do to messages besides keeping them in order, through crashes too.

use std::time::Duration;

use lapin::{
    BasicProperties, Channel, Confirmation, ExchangeKind,
    message::BasicGetMessage,
    options::{
        BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions,
        BasicQosOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use mainstem_tests::{Amqp, Deadline, Server, clients::reply_code};
use tokio::time;
use tokio_stream::StreamExt;

const LOOK: Duration = Duration::from_millis(10);
const WAIT_S: u64 = 10;

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn table(entries: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert((*name).into(), value.clone());
    }
    table
}

async fn declare(amqp: &Amqp, name: &str, arguments: &[(&str, AMQPValue)]) {
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    amqp.channel.queue_declare(name.into(), durable, table(arguments)).await.unwrap();
}

fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2)
}

async fn send(amqp: &Amqp, exchange: &str, key: &str, body: &str, properties: BasicProperties) {
    let options = BasicPublishOptions::default();
    let (exchange, key) = (exchange.into(), key.into());
    let sent = amqp.channel.basic_publish(exchange, key, options, body.as_bytes(), properties);
    let confirm = sent.await.unwrap().await.unwrap();
    assert!(matches!(confirm, Confirmation::Ack(_)), "{confirm:?}");
}

/// The next message of a queue, waiting for it.
async fn next(channel: &Channel, queue: &str) -> BasicGetMessage {
    let deadline = Deadline::seconds(WAIT_S);
    loop {
        let got = channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap();
        if let Some(got) = got {
            return got;
        }
        assert!(!deadline.passed(), "nothing came to {queue}");
        time::sleep(LOOK).await;
    }
}

/// What its headers say about deaths: queue, reason and count of each, the latest first.
fn deaths(message: &BasicGetMessage) -> Vec<(String, String, i64)> {
    let headers = message.properties.headers().as_ref().expect("headers");
    let Some(AMQPValue::FieldArray(deaths)) = headers.inner().get("x-death") else {
        panic!("no deaths in {headers:?}")
    };
    let text = |value: &AMQPValue| match value {
        AMQPValue::LongString(text) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        other => panic!("{other:?}"),
    };
    let death = |death: &AMQPValue| {
        let AMQPValue::FieldTable(death) = death else { panic!("{death:?}") };
        let death = death.inner();
        let AMQPValue::LongLongInt(count) = death["count"] else { panic!("{death:?}") };
        (text(&death["queue"]), text(&death["reason"]), count)
    };
    deaths.as_slice().iter().map(death).collect()
}

fn body(message: &BasicGetMessage) -> String {
    String::from_utf8_lossy(&message.data).into_owned()
}

async fn dead_letter(message: &BasicGetMessage) {
    let options = BasicNackOptions { requeue: false, ..BasicNackOptions::default() };
    message.acker.nack(options).await.unwrap();
}

/// Waits until so many are ready, and until that is in the log for good.
async fn settle_down(amqp: &Amqp, queue: &str, ready: u32) {
    let deadline = Deadline::seconds(WAIT_S);
    while amqp.ready(queue).await != ready {
        assert!(!deadline.passed(), "{queue} has {} ready", amqp.ready(queue).await);
        time::sleep(LOOK).await;
    }
    declare(amqp, "other", &[]).await;
    send(amqp, "", "other", "what was before it is durable too", persistent()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_counts_its_rounds_through_a_kill() {
    let mut server = Server::start();
    let to = |queue: &str| {
        [("x-dead-letter-exchange", long("")), ("x-dead-letter-routing-key", long(queue))]
    };
    let mut amqp = Amqp::connect(server.ports().amqp).await;
    declare(&amqp, "work", &to("wait")).await;
    let ttl = ("x-message-ttl", AMQPValue::LongInt(30));
    declare(&amqp, "wait", &[to("work").as_slice(), &[ttl]].concat()).await;
    send(&amqp, "", "work", "again", persistent()).await;
    for round in 0..4 {
        let got = next(&amqp.channel, "work").await;
        assert_eq!(body(&got), "again");
        if round > 0 {
            let expected = [
                ("wait".to_owned(), "expired".to_owned(), round),
                ("work".to_owned(), "rejected".to_owned(), round),
            ];
            assert_eq!(deaths(&got), expected);
        }
        dead_letter(&got).await;
        settle_down(&amqp, "work", 1).await;
        server.restart();
        amqp = Amqp::connect(server.ports().amqp).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn priorities_hold_through_a_kill() {
    let mut server = Server::start();
    let amqp = Amqp::connect(server.ports().amqp).await;
    declare(&amqp, "ranked", &[("x-max-priority", AMQPValue::LongInt(9))]).await;
    for (text, priority) in [("a", 0), ("b", 5), ("c", 9), ("d", 5), ("e", 255)] {
        send(&amqp, "", "ranked", text, persistent().with_priority(priority)).await;
    }
    server.restart();
    let amqp = Amqp::connect(server.ports().amqp).await;
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(String::from_utf8(amqp.take("ranked").await.unwrap()).unwrap());
    }
    assert_eq!(seen, ["c", "e", "b", "d", "a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_message_comes_when_it_is_due_through_a_kill() {
    let mut server = Server::start();
    let amqp = Amqp::connect(server.ports().amqp).await;
    let kind = ExchangeKind::Custom("x-delayed-message".to_owned());
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let direct = table(&[("x-delayed-type", long("direct"))]);
    amqp.channel.exchange_declare("later".into(), kind, durable, direct).await.unwrap();
    for queue in ["due", "due-too"] {
        declare(&amqp, queue, &[]).await;
        let (bind, none) = (QueueBindOptions::default(), FieldTable::default());
        amqp.channel
            .queue_bind(queue.into(), "later".into(), queue.into(), bind, none)
            .await
            .unwrap();
    }
    let delay = 1500;
    let further = AMQPValue::FieldArray(vec![long("due-too")].into());
    let headers = table(&[("x-delay", AMQPValue::LongInt(delay)), ("CC", further)]);
    let sent = Deadline::seconds(WAIT_S);
    send(&amqp, "later", "due", "x", persistent().with_headers(headers)).await;
    assert_eq!(amqp.ready("due").await, 0);
    server.restart();
    let amqp = Amqp::connect(server.ports().amqp).await;
    for queue in ["due", "due-too"] {
        let got = next(&amqp.channel, queue).await;
        let waited = i32::try_from(sent.elapsed().as_millis()).unwrap();
        assert!(waited >= delay, "it came after {waited} ms");
        let headers = got.properties.headers().as_ref().unwrap();
        let turned = &AMQPValue::LongLongInt((-delay).into());
        assert_eq!(headers.inner().get("x-delay"), Some(turned));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_nacks_and_dead_letters_what_it_refuses() {
    let server = Server::start();
    let amqp = Amqp::connect(server.ports().amqp).await;
    declare(&amqp, "dead", &[]).await;
    let arguments = [
        ("x-max-length", AMQPValue::LongInt(1)),
        ("x-overflow", long("reject-publish-dlx")),
        ("x-dead-letter-exchange", long("")),
        ("x-dead-letter-routing-key", long("dead")),
    ];
    declare(&amqp, "full", &arguments).await;
    send(&amqp, "", "full", "a", persistent()).await;
    let options = BasicPublishOptions::default();
    let (exchange, key) = ("".into(), "full".into());
    let sent = amqp.channel.basic_publish(exchange, key, options, b"b", persistent());
    let confirm = sent.await.unwrap().await.unwrap();
    assert!(matches!(confirm, Confirmation::Nack(_)), "{confirm:?}");
    let got = next(&amqp.channel, "dead").await;
    assert_eq!(body(&got), "b");
    assert_eq!(deaths(&got), [("full".to_owned(), "maxlen".to_owned(), 1)]);
    assert_eq!(amqp.ready("full").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_consumer_takes_over_when_the_active_ones_connection_breaks() {
    let server = Server::start();
    let port = server.ports().amqp;
    let first = Amqp::connect(port).await;
    declare(&first, "single", &[("x-single-active-consumer", AMQPValue::Boolean(true))]).await;
    let consume = async |amqp: &Amqp| {
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        amqp.channel.basic_consume("single".into(), "".into(), options, none).await
    };
    let mut active = consume(&first).await.unwrap();
    let second = Amqp::connect(port).await;
    let mut standby = consume(&second).await.unwrap();
    for text in ["a", "b"] {
        send(&second, "", "single", text, persistent()).await;
        let got = active.next().await.unwrap().unwrap();
        assert_eq!(got.data, text.as_bytes());
    }
    first.connection.close(200, "done".into()).await.unwrap();
    let wait = Duration::from_secs(WAIT_S);
    for text in ["a", "b"] {
        let got = time::timeout(wait, standby.next()).await.unwrap().unwrap().unwrap();
        assert_eq!((got.data.as_slice(), got.redelivered), (text.as_bytes(), true));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_never_settles_loses_its_channel_and_the_message() {
    let server = Server::start_with(&["amqp.delivery_ack_timeout_ms=400"]);
    let amqp = Amqp::connect(server.ports().amqp).await;
    declare(&amqp, "stuck", &[]).await;
    send(&amqp, "", "stuck", "x", persistent()).await;
    let channel = amqp.connection.create_channel().await.unwrap();
    channel.basic_qos(1, BasicQosOptions::default()).await.unwrap();
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let consume = channel.basic_consume("stuck".into(), "".into(), options, none);
    let mut consumer = consume.await.unwrap();
    consumer.next().await.unwrap().unwrap();
    let deadline = Deadline::seconds(WAIT_S);
    while channel.status().connected() {
        assert!(!deadline.passed(), "the channel stays open");
        time::sleep(LOOK).await;
    }
    let asked = channel.basic_get("stuck".into(), BasicGetOptions::default()).await;
    assert!(asked.is_err());
    let got = next(&amqp.channel, "stuck").await;
    assert!(got.redelivered);
    // Another queue gives more time.
    let patient = [("x-consumer-timeout", AMQPValue::LongInt(60_000))];
    declare(&amqp, "patient", &patient).await;
    send(&amqp, "", "patient", "x", persistent()).await;
    let channel = amqp.connection.create_channel().await.unwrap();
    let got = next(&channel, "patient").await;
    time::sleep(Duration::from_millis(1000)).await;
    got.acker.ack(lapin::options::BasicAckOptions::default()).await.unwrap();
    assert!(channel.status().connected());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_forgets_what_is_over_its_bytes_and_its_readers_go_on() {
    let server = Server::start();
    let amqp = Amqp::connect(server.ports().amqp).await;
    let stream = ("x-queue-type", long("stream"));
    declare(&amqp, "log", &[stream, ("x-max-length-bytes", AMQPValue::LongInt(50_000))]).await;
    for number in 0..100_u8 {
        let text = format!("{number:010}").repeat(100);
        send(&amqp, "", "log", &text, persistent()).await;
    }
    let deadline = Deadline::seconds(WAIT_S);
    while amqp.ready("log").await > 50 {
        assert!(!deadline.passed(), "nothing was forgotten: {}", amqp.ready("log").await);
        time::sleep(LOOK).await;
    }
    amqp.channel.basic_qos(10, BasicQosOptions::default()).await.unwrap();
    let first = table(&[("x-stream-offset", long("first"))]);
    let options = BasicConsumeOptions::default();
    let consume = amqp.channel.basic_consume("log".into(), "".into(), options, first);
    let got = consume.await.unwrap().next().await.unwrap().unwrap();
    let headers = got.properties.headers().as_ref().unwrap();
    let Some(AMQPValue::LongLongInt(offset)) = headers.inner().get("x-stream-offset") else {
        panic!("{headers:?}")
    };
    assert!((50..100).contains(offset), "{offset}");
    assert_eq!(got.data, format!("{offset:010}").repeat(100).as_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_nobody_uses_goes_through_a_kill() {
    let mut server = Server::start();
    let amqp = Amqp::connect(server.ports().amqp).await;
    declare(&amqp, "brief", &[("x-expires", AMQPValue::LongInt(500))]).await;
    server.restart();
    let amqp = Amqp::connect(server.ports().amqp).await;
    let deadline = Deadline::seconds(WAIT_S);
    loop {
        // Asking for it is using it.
        time::sleep(Duration::from_millis(800)).await;
        let channel = amqp.connection.create_channel().await.unwrap();
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let asked = channel.queue_declare("brief".into(), passive, FieldTable::default()).await;
        match asked {
            Ok(_) => assert!(!deadline.passed(), "it stays"),
            Err(error) => {
                assert_eq!(reply_code(&error), Some(404), "{error}");
                break;
            }
        }
    }
}
