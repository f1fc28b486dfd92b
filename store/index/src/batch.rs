//! One atomic change of the index.

use mainstem_schemas::QueueId;
use rocksdb::WriteBatch;

use crate::keys::{self, BlockKey, Entity, KeyKind, PREFIX_BYTES, QueueKey, QueueStateKey};

/// From this many blocks on, one range delete is cheaper than a delete per block. Range deletes
/// are looked through by every read until they are compacted away, so short ones, which every
/// checkpoint makes for every queue that is being read, are written one by one: blocks are read by
/// exact key, and a read never walks over such a tombstone.
const RANGE_DELETE_BLOCKS_MIN: u64 = 64;

/// Puts and deletes that become visible together with the log position they come from, or not at
/// all. Later ones win over earlier ones. Does nothing until [`crate::Index::commit`].
#[must_use = "a batch does nothing until it is committed"]
#[derive(Default)]
pub struct Batch {
    pub(crate) writes: WriteBatch,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Batch {
    /// Writes a key with its value; an older value is replaced.
    pub fn put<K: Entity>(&mut self, key: &K, value: &K::Value) {
        keys::write_key(key, &mut self.key);
        self.value.clear();
        K::ser_value(value, &mut self.value);
        self.writes.put(&self.key, &self.value);
    }

    /// Deletes a key; one that is not there is no mistake.
    pub fn delete<K: Entity>(&mut self, key: &K) {
        keys::write_key(key, &mut self.key);
        self.writes.delete(&self.key);
    }

    /// Deletes a queue's blocks from number `from` up to, not including, `to`.
    pub fn delete_blocks(&mut self, queue: QueueId, from: u64, to: u64) {
        if to.saturating_sub(from) >= RANGE_DELETE_BLOCKS_MIN {
            keys::write_key(&BlockKey { queue, number: from }, &mut self.key);
            keys::write_key(&BlockKey { queue, number: to }, &mut self.value);
            self.writes.delete_range(&self.key, &self.value);
            return;
        }
        for number in from..to {
            self.delete(&BlockKey { queue, number });
        }
    }

    /// Deletes all keys of a queue: definition, state, blocks and cursors.
    pub fn delete_queue(&mut self, queue: QueueId) {
        self.delete(&QueueKey { queue });
        self.delete(&QueueStateKey { queue });
        for kind in [KeyKind::Block, KeyKind::Cursor] {
            let (from, to) = queue_range(kind, queue);
            self.writes.delete_range(&from, &to);
        }
    }

    /// Bytes of the changes so far, for callers that spread a checkpoint over several batches.
    #[must_use]
    pub fn size(&self) -> usize {
        self.writes.size_in_bytes()
    }

    /// Whether nothing was put or deleted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}

/// Where the keys of one kind and one queue begin, and the first bytes after them.
pub(crate) fn queue_range(kind: KeyKind, queue: QueueId) -> (Vec<u8>, Vec<u8>) {
    let from = [kind.prefix().as_slice(), &queue.0.to_be_bytes()].concat();
    let to = match queue.0.checked_add(1) {
        Some(next) => [kind.prefix().as_slice(), &next.to_be_bytes()].concat(),
        None => kind.prefix_end().to_vec(),
    };
    debug_assert!(from.len() == PREFIX_BYTES + 8 && from < to);
    (from, to)
}
