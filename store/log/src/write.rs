//! The writer: puts planned batches on the disk, syncs them, and trims what nobody needs.

use std::sync::Arc;

use mainstem_schemas::Position;

use crate::{
    disk::{Disk, DiskFile, write_all_at},
    error::LogError,
    plan::{Batch, Chunk, Planner},
    prepare::Preparer,
    read::Reader,
    segment::Geometry,
    source::{Ready, Source},
};

/// Eighths of a segment that are filled before the next one is made of zeros: a trim until then
/// gives its file instead.
const ZEROED_AFTER: u64 = 3;
/// Eighths of a segment that are filled before it must be known whether there will be a next one.
/// What is left then has room for what is on its way, and for the settlements that give space back.
const KNOWN_AFTER: u64 = 5;

/// The one who writes. After a failed write or sync every later call fails with that first error:
/// what the operating system dropped once it may claim to have synced later.
pub struct Writer {
    geometry: Geometry,
    disk: Arc<dyn Disk>,
    reader: Reader,
    preparer: Preparer,
    /// The segment that is written to.
    number: u64,
    file: Arc<dyn DiskFile>,
    /// The segment after it was asked for.
    is_next_wanted: bool,
    /// Segments written to since the last sync.
    unsynced: Vec<(u64, Arc<dyn DiskFile>)>,
    poison: Option<LogError>,
}

/// Whether the segment after the one in use is there.
#[derive(Clone, Debug)]
pub enum Spare {
    Ready,
    /// Not yet: it is being prepared, or there is time to wait for a trim to give one.
    Preparing,
    /// It cannot be made for lack of space: the log holds what is left of the segment in use.
    DiskFull(LogError),
}

impl Writer {
    pub(crate) fn new(
        source: Source,
        reader: Reader,
        Position(end): Position,
        file: Ready,
        filled: u64,
        next: Option<Ready>,
    ) -> Self {
        let geometry = source.geometry;
        let first = geometry.number(reader.first().0);
        let number = geometry.number(end);
        let mut writer = Self {
            geometry,
            disk: Arc::clone(&source.disk),
            reader,
            preparer: Preparer::new(source, first, number, filled, next),
            number,
            file,
            is_next_wanted: false,
            unsynced: Vec::new(),
            poison: None,
        };
        writer.want_next(geometry.offset(end));
        writer
    }

    /// Hands a batch to the operating system. [`LogError::DiskFull`] is the one error after which
    /// the same batch may be written again.
    pub fn write(&mut self, batch: &Batch) -> Result<(), LogError> {
        self.check()?;
        for chunk in batch.chunks() {
            self.write_chunk(chunk, batch.end()).map_err(|error| self.poisoned(error))?;
        }
        self.reader.wrote(batch.end());
        Ok(())
    }

