//! Who is connected: each protocol's connections with their channels and consumers over HTTP, and how
//! an operator ends one.

#[path = "connections/clients.rs"]
mod clients;

use lapin::{
    options::{BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use mainstem_tests::{Amqp, Deadline, Mqtt, Server, http};
use rumqttc::QoS;
use serde_json::Value;

use clients::{RawAmqp, RawMqtt, Telemetry};

/// What the server answers to a GET of guest.
fn get(server: &Server, path: &str) -> Value {
    let answer = http::as_guest_with(server.ports().http, "GET", path, &[]);
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

fn status_of(server: &Server, method: &str, path: &str) -> u16 {
    http::as_guest_with(server.ports().http, method, path, &[]).status
}

fn list(server: &Server, path: &str) -> Vec<Value> {
    get(server, path).as_array().unwrap().clone()
}

/// The one entry of a list in which a field has this value.
fn only(found: &[Value], field: &str, value: &str) -> Value {
    let its: Vec<&Value> = found.iter().filter(|it| it[field] == value).collect();
    let [one] = its[..] else { panic!("{field} {value} in {found:?}") };
    one.clone()
}

fn name(connection: &Value) -> &str {
    connection["name"].as_str().unwrap()
}

/// The path of a connection or channel of this name.
fn path(kind: &str, name: &str) -> String {
    let name = name.replace(' ', "%20").replace('>', "%3E").replace('(', "%28");
    format!("/api/{kind}/{}", name.replace(')', "%29"))
}

fn until_connected(server: &Server, count: usize) -> Vec<Value> {
    Deadline::seconds(20).until("the connections to be listed", || {
        let found = list(server, "/api/connections");
        (found.len() == count).then_some(found)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_of_each_protocol_is_listed_while_it_lives() {
    let server = Server::start();
    let ports = server.ports();
    assert!(list(&server, "/api/connections").is_empty());
    let amqp = Amqp::connect(ports.amqp).await;
    let old = Mqtt::connect(ports.mqtt, "old").await;
    let new = RawMqtt::connect(ports.mqtt, "new");
    let rocketmq = Telemetry::open(ports.rocketmq, "job").await;
    let found = until_connected(&server, 4);

    let it = only(&found, "protocol", "AMQP 0-9-1");
    assert_eq!([&it["user"], &it["vhost"], &it["auth_mechanism"]], ["guest", "/", "PLAIN"]);
    assert_eq!((it["channels"].as_u64(), it["ssl"].as_bool()), (Some(1), Some(false)));
    assert_eq!(it["port"], ports.amqp);
    assert_eq!((it["state"].as_str(), it["type"].as_str()), (Some("running"), Some("network")));
    assert_eq!((&it["host"], &it["peer_host"]), (&"127.0.0.1".into(), &"127.0.0.1".into()));
    let ends = format!("127.0.0.1:{} -> 127.0.0.1:{}", it["peer_port"], ports.amqp);
    assert_eq!(name(&it), ends);
    let capabilities = &it["client_properties"]["capabilities"];
    assert_eq!(capabilities["consumer_cancel_notify"], true, "{it}");
    assert_eq!((it["frame_max"].as_u64(), it["channel_max"].as_u64()), (Some(131_072), Some(2047)));
    for count in ["recv_oct", "recv_cnt", "send_oct", "send_cnt"] {
        assert!(it[count].as_u64().unwrap() > 0, "{count} in {it}");
    }
    assert!(it["connected_at"].as_u64().unwrap() > 1_700_000_000_000);

    let it = only(&found, "protocol", "MQTT 3-1-1");
    assert_eq!((&it["client_id"], &it["auth_mechanism"]), (&"old".into(), &"ANONYMOUS".into()));
    assert_eq!((it["timeout"].as_u64(), it["channels"].as_u64()), (Some(30), Some(0)));
    assert!(it["recv_oct"].as_u64().unwrap() > 0 && it["send_oct"].as_u64().unwrap() > 0);
    let it = only(&found, "protocol", "MQTT 5-0");
    assert_eq!((&it["client_id"], &it["user"]), (&"new".into(), &"guest".into()));
    assert_eq!(it["client_properties"]["client_id"], "new");
    let it = only(&found, "protocol", "RocketMQ gRPC");
    assert_eq!((&it["client_id"], &it["port"]), (&"job".into(), &ports.rocketmq.into()));
    assert_eq!(it["client_properties"]["language"], "RUST");
    assert!(it["recv_oct"].as_u64().unwrap() > 0 && it["send_oct"].as_u64().unwrap() > 0);

    // One is found by its name, several by their user or virtual host.
    let one = get(&server, &path("connections", name(&it)));
    assert_eq!(one["client_id"], "job");
    assert_eq!(list(&server, "/api/connections/username/guest").len(), 2);
    assert!(list(&server, "/api/connections/username/nobody").is_empty());
    assert_eq!(list(&server, "/api/vhosts/%2F/connections").len(), 4);

    amqp.connection.close(200, "bye".into()).await.unwrap();
    old.disconnect().await;
    until_connected(&server, 2);
    drop(new);
    until_connected(&server, 1);
    drop(rocketmq);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_ends_a_connection_and_no_other() {
    let server = Server::start();
    let ports = server.ports();
    let mut amqp = RawAmqp::connect(ports.amqp);
    let witness = Amqp::connect(ports.amqp).await;
    let mut old = Mqtt::connect(ports.mqtt, "old").await;
    let mut new = RawMqtt::connect(ports.mqtt, "new");
    let mut rocketmq = Telemetry::open(ports.rocketmq, "job").await;
    let found = until_connected(&server, 5);
    let end = |name: &str, reason: &str| {
        let reason = format!("X-Reason: {reason}");
        let path = path("connections", name);
        let answer = http::as_guest_with(ports.http, "DELETE", &path, &[&reason]);
        assert_eq!((answer.status, answer.body.as_str()), (204, ""));
    };
    end(&amqp.name(), "for the test");
    assert_eq!(amqp.closed(), (320, "CONNECTION_FORCED - for the test".to_owned()));
    let of = |protocol| only(&found, "protocol", protocol);
    end(name(&of("MQTT 5-0")), "for another");
    assert_eq!(new.disconnected(), (0x98, "for another".to_owned()));
    end(name(&of("MQTT 3-1-1")), "for a third");
    let _closed = old.end().await;
    end(name(&of("RocketMQ gRPC")), "for a fourth");
    let status = rocketmq.ended().await;
    assert_eq!((status.code(), status.message()), (tonic::Code::Unavailable, "for a fourth"));
    let left = until_connected(&server, 1);
    assert_eq!(left[0]["user"], "guest");
    witness.queue("q", None).await;

    // Nobody is there any more by that name.
    let gone = path("connections", &amqp.name());
    assert_eq!((status_of(&server, "GET", &gone), status_of(&server, "DELETE", &gone)), (404, 404));
    // All of a user.
    assert_eq!(status_of(&server, "DELETE", "/api/connections/username/guest"), 204);
    until_connected(&server, 0);
    assert_eq!(status_of(&server, "DELETE", "/api/connections/username/guest"), 204);
    // A client comes back, as its library has it do.
    let mut again = Telemetry::open(ports.rocketmq, "job").await;
    assert_eq!(until_connected(&server, 1)[0]["client_id"], "job");
    end(name(&until_connected(&server, 1)[0]), "");
    assert_eq!(again.ended().await.message(), "Closed via management plugin");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_and_consumers_are_listed_with_tags() {
    let server = Server::start();
    let amqp = Amqp::connect(server.ports().amqp).await;
    amqp.queue("work", None).await;
    amqp.channel.basic_qos(7, BasicQosOptions::default()).await.unwrap();
    let options = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-priority".into(), AMQPValue::LongInt(5));
    let consumed = amqp.channel.basic_consume("work".into(), "my-tag".into(), options, arguments);
    let _consumer = consumed.await.unwrap();
    for _ in 0..3 {
        amqp.publish("", "work", b"x").await;
    }
    let second = amqp.connection.create_channel().await.unwrap();
    let mut reader = Mqtt::connect(server.ports().mqtt, "reader").await;
    reader.subscribe("plant/#", QoS::AtLeastOnce).await;

    let found = Deadline::seconds(20).until("what is unsettled to be listed", || {
        let found = list(&server, "/api/channels");
        (found.len() == 2 && found[0]["messages_unacknowledged"] == 3).then_some(found)
    });
    let (first, other) = (&found[0], &found[1]);
    let connection = first["connection_details"]["name"].as_str().unwrap();
    assert_eq!(name(first), format!("{connection} ({})", first["number"]));
    assert_eq!((first["confirm"].as_bool(), other["confirm"].as_bool()), (Some(true), Some(false)));
    let counts = [&first["prefetch_count"], &first["consumer_count"], &other["consumer_count"]];
    assert_eq!(counts, [7, 1, 0]);
    assert_eq!((&first["user"], &first["vhost"]), (&"guest".into(), &"/".into()));
    assert_eq!(list(&server, "/api/vhosts/%2F/channels").len(), 2);
    let by_connection = path("connections", connection);
    assert_eq!(list(&server, &format!("{by_connection}/channels")).len(), 2);
    let one = get(&server, &path("channels", name(first)));
    assert_eq!(one["consumer_details"][0]["consumer_tag"], "my-tag", "{one}");

    let found = list(&server, "/api/consumers");
    let it = only(&found, "consumer_tag", "my-tag");
    assert_eq!((&it["queue"]["name"], &it["queue"]["vhost"]), (&"work".into(), &"/".into()));
    assert_eq!((&it["exclusive"], &it["ack_required"]), (&true.into(), &true.into()));
    assert_eq!((&it["prefetch_count"], &it["active"]), (&7.into(), &true.into()));
    assert_eq!(it["arguments"]["x-priority"], 5);
    assert_eq!(it["channel_details"]["connection_name"], connection);
    assert_eq!(it["channel_details"]["name"], name(first));
    let it = only(&found, "consumer_tag", "mqtt");
    assert_eq!(it["queue"]["name"], "plant/#");
    assert_eq!(list(&server, "/api/consumers/%2F").len(), 2);

    amqp.channel.close(200, "bye".into()).await.unwrap();
    assert_eq!(list(&server, "/api/channels").len(), 1);
    assert_eq!(list(&server, "/api/consumers").len(), 1);
    second.close(200, "bye".into()).await.unwrap();
    assert!(list(&server, "/api/channels").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_those_that_take_turns_one_is_active() {
    let server = Server::start();
    let amqp = Amqp::connect(server.ports().amqp).await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    let options = QueueDeclareOptions::default();
    amqp.channel.queue_declare("turns".into(), options, arguments).await.unwrap();
    let mut consumers = Vec::new();
    for tag in ["first", "second"] {
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumer = amqp.channel.basic_consume("turns".into(), tag.into(), options, none);
        consumers.push(consumer.await.unwrap());
    }
    let found = list(&server, "/api/consumers");
    for (tag, active, status) in [("first", true, "single_active"), ("second", false, "waiting")] {
        let it = only(&found, "consumer_tag", tag);
        assert_eq!((&it["active"], &it["activity_status"]), (&active.into(), &status.into()));
    }
}

/// More than fit in a page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn very_many_consumers_are_all_listed_once() {
    let server = Server::start();
    let mut readers = Vec::new();
    for number in 0..3 {
        let mut reader = Mqtt::connect(server.ports().mqtt, &format!("reader-{number}")).await;
        for topic in 0..400 {
            reader.subscribe(&format!("t/{topic}"), QoS::AtLeastOnce).await;
        }
        readers.push(reader);
    }
    let found = list(&server, "/api/consumers");
    let mut names: Vec<String> = found
        .iter()
        .map(|it| format!("{} {}", it["queue"]["name"], it["channel_details"]["peer_port"]))
        .collect();
    names.sort();
    names.dedup();
    assert_eq!((found.len(), names.len()), (1200, 1200));
}

#[test]
fn strangers_and_wrong_names_are_refused() {
    let server = Server::start();
    let port = server.ports().http;
    let _amqp = RawAmqp::connect(server.ports().amqp);
    for path in ["/api/connections", "/api/channels", "/api/consumers", "/api/connections/x"] {
        assert_eq!(http::get(port, path).status, 401, "{path}");
    }
    for path in [
        "/api/connections/x",
        "/api/connections/1.2.3.4:5%20-%3E%201.2.3.4:6",
        "/api/connections/%FF%20-%3E",
        "/api/connections/x/channels",
        "/api/channels/x",
        "/api/channels/1.2.3.4:5%20-%3E%201.2.3.4:6%20(1)",
        "/api/channels/1.2.3.4:5%20-%3E%201.2.3.4:6%20(99999999)",
        "/api/vhosts/none/connections",
        "/api/vhosts/none/channels",
        "/api/consumers/none",
    ] {
        let answer = http::as_guest_with(port, "GET", path, &[]);
        assert!(matches!(answer.status, 400 | 404), "{path}: {answer:?}");
    }
    let answer = http::as_guest_with(port, "GET", "/api/connections/x", &[]);
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(body["error"], "Object Not Found");
    assert_eq!(body["reason"], "Not Found");
    // A page of another machine in a browser on this one.
    let foreign = ["Origin: https://evil.example"];
    let path = "/api/connections/username/guest";
    assert_eq!(http::as_guest_with(port, "DELETE", path, &foreign).status, 403);
    assert_eq!(until_connected(&server, 1).len(), 1);
}
