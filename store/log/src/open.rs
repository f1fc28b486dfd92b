//! Opening a log: replays what is on disk, decides between a torn tail and corruption, and hands
//! out the three ends.
//!
//! The scan goes forward from where the caller asks. At the first place where nothing verifies,
//! the hole, everything behind it is searched for BATCH frames. If one says that the log was synced
//! beyond the hole, or the caller knows so, bytes that were promised to be kept are gone: that is
//! an error, and nothing is changed. Otherwise the hole is where the last writes before a crash
//! did not arrive: what lies behind it was never promised to anybody, and is zeroed, so that it
//! cannot be read as frames once the log has grown up to it again. Zeroed is no more than what was
//! written since the file has its name: what an earlier use of the file left behind never
//! verifies (see `segment.rs`), so it stays, and is no torn tail.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use mainstem_schemas::Position;

use crate::{
    disk::{Disk, DiskFile, RealDisk, read_upto_at, write_all_at},
    error::{Damage, LogError},
    frame::{Frame, KINDS_MAX},
    plan::Planner,
    read::Reader,
    scan::{Remains, Scan, Stop},
    segment::{Geometry, LogConfig, SEGMENT_HEADER_BYTES, TAIL_BYTES},
    source::{Source, UNREADY_NAME},
    write::Writer,
};

/// Bytes zeroed or written again at once.
const CHUNK_BYTES: u64 = 1 << 20;

/// The log of one directory.
pub struct Log;

/// The three ends of an open log, and what was found on the way.
pub type Opened = (Planner, Writer, Reader, Recovery);

/// What opening found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Where the log begins: what lies before was trimmed.
    pub first: Position,
    /// Where it ends. All before is synced.
    pub end: Position,
    /// Frames that were replayed.
    pub frames: u64,
    /// The torn tail, if there was one.
    pub cut: Option<Cut>,
}

/// A torn tail that was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    pub path: PathBuf,
    pub offset: u64,
    /// From there to the end of the last frame of which anything can be told.
    pub bytes: u64,
}

impl Log {
    /// Opens the log in `dir`, which is made if it is missing. Replays every frame from `scan_from`
    /// on (position 0: from the first) through `on_frame`, in order; a body shares the memory
    /// of its neighbours, so copy what is kept for long. `scan_from` is the position of a frame or
    /// an end; `known_durable` is an end known to have been synced, position 0 if none is. Errors:
    /// what was synced up to there, or up to what the log itself knows, is not there any more.
    pub fn open(
        dir: &Path,
        config: LogConfig,
        scan_from: Position,
        known_durable: Position,
        on_frame: &mut dyn FnMut(Position, Frame),
    ) -> Result<Opened, LogError> {
        let disk = RealDisk::open(dir)
            .map_err(|error| LogError::io("make the directory", dir.to_owned(), 0, error))?;
        Self::open_on(Arc::new(disk), config, scan_from, known_durable, on_frame)
    }

    /// The same on any disk.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        config: LogConfig,
        scan_from: Position,
        known_durable: Position,
        on_frame: &mut dyn FnMut(Position, Frame),
    ) -> Result<Opened, LogError> {
        let geometry = Geometry::new(&config)?;
        let numbers = list(&*disk, geometry)?;
        let known_durable = known_durable.max(scan_from);
        let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else {
            return create(disk, &config, geometry, known_durable);
        };
        let first_position = geometry.first(*first);
        let directory = Directory { disk, geometry, numbers: &numbers, last: *last };
        let salt = directory.salt(directory.start(scan_from).0)?;
        let mut frames = 0;
        let replayed = directory.replay(salt, scan_from, &mut |position, frame| {
            frames += 1;
            on_frame(position, frame);
        })?;
        let torn = directory.judge(salt, &replayed, known_durable)?;
        let last = directory.repair(&replayed, &torn)?;

        let end = Position(replayed.hole);
        let number = geometry.number(replayed.hole);
        let cut = (!torn.is_empty()).then(|| Cut {
            path: geometry.path(&*directory.disk, number),
            offset: geometry.offset(end.0),
            bytes: torn.iter().map(|torn| torn.end - torn.from).sum(),
        });
        let disk = directory.disk;
        let source = Source::new(Arc::clone(&disk), geometry, salt, last + 1 - *first);
        let reader = Reader::new(&source, first_position, end.0);
        let (file, filled, next) = if number > last {
            let (file, filled) = source.make_quickly(number)?;
            (file, filled, None)
        } else {
            let file = open(&*disk, geometry, number)?;
            let filled = len(&*disk, geometry, number, &*file)?;
            let next = (last > number).then(|| open(&*disk, geometry, number + 1)).transpose()?;
            (file, filled, next)
        };
        let writer = Writer::new(source, reader.clone(), end, file, filled, next);
        let recovery = Recovery { first: Position(first_position), end, frames, cut };
        Ok((Planner::new(&config, geometry, salt, end), writer, reader, recovery))
    }
}

