//! The open index: one RocksDB, written by batches that carry the log position they come from.
//!
//! RocksDB's own write-ahead log is off. What was not flushed is lost in a crash, whole batches
//! from the newest back, and comes again from the log behind [`Index::applied`]. There is one
//! column family, so a flush always takes all keys of a batch or none.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use mainstem_schemas::{Position, QueueId, UnixMillis};
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, IteratorMode, LogLevel, Options, ReadOptions,
    WriteOptions,
};

use crate::{
    Batch, IndexError, Part,
    error::damaged,
    hash::StateHash,
    keys::{
        self, BlockKey, BlockValue, CursorKey, Entity, HeldKey, KeyKind, LookupKey, MetaKey,
        MetaValue, PointerKey, WakeKey,
    },
};

/// The version of the layout of all keys and values. An index of another version is refused;
/// deleting it makes it anew from the log.
pub const VERSION: u16 = 1;

const OPEN_FILES_MAX: i32 = 512;
const BACKGROUND_JOBS_MAX: i32 = 2;
const BLOOM_BITS_PER_KEY: f64 = 10.0;
/// A file in which half of any 1,024 keys in a row are deletes is compacted without waiting.
const DELETES_WINDOW: usize = 1024;
const INFO_LOG_BYTES_MAX: usize = 4 << 20;
const INFO_LOGS_MAX: usize = 2;

/// What an open index may take of the machine's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Changes that are gathered in memory before RocksDB writes them to a file by itself.
    pub memtable_bytes: usize,
    /// One that is filled, one being flushed, one in reserve before writes have to wait.
    pub memtables_max: u16,
    /// Holds the parts of files that were read, with their filters and indexes.
    pub block_cache_bytes: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { memtable_bytes: 32 << 20, memtables_max: 3, block_cache_bytes: 64 << 20 }
    }
}

/// An open index. Clones share it; any thread may read and flush. One thread at a time commits,
/// whichever it is.
#[derive(Clone)]
pub struct Index {
    shared: Arc<Shared>,
}

struct Shared {
    db: DB,
    /// The position of the last commit; on disk it is in the meta key of the same batch.
    applied: AtomicU64,
}