    /// Makes all that was written outlive a crash.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.check()?;
        for (number, file) in std::mem::take(&mut self.unsynced) {
            if let Err(error) = file.sync() {
                let path = self.geometry.path(&*self.disk, number);
                return Err(self.poisoned(LogError::io("sync", path, 0, error)));
            }
        }
        Ok(())
    }

    /// Gives up the segments that hold nothing at or behind `below`, and says where the log begins
    /// now. Their files are renamed or deleted beside the caller's work, from the front: after a
    /// crash the log may begin earlier than it was said to. What is trimmed needs no sync any more.
    pub fn trim(&mut self, below: Position) -> Result<Position, LogError> {
        self.check()?;
        let keep = self.geometry.number(below.0).min(self.number);
        if keep > self.geometry.number(self.reader.first().0) {
            self.unsynced.retain(|(number, _)| *number >= keep);
            // Before a file is used again: a reader that meets other bytes in it must find out why.
            self.reader.forget(self.geometry.first(keep));
            self.preparer.trim(keep);
        }
        self.preparer.retry();
        self.check()?;
        Ok(self.reader.first())
    }

    /// How many trimmed segments may be kept besides the next one, for a log that turns over faster
    /// than it is trimmed. At first none is.
    pub fn keep_spares(&mut self, max: u64) {
        self.preparer.keep_spares(max);
    }

    /// Segment files there are: full ones, the one in use, the next one, and trimmed ones that
    /// are not cleared away yet.
    #[must_use]
    pub fn files(&self) -> u64 {
        self.reader.files()
    }

    /// Whether the next segment is there. Ask it regularly: at [`Spare::DiskFull`] publishing
    /// must stop while there is room for settlements, and asking tries again to find space.
    pub fn spare(&mut self) -> Result<Spare, LogError> {
        self.check()?;
        match self.preparer.is_next_ready() {
            Ok(true) => Ok(Spare::Ready),
            Ok(false) => Ok(Spare::Preparing),
            Err(error) if error.is_disk_full() => {
                self.preparer.retry();
                Ok(Spare::DiskFull(error))
            }
            Err(error) => Err(self.poisoned(error)),
        }
    }

    /// Writes what `planner` still holds, syncs, and leaves a last word that covers all before
    /// it: a flipped bit anywhere in a closed log is found out at the next start.
    pub fn close(mut self, mut planner: Planner) -> Result<(), LogError> {
        self.write(&planner.finish())?;
        self.sync()?;
        self.write(&planner.seal())?;
        self.sync()
    }

    /// Asks for the next segment once the one in use is filled far enough.
    fn want_next(&mut self, offset: u64) {
        let eighth = self.geometry.segment_bytes / 8;
        if !self.is_next_wanted && offset >= eighth * ZEROED_AFTER {
            self.is_next_wanted = true;
            self.preparer.want_next();
        }
        if self.is_next_wanted && offset >= eighth * KNOWN_AFTER {
            self.preparer.wait_known();
        }
    }

    fn check(&mut self) -> Result<(), LogError> {
        if let Some(error) = &self.poison {
            return Err(error.clone());
        }
        self.preparer.check().map_err(|error| self.poisoned(error))
    }

    /// Remembers an error that makes the log unusable.
    fn poisoned(&mut self, error: LogError) -> LogError {
        if self.poison.is_none() && !error.is_disk_full() {
            self.poison = Some(error.clone());
        }
        error
    }

    /// Writes a chunk of a batch that ends there.
    fn write_chunk(&mut self, chunk: &Chunk, batch_end: Position) -> Result<(), LogError> {
        let number = self.geometry.number(chunk.base.0);
        let offset = self.geometry.offset(chunk.base.0);
        if number < self.geometry.number(self.reader.first().0) {
            // A batch written again, after the disk was full and its first part was trimmed.
            return Ok(());
        }
        while self.number < number {
            self.file = self.preparer.take_next()?;
            self.number += 1;
            self.is_next_wanted = false;
        }
        if self.number == number {
            let end = offset + chunk.bytes.len() as u64;
            self.preparer.wait_filled(end)?;
            // Without the zeros behind the last one.
            let frames_end = batch_end.0.saturating_sub(self.geometry.base(number));
            self.want_next(end.min(frames_end));
        }
        let path = || self.geometry.path(&*self.disk, number);
        let known = self.unsynced.iter().find(|(unsynced, _)| *unsynced == number);
        let file = match known {
            Some((_, file)) => Arc::clone(file),
            None if number == self.number => Arc::clone(&self.file),
            // A batch written again, after the disk was full, goes back to earlier segments.
            None => self
                .disk
                .open(&self.geometry.name(number))
                .map_err(|error| LogError::io("open", path(), 0, error))?,
        };
        if known.is_none() {
            self.unsynced.push((number, Arc::clone(&file)));
        }
        write_all_at(&*file, &chunk.bytes, offset)
            .map_err(|error| LogError::io("write", path(), offset, error))
    }
}
