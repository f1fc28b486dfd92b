//! The writer: puts planned batches on the disk, syncs them, and trims what nobody needs.

use std::sync::Arc;

use mainstem_schemas::Position;

use crate::{
    disk::{Disk, DiskFile, write_all_at},
    error::LogError,
    plan::{Batch, Chunk, Planner},
    prepare::{Preparer, Source},
    read::Reader,
    segment::Geometry,
};

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
    /// Segments written to since the last sync.
    unsynced: Vec<(u64, Arc<dyn DiskFile>)>,
    poison: Option<LogError>,
}

/// Whether the segment after the one in use is there.
#[derive(Clone, Debug)]
pub enum Spare {
    Ready,
    Preparing,
    /// It cannot be made for lack of space: the log holds what is left of the segment in use.
    DiskFull(LogError),
}

impl Writer {
    pub(crate) fn new(
        source: Source,
        reader: Reader,
        number: u64,
        file: Arc<dyn DiskFile>,
        filled: u64,
        next: Option<Arc<dyn DiskFile>>,
    ) -> Self {
        Self {
            geometry: source.geometry,
            disk: Arc::clone(&source.disk),
            reader,
            preparer: Preparer::new(source, number, filled, next),
            number,
            file,
            unsynced: Vec::new(),
            poison: None,
        }
    }

    /// Hands a batch to the operating system. [`LogError::DiskFull`] is the one error after which
    /// the same batch may be written again.
    pub fn write(&mut self, batch: &Batch) -> Result<(), LogError> {
        self.check()?;
        for chunk in batch.chunks() {
            self.write_chunk(chunk).map_err(|error| self.poisoned(error))?;
        }
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

    /// Deletes the segments that hold nothing at or behind `below`, and says where the log begins
    /// now.
    pub fn trim(&mut self, below: Position) -> Result<Position, LogError> {
        self.check()?;
        let keep = self.geometry.number(below.0).min(self.number);
        let first = self.geometry.number(self.reader.first().0);
        for number in first..keep {
            self.reader.forget(self.geometry.first(number + 1));
            // One by one and from the front, so that a crash leaves a log without gaps.
            let path = || self.geometry.path(&*self.disk, number);
            self.disk
                .remove(&self.geometry.name(number))
                .map_err(|error| LogError::io("remove", path(), 0, error))
                .and_then(|()| {
                    let sync = "sync the directory of";
                    self.disk.sync_names().map_err(|error| LogError::io(sync, path(), 0, error))
                })
                .map_err(|error| self.poisoned(error))?;
        }
        self.preparer.retry(self.number);
        Ok(self.reader.first())
    }

    /// Whether the next segment is there. Ask it regularly: at [`Spare::DiskFull`] publishing
    /// must stop while there is room for settlements, and asking tries again to find space.
    pub fn spare(&mut self) -> Result<Spare, LogError> {
        self.check()?;
        match self.preparer.is_next_ready() {
            Ok(true) => Ok(Spare::Ready),
            Ok(false) => Ok(Spare::Preparing),
            Err(error) if error.is_disk_full() => {
                self.preparer.retry(self.number);
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

    fn write_chunk(&mut self, chunk: &Chunk) -> Result<(), LogError> {
        let number = self.geometry.number(chunk.base.0);
        let offset = self.geometry.offset(chunk.base.0);
        while self.number < number {
            self.file = self.preparer.take_next(self.number)?;
            self.number += 1;
        }
        let path = || self.geometry.path(&*self.disk, number);
        if self.number == number {
            self.preparer.wait_filled(number, offset + chunk.bytes.len() as u64)?;
        }
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