impl Index {
    /// Opens the index at `path`, or makes an empty one there. RocksDB locks it against a second
    /// opening.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        Self::open_with(path, Tuning::default())
    }

    /// As [`Index::open`], with other bounds on its memory.
    pub fn open_with(path: &Path, tuning: Tuning) -> Result<Self, IndexError> {
        let db = DB::open(&options(tuning), path)
            .map_err(|source| IndexError::Open { path: path.to_owned(), source })?;
        let index = Self { shared: Arc::new(Shared { db, applied: AtomicU64::new(0) }) };
        if let Some(meta) = index.get(&MetaKey)? {
            if meta.version != VERSION {
                let (found, known) = (meta.version, VERSION);
                return Err(IndexError::Version { path: path.to_owned(), found, known });
            }
            index.shared.applied.store(meta.applied.0, Ordering::Release);
        }
        Ok(index)
    }

    /// The log is applied up to here; [`Position`] 0 if nothing ever was. After a crash this is the
    /// position of the last batch that reached the disk.
    #[must_use]
    pub fn applied(&self) -> Position {
        Position(self.shared.applied.load(Ordering::Acquire))
    }

    /// A batch without changes.
    pub fn batch(&self) -> Batch {
        Batch::default()
    }

    /// Makes a batch and the position it comes from visible, both or neither. Nothing is on the
    /// disk until [`Index::flush`], or until RocksDB finds its memory full. `applied` never goes
    /// back.
    pub fn commit(&self, mut batch: Batch, applied: Position) -> Result<(), IndexError> {
        assert!(applied >= self.applied(), "the log is applied forwards");
        batch.put(&MetaKey, &MetaValue { applied, version: VERSION });
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        let written = self.shared.db.write_opt(batch.writes, &options);
        written.map_err(|source| IndexError::Write { source })?;
        self.shared.applied.store(applied.0, Ordering::Release);
        Ok(())
    }

    /// Brings everything committed before the call to the disk, synced, and returns the position up
    /// to which the log is not needed any more to build this index. Commits go on meanwhile.
    pub fn flush(&self) -> Result<Position, IndexError> {
        let applied = self.applied();
        self.shared.db.flush().map_err(|source| IndexError::Flush { source })?;
        Ok(applied)
    }

    /// The value of a key.
    pub fn get<K: Entity>(&self, key: &K) -> Result<Option<K::Value>, IndexError> {
        let mut stored = Vec::new();
        keys::write_key(key, &mut stored);
        let found = self.shared.db.get(&stored);
        let Some(value) = found.map_err(|source| IndexError::Read { kind: K::KIND, source })?
        else {
            return Ok(None);
        };
        let value = K::deser_value(value.into()).map_err(|_| damaged::<K>(Part::Value, &stored))?;
        Ok(Some(value))
    }

    /// A block of a queue. Its entries are checked to belong in it.
    pub fn block(&self, queue: QueueId, number: u64) -> Result<Option<BlockValue>, IndexError> {
        let key = BlockKey { queue, number };
        let Some(block) = self.get(&key)? else { return Ok(None) };
        check_block(key, &block)?;
        Ok(Some(block))
    }

    /// The blocks of a queue from one number up to, not including, another, ascending; numbers that
    /// have no block are passed over. Their entries are checked as by [`Index::block`].
    pub fn blocks(
        &self,
        queue: QueueId,
        from_number: u64,
        to_number: u64,
    ) -> impl Iterator<Item = Result<(BlockKey, BlockValue), IndexError>> {
        let blocks = self.between::<BlockKey>(&[queue.0, from_number], &[queue.0, to_number]);
        blocks.map(|item| {
            let (key, block) = item?;
            check_block(key, &block)?;
            Ok((key, block))
        })
    }

    /// All keys of one kind with their values, in key order, as they were at the call.
    pub fn scan<K: Entity>(&self) -> impl Iterator<Item = Result<(K, K::Value), IndexError>> {
        self.beginning::<K>(&[])
    }

    /// The cursors of one queue.
    pub fn cursors(
        &self,
        queue: QueueId,
    ) -> impl Iterator<Item = Result<(CursorKey, <CursorKey as Entity>::Value), IndexError>> {
        self.beginning::<CursorKey>(&[queue.0])
    }

    /// The bodies that are due from one time up to, not including, another, by time.
    pub fn held(
        &self,
        from: UnixMillis,
        to: UnixMillis,
    ) -> impl Iterator<Item = Result<(HeldKey, <HeldKey as Entity>::Value), IndexError>> {
        self.between::<HeldKey>(&[from.0], &[to.0])
    }

    /// The queues to look at from one time up to, not including, another, by time.
    pub fn wakes(
        &self,
        from: UnixMillis,
        to: UnixMillis,
    ) -> impl Iterator<Item = Result<(WakeKey, ()), IndexError>> {
        self.between::<WakeKey>(&[from.0], &[to.0])
    }

    /// The pointers to bodies from one position up to, not including, another, by body.
    pub fn pointers(
        &self,
        from: Position,
        to: Position,
    ) -> impl Iterator<Item = Result<(PointerKey, u32), IndexError>> {
        self.between::<PointerKey>(&[from.0], &[to.0])
    }

    /// The entries of a queue whose key or id has this hash, in one bucket, by offset.
    pub fn lookups(
        &self,
        queue: QueueId,
        bucket: u64,
        hash: u64,
    ) -> impl Iterator<Item = Result<(LookupKey, ()), IndexError>> {
        self.beginning::<LookupKey>(&[queue.0, bucket, hash])
    }

    /// All keys whose fields start with these numbers.
    fn beginning<K: Entity>(
        &self,
        numbers: &[u64],
    ) -> impl Iterator<Item = Result<(K, K::Value), IndexError>> + use<'_, K> {
        let from = keys::start(K::KIND, numbers);
        let to = keys::after(from.clone());
        self.range::<K>(from, to)
    }

    /// All keys between two that start with these numbers, half open.
    fn between<K: Entity>(
        &self,
        from: &[u64],
        to: &[u64],
    ) -> impl Iterator<Item = Result<(K, K::Value), IndexError>> + use<'_, K> {
        self.range::<K>(keys::start(K::KIND, from), keys::start(K::KIND, to))
    }

    /// Half open. Reads as it goes; sees the index as it is at the call.
    fn range<K: Entity>(
        &self,
        from: Vec<u8>,
        to: Vec<u8>,
    ) -> impl Iterator<Item = Result<(K, K::Value), IndexError>> {
        let mut options = ReadOptions::default();
        options.set_iterate_range(from..to);
        self.shared.db.iterator_opt(IteratorMode::Start, options).map(|item| {
            let (key, value) = item.map_err(|source| IndexError::Read { kind: K::KIND, source })?;
            let stored = Bytes::from(key);
            let key = keys::read_key(stored.clone());
            let key = key.map_err(|_| damaged::<K>(Part::Key, &stored))?;
            let value = K::deser_value(value.into());
            let value = value.map_err(|_| damaged::<K>(Part::Value, &stored))?;
            Ok((key, value))
        })
    }

    /// A hash over all keys and values in key order, but for the applied position: equal for equal
    /// content, however and whenever it was written.
    pub fn state_hash(&self) -> Result<u64, IndexError> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let mut hash = StateHash::new();
        for item in self.shared.db.iterator_opt(IteratorMode::Start, options) {
            let (key, value) = item.map_err(|source| IndexError::ReadAll { source })?;
            if !key.starts_with(&KeyKind::Meta.prefix()) {
                hash.add(&key);
                hash.add(&value);
            }
        }
        Ok(hash.finish())
    }
}