/// The numbers of all segments, in order. Removes what a crash left unready.
fn list(disk: &dyn Disk, geometry: Geometry) -> Result<Vec<u64>, LogError> {
    let failed = |action| move |error| LogError::io(action, disk.path(""), 0, error);
    let mut numbers = Vec::new();
    for name in disk.names().map_err(failed("list"))? {
        if name == UNREADY_NAME {
            disk.remove(&name).map_err(failed("remove an unready segment of"))?;
        } else if let Some(number) = geometry.parse_name(disk, &name)? {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The first start of a log.
fn create(
    disk: Arc<dyn Disk>,
    config: &LogConfig,
    geometry: Geometry,
    known_durable: Position,
) -> Result<Opened, LogError> {
    if known_durable.0 > 0 {
        return Err(geometry.corrupt(&*disk, known_durable, Damage::Missing));
    }
    let salt = disk.nonce();
    let source = Source::new(disk, geometry, salt, 0);
    let (file, filled) = source.make_quickly(0)?;
    let end = Position(geometry.first(0));
    let reader = Reader::new(&source, end.0, end.0);
    let writer = Writer::new(source, reader.clone(), end, file, filled, None);
    let recovery = Recovery { first: end, end, frames: 0, cut: None };
    Ok((Planner::new(config, geometry, salt, end), writer, reader, recovery))
}

/// A directory with segments in it.
struct Directory<'a> {
    disk: Arc<dyn Disk>,
    geometry: Geometry,
    numbers: &'a [u64],
    last: u64,
}

/// How far replaying came.
struct Replayed {
    /// Where nothing verifies.
    hole: u64,
    /// What the replayed frames, or the caller by starting there, say was synced.
    synced: u64,
}

/// What there is in one segment of a torn tail: from one offset to another.
struct Torn {
    number: u64,
    from: u64,
    end: u64,
}

impl Directory<'_> {
    /// The segment and the offset in it where a scan begins.
    fn start(&self, scan_from: Position) -> (u64, u64) {
        let first = self.numbers.first().copied().unwrap_or_default();
        let from = scan_from.0.max(self.geometry.first(first));
        let number = self.geometry.number(from);
        // An end may lie at the very end of a segment, whose successor may not be there yet.
        if number == self.last + 1 && self.geometry.offset(from) == 0 {
            return (self.last, self.geometry.segment_bytes);
        }
        (number, self.geometry.offset(from).max(SEGMENT_HEADER_BYTES as u64))
    }

    /// Replays from `scan_from` to the first hole.
    fn replay(
        &self,
        salt: u64,
        scan_from: Position,
        on_frame: &mut dyn FnMut(Position, Frame),
    ) -> Result<Replayed, LogError> {
        let (mut number, mut offset) = self.start(scan_from);
        let mut synced = self.geometry.base(number) + offset;
        loop {
            if number > self.last {
                return Ok(Replayed { hole: self.geometry.first(number), synced });
            }
            self.check_salt(number, salt)?;
            let mut read = self.source(number)?;
            let mut scan = Scan::new(self.geometry, salt, number, &mut read);
            let stop = scan.replay(offset, &mut |position, frame| {
                if let Some(known) = frame.synced() {
                    synced = synced.max(known.0);
                } else if frame.kind < KINDS_MAX {
                    on_frame(position, frame);
                }
            })?;
            match stop {
                Stop::Hole(hole) => return Ok(Replayed { hole, synced }),
                Stop::End => number += 1,
            }
            offset = SEGMENT_HEADER_BYTES as u64;
        }
    }

    /// Tells a torn tail from corruption, and says what there is of it. Changes nothing.
    fn judge(
        &self,
        salt: u64,
        replayed: &Replayed,
        known_durable: Position,
    ) -> Result<Vec<Torn>, LogError> {
        let hole = replayed.hole;
        let corrupt = |durable| {
            Err(self.geometry.corrupt(&*self.disk, Position(hole), Damage::Middle { durable }))
        };
        let durable = known_durable.max(Position(replayed.synced));
        if durable.0 > hole {
            return corrupt(durable);
        }
        let mut torn = Vec::new();
        for number in self.geometry.number(hole)..=self.last {
            self.check_salt(number, salt)?;
            let from = hole.max(self.geometry.first(number)) - self.geometry.base(number);
            let remains = self.search(salt, number, from, hole)?;
            if let Some(durable) = remains.durable {
                return corrupt(durable);
            }
            torn.extend(remains.end.map(|end| Torn { number, from, end }));
        }
        Ok(torn)
    }

    fn search(&self, salt: u64, number: u64, from: u64, hole: u64) -> Result<Remains, LogError> {
        let mut read = self.source(number)?;
        Scan::new(self.geometry, salt, number, &mut read).search(from, hole)
    }

    /// Makes the directory hold the replayed frames and nothing else, and syncs it. Returns the
    /// last segment that is left.
    fn repair(&self, replayed: &Replayed, torn: &[Torn]) -> Result<u64, LogError> {
        let end = self.geometry.number(replayed.hole);
        let is_torn = |number| torn.iter().find(|torn| torn.number == number);
        // From the back, so that a crash leaves no gaps. A prepared segment that was never
        // written to may stay.
        self.disk.sync_names().map_err(|error| {
            // What was trimmed by an earlier run must not come back behind this one's back.
            LogError::io("sync the directory", self.disk.path(""), 0, error)
        })?;
        let spare = if is_torn(end + 1).is_some() { end } else { end + 1 };
        for number in (spare + 1..=self.last).rev() {
            let path = || self.geometry.path(&*self.disk, number);
            self.disk
                .remove(&self.geometry.name(number))
                .and_then(|()| self.disk.sync_names())
                .map_err(|error| LogError::io("remove", path(), 0, error))?;
        }
        for number in self.geometry.number(replayed.synced)..=end.min(self.last) {
            self.settle(number, replayed, is_torn(number))?;
        }
        Ok(self.last.min(spare))
    }

    /// Writes the unsynced part of a segment again, zeroes what is torn behind the hole, and syncs.
    ///
    /// Again, because a process that ended over a failed sync may have left pages that the
    /// operating system shows to readers, and believes to be on disk, although they are not.
    fn settle(
        &self,
        number: u64,
        replayed: &Replayed,
        torn: Option<&Torn>,
    ) -> Result<(), LogError> {
        let base = self.geometry.base(number);
        let file = open(&*self.disk, self.geometry, number)?;
        let failed = |action, offset| {
            let path = self.geometry.path(&*self.disk, number);
            move |error| LogError::io(action, path, offset, error)
        };
        let file_bytes = len(&*self.disk, self.geometry, number, &*file)?;
        let hole = replayed.hole.saturating_sub(base).min(file_bytes);
        let tail = torn.map_or(0, |torn| torn.end).max(hole + TAIL_BYTES as u64);
        let upto = tail.min(file_bytes);
        let mut offset = replayed.synced.saturating_sub(base).min(hole);
        while offset < upto {
            let end = if offset < hole { hole } else { upto };
            let size = usize::try_from(CHUNK_BYTES.min(end - offset)).unwrap_or_default();
            let bytes = if offset < hole {
                read_upto_at(&*file, size, offset).map_err(failed("read", offset))?
            } else {
                vec![0; size]
            };
            if bytes.is_empty() {
                break;
            }
            write_all_at(&*file, &bytes, offset).map_err(failed("write", offset))?;
            offset += bytes.len() as u64;
        }
        file.sync().map_err(failed("sync", 0))
    }

    /// The salt in a segment's header.
    fn salt(&self, number: u64) -> Result<u64, LogError> {
        let header = self.source(number)?(0, SEGMENT_HEADER_BYTES)?;
        self.geometry.decode_header(&*self.disk, number, &header)
    }

    fn check_salt(&self, number: u64, salt: u64) -> Result<(), LogError> {
        if self.salt(number)? == salt {
            return Ok(());
        }
        let base = Position(self.geometry.base(number));
        Err(self.geometry.corrupt(&*self.disk, base, Damage::Foreign))
    }

    fn source(
        &self,
        number: u64,
    ) -> Result<impl FnMut(u64, usize) -> Result<Bytes, LogError> + use<>, LogError> {
        if self.numbers.binary_search(&number).is_err() {
            let base = Position(self.geometry.base(number));
            return Err(self.geometry.corrupt(&*self.disk, base, Damage::Missing));
        }
        let file = open(&*self.disk, self.geometry, number)?;
        let path = self.geometry.path(&*self.disk, number);
        Ok(move |offset, size| {
            let bytes = read_upto_at(&*file, size, offset)
                .map_err(|error| LogError::io("read", path.clone(), offset, error))?;
            Ok(Bytes::from(bytes))
        })
    }
}

fn open(disk: &dyn Disk, geometry: Geometry, number: u64) -> Result<Arc<dyn DiskFile>, LogError> {
    disk.open(&geometry.name(number))
        .map_err(|error| LogError::io("open", geometry.path(disk, number), 0, error))
}

/// The file's size, which is that of a segment or, if a crash interrupted filling it, less.
fn len(
    disk: &dyn Disk,
    geometry: Geometry,
    number: u64,
    file: &dyn DiskFile,
) -> Result<u64, LogError> {
    let path = || geometry.path(disk, number);
    let found = file.size().map_err(|error| LogError::io("measure", path(), 0, error))?;
    if found > geometry.segment_bytes {
        let configured = geometry.segment_bytes;
        return Err(LogError::SegmentBytes { path: path(), found, configured });
    }
    Ok(found)
}
