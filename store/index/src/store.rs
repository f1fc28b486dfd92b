//! The open index: one RocksDB, written by batches that carry the log position they come from.
//!
//! RocksDB's own write-ahead log is off. What was not flushed is lost in a crash, whole batches
//! from the newest back, and comes again from the log behind [`Index::applied`]. There is one
//! column family, so a flush always takes all keys of a batch or none.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use mainstem_schemas::{Position, QueueId, UnixMillis};
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DB, DBCompressionType, IteratorMode, LogLevel,
    Options, ReadOptions, WriteOptions,
};

use crate::{
    Batch, IndexError, Part,
    error::damaged,
    hash::StateHash,
    keys::{
        self, BlockKey, BlockValue, CursorKey, Entity, HeldKey, KeyKind, LookupKey, MetaKey,
        MetaValue, NameKey, PointerKey, WakeKey,
    },
    witness::Witness,
};

mod ascending;

pub use ascending::Ascending;

/// The version of the layout of all keys and values. An index of another version is refused;
/// deleting it makes it anew from the log.
pub const VERSION: u16 = 3;

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
    /// Locked while it is written, which only a flush does.
    witness: Mutex<Witness>,
    path: PathBuf,
}

impl Index {
    /// Opens the index at `path`, or makes an empty one there. RocksDB locks it against a second
    /// opening.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        Self::open_with(path, Tuning::default())
    }

    /// As [`Index::open`], with other bounds on its memory.
    pub fn open_with(path: &Path, tuning: Tuning) -> Result<Self, IndexError> {
        remove_gone(path)?;
        let db = DB::open(&options(tuning), path)
            .map_err(|source| IndexError::Open { path: path.to_owned(), source })?;
        Self::over(db, path)
    }

    /// Opens an index to look into it, as it is on the disk. Takes no lock and writes nothing, so
    /// it may be open elsewhere; then files may vanish, and reading them is an error. A commit or
    /// a flush fails.
    pub fn open_to_read(path: &Path) -> Result<Self, IndexError> {
        let mut options = options(Tuning::default());
        options.create_if_missing(false);
        let db = DB::open_for_read_only(&options, path, false)
            .map_err(|source| IndexError::Open { path: path.to_owned(), source })?;
        Self::over(db, path)
    }

    fn over(db: DB, path: &Path) -> Result<Self, IndexError> {
        let witness = Witness::open(path)
            .map_err(|source| IndexError::Witness { path: path.to_owned(), source })?;
        let flushed = witness.flushed();
        let (applied, witness, path) = (AtomicU64::new(0), Mutex::new(witness), path.to_owned());
        let index = Self { shared: Arc::new(Shared { db, applied, witness, path }) };
        let path = &index.shared.path;
        if let Some(meta) = index.get(&MetaKey)? {
            if meta.version != VERSION {
                let (found, known) = (meta.version, VERSION);
                return Err(IndexError::Version { path: path.to_owned(), found, known });
            }
            index.shared.applied.store(meta.applied.0, Ordering::Release);
        }
        let applied = index.applied();
        if applied < flushed {
            return Err(IndexError::Behind { path: path.to_owned(), flushed, applied });
        }
        Ok(index)
    }

    /// Deletes the index at `path`, which nobody has open.
    pub fn remove(path: &Path) -> Result<(), IndexError> {
        let failed = |source| IndexError::Remove { path: path.to_owned(), source };
        remove_gone(path)?;
        // A crash half-way must leave no half of an index: it is out of the way at once.
        fs::rename(path, path.with_extension(GONE)).map_err(failed)?;
        let parent = path.parent().unwrap_or(path);
        fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
        remove_gone(path)
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
        let mut witness = self.shared.witness.lock().unwrap_or_else(PoisonError::into_inner);
        witness.advance(applied).map_err(|source| {
            let path = self.shared.path.clone();
            IndexError::Witness { path, source }
        })?;
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

    /// The named queues of a namespace, by name, behind `last` if that is given.
    pub fn names<'a>(
        &'a self,
        namespace: &str,
        last: Option<&str>,
    ) -> impl Iterator<Item = Result<(NameKey, QueueId), IndexError>> + use<'a> {
        let key = |name: &str| {
            let key = NameKey { namespace: namespace.to_owned(), name: name.to_owned() };
            let mut stored = Vec::new();
            keys::write_key(&key, &mut stored);
            stored
        };
        let all = key("");
        let mut from = last.map_or_else(|| all.clone(), key);
        if last.is_some() {
            from.push(0);
        }
        self.range::<NameKey>(from, keys::after(all))
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

    /// A hash over all keys and values in key order, but for the applied position, the times at
    /// which queues are to be looked at, which hang on the clock, and lookups, some of which lead to
    /// what is gone: equal for equal content, however and whenever it was written.
    pub fn state_hash(&self) -> Result<u64, IndexError> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let mut hash = StateHash::new();
        for item in self.shared.db.iterator_opt(IteratorMode::Start, options) {
            let (key, value) = item.map_err(|source| IndexError::ReadAll { source })?;
            let is_content = |kind: KeyKind| !key.starts_with(&kind.prefix());
            if [KeyKind::Meta, KeyKind::Wake, KeyKind::Lookup].into_iter().all(is_content) {
                hash.add(&key);
                hash.add(&value);
            }
        }
        Ok(hash.finish())
    }
}

/// The extension of an index that is being removed.
const GONE: &str = "gone";

/// Removes what a crash left of the removing of an index.
fn remove_gone(path: &Path) -> Result<(), IndexError> {
    let gone = path.with_extension(GONE);
    match fs::remove_dir_all(&gone) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(IndexError::Remove { path: path.to_owned(), source })
        }
        _ => Ok(()),
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
    // In parts of some KiB. Whole, those of a file with a million keys are larger than a shard of the
    // cache, so that every look-up would read them from the disk.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_pin_top_level_index_and_filter(true);

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
mod tests;
