//! Connections, channels and consumers as JSON, with the names of RabbitMQ's management API.

use mainstem_broker::roll::{Channel, Consuming, Standing};
use mainstem_schemas::{Table, Value as Field};
use serde_json::{Map, Number, Value, json};

use super::{super::management::message_stats, named};

/// The name of MQTT's consumers, which have none of their own.
const UNNAMED: &str = "mqtt";

/// With how many bytes came and went lately by the second.
pub(super) fn connection(node: &str, standing: &Standing, rates: [f64; 2]) -> Value {
    let [received, sent] = rates;
    let (line, principal) = (standing.line(), standing.principal());
    let (client_id, user) = (standing.client_id(), &principal.name);
    json!({
        "name": line.to_string(),
        "node": node,
        "type": "network",
        "protocol": standing.protocol(),
        "state": if standing.is_ending() { "closing" } else { "running" },
        "user": **user,
        "user_who_performed_action": **user,
        "vhost": *principal.namespace,
        "auth_mechanism": standing.mechanism(),
        "client_id": (!client_id.is_empty()).then_some(client_id),
        "client_properties": table(standing.properties()),
        "connected_at": standing.since().0,
        "host": line.local.ip().to_string(),
        "port": line.local.port(),
        "peer_host": line.peer.ip().to_string(),
        "peer_port": line.peer.port(),
        "ssl": line.is_encrypted,
        "channels": standing.channels(),
        "channel_max": standing.channels_max(),
        "frame_max": standing.frame_bytes_max(),
        "timeout": standing.heartbeat_s(),
        "recv_oct": line.received.bytes(),
        "recv_oct_details": { "rate": received },
        "recv_cnt": line.received.pieces(),
        "send_oct": line.sent.bytes(),
        "send_oct_details": { "rate": sent },
        "send_cnt": line.sent.pieces(),
        "send_pend": line.waiting(),
    })
}

pub(super) fn channel(node: &str, standing: &Standing, channel: &Channel) -> Value {
    let (line, principal) = (standing.line(), standing.principal());
    let mut shown = json!({
        "name": format!("{line} ({})", channel.number),
        "number": channel.number,
        "node": node,
        "state": if standing.is_ending() { "closing" } else { "running" },
        "user": *principal.name,
        "user_who_performed_action": *principal.name,
        "vhost": *principal.namespace,
        "connection_details": {
            "name": line.to_string(),
            "peer_host": line.peer.ip().to_string(),
            "peer_port": line.peer.port(),
        },
        "consumer_count": channel.consumers.len(),
        "messages_unacknowledged": channel.unsettled,
        "messages_unconfirmed": channel.unconfirmed,
        "messages_uncommitted": channel.uncommitted,
        "acks_uncommitted": channel.settlements_uncommitted,
        "prefetch_count": channel.prefetch,
        "global_prefetch_count": channel.shared_prefetch,
        "confirm": channel.confirms,
        "transactional": channel.is_transactional,
    });
    // One on which nothing happened has none.
    if let (Some(counts), Some(fields)) = (&channel.counts, shown.as_object_mut()) {
        fields.insert("message_stats".to_owned(), message_stats(counts));
    }
    shown
}

/// A consumer whose connection has no channels has its connection in the place of one.
pub(super) fn consumer(
    node: &str,
    standing: &Standing,
    channel: Option<&Channel>,
    consuming: &Consuming,
) -> Value {
    let (line, principal) = (standing.line(), standing.principal());
    let (number, name) = channel.map_or_else(
        || (0, line.to_string()),
        |channel| (channel.number, format!("{line} ({})", channel.number)),
    );
    let mut arguments = Map::new();
    if consuming.priority != 0 {
        arguments.insert("x-priority".to_owned(), consuming.priority.into());
    }
    let status = match (consuming.takes_turns, consuming.is_active) {
        (false, _) => "up",
        (true, true) => "single_active",
        (true, false) => "waiting",
    };
    let named = named(channel, consuming.consumer);
    json!({
        "consumer_tag": named.map_or(UNNAMED, |named| &named.name),
        "queue": {"name": consuming.queue, "vhost": *principal.namespace},
        "channel_details": {
            "name": name,
            "number": number,
            "connection_name": line.to_string(),
            "node": node,
            "peer_host": line.peer.ip().to_string(),
            "peer_port": line.peer.port(),
            "user": *principal.name,
        },
        "ack_required": !consuming.settles_at_once,
        "prefetch_count": consuming.limit,
        "consumer_timeout": named.map_or(0, |named| named.settle_max_ms),
        "exclusive": consuming.exclusive,
        "active": consuming.is_active,
        "activity_status": status,
        "arguments": arguments,
    })
}

/// No deeper than tables may nest where they are read.
fn table(table: Table) -> Value {
    Value::Object(table.into_iter().map(|(name, field)| (name, value(field))).collect())
}

fn value(field: Field) -> Value {
    match field {
        Field::Void => Value::Null,
        Field::Bool(bool) => bool.into(),
        Field::Int(int) => int.into(),
        // What is no number has no form of its own.
        Field::Float(float) => Number::from_f64(float).map_or(Value::Null, Value::Number),
        Field::Decimal(scale, digits) => {
            let float = f64::from(digits) / 10_f64.powi(scale.into());
            Number::from_f64(float).map_or(Value::Null, Value::Number)
        }
        Field::Time(seconds) => seconds.into(),
        Field::Text(text) => text.into(),
        Field::Bytes(bytes) => String::from_utf8_lossy(&bytes).into(),
        Field::Array(fields) => fields.into_iter().map(value).collect(),
        Field::Table(fields) => table(fields),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_a_form() {
        let text = |text: &str| Field::Text(text.to_owned());
        let fields = vec![
            ("product".to_owned(), text("pika")),
            ("capabilities".to_owned(), Field::Table(vec![("a".to_owned(), Field::Bool(true))])),
            ("list".to_owned(), Field::Array(vec![Field::Int(-1), Field::Void, Field::Time(7)])),
            ("half".to_owned(), Field::Decimal(1, 5)),
            ("none".to_owned(), Field::Float(f64::NAN)),
            ("bytes".to_owned(), Field::Bytes(b"b\xff".as_slice().into())),
        ];
        let expected = json!({
            "product": "pika",
            "capabilities": {"a": true},
            "list": [-1, null, 7],
            "half": 0.5,
            "none": null,
            "bytes": "b\u{fffd}",
        });
        assert_eq!(table(fields), expected);
    }
}
