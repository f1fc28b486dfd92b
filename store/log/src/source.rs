//! The source of segments: makes their files, of zeros or of trimmed ones, and deletes them.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::BytesMut;

use crate::{
    disk::{Disk, DiskFile, write_all_at},
    error::LogError,
    segment::Geometry,
};

/// The name of a segment that is not ready.
pub(crate) const UNREADY_NAME: &str = "next.tmp";

/// Zeros synced at once: small, so that the writer's own syncs do not wait long behind it.
const STEP_BYTES: u64 = 2 << 20;

/// What writes past the operating system's cache are made of.
pub(crate) const BLOCK_BYTES: usize = 4096;

/// Aligned to a block.
#[repr(align(4096))]
struct Zeros([u8; 1 << 20]);

static ZEROS: Zeros = Zeros([0; 1 << 20]);

/// A segment that has its full size and its name.
pub(crate) type Ready = Arc<dyn DiskFile>;

/// Makes the segments of one log.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) geometry: Geometry,
    pub(crate) salt: u64,
    /// Segment files there are, unready ones too.
    pub(crate) files: Arc<AtomicU64>,
}

impl Source {
    pub(crate) fn new(disk: Arc<dyn Disk>, geometry: Geometry, salt: u64, files: u64) -> Self {
        Self { disk, geometry, salt, files: Arc::new(AtomicU64::new(files)) }
    }

    pub(crate) fn path(&self, number: u64) -> PathBuf {
        self.geometry.path(&*self.disk, number)
    }

    /// Makes a segment of which the first bytes are zeroed, enough to begin with.
    pub(crate) fn make_quickly(&self, number: u64) -> Result<(Ready, u64), LogError> {
        let filled = STEP_BYTES.min(self.geometry.segment_bytes);
        let file = self.make_upto(number, filled, &mut |_| true)?;
        let stopped = || io::Error::other("stopped");
        let file = file.ok_or_else(|| LogError::io("prepare", self.path(number), 0, stopped()))?;
        Ok((file, filled))
    }

