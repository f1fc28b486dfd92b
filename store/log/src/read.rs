//! The reader: single frames by position, from any thread.

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
    frame::{FRAME_HEADER_BYTES, Frame, Header},
    segment::Geometry,
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
    /// Open segments by number, the one used last at the back. A std mutex: it is held to find
    /// a file or to put one in, never while reading.
    files: Mutex<VecDeque<(u64, Arc<dyn DiskFile>)>>,
}

impl Reader {
    pub(crate) fn new(disk: Arc<dyn Disk>, geometry: Geometry, salt: u64, first: u64) -> Self {
        let first = AtomicU64::new(first);
        let files = Mutex::default();
        Self { shared: Arc::new(Shared { disk, geometry, salt, first, files }) }
    }

    /// Reads the frame at `position`. With its [`Frame::size`] as `size_hint` that is one read of
    /// the file; any other hint works too. Errors: a position at which no frame was written, or
    /// whose bytes are damaged, is [`LogError::Corrupt`].
    pub fn read(&self, position: Position, size_hint: usize) -> Result<Frame, LogError> {
        let shared = &*self.shared;
        let number = shared.geometry.number(position.0);
        let offset = shared.geometry.offset(position.0);
        let room = usize::try_from(shared.geometry.segment_bytes - offset).unwrap_or(usize::MAX);
        let damaged = || shared.geometry.corrupt(&*shared.disk, position, Damage::Frame);
        let file = self.file(number, position)?;
        let read = |len: usize, offset: u64| {
            read_upto_at(&*file, len, offset).map_err(|error| {
                let path = shared.geometry.path(&*shared.disk, number);
                LogError::io("read", path, offset, error)
            })
        };
        let mut bytes = read(size_hint.max(FRAME_HEADER_BYTES).min(room), offset)?;
        let header = Header::peek(&bytes).ok_or_else(damaged)?;
        if header.size() > room {
            return Err(damaged());
        }
        if let Some(missing) = header.size().checked_sub(bytes.len()).filter(|len| *len > 0) {
            bytes.extend(read(missing, offset + bytes.len() as u64)?);
        }
        bytes.truncate(header.size());
        header.verify(&Bytes::from(bytes), shared.salt, position.0).ok_or_else(damaged)
    }

    /// Where the log begins: what lies before was trimmed.
    #[must_use]
    pub fn first(&self) -> Position {
        Position(self.shared.first.load(Ordering::Acquire))
    }

    /// Lets go of everything before `first`, which is to be deleted.
    pub(crate) fn forget(&self, first: u64) {
        self.shared.first.store(first, Ordering::Release);
        let keep = self.shared.geometry.number(first);
        let mut files = self.shared.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|(number, _)| *number >= keep);
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
