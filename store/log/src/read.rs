//! The reader: frames by position, one by one or in a row, from any thread.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;

use mainstem_schemas::Position;

use crate::{
    disk::{Disk, DiskFile, read_upto_at},
    error::{Damage, LogError},
    frame::{FRAME_HEADER_BYTES, Frame, Header, KINDS_MAX},
    scan::{Scan, Step},
    segment::Geometry,
    source::Source,
};

/// Segment files kept open for reading.
const READER_FILES_MAX: usize = 64;

/// Reads frames that were written, synced or not. Clones share their open files.
#[derive(Clone)]
pub struct Reader {
    shared: Arc<Shared>,
}

struct Shared {
    disk: Arc<dyn Disk>,
    geometry: Geometry,
    salt: u64,
    /// Where the log begins.
    first: AtomicU64,
    /// Behind the last batch that was written.
    end: AtomicU64,
    /// Segment files there are.
    files_kept: Arc<AtomicU64>,
    /// Open segments by number, the one used last at the back. A std mutex: it is held to find
    /// a file or to put one in, never while reading.
    files: Mutex<VecDeque<(u64, Arc<dyn DiskFile>)>>,
}

impl Reader {
    pub(crate) fn new(source: &Source, first: u64, end: u64) -> Self {
        let shared = Shared {
            disk: Arc::clone(&source.disk),
            geometry: source.geometry,
            salt: source.salt,
            first: AtomicU64::new(first),
            end: AtomicU64::new(end),
            files_kept: Arc::clone(&source.files),
            files: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Reads the frame at `position`. With its [`Frame::size`] as `size_hint` that is one read of
    /// the file; any other hint works too. Errors: a position at which no frame was written, or
    /// whose bytes are damaged, is [`LogError::Corrupt`].
    pub fn read(&self, position: Position, size_hint: usize) -> Result<Frame, LogError> {
        let shared = &*self.shared;
        let number = shared.geometry.number(position.0);
        let offset = shared.geometry.offset(position.0);
        let room = usize::try_from(shared.geometry.segment_bytes - offset).unwrap_or(usize::MAX);
        let damaged = || self.damaged(position);
        let file = self.file(number, position)?;
        let read = |len, offset| self.read_bytes(&*file, number, len, offset);
        let mut bytes = Vec::from(read(size_hint.max(FRAME_HEADER_BYTES).min(room), offset)?);
        let header = Header::peek(&bytes).ok_or_else(damaged)?;
        if header.size() > room {
            return Err(damaged());
        }
        if let Some(missing) = header.size().checked_sub(bytes.len()).filter(|len| *len > 0) {
            bytes.extend_from_slice(&read(missing, offset + bytes.len() as u64)?);
        }
        bytes.truncate(header.size());
        header.verify(&Bytes::from(bytes), 0, shared.salt, position.0).ok_or_else(damaged)
    }

    /// Hands out the frames from `from` to `upto`, the log's own left out, in order and read in
    /// large pieces; a body shares the memory of its neighbours. Both are frames' positions or
    /// ends; `upto` counts as [`Reader::end`] at most. Stops when `on_frame` returns `false`.
    /// Errors: a place where no frame verifies is [`LogError::Corrupt`]; what was trimmed, also
    /// while this goes on, is [`LogError::Trimmed`].
    pub fn scan(
        &self,
        from: Position,
        upto: Position,
        on_frame: &mut dyn FnMut(Position, Frame) -> bool,
    ) -> Result<(), LogError> {
        let geometry = self.shared.geometry;
        let upto = upto.min(self.end()).0;
        let mut number = geometry.number(from.0);
        let mut position = from.0.max(geometry.first(number));
        while position < upto {
            let file = self.file(number, Position(position))?;
            let mut read = |offset, len| self.read_bytes(&*file, number, len, offset);
            let mut scan = Scan::new(geometry, self.shared.salt, number, &mut read);
            loop {
                match scan.step(position - geometry.base(number))? {
                    Step::Hole => return Err(self.damaged(Position(position))),
                    Step::End => break,
                    Step::Frame(frame) => {
                        let next = position + frame.size() as u64;
                        if frame.kind < KINDS_MAX && !on_frame(Position(position), frame) {
                            return Ok(());
                        }
                        position = next;
                    }
                }
                if position >= upto {
                    return Ok(());
                }
            }
            number += 1;
            position = geometry.first(number);
        }
        Ok(())
    }

    /// The number of the segment that a position lies in.
    #[must_use]
    pub fn segment_of(&self, position: Position) -> u64 {
        self.shared.geometry.number(position.0)
    }

    /// Where a segment's first frame is, and where the segment ends, as far as it is written.
    #[must_use]
    pub fn segment_bounds(&self, number: u64) -> (Position, Position) {
        let geometry = self.shared.geometry;
        let first = geometry.first(number);
        let end = geometry.base(number.saturating_add(1)).min(self.end().0).max(first);
        (Position(first), Position(end))
    }

    /// Size of every segment file.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.shared.geometry.segment_bytes
    }

    /// Segment files there are: full ones, the one in use, the next one, and trimmed ones that
    /// are not cleared away yet.
    #[must_use]
    pub fn files(&self) -> u64 {
        self.shared.files_kept.load(Ordering::Relaxed)
    }

    /// Behind the last batch that was written, synced or not.
    #[must_use]
    pub fn end(&self) -> Position {
        Position(self.shared.end.load(Ordering::Acquire))
    }

    /// Where the log begins: what lies before was trimmed.
    #[must_use]
    pub fn first(&self) -> Position {
        Position(self.shared.first.load(Ordering::Acquire))
    }

    /// A whole batch up to `end` was written.
    pub(crate) fn wrote(&self, end: Position) {
        self.shared.end.fetch_max(end.0, Ordering::Release);
    }

    /// Lets go of everything before `first`, whose files are to be deleted or used again.
    pub(crate) fn forget(&self, first: u64) {
        self.shared.first.store(first, Ordering::Release);
        let keep = self.shared.geometry.number(first);
        let mut files = self.shared.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|(number, _)| *number >= keep);
    }

