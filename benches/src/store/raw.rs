//! What the machine does without a store: synced writes into a file that was written before,
//! copies in memory, and RocksDB with nothing around it.

use std::{
    fs::{self, File},
    hint::black_box,
    io::{self, Write as _},
    os::unix::fs::FileExt,
    path::Path,
    time::Duration,
};

use rocksdb::{DB, Options, WriteBatch, WriteOptions};

use crate::figure::per_second;
use crate::{
    clock::{now_nanos, since},
    histogram::Histogram,
    load::Result,
};

const FILE_BYTES: u64 = 512 << 20;
const CHUNK_BYTES: usize = 1 << 20;
/// A synced write begins and ends at one of these, as a disk has it.
const SECTOR_BYTES: u64 = 4096;
const NEW_STEP_BYTES: usize = 2 << 20;
const NEW_STEPS: usize = 128;
const COPY_BYTES: usize = 64 << 20;

/// A queue's block of entries as the index packs it.
const VALUE_BYTES: usize = 400;
pub(super) const ENTRIES_PER_VALUE: u64 = 128;
const VALUES_PER_BATCH: u64 = 1000;

/// Written full and synced once, then written again and again.
pub(super) struct Recycled {
    file: File,
    bytes: Vec<u8>,
}

/// Bytes per second into a file that is made anew, synced in steps: what a log that gets no
/// segment back has to do once more for each byte.
pub(super) fn new_file(path: &Path) -> Result<f64> {
    let bytes = vec![0; NEW_STEP_BYTES];
    let start = now_nanos();
    let mut file = File::create(path)?;
    for _ in 0..NEW_STEPS {
        file.write_all(&bytes)?;
        file.sync_data()?;
    }
    let took = since(start, now_nanos());
    drop(file);
    fs::remove_file(path)?;
    Ok(per_second((NEW_STEP_BYTES * NEW_STEPS) as u64, took))
}

/// Synced writes one after another.
pub(super) struct Synced {
    pub(super) write_bytes: u64,
    pub(super) bytes_per_second: f64,
    pub(super) latency: Histogram,
}

impl Recycled {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let mut file = File::create(path)?;
        let mut bytes = vec![0; CHUNK_BYTES * 16];
        fastrand::fill(&mut bytes);
        for _ in 0..FILE_BYTES / bytes.len() as u64 {
            file.write_all(&bytes)?;
        }
        file.sync_all()?;
        Ok(Self { file, bytes })
    }

    /// Writes of `write_bytes`, rounded up to sectors, each synced before the next. The rate is that
    /// of the best quarter of the time: others share the disk, and a limit is what it can do.
    pub(super) fn measure(&self, write_bytes: u64, duration: Duration) -> Result<Synced> {
        let sectors = write_bytes.div_ceil(SECTOR_BYTES).max(1);
        let write_bytes = (sectors * SECTOR_BYTES).min(self.bytes.len() as u64);
        let bytes = self.bytes.get(..usize::try_from(write_bytes)?).unwrap_or_default();
        let mut offset = 0;
        let mut latency = Histogram::default();
        let mut bytes_per_second = 0.0_f64;
        for _ in 0..4 {
            let mut written = 0;
            let start = now_nanos();
            let mut now = start;
            while since(start, now) < duration / 4 {
                if offset + write_bytes > FILE_BYTES {
                    offset = 0;
                }
                self.file.write_all_at(bytes, offset)?;
                self.file.sync_data()?;
                offset += write_bytes;
                written += write_bytes;
                let end = now_nanos();
                latency.record(end - now);
                now = end;
            }
            bytes_per_second = bytes_per_second.max(per_second(written, since(start, now)));
        }
        Ok(Synced { write_bytes, bytes_per_second, latency })
    }
}

/// Bytes per second copied between places too large for the caches.
pub(super) fn memcpy() -> f64 {
    let from = vec![7_u8; COPY_BYTES];
    let mut to = vec![0_u8; COPY_BYTES];
    let rounds = 16;
    let start = now_nanos();
    for _ in 0..rounds {
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
    }
    per_second((COPY_BYTES * rounds) as u64, since(start, now_nanos()))
}

/// Packed blocks per second into RocksDB without its write-ahead log: `values` of them, each of
/// another queue out of a thousand, until they are flushed.
pub(super) fn rocksdb(dir: &Path, values: u64) -> Result<f64> {
    let mut options = Options::default();
    options.create_if_missing(true);
    let db = DB::open(&options, dir)?;
    let mut write = WriteOptions::default();
    write.disable_wal(true);
    let mut value = [0; VALUE_BYTES];
    let start = now_nanos();
    for first in (0..values).step_by(usize::try_from(VALUES_PER_BATCH)?) {
        let mut batch = WriteBatch::default();
        for number in first..first + VALUES_PER_BATCH {
            let mut key = [0; 16];
            let (queue, block) = key.split_at_mut(8);
            queue.copy_from_slice(&(number % 1000).to_be_bytes());
            block.copy_from_slice(&(number / 1000).to_be_bytes());
            fastrand::fill(value.split_at_mut(VALUE_BYTES / 2).0);
            batch.put(key, value);
        }
        db.write_opt(batch, &write)?;
    }
    db.flush()?;
    let took = since(start, now_nanos());
    drop(db);
    fs::remove_dir_all(dir)?;
    Ok(per_second(values, took))
}
