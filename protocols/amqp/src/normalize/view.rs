//! What an AMQP record says in terms every protocol shares.

use bytes::Bytes;
use mainstem_schemas::{
    Correlation, Dialect, Origin, Path, Record, ReplyTo, Routing, UnixMillis, Value, View,
    address::TOPIC_KEY_PREFIX, value::find,
};

use super::{further_keys, header, stored};
use crate::codec::table;

/// Under which prefixes clients write CloudEvents attributes; one message keeps to one.
const EVENT_PREFIXES: [&str; 4] = ["ce-", "cloudEvents:", "cloudEvents_", "ce_"];
/// What makes a message an event (CloudEvents 1.0.2 §3, required attributes).
const EVENT_REQUIRED: [&str; 4] = ["id", "source", "specversion", "type"];

/// The view of a record that came by AMQP.
#[must_use]
pub fn view(record: &Record) -> View {
    let native = record.native();
    let properties = stored(&native);
    let mut view = View {
        id: properties.message_id.and_then(event_text),
        kind: properties.kind.and_then(event_text),
        time: UnixMillis(properties.timestamp.unwrap_or(0).saturating_mul(1000)),
        content_type: properties.content_type.and_then(media_type),
        content_encoding: properties.content_encoding.and_then(text),
        correlation: properties.correlation_id.map(correlation),
        reply_to: properties.reply_to.and_then(reply_to),
        priority: properties.priority,
        app_id: properties.app_id.and_then(text),
        user_id: properties.user_id.and_then(text),
        ..View::default()
    };
    let headers = properties.headers.unwrap_or_default();
    let prefix = event_prefix(headers);
    for entry in table::entries(headers) {
        if entry.name == header::BCC {
            continue;
        }
        view.further_keys.extend(further_keys(&entry).map(Bytes::copy_from_slice));
        // A value that nests too deep was refused when it came.
        let Ok(value) = entry.value() else { continue };
        let name = String::from_utf8_lossy(entry.name);
        if let Some(attribute) = prefix.and_then(|prefix| strip(&name, prefix)) {
            view.event.push((attribute.to_ascii_lowercase(), event_value(&value)));
        } else if let Some(value) = known(&mut view, &name, value) {
            view.props.push((name.into_owned(), value));
        }
    }
    view
}

/// What exchanges look at in a record that came by AMQP: every header as it was written.
#[must_use]
pub fn routing(record: &Record) -> Routing {
    let native = record.native();
    let properties = stored(&native);
    let mut routing = Routing {
        id: properties.message_id.map(Bytes::copy_from_slice),
        correlation: properties.correlation_id.map(Bytes::copy_from_slice),
        time_s: properties.timestamp,
        ..Routing::default()
    };
    for entry in table::entries(properties.headers.unwrap_or_default()) {
        routing.further_keys.extend(further_keys(&entry).map(Bytes::copy_from_slice));
        if let Ok(value) = entry.value()
            && entry.name != header::BCC
        {
            routing.headers.push((String::from_utf8_lossy(entry.name).into_owned(), value));
        }
    }
    routing
}

/// What a record says to readers of streams that filter. `view` is asked only for what came by
/// another protocol.
pub fn filter_value(record: &Record, view: impl FnOnce(&Record) -> View) -> Option<String> {
    if record.origin() != Origin::Amqp {
        let props = view(record).props;
        return find(&props, header::STREAM_FILTER).and_then(Value::as_text).map(str::to_owned);
    }
    let native = record.native();
    let properties = stored(&native);
    table::entries(properties.headers?)
        .find(|entry| entry.name == header::STREAM_FILTER.as_bytes() && entry.tag == b'S')
        .and_then(|entry| text(entry.content))
}

/// Takes a header that has a place of its own in the view; gives back any other.
fn known(view: &mut View, name: &str, value: Value) -> Option<Value> {
    let slot = match name {
        header::SCHEMA => &mut view.data_schema,
        header::PARTITION_KEY | header::GROUP => &mut view.partition_key,
        header::TRACE_PARENT => &mut view.trace_parent,
        header::TRACE_STATE => &mut view.trace_state,
        header::TAG if value.as_text().is_some_and(|tag| !tag.contains('|')) => &mut view.tag,
        _ => return known_typed(view, name, value),
    };
    match value {
        Value::Text(text) => {
            *slot = Some(text);
            None
        }
        other => Some(other),
    }
}

fn known_typed(view: &mut View, name: &str, value: Value) -> Option<Value> {
    match (name, value) {
        (header::KEYS, Value::Text(key)) => view.keys.push(key),
        (header::KEYS, Value::Array(keys)) => {
            view.keys.extend(keys.iter().filter_map(Value::as_text).map(str::to_owned));
        }
        (header::CORRELATION, Value::Text(text)) => {
            view.correlation.get_or_insert(Correlation::Text(text));
        }
        (header::CORRELATION, Value::Bytes(data)) => {
            view.correlation.get_or_insert(Correlation::Data(data));
        }
        (header::REPLY_TOPIC, Value::Text(key)) => {
            view.reply_to = Some(ReplyTo::Topic(topic_of(key.as_bytes())));
        }
        (header::TIMESTAMP_MS, Value::Int(ms)) => {
            if let Ok(ms) = u64::try_from(ms) {
                view.time = UnixMillis(ms);
            }
        }
        (_, value) => return Some(value),
    }
    None
}

/// The prefix under which all required attributes are there.
fn event_prefix(headers: &[u8]) -> Option<&'static str> {
    EVENT_PREFIXES.into_iter().find(|prefix| {
        EVENT_REQUIRED.into_iter().all(|wanted| {
            table::entries(headers).any(|entry| {
                let name = std::str::from_utf8(entry.name).unwrap_or_default();
                let given =
                    strip(name, prefix).is_some_and(|rest| rest.eq_ignore_ascii_case(wanted));
                given && entry.tag == b'S' && !entry.content.is_empty()
            })
        })
    })
}

/// The name behind a prefix, whose case does not matter.
fn strip<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = name.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// An attribute in its canonical text.
fn event_value(value: &Value) -> String {
    match value {
        Value::Void => String::new(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Time(seconds) => seconds.to_string(),
        Value::Text(text) => text.clone(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Decimal(..) | Value::Array(_) | Value::Table(_) => format!("{value:?}"),
    }
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// A CloudEvents string: not empty, no control characters (1.0.2 §2.4).
fn event_text(bytes: &[u8]) -> Option<String> {
    text(bytes).filter(|text| !text.is_empty() && !text.contains(char::is_control))
}

fn media_type(bytes: &[u8]) -> Option<String> {
    event_text(bytes).filter(|text| {
        let essence = text.split(';').next().unwrap_or_default();
        essence.split_once('/').is_some_and(|(kind, sub)| !kind.is_empty() && !sub.is_empty())
    })
}

fn correlation(bytes: &[u8]) -> Correlation {
    match event_text(bytes) {
        Some(text) => Correlation::Text(text),
        None => Correlation::Data(Bytes::copy_from_slice(bytes)),
    }
}

fn reply_to(bytes: &[u8]) -> Option<ReplyTo> {
    match bytes.strip_prefix(TOPIC_KEY_PREFIX.as_bytes()) {
        Some(key) => Some(ReplyTo::Topic(topic_of(key))),
        None if bytes.is_empty() => None,
        None => text(bytes).map(ReplyTo::Queue),
    }
}

/// A routing key as a topic.
fn topic_of(key: &[u8]) -> String {
    let topic = Path::parse(key, Dialect::Amqp).render(Dialect::Mqtt);
    String::from_utf8_lossy(&topic).into_owned()
}
