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
mod held;
mod lane;
mod lookup;
mod meta;
mod name;
mod parameter;
mod pointer;
mod progress;
mod queue;
mod queue_state;
mod reader;
mod retained;
mod segment;
mod session;
mod subscription;
mod wake;
mod writer;

pub use binding::{BindingKey, BindingValue};
pub(crate) use block::ser_block;
pub use block::{BLOCK_ENTRIES, BlockKey, BlockValue, Entry};
pub use cursor::{CursorKey, CursorName, CursorValue};
pub use exchange::{ExchangeKey, ExchangeValue};
pub use field::KeyReader;
pub use held::{HeldKey, HeldValue};
pub use lane::LANE_SHIFT;
pub use lookup::LookupKey;
pub use meta::{MetaKey, MetaValue};
pub use name::NameKey;
pub use parameter::{ParameterKey, ParameterValue};
pub use pointer::PointerKey;
pub use progress::{HeldBack, Progress};
pub use queue::{QueueKey, QueueName, QueueValue};
pub use queue_state::{LaneState, QueueStateKey, QueueStateValue, SegmentUse};
pub use reader::ReaderKey;
pub use retained::{RetainedKey, RetainedValue};
pub use segment::{SegmentKey, SegmentValue};
pub use session::{SessionKey, SessionValue};
pub use subscription::{SubscriptionKey, SubscriptionValue};
pub use wake::WakeKey;
pub use writer::{WriterKey, WriterValue};

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
    /// Value: `kind: u8 | flags: u8 (1 auto-delete, 2 internal) | home: varint |
    /// arguments: table`.
    Exchange = 1,
    /// A durable binding. Its key says what it does, its value where it came from and leads.
    /// Scope: namespace. Written once, deleted.
    /// Key: `namespace: text | source: text | to exchange: u8 | destination: text | key: blob |
    /// arguments: table (last)`. Value: `home | queue`, varints.
    Binding = 2,
    /// A durable queue as declared.
    /// Scope: queue. Written once, deleted.
    /// Key: `queue: u64`.
    /// Value: `namespace: text | name: tag u8, then text or filter | auto-delete: u8 |
    /// retention: u8 | home: varint | policy: blob | arguments: table`.
    Queue = 3,
    /// Where a queue's lanes begin and end, and what it holds.
    /// Scope: queue. Rewritten at checkpoints.
    /// Key: `queue: u64`. Value: drawn in `keys/queue_state.rs`.
    QueueState = 4,
    /// Up to 128 entries of one lane of a queue: where its records are, not what they say.
    /// Scope: queue. The last block is rewritten at checkpoints until it is full; whole blocks are
    /// deleted when the queue is trimmed.
    /// Key: `queue: u64 | number: u64`. Value: drawn in `keys/block.rs`.
    Block = 5,
    /// The progress of one consuming party through one queue.
    /// Scope: queue. Rewritten at checkpoints, deleted.
    /// Key: `queue: u64 | cursor: u64`.
    /// Value: `name: tag u8, then text | policy: blob | progress`, the last drawn in
    /// `keys/progress.rs`.
    Cursor = 6,
    /// A kept session.
    /// Scope: namespace. Rewritten when it is attached or detached, deleted.
    /// Key: `namespace: text | id: text (last)`. Value: `expiry: u32 | detached: u64 |
    /// home: varint`.
    Session = 7,
    /// A kept session's subscription.
    /// Scope: session. Rewritten when its options change, deleted.
    /// Key: `namespace: text | session: text | share: u8, then text if 1 | filter (last)`.
    /// Value: `options: u64 | live: u8 | queue: u64 | cursor: u64 | home: varint`.
    Subscription = 8,
    /// The record retained for an address.
    /// Scope: namespace. Rewritten, deleted.
    /// Key: `namespace: text | path (last)`. Value: `position | size | expiry`, varints.
    Retained = 9,
    /// The durable queue of a declared name.
    /// Scope: namespace. Written once, deleted.
    /// Key: `namespace: text | name: text (last)`. Value: `queue: varint`.
    Name = 10,
    /// A queue that is found by a filter or a topic; all of them are loaded at start.
    /// Scope: queue. Written once, deleted.
    /// Key: `queue: u64`. Value: empty.
    Reader = 11,
    /// A body that waits for a time or a decision.
    /// Scope: the shard. Written once, deleted.
    /// Key: `due: u64 | origin: u64`. Value: `position | size`, varints.
    Held = 12,
    /// A frame that points to an older body, found from the body.
    /// Scope: the shard. Written once; whole ranges are deleted with the log's segments.
    /// Key: `body: u64 | frame: u64`. Value: `size of the frame: varint`.
    Pointer = 13,
    /// When to look at a queue though nobody touches it.
    /// Scope: the shard. Written, deleted.
    /// Key: `at: u64 | queue: u64`. Value: empty.
    Wake = 14,
    /// How far a writer that numbers its records has come.
    /// Scope: namespace. Rewritten, deleted.
    /// Key: `namespace: text | writer: text (last)`. Value: `sequence | seen | home`, varints.
    Writer = 15,
    /// An entry of a queue, found by the hash of a key or an id.
    /// Scope: queue. Written once; whole buckets are deleted as they age.
    /// Key: `queue: u64 | bucket: u64 | hash: u64 | offset: u64`. Value: empty.
    Lookup = 16,
    /// What is still wanted of a segment of the log.
    /// Scope: the shard. Rewritten at checkpoints, deleted.
    /// Key: `number: u64`. Value: `refs | bytes`, varints.
    Segment = 17,
    /// A setting that is kept with the data: a policy, a limit.
    /// Scope: namespace. Rewritten, deleted.
    /// Key: `namespace: text | component: text | name: text (last)`. Value: `home: varint |
    /// value: table`.
    Parameter = 18,
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
            Self::Name => "queue name",
            Self::Reader => "reader",
            Self::Held => "held body",
            Self::Pointer => "pointer",
            Self::Wake => "wake",
            Self::Writer => "writer",
            Self::Lookup => "lookup",
            Self::Segment => "segment",
            Self::Parameter => "parameter",
        }
    }

    /// The bytes that every key of this kind starts with.
    pub(crate) fn prefix(self) -> [u8; PREFIX_BYTES] {
        let [high, low] = SHARD.to_be_bytes();
        [high, low, self as u8]
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

/// Where the keys of one kind whose fields start with these numbers begin.
pub(crate) fn start(kind: KeyKind, numbers: &[u64]) -> Vec<u8> {
    let mut start = kind.prefix().to_vec();
    for number in numbers {
        start.extend_from_slice(&number.to_be_bytes());
    }
    start
}

/// The first bytes after all keys that begin with `prefix`, which is at least a kind's.
pub(crate) fn after(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.pop() {
        if let Some(next) = last.checked_add(1) {
            prefix.push(next);
            break;
        }
    }
    debug_assert!(!prefix.is_empty(), "the shard's own bytes are not the last there can be");
    prefix
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
