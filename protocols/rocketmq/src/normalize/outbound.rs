//! A record, as the message that a consumer of a topic reads.
//!
//! A record that came by RocketMQ is replayed; any other is converted through its view, by
//! section 4 of the mapping.

use std::collections::HashMap;

use bytes::Bytes;
use mainstem_broker::Passage;
use mainstem_schemas::{Correlation, Dialect, Origin, Record, UnixMillis, Value, View};
use prost_types::Timestamp;

use super::{Native, inbound::digest};
use crate::codec::{
    names,
    proto::{DeadLetterQueue, Encoding, Message, MessageType, Resource, SystemProperties},
};

const DEAD_LETTERS: &str = "%DLQ%";

/// Where the dead letters of a group are.
#[must_use]
pub fn dead_letters(group: &str) -> String {
    format!("{DEAD_LETTERS}{group}")
}

/// Tells of a dead letter where it was first.
pub fn tell_death(message: &mut Message, passage: &Passage) {
    let is_dead = message.topic.as_ref().is_some_and(|topic| topic.name.starts_with(DEAD_LETTERS));
    let Some(death) = passage.deaths.last().filter(|_| is_dead) else { return };
    let system = message.system_properties.get_or_insert_default();
    let (topic, message_id) = (death.queue.clone(), system.message_id.clone());
    // One that was dead when it was sent keeps where it came from first.
    system.dead_letter_queue.get_or_insert(DeadLetterQueue { topic, message_id });
}

/// The message that a record is to a consumer of `topic`. What belongs to the delivery is unset.
#[must_use]
pub fn message(record: &Record, topic: Resource, view: impl FnOnce(&Record) -> View) -> Message {
    let mut message = match record.origin() {
        Origin::Rocketmq => replay(record),
        Origin::Amqp | Origin::Mqtt | Origin::Http => convert(record, view(record)),
    };
    message.topic = Some(topic);
    let system = message.system_properties.get_or_insert_default();
    system.store_timestamp = Some(timestamp(record.appended()));
    message
}

fn replay(record: &Record) -> Message {
    let native = Native::of(record);
    let mut system = native.system.unwrap_or_default();
    let address = record.address();
    if !address.lite {
        let tag = address.second;
        system.tag = (!tag.is_empty()).then(|| String::from_utf8_lossy(&tag).into_owned());
    }
    if system.message_id.is_empty() {
        system.message_id = record.id().to_string();
    }
    if system.body_digest.is_none() {
        system.body_digest = Some(digest(&record.data()));
    }
    let mut properties: HashMap<_, _> = native.properties.into_iter().collect();
    // The reference stores these as properties, and they reach consumers.
    if let Some(group) = &system.message_group {
        properties.insert("__SHARDINGKEY".to_owned(), group.clone());
    }
    if system.message_type() == MessageType::Transaction {
        properties.insert("__transactionId__".to_owned(), system.message_id.clone());
    }
    Message {
        topic: None,
        user_properties: properties,
        system_properties: Some(system),
        body: record.data(),
    }
}

