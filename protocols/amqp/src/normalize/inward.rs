//! A message as published, to the record that is kept.

use std::hash::Hasher;

use bytes::{Bytes, BytesMut};
use mainstem_broker::{Publish, Stamp};
use mainstem_schemas::{Address, RecordDraft, Value, flags};
use rustc_hash::FxHasher;

use super::{further_keys, header};
use crate::{
    codec::{Properties, table},
    session::{Code, Content, DIRECT_REPLY, Fault},
};

/// RabbitMQ's longest time to live, in milliseconds: ten years.
const EXPIRATION_MAX: u64 = 10 * 365 * 86_400_000;

/// What the headers say about routing.
#[derive(Default)]
struct Routing<'a> {
    extra_keys: Vec<Bytes>,
    has_bcc: bool,
    delay_ms: u64,
    partition_key: Option<&'a [u8]>,
}

/// Whether the exchange that a message is published to holds messages back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delaying {
    /// `x-delay` says how long.
    ByHeader,
    /// `x-delay` is a header like any other.
    Never,
}

/// For how long a message asks to be held back, at an exchange that does so. Cheap for messages
/// without headers.
#[must_use]
pub fn delay_ms(content: &Content) -> Option<u64> {
    let properties = Properties::parse(&content.properties).ok()?;
    let headers = table::entries(properties.headers?);
    headers.filter(|entry| entry.name == header::DELAY).find_map(|entry| wanted_delay(&entry))
}

/// A number of milliseconds above zero.
fn wanted_delay(entry: &table::Entry<'_>) -> Option<u64> {
    delay_of(entry).and_then(|delay| u64::try_from(delay).ok()).filter(|delay| *delay > 0)
}

/// The plugin takes whole numbers, and what reads as one.
fn delay_of(entry: &table::Entry<'_>) -> Option<i64> {
    match entry.value().ok()? {
        Value::Int(delay) => Some(delay),
        Value::Text(delay) => delay.parse().ok(),
        #[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
        Value::Float(delay) => Some(delay as i64),
        _ => None,
    }
}

/// The record of a message, and where else it goes. `user` is who publishes. Errors are of the
/// channel, but for bytes that are no properties.
pub fn record(
    content: &Content,
    stamp: Stamp,
    namespace: &str,
    user: &str,
    delaying: Delaying,
) -> Result<Publish, Fault> {
    let raw = content.properties.as_ref();
    let properties = Properties::parse(raw).map_err(|_| Fault::malformed("the content header"))?;
    if let Some(claimed) = properties.user_id
        && claimed != user.as_bytes()
    {
        let claimed = String::from_utf8_lossy(claimed);
        let text =
            format!("user_id property set to '{claimed}' but authenticated user was '{user}'");
        return Err(Fault::new(Code::PreconditionFailed, text));
    }
    let mut routing = match properties.headers {
        Some(headers) => routing(headers)?,
        None => Routing::default(),
    };
    if delaying == Delaying::Never {
        routing.delay_ms = 0;
    }
    let address = Address::amqp(content.exchange.clone(), content.routing_key.clone());
    let durable = properties.delivery_mode == Some(2);
    let is_direct = properties.reply_to == Some(DIRECT_REPLY.as_bytes());
    if is_direct && content.reply_queue.is_none() {
        let text = "fast reply consumer does not exist";
        return Err(Fault::new(Code::PreconditionFailed, text));
    }
    let changed = (is_direct || routing.delay_ms > 0).then(|| {
        let reply_to = if is_direct { content.reply_queue.as_deref() } else { properties.reply_to };
        rewrite(&Properties { reply_to, ..properties }, routing.delay_ms)
    });
    let native = changed.as_deref().unwrap_or(raw);
    let mut draft = RecordDraft::new(&address, namespace, native, &content.body);
    draft.flags = if durable { flags::DURABLE } else { 0 };
    if routing.has_bcc {
        draft.flags |= flags::CONFIDENTIAL;
    }
    draft.qos = u8::from(durable);
    draft.priority = properties.priority.unwrap_or(0);
    draft.id = stamp.id;
    draft.now = stamp.now;
    // Times are whole milliseconds: what came late in one must not be let go early in another.
    let rounded_up = routing.delay_ms.saturating_add(u64::from(routing.delay_ms > 0));
    let published = stamp.now.plus(rounded_up);
    if let Some(text) = properties.expiration {
        draft.expiry = published.plus(expiration_ms(text)?);
    }
    if routing.delay_ms > 0 {
        draft.deliver_at = published;
    }
    if let Some(key) = routing.partition_key {
        draft.partition = hash(key);
    }
    let record =
        draft.encode().map_err(|error| Fault::new(Code::PreconditionFailed, error.to_string()))?;
    Ok(Publish { extra_keys: routing.extra_keys, ..Publish::new(record) })
}

