//! What a message says of its deaths in earlier queues, in the headers that RabbitMQ writes.

use bytes::Bytes;
use mainstem_broker::{Death, Reason};
use mainstem_schemas::{Address, Dialect, Entrance, Origin, Record, Value, address::ROOT_EXCHANGE};

use super::{further_keys, header, outward::text_or_bytes, stored};
use crate::codec::{Properties, table};

/// The headers: the deaths, the latest first, and the first and the last of them by themselves.
pub(super) fn headers(record: &Record, deaths: &[Death]) -> Vec<(&'static str, Value)> {
    let native = record.native();
    let properties = match record.origin() {
        Origin::Amqp => stored(&native),
        Origin::Mqtt | Origin::Rocketmq | Origin::Http => Properties::default(),
    };
    let mut headers = Vec::new();
    // Of two in the same millisecond the one further behind came first.
    let first = deaths.iter().rev().min_by_key(|death| death.time);
    if let (Some(first), Some(last)) = (first, deaths.first()) {
        headers.push((header::FIRST_DEATH_QUEUE, Value::Text(first.queue.clone())));
        headers.push((header::FIRST_DEATH_REASON, reason(first.reason)));
        headers.push((header::FIRST_DEATH_EXCHANGE, exchange_and_key(&first.address).0));
        headers.push((header::LAST_DEATH_QUEUE, Value::Text(last.queue.clone())));
        headers.push((header::LAST_DEATH_REASON, reason(last.reason)));
        headers.push((header::LAST_DEATH_EXCHANGE, exchange_and_key(&last.address).0));
    }
    let tables = deaths.iter().map(|death| Value::Table(entry(record, &properties, death)));
    headers.push((header::DEATHS, Value::Array(tables.collect())));
    headers
}

/// Whether the record still goes by the key it was published with, and so by the further ones.
pub(super) fn has_own_key(record: &Record, address: &Address) -> bool {
    record.origin() == Origin::Amqp && record.address().second == address.second
}

fn entry(record: &Record, properties: &Properties<'_>, death: &Death) -> Vec<(String, Value)> {
    let (exchange, key) = exchange_and_key(&death.address);
    let mut keys = vec![key];
    if has_own_key(record, &death.address) {
        let theirs = table::entries(properties.headers.unwrap_or_default());
        let theirs = theirs.filter(|entry| entry.name != header::BCC);
        let further = theirs.flat_map(|entry| further_keys(&entry));
        keys.extend(further.map(|key| text_or_bytes(Bytes::copy_from_slice(key))));
    }
    let count = i64::try_from(death.count).unwrap_or(i64::MAX);
    let mut entry = vec![
        ("count".to_owned(), Value::Int(count)),
        ("reason".to_owned(), reason(death.reason)),
        ("queue".to_owned(), Value::Text(death.queue.clone())),
        ("time".to_owned(), Value::Time(death.time.0 / 1000)),
        ("exchange".to_owned(), exchange),
        ("routing-keys".to_owned(), Value::Array(keys)),
    ];
    if let Some(expiration) = properties.expiration.filter(|_| death.had_expiry) {
        let expiration = text_or_bytes(Bytes::copy_from_slice(expiration));
        entry.push(("original-expiration".to_owned(), expiration));
    }
    entry
}

/// An address in AMQP's words.
fn exchange_and_key(address: &Address) -> (Value, Value) {
    let (exchange, key) = match address.entrance() {
        Entrance::Exchange { name, key } => (name, key),
        Entrance::Path => {
            let root = Bytes::from_static(ROOT_EXCHANGE.as_bytes());
            (root, address.path().render(Dialect::Amqp))
        }
    };
    (text_or_bytes(exchange), text_or_bytes(key))
}

fn reason(reason: Reason) -> Value {
    let word = match reason {
        Reason::Rejected => "rejected",
        Reason::Expired => "expired",
        Reason::Overflow => "maxlen",
        Reason::Attempts => "delivery_limit",
    };
    Value::Text(word.to_owned())
}
