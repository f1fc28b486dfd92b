//! What was done is what the statistics say: of the management API, and of the pages for Prometheus.

use lapin::{
    BasicProperties,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions,
        BasicPublishOptions,
    },
    types::FieldTable,
};
use mainstem_tests::{Amqp, Deadline, Server, http};
use serde_json::{Value as Json, json};
use tokio_stream::StreamExt;

const COMPAT: &str = "metrics.compat=['rabbitmq','rocketmq']";

fn get(server: &Server, path: &str) -> Json {
    let answer = http::as_guest(server.ports().http, "GET", &format!("/api{path}"), "");
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

fn page(server: &Server, path: &str) -> String {
    let answer = http::get(server.ports().metrics, path);
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.body
}

/// Waits until these numbers of an object are there: some are handed on once a second.
fn wait_for(what: &str, expected: &Json, look: impl Fn() -> Json) {
    let deadline = Deadline::seconds(20);
    loop {
        let found = look();
        let fields = expected.as_object().unwrap();
        if fields.iter().all(|(name, value)| found.get(name) == Some(value)) {
            return;
        }
        assert!(!deadline.passed(), "{what}: expected {expected}, found {found}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// Five messages through an exchange: two are got, one is got and settled at once, two are consumed, one
/// of them twice; three that nobody wants, one of which goes back; and gets that find nothing.
async fn act(amqp: &Amqp) {
    amqp.queue("s.q", Some(("amq.direct", "k"))).await;
    for _ in 0..5 {
        amqp.publish("amq.direct", "k", b"wanted").await;
    }
    amqp.publish("amq.direct", "nobody", b"x").await;
    amqp.publish("amq.direct", "nobody", b"x").await;
    let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let channel = &amqp.channel;
    let properties = BasicProperties::default;
    let (exchange, key) = ("amq.direct".into(), "nobody".into());
    let sent = channel.basic_publish(exchange, key, mandatory, b"x", properties());
    assert!(sent.await.unwrap().await.unwrap().is_ack());
    for _ in 0..2 {
        assert!(amqp.take("s.q").await.is_some());
    }
    let at_once = BasicGetOptions { no_ack: true };
    assert!(channel.basic_get("s.q".into(), at_once).await.unwrap().is_some());
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut consumer =
        channel.basic_consume("s.q".into(), "c".into(), options, none).await.unwrap();
    let first = consumer.next().await.unwrap().unwrap();
    let back = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
    first.acker.nack(back).await.unwrap();
    for _ in 0..2 {
        let next = consumer.next().await.unwrap().unwrap();
        next.acker.ack(BasicAckOptions::default()).await.unwrap();
    }
    amqp.queue("s.none", None).await;
    for _ in 0..3 {
        assert_eq!(amqp.take("s.none").await, None);
    }
}

/// What [`act`] does to everything together, and on its channel.
fn expected() -> Json {
    json!({
        "publish": 8, "confirm": 8, "return_unroutable": 1, "drop_unroutable": 2,
        "deliver": 3, "deliver_no_ack": 0, "get": 2, "get_no_ack": 1, "get_empty": 3,
        "deliver_get": 6, "ack": 4, "redeliver": 1,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_statistics_of_the_management_api_say_what_was_done() {
    let server = Server::start();
    let amqp = Amqp::connect(server.ports().amqp).await;
    assert_eq!(get(&server, "/channels")[0].get("message_stats"), None);
    act(&amqp).await;
    let of_queue = json!({
        "publish": 5, "deliver": 3, "deliver_no_ack": 0, "get": 2, "get_no_ack": 1, "get_empty": 0,
        "deliver_get": 6, "ack": 4, "redeliver": 1,
    });
    let stats = |path: &str| get(&server, path)["message_stats"].clone();
    wait_for("the queue", &of_queue, || stats("/queues/%2F/s.q"));
    wait_for("the empty queue", &json!({ "get_empty": 3 }), || stats("/queues/%2F/s.none"));
    let through = json!({ "publish_in": 8, "publish_out": 5 });
    wait_for("the exchange", &through, || stats("/exchanges/%2F/amq.direct"));
    assert_eq!(get(&server, "/exchanges/%2F/amq.fanout").get("message_stats"), None);
    wait_for("the channel", &expected(), || get(&server, "/channels")[0]["message_stats"].clone());
    wait_for("everything", &expected(), || stats("/overview"));
    wait_for("everything", &json!({ "publish_in": 8, "publish_out": 5 }), || stats("/overview"));
    let churn = json!({ "queue_declared": 2, "queue_created": 2, "queue_deleted": 0,
        "channel_created": 1, "channel_closed": 0, "connection_created": 1, "connection_closed": 0 });
    wait_for("what came and went", &churn, || get(&server, "/overview")["churn_rates"].clone());
    // Straight to queues, whether they are there or not.
    amqp.publish("", "s.none", b"x").await;
    amqp.publish("", "s.nowhere", b"x").await;
    let straight = json!({ "publish_in": 2, "publish_out": 1 });
    wait_for("the exchange without a name", &straight, || stats("/exchanges/%2F/amq.default"));
    let list = get(&server, "/queues?name=s.none&columns=name,message_stats.publish");
    assert_eq!(list, json!([{ "name": "s.none", "message_stats": { "publish": 1 } }]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rates_are_those_of_the_last_seconds_and_end() {
    let server = Server::start();
    let amqp = Amqp::connect(server.ports().amqp).await;
    amqp.queue("r", None).await;
    let rate = |path: &str, of: &[&str]| {
        let all = get(&server, path);
        of.iter().fold(&all, |at, name| &at[name]).as_f64().unwrap()
    };
    let of_queue = || rate("/queues/%2F/r", &["message_stats", "publish_details", "rate"]);
    let risen = || rate("/queues/%2F/r", &["messages_details", "rate"]);
    let of_all = || rate("/overview", &["message_stats", "publish_details", "rate"]);
    for n in 0..50_u8 {
        amqp.publish("", "r", &[n]).await;
    }
    let (mut seen, mut rose, mut all) = (0.0_f64, 0.0_f64, 0.0_f64);
    let deadline = Deadline::seconds(30);
    // Fifty in one slot of five seconds are ten by the second; they may fall into two slots.
    while seen <= 0.0 || rose <= 0.0 || all <= 0.0 {
        assert!(!deadline.passed(), "{seen} {rose} {all}");
        (seen, rose, all) = (seen.max(of_queue()), rose.max(risen()), all.max(of_all()));
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    assert!(seen <= 10.0 && rose <= 10.0 && all <= 10.0, "{seen} {rose} {all}");
    while of_queue() > 0.0 || risen() > 0.0 || of_all() > 0.0 {
        assert!(!deadline.passed(), "the rates do not end");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    let node = &get(&server, "/nodes")[0];
    for name in ["disk_free", "disk_free_limit", "fd_used", "fd_total", "mem_used", "mem_limit"] {
        assert!(node[name].as_u64().is_some_and(|value| value > 0), "{name} in {node}");
    }
    assert!(node["sockets_used"] == 1 && node["proc_used"].as_u64() > Some(1), "{node}");
}

/// The value of a sample.
fn sample(page: &str, sample: &str) -> Option<f64> {
    let line = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pages_for_prometheus_say_what_was_done() {
    let server = Server::start_with(&[COMPAT]);
    let amqp = Amqp::connect(server.ports().amqp).await;
    act(&amqp).await;
    assert!(Amqp::try_connect(server.ports().amqp, "guest:wrong", "%2f").await.is_err());
    let expected = [
        ("mainstem_connections{proto=\"amqp\"}", 1.0),
        ("mainstem_connections_opened_total{proto=\"amqp\"}", 1.0),
        ("mainstem_publishers{proto=\"amqp\"}", 1.0),
        ("mainstem_messages_in_total{proto=\"amqp\"}", 8.0),
        ("mainstem_messages_out_total{proto=\"amqp\"}", 6.0),
        ("mainstem_message_size_bytes_count", 8.0),
        ("mainstem_routed_total", 5.0),
        ("mainstem_acked_total", 4.0),
        ("mainstem_handed_out_total{how=\"consume\"}", 3.0),
        ("mainstem_handed_out_total{how=\"get_auto_ack\"}", 1.0),
        ("mainstem_auth_attempts_total{result=\"failed\"}", 1.0),
        ("mainstem_channels", 1.0),
        ("mainstem_queues", 2.0),
        ("mainstem_queue_messages_ready", 0.0),
        ("mainstem_resource_alarm{resource=\"disk\"}", 0.0),
        ("rabbitmq_queues", 2.0),
        ("rabbitmq_connections", 1.0),
        ("rabbitmq_channels", 1.0),
        ("rabbitmq_global_messages_received_total", 8.0),
        ("rabbitmq_global_messages_received_confirm_total", 8.0),
        ("rabbitmq_global_messages_confirmed_total", 8.0),
        ("rabbitmq_global_messages_routed_total", 5.0),
        ("rabbitmq_global_messages_unroutable_returned_total", 1.0),
        ("rabbitmq_global_messages_unroutable_dropped_total", 2.0),
        ("rabbitmq_global_messages_delivered_total", 6.0),
        ("rabbitmq_global_messages_get_empty_total", 3.0),
        ("rabbitmq_global_messages_redelivered_total", 1.0),
        ("rabbitmq_global_messages_acknowledged_total", 4.0),
        ("rabbitmq_queues_created_total", 2.0),
    ];
    let deadline = Deadline::seconds(20);
    let mut text = page(&server, "/metrics");
    while let Some((name, wanted)) =
        expected.iter().find(|(name, wanted)| sample(&text, name) != Some(*wanted))
    {
        assert!(!deadline.passed(), "{name} is not {wanted}:\n{text}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        text = page(&server, "/metrics");
    }
    check_form(&text);
    assert!(text.contains("rocketmq_messages_in_total{cluster=\"mainstem\""), "{text}");
    let each = page(&server, "/metrics/per-object");
    check_form(&each);
    let of_queue = "{vhost=\"/\",queue=\"s.q\"}";
    let published = format!("rabbitmq_queue_messages_published_total{of_queue}");
    assert_eq!(sample(&each, &published), Some(5.0));
    let detailed = "/metrics/detailed?family=queue_coarse_metrics&family=exchange_metrics";
    let detailed = page(&server, &format!("{detailed}&vhost=%2F"));
    check_form(&detailed);
    let ready = format!("rabbitmq_detailed_queue_messages_ready{of_queue}");
    assert_eq!(sample(&detailed, &ready), Some(0.0));
    let through = "mainstem_exchange_messages_out_total{ns=\"/\",exchange=\"amq.direct\"}";
    assert_eq!(sample(&detailed, through), Some(5.0));
    for wrong in ["/metrics/detailed", "/metrics/detailed?family=none"] {
        assert_eq!(http::get(server.ports().metrics, wrong).status, 400, "{wrong}");
    }
    // Names of queues are not for everybody.
    assert_eq!(http::get(server.ports().http, "/metrics/per-object").status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_told_of_one_by_one_up_to_a_bound() {
    let server = Server::start_with(&["metrics.objects_max=3"]);
    let amqp = Amqp::connect(server.ports().amqp).await;
    for n in 0..5 {
        amqp.queue(&format!("o.{n}"), None).await;
    }
    let text = page(&server, "/metrics/detailed?family=queue_coarse_metrics");
    let ready = "mainstem_named_queue_messages_ready{";
    assert_eq!(text.lines().filter(|line| line.starts_with(ready)).count(), 3, "{text}");
    assert_eq!(sample(&text, "mainstem_objects_cut"), Some(1.0));
    assert!(!text.contains("rabbitmq_"), "nobody asked for RabbitMQ's names: {text}");
}

/// Samples stand with their family, which is described once, and none is there twice.
fn check_form(page: &str) {
    let (mut families, mut samples) = (Vec::new(), std::collections::HashSet::new());
    for line in page.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(!families.contains(&name), "{name} is there twice");
            assert!(kind != "counter" || name.ends_with("_total"), "{name} counts");
            families.push(name);
        } else if !line.starts_with('#') {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(samples.insert(sample), "{sample} is there twice");
            let family = families.last().unwrap();
            let name = sample.split('{').next().unwrap();
            let rest = name.strip_prefix(family);
            let known = ["", "_bucket", "_sum", "_count"];
            assert!(rest.is_some_and(|rest| known.contains(&rest)), "{name} stands with {family}");
        }
    }
}
