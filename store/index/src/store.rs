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
use mainstem_schemas::{Position, QueueId};
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, IteratorMode, LogLevel, Options, ReadOptions,
    WriteOptions,
};

use crate::{
    Batch, IndexError, Part,
    batch::queue_range,
    error::damaged,
    hash::StateHash,
    keys::{self, BlockKey, BlockValue, CursorKey, Entity, KeyKind, MetaKey, MetaValue},
};

/// The version of the layout of all keys and values. An index of another version is refused;
/// deleting it makes it anew from the log.
pub const VERSION: u16 = 1;

const MEMTABLE_BYTES: usize = 64 << 20;
/// One that is filled, one being flushed, one in reserve before writes have to wait.
const MEMTABLES_MAX: i32 = 3;
const BLOCK_CACHE_BYTES: usize = 64 << 20;
const OPEN_FILES_MAX: i32 = 512;
const BACKGROUND_JOBS_MAX: i32 = 2;
const BLOOM_BITS_PER_KEY: f64 = 10.0;
/// A file in which half of any 1,024 keys in a row are deletes is compacted without waiting.
const DELETES_WINDOW: usize = 1024;
const INFO_LOG_BYTES_MAX: usize = 4 << 20;
const INFO_LOGS_MAX: usize = 2;

/// An open index. Clones share it; any thread may read and flush. One thread commits.
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
        let db = DB::open(&options(), path)
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
        if !block.fits(number) {
            let mut stored = Vec::new();
            keys::write_key(&key, &mut stored);
            return Err(damaged::<BlockKey>(Part::Value, &stored));
        }
        Ok(Some(block))
    }

    /// All keys of one kind with their values, in key order, as they were at the call.
    pub fn scan<K: Entity>(&self) -> impl Iterator<Item = Result<(K, K::Value), IndexError>> {
        self.range::<K>(K::KIND.prefix().to_vec(), K::KIND.prefix_end().to_vec())
    }

    /// The cursors of one queue.
    pub fn cursors(
        &self,
        queue: QueueId,
    ) -> impl Iterator<Item = Result<(CursorKey, <CursorKey as Entity>::Value), IndexError>> {
        let (from, to) = queue_range(KeyKind::Cursor, queue);
        self.range::<CursorKey>(from, to)
    }

    /// Half open.
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

    /// A hash over all keys and values in key order, the applied position included: equal for equal
    /// content, however it was written.
    pub fn state_hash(&self) -> Result<u64, IndexError> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let mut hash = StateHash::default();
        for item in self.shared.db.iterator_opt(IteratorMode::Start, options) {
            let (key, value) = item.map_err(|source| IndexError::ReadAll { source })?;
            hash.add(&key);
            hash.add(&value);
        }
        Ok(hash.finish())
    }
}

fn options() -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(BLOCK_CACHE_BYTES));
    table.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
    // Index and filter blocks count against the bounded cache.
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);

    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(MEMTABLE_BYTES);
    options.set_max_write_buffer_number(MEMTABLES_MAX);
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