/// Reads the headers once: whether they are well-formed, and what the engine acts on.
fn routing(headers: &[u8]) -> Result<Routing<'_>, Fault> {
    table::check(headers).map_err(|_| Fault::malformed("the table of headers"))?;
    let mut routing = Routing::default();
    for entry in table::entries(headers) {
        match (entry.name, entry.tag) {
            (header::CC | header::BCC, b'A') => {
                routing.has_bcc |= entry.name == header::BCC;
                routing.extra_keys.extend(further_keys(&entry).map(Bytes::copy_from_slice));
            }
            (header::CC | header::BCC, tag) => {
                let name = String::from_utf8_lossy(entry.name);
                let kind = type_name(tag);
                let text =
                    format!("invalid message: {{unacceptable_type_in_header,\"{name}\",{kind}}}");
                return Err(Fault::new(Code::PreconditionFailed, text));
            }
            (header::DELAY, _) => routing.delay_ms = wanted_delay(&entry).unwrap_or(0),
            (name, b'S')
                if name == header::PARTITION_KEY.as_bytes() || name == header::GROUP.as_bytes() =>
            {
                routing.partition_key = Some(entry.content);
            }
            _ => {}
        }
    }
    Ok(routing)
}

/// The properties as changed. A delay that is being served changes its sign, as the plugin does it,
/// so that a message published again as it came is not held back again.
fn rewrite(properties: &Properties<'_>, delay_ms: u64) -> BytesMut {
    let headers = properties.headers.unwrap_or_default();
    let is_kept = |name: &[u8]| delay_ms == 0 || name != header::DELAY;
    let mut out = BytesMut::with_capacity(headers.len() + 64);
    properties.put_with(&mut out, |out| {
        for entry in table::entries(headers).filter(|entry| is_kept(entry.name)) {
            out.extend_from_slice(entry.raw);
        }
        if delay_ms > 0 {
            table::put_short_string(out, header::DELAY);
            table::put_value(out, &Value::Int(0_i64.saturating_sub_unsigned(delay_ms)));
        }
    });
    out
}

/// RabbitMQ's word for a value's type.
fn type_name(tag: u8) -> &'static str {
    match tag {
        b'S' => "longstr",
        b'I' => "signedint",
        b'D' => "decimal",
        b'T' => "timestamp",
        b'F' => "table",
        b'A' => "array",
        b'b' => "byte",
        b'B' => "unsignedbyte",
        b's' | b'U' => "short",
        b'u' => "unsignedshort",
        b'i' => "unsignedint",
        b'd' => "double",
        b'f' => "float",
        b't' => "bool",
        b'x' => "binary",
        b'V' => "void",
        _ => "long",
    }
}

/// A text as Erlang shows it: in quotes, or if one of its bytes is not for the eye, as numbers.
fn erlang(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        let mut bytes = [0; 4];
        let is_shown = |byte: &u8| matches!(byte, 8..=13 | 27 | b' '..=b'~' | 0xa0..);
        if !c.encode_utf8(&mut bytes).as_bytes().iter().all(is_shown) {
            let numbers: Vec<String> = text.bytes().map(|byte| byte.to_string()).collect();
            return format!("[{}]", numbers.join(","));
        }
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\x0b' => out.push_str("\\v"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\x1b' => out.push_str("\\e"),
            _ => out.push(c),
        }
    }
    out + "\""
}

/// RabbitMQ reads it as a whole number and names what is wrong with others.
fn expiration_ms(text: &[u8]) -> Result<u64, Fault> {
    let shown = String::from_utf8_lossy(text);
    let fail = |why: String| {
        let text = format!("invalid expiration '{shown}': {why}");
        Err(Fault::new(Code::PreconditionFailed, text))
    };
    let (is_negative, digits) = match shown.strip_prefix(['-', '+']) {
        Some(digits) => (shown.starts_with('-'), digits),
        None => (false, shown.as_ref()),
    };
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let Some((number, rest)) = digits.split_at_checked(end) else {
        return fail("no_integer".to_owned());
    };
    if number.is_empty() {
        return fail("no_integer".to_owned());
    }
    if !rest.is_empty() {
        return fail(format!("{{leftover_string,{}}}", erlang(rest)));
    }
    match number.parse::<u64>() {
        Ok(0) => Ok(0),
        Ok(ms) if is_negative => fail(format!("{{value_negative,-{ms}}}")),
        Ok(ms) if ms <= EXPIRATION_MAX => Ok(ms),
        Ok(_) | Err(_) => fail(format!("{{value_too_large,{number}}}")),
    }
}

/// The hash that stands for an ordering key; never 0, which means none.
fn hash(key: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(key);
    hasher.finish().max(1)
}
