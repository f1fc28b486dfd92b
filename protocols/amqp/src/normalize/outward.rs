//! A record of any origin, to the message that an AMQP client reads.

use std::{borrow::Cow, collections::HashSet};

use bytes::{Bytes, BytesMut};
use mainstem_broker::Death;
use mainstem_schemas::{
    Address, Correlation, Dialect, Entrance, Offset, Origin, Path, Record, ReplyTo, UnixMillis,
    Value, View,
    address::{ROOT_EXCHANGE, TOPIC_KEY_PREFIX},
    flags,
};

use super::{death, header, stored};
use crate::codec::{Properties, table};

const SHORT_MAX: usize = 255;

/// What a client is told of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub exchange: Bytes,
    pub routing_key: Bytes,
    /// Property flags and fields.
    pub properties: Bytes,
    pub body: Bytes,
}

/// What the delivery of a record tells besides the record.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told<'a> {
    /// The address it has now, when it died and was published again.
    pub address: Option<&'a Address>,
    /// Its deaths in other queues, the latest first.
    pub deaths: &'a [Death],
    /// Where the reader of a stream is.
    pub stream_offset: Option<Offset>,
    /// How often the record came back to a queue that counts it.
    pub returns: u32,
}

/// The message of a record. `view` is asked only for what came by another protocol.
pub fn outgoing(
    record: &Record,
    told: &Told<'_>,
    now: UnixMillis,
    view: impl FnOnce(&Record) -> View,
) -> Outgoing {
    let address = told.address.cloned().unwrap_or_else(|| record.address());
    let mut out = match record.origin() {
        Origin::Amqp => Outgoing {
            exchange: address.first,
            routing_key: address.second,
            properties: replayed(record),
            body: record.data(),
        },
        Origin::Mqtt | Origin::Rocketmq | Origin::Http => {
            convert(record, &address, now, view(record))
        }
    };
    let headers = told_headers(record, told);
    if !headers.is_empty() {
        out.properties = with_headers(&out.properties, &headers, told, record);
    }
    out
}

/// The properties as the sender wrote them, without what is for routing only.
fn replayed(record: &Record) -> Bytes {
    let native = record.native();
    if record.flags() & flags::CONFIDENTIAL == 0 {
        return native;
    }
    let properties = stored(&native);
    let mut out = BytesMut::with_capacity(native.len());
    properties.put_with(&mut out, |out| {
        let theirs = table::entries(properties.headers.unwrap_or_default());
        for entry in theirs.filter(|entry| entry.name != header::BCC) {
            out.extend_from_slice(entry.raw);
        }
    });
    out.freeze()
}

fn told_headers(record: &Record, told: &Told<'_>) -> Vec<(&'static str, Value)> {
    let mut headers = Vec::new();
    if !told.deaths.is_empty() {
        headers = death::headers(record, told.deaths);
    }
    if let Some(offset) = told.stream_offset {
        headers.push((header::STREAM_OFFSET, Value::Int(offset.0.cast_signed())));
    }
    if told.returns > 0 {
        headers.push((header::DELIVERY_COUNT, Value::Int(told.returns.into())));
    }
    headers
}

