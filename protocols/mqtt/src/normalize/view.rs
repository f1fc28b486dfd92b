//! The CloudEvents reading of a record that came by MQTT.

use mainstem_schemas::{
    Correlation, Dialect, Record, ReplyTo, UnixMillis, Value as Prop, View, address::QUEUE_SEGMENT,
};

use super::{native_properties, time::parse_rfc3339};
use crate::codec::{
    Text,
    property::{self, Context, Value, id},
};

/// The attributes without which nothing is a CloudEvent.
const REQUIRED: [&str; 4] = ["id", "source", "specversion", "type"];
/// Names over this length are no attribute's.
const ATTRIBUTE_BYTES_MAX: usize = 20;

/// Reads a record that came by MQTT. A property block that does not read gives an empty view.
#[must_use]
pub fn view(record: &Record) -> View {
    let mut view = View::default();
    let mut pairs: Vec<(String, String)> = Vec::new();
    let native = record.native();
    let native = native.slice_ref(native_properties(&native));
    let read = property::read_properties(native, Context::Will, |id, value, _| {
        match (id, value) {
            (id::PAYLOAD_FORMAT, Value::Byte(format)) => view.is_text = Some(format == 1),
            (id::CONTENT_TYPE, Value::Text(text)) => {
                view.content_type = Some(text.as_str().to_owned());
            }
            (id::RESPONSE_TOPIC, Value::Text(topic)) => view.reply_to = reply_to(&topic),
            (id::CORRELATION_DATA, Value::Binary(data)) => {
                view.correlation = Some(correlation(data));
            }
            (id::USER, Value::Pair(name, value)) => {
                pairs.push((name.as_str().to_owned(), value.as_str().to_owned()));
            }
            _ => {}
        }
        Ok(())
    });
    if read.is_err() {
        return View::default();
    }
    let has = |wanted: &str| pairs.iter().any(|(name, value)| name == wanted && !value.is_empty());
    let is_event = REQUIRED.into_iter().all(has);
    for (name, value) in pairs {
        if is_event && is_attribute(&name) && !view.event.iter().any(|(known, _)| *known == name) {
            take_attribute(&mut view, name, value);
        } else {
            take_property(&mut view, name, value);
        }
    }
    if view.content_type.is_none() && view.is_text == Some(true) {
        view.content_type = Some("text/plain; charset=utf-8".to_owned());
    }
    view
}

fn is_attribute(name: &str) -> bool {
    (1..=ATTRIBUTE_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// An attribute the sender gave. Those that engines and other protocols know are told twice.
fn take_attribute(view: &mut View, name: String, value: String) {
    match name.as_str() {
        "id" => view.id = Some(value.clone()),
        "type" => view.kind = Some(value.clone()),
        "time" => view.time = parse_rfc3339(&value).unwrap_or(UnixMillis::NONE),
        "dataschema" => view.data_schema = Some(value.clone()),
        "datacontenttype" => {
            view.content_type.get_or_insert(value);
            return;
        }
        "partitionkey" => view.partition_key = Some(value.clone()),
        "traceparent" => view.trace_parent = Some(value.clone()),
        "tracestate" => view.trace_state = Some(value.clone()),
        _ => {}
    }
    view.event.push((name, value));
}

fn take_property(view: &mut View, name: String, value: String) {
    let slot = match name.as_str() {
        "tag" if !value.contains('|') => &mut view.tag,
        "partitionkey" => &mut view.partition_key,
        "traceparent" => &mut view.trace_parent,
        "tracestate" => &mut view.trace_state,
        "content-encoding" => &mut view.content_encoding,
        "dataschema" => &mut view.data_schema,
        "appid" => &mut view.app_id,
        "keys" => return view.keys.push(value),
        "priority" if view.priority.is_none() && value.parse::<u8>().is_ok() => {
            view.priority = value.parse().ok();
            return;
        }
        _ => return view.props.push((name, Prop::Text(value))),
    };
    match slot {
        // A name that stands twice keeps its first value here; the others stay plain headers.
        Some(_) => view.props.push((name, Prop::Text(value))),
        None => *slot = Some(value),
    }
}

fn reply_to(topic: &Text) -> Option<ReplyTo> {
    let topic = topic.as_str();
    let name = topic.strip_prefix(QUEUE_SEGMENT).and_then(|rest| rest.strip_prefix('/'));
    match name {
        _ if topic.is_empty() => None,
        Some(name) if !name.is_empty() && !name.contains('/') => {
            String::from_utf8(Dialect::Mqtt.unescape(name.as_bytes())).ok().map(ReplyTo::Queue)
        }
        _ => Some(ReplyTo::Topic(topic.to_owned())),
    }
}

/// Text where the bytes are a valid CloudEvents string, else data.
fn correlation(data: bytes::Bytes) -> Correlation {
    match std::str::from_utf8(&data) {
        Ok(text) if !text.is_empty() && !text.contains(char::is_control) => {
            Correlation::Text(text.to_owned())
        }
        _ => Correlation::Data(data),
    }
}