fn convert(record: &Record, view: View) -> Message {
    let encoded = view.content_encoding.as_deref() == Some("gzip") && view.plain_data.is_none();
    let mut properties = Properties::new(record.origin());
    if !encoded && view.plain_data.is_none() {
        properties.put_some("content-encoding", view.content_encoding);
    }
    properties.put_some("content-type", view.content_type.clone());
    properties.put_some("dataschema", view.data_schema);
    match view.correlation {
        Some(Correlation::Text(text)) => properties.put("correlationid", text),
        Some(Correlation::Data(data)) => properties.put("correlationdata", base64(&data)),
        None => {}
    }
    properties.put_some("replyto", view.reply_to.map(|reply| reply.to_text()));
    properties.put_some("appid", view.app_id);
    properties.put_some("userid", view.user_id);
    properties.put_some("traceparent", view.trace_parent.clone());
    properties.put_some("tracestate", view.trace_state);
    if record.expiry().is_set() {
        properties.put("expirytime", timestamp(record.expiry()).to_string());
    }
    if !view.event.is_empty() {
        for (name, value) in view.event {
            properties.put(&format!("CE_{name}"), value);
        }
        properties.put_some("CE_contenttype", view.content_type);
    }
    for (name, value) in view.props {
        properties.put_value(&name, value);
    }
    let group = view.partition_key.filter(|key| !key.trim().is_empty() && key.len() < 64);
    if let Some(group) = &group {
        properties.put("__SHARDINGKEY", group.clone());
    }
    let priority = view.priority.or_else(|| (record.priority() > 0).then(|| record.priority()));
    let due = record.deliver_at();
    let kind = match (&group, priority) {
        _ if due.is_set() => MessageType::Delay,
        (Some(_), _) => MessageType::Fifo,
        (None, Some(_)) => MessageType::Priority,
        (None, None) => MessageType::Normal,
    };
    let time = if view.time.is_set() { view.time } else { record.appended() };
    let body = view.plain_data.unwrap_or_else(|| record.data());
    let system = SystemProperties {
        tag: view.tag.filter(|tag| names::is_tag(tag)).or_else(|| rest_of_path(record)),
        keys: view.keys,
        message_id: view.id.unwrap_or_else(|| record.id().to_string()),
        body_digest: Some(digest(&body)),
        body_encoding: if encoded { Encoding::Gzip } else { Encoding::Identity } as i32,
        message_type: kind as i32,
        born_timestamp: Some(timestamp(time)),
        delivery_timestamp: due.is_set().then(|| timestamp(due)),
        message_group: group,
        trace_context: view.trace_parent,
        priority: priority.map(i32::from),
        ..SystemProperties::default()
    };
    Message { topic: None, user_properties: properties.map, system_properties: Some(system), body }
}

/// The tag of a record that has none of its own: its path without the first segment.
fn rest_of_path(record: &Record) -> Option<String> {
    let path = record.address().path();
    let (_, rest) = path.split_first(Dialect::Mqtt)?;
    (!rest.is_empty()).then(|| String::from_utf8_lossy(&rest).into_owned())
}

/// User properties in the making: one value for a name, the first one.
struct Properties {
    from: Origin,
    map: HashMap<String, String>,
}

impl Properties {
    fn new(from: Origin) -> Self {
        Self { from, map: HashMap::new() }
    }

    fn put(&mut self, name: &str, value: String) {
        let name = if names::is_reserved(name) { format!("x_{name}") } else { name.to_owned() };
        if name.is_empty() || names::has_control(&name) || names::has_control(&value) {
            return self.drop("text");
        }
        match self.map.entry(name) {
            std::collections::hash_map::Entry::Occupied(_) => self.drop("duplicate"),
            std::collections::hash_map::Entry::Vacant(slot) => {
                slot.insert(value);
            }
        }
    }

    fn put_some(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = value {
            self.put(name, value);
        }
    }

    fn put_value(&mut self, name: &str, value: Value) {
        match value {
            Value::Text(text) => self.put(name, text),
            Value::Bool(value) => self.put(name, value.to_string()),
            Value::Int(value) => self.put(name, value.to_string()),
            Value::Float(value) => self.put(name, value.to_string()),
            Value::Time(value) => self.put(name, value.to_string()),
            Value::Void => self.drop("void"),
            Value::Decimal(..) => self.drop("decimal"),
            Value::Bytes(_) => self.drop("bytes"),
            Value::Array(_) => self.drop("array"),
            Value::Table(_) => self.drop("table"),
        }
    }

    fn drop(&self, field: &'static str) {
        let from = self.from.name();
        metrics::counter!("mainstem_interop_dropped_fields_total", "field" => field, "from" => from, "to" => "rocketmq").increment(1);
    }
}

/// A timestamp of these milliseconds.
#[must_use]
pub fn timestamp(time: UnixMillis) -> Timestamp {
    let seconds = i64::try_from(time.0 / 1000).unwrap_or(i64::MAX);
    let nanos = i32::try_from(time.0 % 1000 * 1_000_000).unwrap_or_default();
    Timestamp { seconds, nanos }
}

fn base64(data: &Bytes) -> String {
    use ::base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.encode(data)
}