/// The same properties with headers of ours; the sender's of the same names go. A record that died
/// has no time of its own to expire at any more, and no further keys where a dead-letter key has
/// taken the place of its own.
fn with_headers(
    properties: &Bytes,
    headers: &[(&'static str, Value)],
    told: &Told<'_>,
    record: &Record,
) -> Bytes {
    let mut parsed = stored(properties);
    let mut loses_keys = false;
    if let Some(address) = told.address {
        parsed.expiration = None;
        loses_keys = !death::has_own_key(record, address);
    }
    let is_ours = |name: &[u8]| {
        (loses_keys && name == header::CC)
            || headers.iter().any(|(ours, _)| ours.as_bytes() == name)
    };
    let mut out = BytesMut::with_capacity(properties.len() + 32);
    parsed.put_with(&mut out, |out| {
        let theirs = table::entries(parsed.headers.unwrap_or_default());
        for entry in theirs.filter(|entry| !is_ours(entry.name)) {
            out.extend_from_slice(entry.raw);
        }
        for (name, value) in headers {
            table::put_short_string(out, name.as_bytes());
            table::put_value(out, value);
        }
    });
    out.freeze()
}

fn convert(record: &Record, address: &Address, now: UnixMillis, view: View) -> Outgoing {
    let mut headers = Headers::new(record.origin());
    let (exchange, routing_key) = place(address, &mut headers);
    let body = view.plain_data.clone().unwrap_or_else(|| record.data());
    let properties = properties(record, now, view, headers);
    Outgoing { exchange, routing_key, properties, body }
}

/// What came by path arrives as from the root exchange, with its path as the key; what was for a
/// queue by name, as from the default exchange.
fn place(address: &Address, headers: &mut Headers) -> (Bytes, Bytes) {
    if let Entrance::Exchange { name, key } = address.entrance() {
        return (name, key);
    }
    let path = address.path();
    let whole = path.render(Dialect::Amqp);
    let exchange = Bytes::from_static(ROOT_EXCHANGE.as_bytes());
    if whole.len() <= SHORT_MAX {
        return (exchange, whole);
    }
    let cut = cut_at_word(&whole);
    headers.add(header::ADDRESS, text_or_bytes(whole));
    (exchange, cut)
}

/// As many whole words as fit; the start of the first one, if even that is too long.
fn cut_at_word(key: &Bytes) -> Bytes {
    let separator = Dialect::Amqp.separator();
    let room = key.get(..=SHORT_MAX).unwrap_or(key);
    let end = room.iter().rposition(|byte| *byte == separator).unwrap_or(SHORT_MAX);
    key.slice(..end)
}

/// The headers of a converted message: each name once, the first one wins.
struct Headers {
    origin: Origin,
    entries: Vec<(String, Value)>,
    names: HashSet<String>,
}

impl Headers {
    fn new(origin: Origin) -> Self {
        Self { origin, entries: Vec::new(), names: HashSet::new() }
    }

    fn add(&mut self, name: impl Into<String>, value: Value) {
        let name = name.into();
        if name.len() > SHORT_MAX || !self.names.insert(name.clone()) {
            self.dropped("props");
            return;
        }
        self.entries.push((name, value));
    }

    fn add_text(&mut self, name: &str, text: Option<String>) {
        if let Some(text) = text {
            self.add(name, Value::Text(text));
        }
    }

    fn dropped(&self, field: &'static str) {
        metrics::counter!(
            "mainstem_interop_dropped_fields_total",
            "field" => field, "from" => self.origin.name(), "to" => Origin::Amqp.name(),
        )
        .increment(1);
    }

    /// A text that fits a short string; others are counted and left out.
    fn short(&self, field: &'static str, text: Option<String>) -> Option<String> {
        if text.as_ref().is_some_and(|text| text.len() > SHORT_MAX) {
            self.dropped(field);
            return None;
        }
        text
    }
}

fn properties(record: &Record, now: UnixMillis, view: View, mut headers: Headers) -> Bytes {
    let content_type = headers.short("content_type", view.content_type);
    let content_encoding = headers.short("content_encoding", view.content_encoding);
    let content_encoding = content_encoding.filter(|_| view.plain_data.is_none());
    let kind = headers.short("type", view.kind);
    let app_id = headers.short("app_id", view.app_id);
    if view.user_id.is_some() {
        headers.dropped("userid");
    }
    if view.is_text.is_some() {
        headers.dropped("payloadformat");
    }
    if record.is_retain() {
        headers.dropped("retained");
    }
    let message_id = view.id.unwrap_or_else(|| record.id().to_string());
    let message_id = or_header(&mut headers, header::MESSAGE_ID, message_id);
    let correlation_id = correlation(&mut headers, view.correlation);
    let reply_to = view.reply_to.and_then(|reply_to| reply_key(&mut headers, &reply_to));
    let time = if view.time.is_set() { view.time } else { record.appended() };
    headers.add(header::TIMESTAMP_MS, Value::Int(time.0.cast_signed()));
    headers.add_text(header::SCHEMA, view.data_schema);
    headers.add_text(header::TAG, view.tag);
    if !view.keys.is_empty() {
        let keys = view.keys.into_iter().map(Value::Text).collect();
        headers.add(header::KEYS, Value::Array(keys));
    }
    headers.add_text(header::PARTITION_KEY, view.partition_key);
    headers.add_text(header::TRACE_PARENT, view.trace_parent);
    headers.add_text(header::TRACE_STATE, view.trace_state);
    let lite = record.address();
    if lite.lite {
        headers.add("litetopic", text_or_bytes(lite.second));
    }
    for (name, value) in view.event.into_iter().filter(|(name, _)| name != "datacontenttype") {
        headers.add(format!("ce-{name}"), Value::Text(value));
    }
    for (name, value) in view.props {
        headers.add(name, value);
    }
    let left_ms = record.expiry().is_set().then(|| record.expiry().since(now).to_string());
    let properties = Properties {
        content_type: content_type.as_deref().map(str::as_bytes),
        content_encoding: content_encoding.as_deref().map(str::as_bytes),
        headers: None,
        delivery_mode: Some(if record.is_durable() { 2 } else { 1 }),
        priority: view.priority,
        correlation_id: correlation_id.as_deref().map(str::as_bytes),
        reply_to: reply_to.as_deref(),
        expiration: left_ms.as_deref().map(str::as_bytes),
        message_id: message_id.as_deref().map(str::as_bytes),
        timestamp: Some(time.0 / 1000),
        kind: kind.as_deref().map(str::as_bytes),
        user_id: None,
        app_id: app_id.as_deref().map(str::as_bytes),
        cluster_id: None,
    };
    let mut out = BytesMut::with_capacity(256);
    properties.put_with(&mut out, |out| {
        for (name, value) in &headers.entries {
            table::put_short_string(out, name.as_bytes());
            table::put_value(out, value);
        }
    });
    out.freeze()
}

/// A text as a property if it fits there, else as a header.
fn or_header(headers: &mut Headers, name: &str, text: String) -> Option<String> {
    if text.len() <= SHORT_MAX {
        return Some(text);
    }
    headers.add(name, Value::Text(text));
    None
}

fn correlation(headers: &mut Headers, correlation: Option<Correlation>) -> Option<String> {
    match correlation? {
        Correlation::Text(text) => or_header(headers, header::CORRELATION, text),
        Correlation::Data(data) => {
            headers.add(header::CORRELATION, Value::Bytes(data));
            None
        }
    }
}

/// A queue by its name. A topic as a key on the default exchange, where an unmodified server of
/// requests sends its answer, and as the header in which RabbitMQ's MQTT plugin tells it.
fn reply_key(headers: &mut Headers, reply_to: &ReplyTo) -> Option<Vec<u8>> {
    let key = match reply_to {
        ReplyTo::Queue(name) => Cow::Borrowed(name.as_bytes()),
        ReplyTo::Topic(topic) => {
            let key = Path::parse(topic.as_bytes(), Dialect::Mqtt).render(Dialect::Amqp);
            headers.add(header::REPLY_TOPIC, text_or_bytes(key.clone()));
            Cow::Owned([TOPIC_KEY_PREFIX.as_bytes(), &key].concat())
        }
    };
    if key.len() > SHORT_MAX {
        headers.dropped("replyto");
        return None;
    }
    Some(key.into_owned())
}

pub(super) fn text_or_bytes(bytes: Bytes) -> Value {
    match std::str::from_utf8(&bytes) {
        Ok(text) => Value::Text(text.to_owned()),
        Err(_) => Value::Bytes(bytes),
    }
}
