//! Every key of the index, one file per kind; [`KeyKind`] is the map of the whole disk.
//!
//! A key is `shard: u16 | kind: u8 | fields`. Numbers in keys are big-endian, so that byte order
//! is numeric order; a text or blob that is not the last field stands behind its length. Values
//! use the little-endian fields and varints of `mainstem_schemas::wire`.

use bytes::Bytes;
use mainstem_schemas::wire::Short;

mod binding;
mod block;
mod cursor;
mod exchange;
mod field;
mod meta;
mod queue;
mod queue_state;
mod retained;
mod session;
mod subscription;

pub use binding::BindingKey;
pub use block::{BLOCK_ENTRIES, BlockKey, BlockValue, Entry};
pub use cursor::{CursorKey, CursorName, CursorValue};
pub use exchange::{ExchangeKey, ExchangeValue};
pub use field::KeyReader;
pub use meta::{MetaKey, MetaValue};
pub use queue::{QueueKey, QueueName, QueueValue};
pub use queue_state::{QueueStateKey, QueueStateValue};
pub use retained::{RetainedKey, RetainedValue};
pub use session::{SessionKey, SessionValue};
pub use subscription::{SubscriptionKey, SubscriptionValue};

/// The shard of every key: one machine runs one shard today.
pub(crate) const SHARD: u16 = 0;
/// Bytes before a key's fields: shard and kind.
pub(crate) const PREFIX_BYTES: usize = 3;

/// The kinds of key. The ordinal is the byte behind the shard. Persisted: never renumber.
///
/// In the layouts, `text` and `blob` in a key are `len: u32 | bytes` unless last; in a value,
/// `varint len | bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum KeyKind {
    /// How far the log is applied, and the version of this layout.
    /// Scope: the shard. Changes with every batch.
    /// Key: nothing. Value: `applied: u64 | version: u16`.
    Meta = 0,
    /// A durable exchange as declared.
    /// Scope: namespace. Written once, deleted.
    /// Key: `namespace: text | name: text (last)`.
    /// Value: `kind: u8 | flags: u8 (1 auto-delete, 2 internal) | arguments: table`.
    Exchange = 1,
    /// A durable binding; its key is all there is to it.
    /// Scope: namespace. Written once, deleted.
    /// Key: `namespace: text | source: text | to exchange: u8 | destination: text | key: blob |
    /// arguments: table (last)`. Value: empty.
    Binding = 2,
    /// A durable queue as declared.
    /// Scope: queue. Written once, deleted.
    /// Key: `queue: u64`.
    /// Value: `namespace: text | name: tag u8, then text or filter | auto-delete: u8 |
    /// retention: u8 | arguments: table`.
    Queue = 3,
    /// Where a queue begins and ends.
    /// Scope: queue. Rewritten at checkpoints.
    /// Key: `queue: u64`. Value: `first | next | cursors next`, varints.
    QueueState = 4,
    /// Up to 128 entries of a queue: where its records are, not what they say.
    /// Scope: queue. The last block is rewritten at checkpoints until it is full; whole blocks are
    /// deleted when the queue is trimmed.
    /// Key: `queue: u64 | number: u64`. Value: drawn in `keys/block.rs`.
    Block = 5,
    /// The progress of one consuming party through one queue.
    /// Scope: queue. Rewritten at checkpoints, deleted.
    /// Key: `queue: u64 | cursor: u64`.
    /// Value: `name: tag u8, then text | floor | count | count x (gap before, length)`, varints.
    Cursor = 6,
    /// A kept session.
    /// Scope: namespace. Rewritten when it is attached or detached, deleted.
    /// Key: `namespace: text | id: text (last)`. Value: `expiry: u32 | detached: u64`.
    Session = 7,
    /// A kept session's subscription.
    /// Scope: session. Rewritten when its options change, deleted.
    /// Key: `namespace: text | session: text | share: u8, then text if 1 | filter (last)`.
    /// Value: `options: u64 | live: u8 | queue: u64 | cursor: u64`.
    Subscription = 8,
    /// The record retained for an address.
    /// Scope: namespace. Rewritten, deleted.
    /// Key: `namespace: text | path (last)`. Value: `position | size | expiry`, varints.
    Retained = 9,
}