/// A block's entries belong in it.
fn check_block(key: BlockKey, block: &BlockValue) -> Result<(), IndexError> {
    if block.fits(key.number) {
        return Ok(());
    }
    let mut stored = Vec::new();
    keys::write_key(&key, &mut stored);
    Err(damaged::<BlockKey>(Part::Value, &stored))
}

fn options(tuning: Tuning) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(tuning.block_cache_bytes));
    table.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
    // Index and filter blocks count against the bounded cache.
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);

    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(tuning.memtable_bytes);
    options.set_max_write_buffer_number(i32::from(tuning.memtables_max));
    options.set_allow_concurrent_memtable_write(false);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_max_background_jobs(BACKGROUND_JOBS_MAX);
    options.set_bytes_per_sync(1 << 20);
    options.set_paranoid_checks(true);
    // Blocks are written once and deleted some time later.
    options.add_compact_on_deletion_collector_factory(DELETES_WINDOW, DELETES_WINDOW / 2, 0.5);
    options.set_log_level(LogLevel::Warn);
    options.set_max_log_file_size(INFO_LOG_BYTES_MAX);
    options.set_keep_log_file_num(INFO_LOGS_MAX);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

#[cfg(test)]
mod tests {
    use std::fs;

    use mainstem_schemas::{CursorId, Filter, Offset, Path as AddressPath, UnixMillis};

    use super::*;
    use crate::keys::{
        BindingKey, CursorName, CursorValue, Entry, ExchangeKey, ExchangeValue, QueueKey,
        QueueName, QueueStateKey, QueueStateValue, QueueValue, RetainedKey, RetainedValue,
        SessionKey, SessionValue, SubscriptionKey, SubscriptionValue,
    };