    fn read_bytes(
        &self,
        file: &dyn DiskFile,
        number: u64,
        len: usize,
        offset: u64,
    ) -> Result<Bytes, LogError> {
        read_upto_at(file, len, offset).map(Bytes::from).map_err(|error| {
            let path = self.shared.geometry.path(&*self.shared.disk, number);
            LogError::io("read", path, offset, error)
        })
    }

    /// Why nothing verifies at a place: its file may have been used again meanwhile.
    fn damaged(&self, position: Position) -> LogError {
        let first = self.first();
        if position < first {
            return LogError::Trimmed { position, first };
        }
        self.shared.geometry.corrupt(&*self.shared.disk, position, Damage::Frame)
    }

    fn file(&self, number: u64, position: Position) -> Result<Arc<dyn DiskFile>, LogError> {
        let shared = &*self.shared;
        let lock = || shared.files.lock().unwrap_or_else(PoisonError::into_inner);
        let trimmed = || LogError::Trimmed { position, first: self.first() };
        if position < self.first() {
            return Err(trimmed());
        }
        {
            let mut files = lock();
            if let Some(place) = files.iter().rposition(|(open, _)| *open == number) {
                if place + 1 < files.len()
                    && let Some(used) = files.remove(place)
                {
                    files.push_back(used);
                }
                if let Some((_, file)) = files.back() {
                    return Ok(Arc::clone(file));
                }
            }
        }
        let file = shared.disk.open(&shared.geometry.name(number)).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound && position < self.first() {
                return trimmed();
            }
            LogError::io("open", shared.geometry.path(&*shared.disk, number), 0, error)
        })?;
        let mut files = lock();
        // Checked under the lock, or a file deleted meanwhile would stay open.
        if position >= self.first() && files.iter().all(|(open, _)| *open != number) {
            if files.len() >= READER_FILES_MAX {
                files.pop_front();
            }
            files.push_back((number, Arc::clone(&file)));
        }
        Ok(file)
    }
}
