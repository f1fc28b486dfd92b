//! One atomic change of the index.

use mainstem_schemas::{Offset, Position, QueueId};
use rocksdb::WriteBatch;

use crate::keys::{
    self, BlockKey, Entity, Entry, KeyKind, QueueKey, QueueStateKey, ReaderKey, ser_block,
};

/// From this many blocks on, one range delete is cheaper than a delete per block. Range deletes
/// are looked through by every read until they are compacted away, so short ones, which every
/// checkpoint makes for every queue that is being read, are written one by one: blocks are read by
/// exact key or from the first that is kept, and a read never walks over such a tombstone.
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

    /// Writes a block: `entries` are those of its offsets from `first` on, holes included. As
    /// [`Batch::put`] of a [`crate::BlockValue`], without making one.
    pub fn put_block(&mut self, queue: QueueId, first: Offset, entries: &[Entry]) {
        keys::write_key(&BlockKey::of(queue, first), &mut self.key);
        self.value.clear();
        ser_block(first, entries, &mut self.value);
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
            let key = |number: u64| [queue.0, number];
            self.delete_range(KeyKind::Block, &key(from), &key(to));
            return;
        }
        for number in from..to {
            self.delete(&BlockKey { queue, number });
        }
    }

    /// Deletes the pointers to bodies from `from` up to, not including, `to`: those of one segment
    /// of the log that is gone.
    pub fn delete_pointers(&mut self, from: Position, to: Position) {
        self.delete_range(KeyKind::Pointer, &[from.0], &[to.0]);
    }

    /// Deletes a queue's lookups in buckets below this one.
    pub fn delete_lookups(&mut self, queue: QueueId, below_bucket: u64) {
        self.delete_range(KeyKind::Lookup, &[queue.0], &[queue.0, below_bucket]);
    }

    /// Deletes all keys that begin with a queue's id: definition, state, blocks, cursors, lookups
    /// and whether it is a reader. Its [`crate::NameKey`] and [`crate::WakeKey`] are the caller's to
    /// delete: a name may lead to another queue by now.
    pub fn delete_queue(&mut self, queue: QueueId) {
        self.delete(&QueueKey { queue });
        self.delete(&QueueStateKey { queue });
        self.delete(&ReaderKey { queue });
        for kind in [KeyKind::Block, KeyKind::Cursor, KeyKind::Lookup] {
            let from = keys::start(kind, &[queue.0]);
            let to = keys::after(from.clone());
            self.writes.delete_range(&from, &to);
        }
    }

    /// Half open, by the leading numbers of keys. RocksDB fails the whole batch for a range that
    /// ends before it starts, so one that holds nothing is left out.
    fn delete_range(&mut self, kind: KeyKind, from: &[u64], to: &[u64]) {
        let (from, to) = (keys::start(kind, from), keys::start(kind, to));
        if from < to {
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