    fn open() -> (tempfile::TempDir, Index) {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path()).unwrap();
        (dir, index)
    }

    /// What a kill at this moment leaves: the files as they are, without RocksDB's orderly close,
    /// which would flush.
    fn crash(dir: &tempfile::TempDir) -> (tempfile::TempDir, Index) {
        // A kill is a moment and a copy is not: RocksDB may delete a file in between, and then
        // the copy is made anew.
        let copy = loop {
            let copy = tempfile::tempdir().unwrap();
            match copy_files(dir.path(), copy.path()) {
                Ok(()) => break copy,
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
            }
        };
        let index = Index::open(copy.path()).unwrap();
        (copy, index)
    }

    fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
        for file in fs::read_dir(from)? {
            let file = file?;
            fs::copy(file.path(), to.join(file.file_name()))?;
        }
        Ok(())
    }

    fn state(next: u64) -> QueueStateValue {
        QueueStateValue { first: Offset(0), next: Offset(next), cursors_next: 0 }
    }

    fn state_key(queue: u64) -> QueueStateKey {
        QueueStateKey { queue: QueueId(queue) }
    }

    fn block(number: u64) -> BlockValue {
        let entries = vec![Entry { position: Position(number + 1), ..Entry::default() }];
        BlockValue { first: Offset(number * keys::BLOCK_ENTRIES), entries }
    }

    fn put_block(batch: &mut Batch, queue: u64, number: u64) {
        batch.put(&BlockKey { queue: QueueId(queue), number }, &block(number));
    }

    /// Definition, state, three blocks and two cursors.
    fn put_queue(batch: &mut Batch, queue: u64) {
        let value = QueueValue {
            namespace: "/".to_owned(),
            name: QueueName::Named(format!("q{queue}")),
            auto_delete: false,
            retention: 0,
            arguments: Vec::new(),
        };
        batch.put(&QueueKey { queue: QueueId(queue) }, &value);
        batch.put(&state_key(queue), &state(300));
        for number in 0..3 {
            put_block(batch, queue, number);
        }
        for cursor in [CursorId::MAIN, CursorId(u64::MAX)] {
            let value =
                CursorValue { name: CursorName::Main, floor: Offset(1), settled: Vec::new() };
            batch.put(&CursorKey { queue: QueueId(queue), cursor }, &value);
        }
    }

    fn count<K: Entity>(index: &Index) -> usize {
        index.scan::<K>().map(|item| item.map(|_| ()).unwrap()).count()
    }

    fn block_numbers(index: &Index, queue: u64) -> Vec<u64> {
        let blocks = index.scan::<BlockKey>().map(|item| item.unwrap().0);
        blocks.filter(|key| key.queue == QueueId(queue)).map(|key| key.number).collect()
    }

    #[test]
    fn a_new_index_has_applied_nothing() {
        let (_dir, index) = open();
        assert_eq!(index.applied(), Position(0));
        assert_eq!(index.get(&MetaKey).unwrap(), None);
        assert_eq!(index.block(QueueId(1), 0).unwrap(), None);
    }

    #[test]
    fn a_batch_and_its_position_are_visible_together_or_not_at_all() {
        let (_dir, index) = open();
        let mut dropped = index.batch();
        dropped.put(&state_key(1), &state(1));
        drop(dropped);
        assert_eq!(index.get(&state_key(1)).unwrap(), None);

        let mut batch = index.batch();
        assert!(batch.is_empty());
        batch.put(&state_key(1), &state(1));
        put_block(&mut batch, 1, 0);
        assert!(!batch.is_empty());
        index.commit(batch, Position(70)).unwrap();
        assert_eq!(index.get(&state_key(1)).unwrap(), Some(state(1)));
        assert_eq!(index.block(QueueId(1), 0).unwrap(), Some(block(0)));
        assert_eq!(index.applied(), Position(70));
        let meta = MetaValue { applied: Position(70), version: VERSION };
        assert_eq!(index.get(&MetaKey).unwrap(), Some(meta));
    }

    #[test]
    fn the_later_change_in_a_batch_wins() {
        let (_dir, index) = open();
        let mut batch = index.batch();
        batch.put(&state_key(1), &state(1));
        batch.delete(&state_key(1));
        batch.delete(&state_key(2));
        batch.put(&state_key(2), &state(2));
        put_queue(&mut batch, 3);
        batch.delete_queue(QueueId(3));
        put_block(&mut batch, 3, 9);
        index.commit(batch, Position(1)).unwrap();
        assert_eq!(index.get(&state_key(1)).unwrap(), None);
        assert_eq!(index.get(&state_key(2)).unwrap(), Some(state(2)));
        assert_eq!(count::<QueueKey>(&index), 0);
        assert_eq!(block_numbers(&index, 3), [9]);
    }

    #[test]
    fn a_reopened_index_has_what_was_flushed() {
        let (dir, index) = open();
        let mut batch = index.batch();
        put_queue(&mut batch, 7);
        index.commit(batch, Position(5)).unwrap();
        assert_eq!(index.flush().unwrap(), Position(5));
        let hash = index.state_hash().unwrap();
        drop(index);
        let index = Index::open(dir.path()).unwrap();
        assert_eq!(index.applied(), Position(5));
        assert_eq!(index.state_hash().unwrap(), hash);
    }

    #[test]
    fn a_crash_loses_what_was_not_flushed_and_the_position_with_it() {
        let (dir, index) = open();
        let mut batch = index.batch();
        batch.put(&state_key(1), &state(1));
        index.commit(batch, Position(5)).unwrap();
        index.flush().unwrap();
        let mut batch = index.batch();
        batch.put(&state_key(1), &state(2));
        batch.put(&state_key(2), &state(2));
        index.commit(batch, Position(6)).unwrap();

        let (_copy, after) = crash(&dir);
        assert_eq!(after.applied(), Position(5));
        assert_eq!(after.get(&state_key(1)).unwrap(), Some(state(1)));
        assert_eq!(after.get(&state_key(2)).unwrap(), None);
    }

    #[test]
    fn a_flush_beside_commits_takes_whole_batches() {
        let (dir, index) = open();
        let flusher = std::thread::spawn({
            let index = index.clone();
            move || (0..5).map(|_| index.flush().unwrap()).max().unwrap()
        });
        let mut position = 0;
        while !flusher.is_finished() || position < 100 {
            position += 1;
            let mut batch = index.batch();
            for queue in 0..20 {
                batch.put(&state_key(queue), &state(position));
            }
            index.commit(batch, Position(position)).unwrap();
        }
        let flushed = flusher.join().unwrap();

        let (_copy, after) = crash(&dir);
        let applied = after.applied();
        assert!(flushed <= applied && applied <= Position(position));
        for item in after.scan::<QueueStateKey>() {
            assert_eq!(item.unwrap().1, state(applied.0));
        }
    }

    #[test]
    fn deleting_a_queue_leaves_its_neighbours_whole() {
        for victim in [0, 255, 256, u64::MAX] {
            let (_dir, index) = open();
            let mut batch = index.batch();
            let neighbours = [victim.wrapping_sub(1), victim.wrapping_add(1)];
            for queue in neighbours {
                put_queue(&mut batch, queue);
            }
            index.commit(batch, Position(3)).unwrap();
            let without = index.state_hash().unwrap();

            let mut batch = index.batch();
            put_queue(&mut batch, victim);
            index.commit(batch, Position(3)).unwrap();
            assert_eq!(index.cursors(QueueId(victim)).count(), 2);
            assert_ne!(index.state_hash().unwrap(), without);

            let mut batch = index.batch();
            batch.delete_queue(QueueId(victim));
            index.commit(batch, Position(3)).unwrap();
            assert_eq!(index.cursors(QueueId(victim)).count(), 0);
            assert_eq!(index.state_hash().unwrap(), without, "queue {victim}");
            assert_eq!(index.cursors(QueueId(neighbours[0])).count(), 2);
        }
    }

    #[test]
    fn blocks_are_deleted_from_and_up_to_not_including() {
        for len in [0, 1, 5, 63, 64, 500] {
            let (_dir, index) = open();
            let mut batch = index.batch();
            for number in 0..len + 20 {
                put_block(&mut batch, 1, number);
                put_block(&mut batch, 2, number);
            }
            index.commit(batch, Position(1)).unwrap();
            let mut batch = index.batch();
            batch.delete_blocks(QueueId(1), 10, 10 + len);
            index.commit(batch, Position(2)).unwrap();
            let left: Vec<u64> = (0..10).chain(10 + len..len + 20).collect();
            assert_eq!(block_numbers(&index, 1), left);
            assert_eq!(block_numbers(&index, 2).len() as u64, len + 20);
        }
    }

    #[test]
    fn the_hash_is_of_the_content_not_of_how_it_was_written() {
        let (_dir, straight) = open();
        let mut batch = straight.batch();
        for queue in 0..50 {
            put_queue(&mut batch, queue);
        }
        straight.commit(batch, Position(9)).unwrap();

        let (_dir, crooked) = open();
        for queue in (0..60).rev() {
            let mut batch = crooked.batch();
            batch.put(&state_key(queue), &state(1));
            put_queue(&mut batch, queue);
            crooked.commit(batch, Position(0)).unwrap();
            if queue % 20 == 0 {
                crooked.flush().unwrap();
            }
        }
        let mut batch = crooked.batch();
        for queue in 50..60 {
            batch.delete_queue(QueueId(queue));
        }
        crooked.commit(batch, Position(9)).unwrap();
        assert_eq!(straight.state_hash().unwrap(), crooked.state_hash().unwrap());

        let mut batch = crooked.batch();
        batch.put(&state_key(49), &state(301));
        crooked.commit(batch, Position(9)).unwrap();
        assert_ne!(straight.state_hash().unwrap(), crooked.state_hash().unwrap());
    }

    #[test]
    fn a_scan_sees_every_key_of_its_kind_and_no_other() {
        let (_dir, index) = open();
        let (namespace, name) = ("/".to_owned(), "x".to_owned());
        let exchange = ExchangeKey { namespace: namespace.clone(), name: name.clone() };
        let exchange_value =
            ExchangeValue { kind: 2, auto_delete: false, internal: true, arguments: Vec::new() };
        let binding = BindingKey {
            namespace: namespace.clone(),
            source: name.clone(),
            to_exchange: false,
            destination: "q1".to_owned(),
            key: "a.#".into(),
            arguments: Bytes::new(),
        };
        let session = SessionKey { namespace: namespace.clone(), id: name.clone() };
        let session_value = SessionValue { expiry_s: 60, detached: UnixMillis(9) };
        let filter = Filter::parse("a/+").unwrap();
        let subscription =
            SubscriptionKey { namespace: namespace.clone(), session: name, share: None, filter };
        let subscription_value =
            SubscriptionValue { options: 1, live: false, queue: QueueId(1), cursor: CursorId(2) };
        let retained = RetainedKey { namespace, path: AddressPath::of(["a", "b"]) };
        let retained_value =
            RetainedValue { position: Position(3), size: 4, expiry: UnixMillis::NONE };

        let mut batch = index.batch();
        batch.put(&exchange, &exchange_value);
        batch.put(&binding, &());
        put_queue(&mut batch, 1);
        put_queue(&mut batch, 2);
        batch.put(&session, &session_value);
        batch.put(&subscription, &subscription_value);
        batch.put(&retained, &retained_value);
        index.commit(batch, Position(4)).unwrap();

        fn all<K: Entity>(index: &Index) -> Vec<(K, K::Value)> {
            index.scan::<K>().map(Result::unwrap).collect()
        }
        assert_eq!(all(&index), [(exchange, exchange_value)]);
        assert_eq!(all(&index), [(binding, ())]);
        assert_eq!(all(&index), [(session, session_value)]);
        assert_eq!(all(&index), [(subscription, subscription_value)]);
        assert_eq!(all(&index), [(retained, retained_value)]);
        assert_eq!(all(&index), [(state_key(1), state(300)), (state_key(2), state(300))]);
        assert_eq!(count::<QueueKey>(&index), 2);
        assert_eq!(count::<CursorKey>(&index), 4);
        assert_eq!(count::<BlockKey>(&index), 6);
        assert_eq!(count::<MetaKey>(&index), 1);
    }

    #[test]
    fn damage_is_named() {
        let (_dir, index) = open();
        let mut stored = Vec::new();
        keys::write_key(&state_key(1), &mut stored);
        index.shared.db.put(&stored, b"\xff").unwrap();
        let message = "the index is damaged: the value of the queue state under key \
                       0000040000000000000001 does not decode";
        assert_eq!(index.get(&state_key(1)).unwrap_err().to_string(), message);
        let error = index.scan::<QueueStateKey>().next().unwrap().unwrap_err();
        assert_eq!(error.to_string(), message);

        index.shared.db.put([0, 0, KeyKind::Cursor as u8, 1], b"").unwrap();
        let error = index.scan::<CursorKey>().next().unwrap().unwrap_err();
        let message =
            "the index is damaged: the key of the cursor under key 00000601 does not decode";
        assert_eq!(error.to_string(), message);
    }

    #[test]
    fn a_block_in_the_wrong_place_is_damage() {
        let (_dir, index) = open();
        let mut batch = index.batch();
        batch.put(&BlockKey { queue: QueueId(1), number: 4 }, &block(5));
        index.commit(batch, Position(1)).unwrap();
        let error = index.block(QueueId(1), 4).unwrap_err();
        assert!(matches!(
            error,
            IndexError::Damaged { kind: KeyKind::Block, part: Part::Value, .. }
        ));
    }

    #[test]
    fn an_index_of_another_version_is_refused() {
        let (dir, index) = open();
        let (mut key, mut value) = (Vec::new(), Vec::new());
        keys::write_key(&MetaKey, &mut key);
        MetaKey::ser_value(&MetaValue { applied: Position(1), version: VERSION + 1 }, &mut value);
        index.shared.db.put(&key, &value).unwrap();
        drop(index);
        assert!(
            matches!(Index::open(dir.path()), Err(IndexError::Version { found, .. }) if found == VERSION + 1)
        );
    }

    #[test]
    fn an_index_is_open_once_at_a_time() {
        let (dir, _index) = open();
        assert!(matches!(Index::open(dir.path()), Err(IndexError::Open { .. })));
    }
}
