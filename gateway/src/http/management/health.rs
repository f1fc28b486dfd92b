//! `/api/health/checks` and `/api/aliveness-test`.

use axum::{
    Json as Answered,
    extract::Path,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use mainstem_amqp::{
    message,
    session::Content,
    topology::{self, QueueTerms},
};
use mainstem_broker::Client;
use mainstem_schemas::{Settlement, Table, Verdict};
use serde_json::{Value as Json, json};

use super::{
    answer::{Answer, Failure},
    caller::Caller,
};
use crate::Protocol;

/// The queue that the test of a namespace uses, and leaves for the next one.
const TEST_QUEUE: &str = "aliveness-test";

pub(super) async fn check(caller: Caller, Path(check): Path<String>) -> Answer {
    match check.as_str() {
        "alarms" | "local-alarms" if caller.gate.broker.is_out_of_room() => {
            let alarm = json!({ "node": caller.gate.node.name, "resource": "disk" });
            Ok(failed("publishes are refused for want of room", "alarms", json!([alarm])))
        }
        "ready-to-serve-clients" | "is-in-service" if caller.gate.shutdown.is_cancelled() => {
            Ok(failed("the server is stopping", "stopping", json!(true)))
        }
        // There is one node, which no quorum misses; and a namespace works as long as the store does.
        "alarms"
        | "local-alarms"
        | "virtual-hosts"
        | "node-is-quorum-critical"
        | "node-is-mirror-sync-critical"
        | "ready-to-serve-clients"
        | "is-in-service" => Ok(fine(json!({}))),
        _ => Err(Failure::not_found()),
    }
}

pub(super) async fn check_of(caller: Caller, path: Path<(String, String)>) -> Answer {
    let (check, of) = path.0;
    match check.as_str() {
        "port-listener" => {
            let ports: Vec<u16> =
                caller.gate.addresses.iter().map(|(_, address)| address.port()).collect();
            let wrong = |_| Failure::bad("the port is not a number");
            let port: u16 = of.parse().map_err(wrong)?;
            if ports.contains(&port) {
                return Ok(fine(json!({ "port": port })));
            }
            let mut answer = json!({ "ports": ports, "missing": port });
            Ok(unavailable(&mut answer, "No active listener"))
        }
        "protocol-listener" => {
            let protocols: Vec<&str> =
                caller.gate.addresses.iter().map(|(protocol, _)| word(*protocol)).collect();
            let wanted = match of.as_str() {
                "amqp091" | "amqp0.9.1" | "amqp" => "amqp",
                "amqp/ssl" | "amqps" => "amqp/ssl",
                "mqtt/ssl" | "mqtts" => "mqtt/ssl",
                other => other,
            };
            if protocols.contains(&wanted) {
                return Ok(fine(json!({ "protocol": of })));
            }
            let mut answer = json!({ "protocols": protocols, "missing": of });
            Ok(unavailable(&mut answer, "No active listener"))
        }
        _ => Err(Failure::not_found()),
    }
}

/// RabbitMQ's word for what is spoken.
pub(super) fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Amqp => "amqp",
        Protocol::Amqps => "amqp/ssl",
        Protocol::Mqtt => "mqtt",
        Protocol::Mqtts => "mqtt/ssl",
        Protocol::Rocketmq => "rocketmq",
        Protocol::Http => "http",
        Protocol::Https => "https",
        Protocol::Metrics => "http/prometheus",
    }
}

fn fine(mut answer: Json) -> Response {
    if let Some(answer) = answer.as_object_mut() {
        answer.insert("status".to_owned(), json!("ok"));
    }
    Answered(answer).into_response()
}

fn failed(reason: &str, key: &str, value: Json) -> Response {
    unavailable(&mut json!({ key: value }), reason)
}

fn unavailable(answer: &mut Json, reason: &str) -> Response {
    if let Some(answer) = answer.as_object_mut() {
        answer.insert("status".to_owned(), json!("failed"));
        answer.insert("reason".to_owned(), json!(reason));
    }
    (StatusCode::SERVICE_UNAVAILABLE, Answered(answer.take())).into_response()
}

/// Declares a queue, publishes to it and gets from it.
pub(super) async fn aliveness(caller: Caller, Path(vhost): Path<String>) -> Answer {
    let (client, _inbox) = caller.enter(&vhost).await?;
    let tested = test(&client).await;
    client.close().await;
    tested?;
    Ok(Answered(json!({ "status": "ok" })).into_response())
}

async fn test(client: &Client) -> Result<(), Failure> {
    let terms = QueueTerms {
        name: TEST_QUEUE.to_owned(),
        durable: false,
        exclusive: false,
        auto_delete: false,
        arguments: Table::new(),
    };
    topology::declare_queue(client, terms).await?;
    let content = Content {
        exchange: Bytes::new(),
        routing_key: Bytes::from_static(TEST_QUEUE.as_bytes()),
        properties: message::properties(&Table::new())?,
        body: Bytes::from_static(b"test_message"),
        reply_queue: None,
    };
    message::publish(client, &content).await?;
    let Some(got) = message::get(client, TEST_QUEUE).await? else {
        return Err(Failure::bad("the message that was published is not in its queue"));
    };
    client.settle_durably(vec![Settlement { id: got.id, verdict: Verdict::Accept }]).await?;
    Ok(())
}