    /// A segment full of zeros; `None` when `step`, told how far it got, said to give up.
    pub(crate) fn make(
        &self,
        number: u64,
        step: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<Ready>, LogError> {
        self.make_upto(number, self.geometry.segment_bytes, step)
    }

    /// Makes segment `number` of the file of segment `from`, the log's first, which nobody needs.
    /// `None` when that was not possible; then the file is gone, and so is `from` in every case.
    ///
    /// It loses its name before its header, so that whatever a crash interrupts, every file that
    /// has a segment's name is that segment.
    pub(crate) fn recycle(&self, from: u64, number: u64) -> Result<Option<Ready>, LogError> {
        let error = |action| {
            let path = self.path(from);
            move |error| LogError::io(action, path, 0, error)
        };
        let name = self.geometry.name(from);
        let file = self.disk.open(&name).map_err(error("open"))?;
        let is_whole = file.size().map_err(error("measure"))? == self.geometry.segment_bytes;
        match self.disk.rename(&name, UNREADY_NAME) {
            Ok(()) if is_whole => {}
            Ok(()) => {
                self.discard();
                return Ok(None);
            }
            Err(full) if LogError::is_full(&full) => return self.remove(from).map(|()| None),
            Err(other) => return Err(error("rename")(other)),
        }
        self.disk.sync_names().map_err(error("sync the directory of"))?;
        match self.rewrite(&*file, number) {
            Ok(()) => Ok(Some(file)),
            Err(error) if error.is_disk_full() => {
                self.discard();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the unready file, full of whatever, the empty segment `number`.
    fn rewrite(&self, file: &dyn DiskFile, number: u64) -> Result<(), LogError> {
        let error = |action| {
            let path = self.path(number);
            move |error| LogError::prepare(action, path, 0, error)
        };
        let start = self.geometry.encode_header(number, self.salt);
        write_all_at(file, &start, 0).map_err(error("write"))?;
        file.sync().map_err(error("sync"))?;
        self.name(number)
    }

    /// Deletes a segment.
    pub(crate) fn remove(&self, number: u64) -> Result<(), LogError> {
        let error = |action| {
            let path = self.path(number);
            move |error| LogError::io(action, path, 0, error)
        };
        // Synced one by one, so that a crash leaves a log without gaps.
        self.disk.remove(&self.geometry.name(number)).map_err(error("remove"))?;
        self.files.fetch_sub(1, Ordering::Relaxed);
        self.disk.sync_names().map_err(error("sync the directory of"))
    }

    /// Fills the rest of a segment that is in use with zeros.
    pub(crate) fn fill(
        &self,
        number: u64,
        from: u64,
        step: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(), LogError> {
        // A handle of its own: a failed sync is reported once per handle, and this one must not
        // take the report away from the writer.
        let name = self.geometry.name(number);
        let upto = self.geometry.segment_bytes;
        self.fill_upto(&name, number, (from, upto), step).map(drop)
    }

    /// A segment zeroed up to `upto`, under its name; `None` when `step` said to give up.
    fn make_upto(
        &self,
        number: u64,
        upto: u64,
        step: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<Ready>, LogError> {
        let error = |action| {
            let path = self.path(number);
            move |error| LogError::prepare(action, path, 0, error)
        };
        let file = self.disk.create(UNREADY_NAME).map_err(error("create"))?;
        self.files.fetch_add(1, Ordering::Relaxed);
        let mut start = BytesMut::from(&*self.geometry.encode_header(number, self.salt));
        start.resize(start.len().next_multiple_of(BLOCK_BYTES), 0);
        let from = start.len() as u64;
        let filled = write_all_at(&*file, &start, 0)
            .map_err(error("write"))
            .and_then(|()| file.sync().map_err(error("sync")))
            .and_then(|()| self.fill_upto(UNREADY_NAME, number, (from, upto), step));
        let named = filled.and_then(|filled| match filled {
            true => self.name(number).map(|()| Some(file)),
            false => Ok(None),
        });
        if !matches!(named, Ok(Some(_))) {
            self.discard();
        }
        named
    }

    /// Gives back the space of the unready file, as far as possible; the next start would, too.
    fn discard(&self) {
        if self.disk.remove(UNREADY_NAME).is_ok() {
            self.files.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Gives the unready segment its name.
    fn name(&self, number: u64) -> Result<(), LogError> {
        let error = |action| {
            let path = self.path(number);
            move |error| LogError::prepare(action, path, 0, error)
        };
        self.disk.rename(UNREADY_NAME, &self.geometry.name(number)).map_err(error("rename"))?;
        self.disk.sync_names().map_err(error("sync the directory of"))
    }

    /// Zeroes and syncs in steps; `false` when `step`, told how far it got, said to give up.
    fn fill_upto(
        &self,
        name: &str,
        number: u64,
        (from, upto): (u64, u64),
        step: &mut dyn FnMut(u64) -> bool,
    ) -> Result<bool, LogError> {
        let error = |action, at| {
            let path = self.path(number);
            move |error| LogError::prepare(action, path, at, error)
        };
        // A block that the writer has a part of is not written past the cache.
        let is_aligned = from.is_multiple_of(BLOCK_BYTES as u64);
        let opened = if is_aligned { self.disk.open_to_fill(name) } else { self.disk.open(name) };
        let mut file = opened.map_err(error("open", 0))?;
        let mut at = from;
        while at < upto {
            let end = upto.min(at + STEP_BYTES);
            while at < end {
                let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(ZEROS.0.len());
                let zeros = ZEROS.0.get(..len).unwrap_or_default();
                match write_all_at(&*file, zeros, at) {
                    // A file system that wants larger blocks, or none of this; or the rest of what it
                    // wrote only a part of.
                    Err(refused)
                        if matches!(
                            refused.kind(),
                            io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
                        ) =>
                    {
                        file = self.disk.open(name).map_err(error("open", 0))?;
                        write_all_at(&*file, zeros, at)
                    }
                    written => written,
                }
                .map_err(error("write", at))?;
                at += len as u64;
            }
            file.sync().map_err(error("sync", at))?;
            if !step(at) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
