//! The CloudEvents reading of a record that came by RocketMQ.

use std::{collections::BTreeMap, io::Read};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use mainstem_schemas::{Correlation, Record, ReplyTo, UnixMillis, Value, View};

use super::{Native, inbound::millis};
use crate::codec::proto::Encoding;

/// Largest body that a compressed one may grow to, in bytes. A larger one stays compressed.
const PLAIN_BYTES_MAX: usize = 64 << 20;
/// RFC 1952 §2.3.1.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const EVENT_PREFIXES: [&str; 3] = ["CE_", "ce_", "ce-"];
/// CloudEvents 1.0.2, required attributes.
const EVENT_REQUIRED: [&str; 4] = ["id", "source", "specversion", "type"];

/// What a record that came by RocketMQ says in terms every protocol shares.
#[must_use]
pub fn view(record: &Record) -> View {
    let native = Native::of(record);
    let system = native.system.unwrap_or_default();
    let mut properties = native.properties;
    let gzip = system.body_encoding() == Encoding::Gzip;
    let plain_data = gzip.then(|| inflate(&record.data())).flatten();
    let encoding = take(&mut properties, &["content-encoding"]);
    // The label alone is no proof: it counts only together with the magic.
    let still_gzip = gzip && plain_data.is_none() && is_gzip(&record.data());
    let event = event(&mut properties);
    let content_type = take(&mut properties, &["CE_contenttype", "content-type", "Content-Type"]);
    let correlation = match take(&mut properties, &["correlationid"]) {
        Some(text) => Some(Correlation::Text(text)),
        None => take(&mut properties, &["correlationdata"])
            .and_then(|text| STANDARD.decode(text).ok())
            .map(|data| Correlation::Data(data.into())),
    };
    if record.expiry().is_set() {
        // The record's own expiry says it.
        properties.remove("expirytime");
    }
    let trace_parent = take(&mut properties, &["traceparent"]).or(system.trace_context);
    let address = record.address();
    let tag = match (address.lite, system.tag) {
        (true, Some(tag)) => tag.into(),
        (true, None) | (false, _) => address.second,
    };
    View {
        id: Some(system.message_id).filter(|id| !id.is_empty()),
        kind: None,
        time: system.born_timestamp.as_ref().and_then(millis).unwrap_or(UnixMillis::NONE),
        content_type,
        content_encoding: encoding.or_else(|| still_gzip.then(|| "gzip".to_owned())),
        data_schema: take(&mut properties, &["dataschema"]),
        correlation,
        reply_to: take(&mut properties, &["replyto"]).map(|text| ReplyTo::from_text(&text)),
        priority: system.priority.map(|priority| u8::try_from(priority.max(0)).unwrap_or(u8::MAX)),
        app_id: take(&mut properties, &["appid"]),
        user_id: take(&mut properties, &["userid"]),
        tag: (!tag.is_empty()).then(|| String::from_utf8_lossy(&tag).into_owned()),
        keys: system.keys,
        further_keys: Vec::new(),
        partition_key: system.message_group,
        trace_parent,
        trace_state: take(&mut properties, &["tracestate"]),
        is_text: None,
        plain_data,
        event,
        props: properties.into_iter().map(|(name, value)| (name, Value::Text(value))).collect(),
    }
}

/// Removes the first of these names that is there.
fn take(properties: &mut BTreeMap<String, String>, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| properties.remove(*name))
}

/// The attributes of a CloudEvent in binary mode: all required ones, under one prefix.
fn event(properties: &mut BTreeMap<String, String>) -> Vec<(String, String)> {
    let complete = |prefix: &&str| {
        EVENT_REQUIRED.iter().all(|name| {
            properties.get(&format!("{prefix}{name}")).is_some_and(|value| !value.is_empty())
        })
    };
    let Some(prefix) = EVENT_PREFIXES.into_iter().find(complete) else { return Vec::new() };
    let mut event = Vec::new();
    properties.retain(|name, value| {
        let attribute = name.strip_prefix(prefix).filter(|name| *name != "contenttype");
        if let Some(attribute) = attribute {
            event.push((attribute.to_ascii_lowercase(), std::mem::take(value)));
        }
        attribute.is_none()
    });
    event
}

fn is_gzip(data: &[u8]) -> bool {
    data.starts_with(&GZIP_MAGIC)
}

/// The decompressed body; `None` when it is no gzip or grows over the bound.
fn inflate(data: &Bytes) -> Option<Bytes> {
    if !is_gzip(data) {
        return None;
    }
    let mut plain = Vec::new();
    let bound = u64::try_from(PLAIN_BYTES_MAX).ok()?.checked_add(1)?;
    MultiGzDecoder::new(data.as_ref()).take(bound).read_to_end(&mut plain).ok()?;
    (plain.len() <= PLAIN_BYTES_MAX).then(|| plain.into())
}
