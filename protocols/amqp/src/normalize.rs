//! AMQP's column of the mapping: messages to records, and records of any origin to messages.
//!
//! A record keeps the sender's property bytes verbatim in its native block; BCC in it is for routing only,
//! and no reader sees it. So what came by AMQP leaves by AMQP as it came; what came otherwise is
//! converted through its [`View`](mainstem_schemas::View).
//!
//! Lossy cells of the way out, each counted in `mainstem_interop_dropped_fields_total`:
//!
//! | field | why it has no place |
//! | --- | --- |
//! | `props` | the second of two headers of one name: a field table has each name once |
//! | `content_type`, `content_encoding`, `type`, `app_id` | longer than 255 bytes |
//! | `retained`, `payloadformat`, `userid` | AMQP has no such property, or checks it on publish |

mod death;
mod inward;
mod outward;
mod view;

pub use inward::{Delaying, delay_ms, record};
pub use outward::{Outgoing, Told, outgoing};
pub use view::{filter_value, routing, view};

use crate::codec::{Properties, table};

/// The properties of a record that came by AMQP: what is stored was parsed when it came.
fn stored(native: &[u8]) -> Properties<'_> {
    Properties::parse(native).unwrap_or_default()
}

/// The routing keys that a header names besides the message's own.
fn further_keys<'a>(entry: &table::Entry<'a>) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let has_keys = matches!((entry.name, entry.tag), (header::CC | header::BCC, b'A'));
    table::long_strings(if has_keys { entry.content } else { &[] })
}

/// Headers that mean something to the mapping, by the names clients use.
mod header {
    pub(super) const CC: &[u8] = b"CC";
    pub(super) const BCC: &[u8] = b"BCC";
    pub(super) const DELAY: &[u8] = b"x-delay";
    pub(super) const PARTITION_KEY: &str = "x-partition-key";
    pub(super) const GROUP: &str = "x-ms-group";
    pub(super) const CORRELATION: &str = "x-correlation-id";
    pub(super) const REPLY_TOPIC: &str = "x-reply-to-topic";
    pub(super) const SCHEMA: &str = "x-schema";
    pub(super) const TAG: &str = "tag";
    pub(super) const KEYS: &str = "keys";
    pub(super) const TRACE_PARENT: &str = "traceparent";
    pub(super) const TRACE_STATE: &str = "tracestate";
    pub(super) const TIMESTAMP_MS: &str = "timestamp_in_ms";
    pub(super) const ADDRESS: &str = "x-address";
    pub(super) const MESSAGE_ID: &str = "x-message-id";
    pub(super) const STREAM_FILTER: &str = "x-stream-filter-value";
    pub(super) const STREAM_OFFSET: &str = "x-stream-offset";
    pub(super) const DELIVERY_COUNT: &str = "x-delivery-count";
    pub(super) const DEATHS: &str = "x-death";
    pub(super) const FIRST_DEATH_QUEUE: &str = "x-first-death-queue";
    pub(super) const FIRST_DEATH_REASON: &str = "x-first-death-reason";
    pub(super) const FIRST_DEATH_EXCHANGE: &str = "x-first-death-exchange";
    pub(super) const LAST_DEATH_QUEUE: &str = "x-last-death-queue";
    pub(super) const LAST_DEATH_REASON: &str = "x-last-death-reason";
    pub(super) const LAST_DEATH_EXCHANGE: &str = "x-last-death-exchange";
}

#[cfg(test)]
mod tests;