impl KeyKind {
    /// The words for it in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Exchange => "exchange",
            Self::Binding => "binding",
            Self::Queue => "queue",
            Self::QueueState => "queue state",
            Self::Block => "block",
            Self::Cursor => "cursor",
            Self::Session => "session",
            Self::Subscription => "subscription",
            Self::Retained => "retained record",
        }
    }

    /// The bytes that every key of this kind starts with.
    pub(crate) fn prefix(self) -> [u8; PREFIX_BYTES] {
        let [high, low] = SHARD.to_be_bytes();
        [high, low, self as u8]
    }

    /// The first bytes after all keys of this kind.
    pub(crate) fn prefix_end(self) -> [u8; PREFIX_BYTES] {
        let [high, low] = SHARD.to_be_bytes();
        [high, low, self as u8 + 1]
    }
}

impl std::fmt::Display for KeyKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One kind of key together with its value's type and both stored forms. [`crate::Batch::put`],
/// [`crate::Index::get`] and [`crate::Index::scan`] are written once over it, and a key can only be
/// put with its own value.
pub trait Entity: Sized {
    const KIND: KeyKind;
    type Value;

    /// Appends the key's fields; the prefix is there already.
    fn ser_key(&self, out: &mut Vec<u8>);

    /// Reads the key's fields. The caller checks that nothing is left over.
    fn deser_key(reader: &mut KeyReader) -> Result<Self, Short>;

    /// Appends a value's stored form.
    fn ser_value(value: &Self::Value, out: &mut Vec<u8>);

    /// Reads a value that fills `bytes`.
    fn deser_value(bytes: Bytes) -> Result<Self::Value, Short>;
}

/// The whole stored key.
pub(crate) fn write_key<K: Entity>(key: &K, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&K::KIND.prefix());
    key.ser_key(out);
}

/// Reads a whole stored key.
pub(crate) fn read_key<K: Entity>(stored: Bytes) -> Result<K, Short> {
    if !stored.starts_with(&K::KIND.prefix()) {
        return Err(Short);
    }
    let mut reader = KeyReader::new(stored.slice(PREFIX_BYTES..));
    let key = K::deser_key(&mut reader)?;
    reader.finish()?;
    Ok(key)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fmt::Debug;

    use mainstem_schemas::{Table, Value};
    use proptest::prelude::*;

    use super::*;

    /// Key and value read back as they were, and no cut or lengthened form of the value does.
    pub(crate) fn check<K>(key: &K, value: &K::Value)
    where
        K: Entity + PartialEq + Debug,
        K::Value: PartialEq + Debug,
    {
        let mut stored = Vec::new();
        write_key(key, &mut stored);
        assert_eq!(read_key::<K>(stored.into()).as_ref(), Ok(key));

        let mut out = Vec::new();
        K::ser_value(value, &mut out);
        let out = Bytes::from(out);
        assert_eq!(K::deser_value(out.clone()).as_ref(), Ok(value));
        for len in 0..out.len() {
            assert_ne!(K::deser_value(out.slice(..len)).as_ref(), Ok(value));
        }
        let mut longer = out.to_vec();
        longer.push(0);
        assert_ne!(K::deser_value(longer.into()).as_ref(), Ok(value));
    }

    /// Arbitrary bytes are an error or a value, never a panic.
    pub(crate) fn check_noise<K: Entity>(noise: &[u8]) {
        let mut stored = K::KIND.prefix().to_vec();
        stored.extend_from_slice(noise);
        let _key = read_key::<K>(stored.into());
        let _value = K::deser_value(Bytes::copy_from_slice(noise));
    }

    /// Keys sort as `smaller < greater` says.
    pub(crate) fn check_order<K: Entity>(smaller: &K, greater: &K) {
        let (mut left, mut right) = (Vec::new(), Vec::new());
        write_key(smaller, &mut left);
        write_key(greater, &mut right);
        assert!(left < right);
    }

    pub(crate) fn noise() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..200)
    }

    pub(crate) fn text() -> impl Strategy<Value = String> {
        ".{0,40}"
    }

    pub(crate) fn table() -> impl Strategy<Value = Table> {
        let leaf = prop_oneof![
            Just(Value::Void),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            text().prop_map(Value::Text),
            prop::collection::vec(any::<u8>(), 0..20).prop_map(|b| Value::Bytes(b.into())),
        ];
        let value = leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::vec((text(), inner), 0..4).prop_map(Value::Table),
            ]
        });
        prop::collection::vec((text(), value), 0..5)
    }

    pub(crate) fn filter() -> impl Strategy<Value = mainstem_schemas::Filter> {
        ("([a-z$]{0,5}/|\\+/){0,4}", any::<bool>()).prop_map(|(levels, rest)| {
            let end = if rest { "#" } else { "end" };
            mainstem_schemas::Filter::parse(&format!("{levels}{end}")).unwrap()
        })
    }
}
