//! A scan: what the bytes of one segment hold, and what they prove about the rest.

use bytes::Bytes;

use mainstem_schemas::Position;

use crate::{
    error::LogError,
    frame::{FRAME_HEADER_BYTES, Frame, Header, KIND_BATCH, KIND_END, KINDS_MAX, MAGIC},
    segment::{Geometry, LogConfig, SEGMENT_HEADER_BYTES, TAIL_BYTES},
};

/// Bytes read at once, unless one frame needs more.
const CHUNK_BYTES: usize = 1 << 20;

/// What is at one place of a segment.
#[derive(Debug)]
pub(crate) enum Step {
    /// A frame, the caller's or a BATCH frame.
    Frame(Frame),
    /// The log goes on in the next segment.
    End,
    /// Nothing verifies.
    Hole,
}

/// Where replaying a segment stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The log goes on in the next segment.
    End,
    /// Nothing verifies at this position.
    Hole(u64),
}

/// Reads at most so many bytes at this offset of the segment; fewer only at the end of the file.
pub(crate) type ReadAt<'a> = dyn FnMut(u64, usize) -> Result<Bytes, LogError> + 'a;

/// A segment being read from front to back.
pub(crate) struct Scan<'a> {
    geometry: Geometry,
    salt: u64,
    base: u64,
    read: &'a mut ReadAt<'a>,
    window: Bytes,
    window_offset: u64,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(
        geometry: Geometry,
        salt: u64,
        number: u64,
        read: &'a mut ReadAt<'a>,
    ) -> Self {
        let base = geometry.base(number);
        Self { geometry, salt, base, read, window: Bytes::new(), window_offset: 0 }
    }

    /// What is at `offset`.
    pub(crate) fn step(&mut self, offset: u64) -> Result<Step, LogError> {
        if self.room(offset) < FRAME_HEADER_BYTES as u64 {
            return Ok(Step::End);
        }
        Ok(match self.frame(offset)? {
            Some(frame) if frame.kind == KIND_END => Step::End,
            Some(frame) if frame.kind < KINDS_MAX || frame.kind == KIND_BATCH => Step::Frame(frame),
            Some(_) | None => Step::Hole,
        })
    }

    /// Hands every frame from `offset` on to `on_frame`, the log's own BATCH frames included.
    pub(crate) fn replay(
        &mut self,
        mut offset: u64,
        on_frame: &mut dyn FnMut(Position, Frame),
    ) -> Result<Stop, LogError> {
        loop {
            match self.step(offset)? {
                Step::End => return Ok(Stop::End),
                Step::Hole => return Ok(Stop::Hole(self.base + offset)),
                Step::Frame(frame) => {
                    let position = Position(self.base + offset);
                    offset += frame.size() as u64;
                    on_frame(position, frame);
                }
            }
        }
    }

    /// What is left behind a hole at `hole`, looking from `offset` on. Reads the whole rest of the
    /// segment: an earlier use of the file may have left anything there, so no zeros mean the end.
    pub(crate) fn search(&mut self, offset: u64, hole: u64) -> Result<Remains, LogError> {
        let mut remains = Remains { end: self.torn_end(offset)?, durable: None };
        let mut at = offset;
        while let Some((start, frame)) = self.find(at)? {
            at = start + frame.size() as u64;
            remains.end = Some(at);
            remains.durable = frame.synced().filter(|synced| synced.0 > hole);
            if remains.durable.is_some() {
                break;
            }
        }
        Ok(remains)
    }

    /// The first place at or behind `offset` where a frame verifies, an END frame too.
    pub(crate) fn find(&mut self, mut offset: u64) -> Result<Option<(u64, Frame)>, LogError> {
        loop {
            let len = self.view(offset, FRAME_HEADER_BYTES)?.len();
            if len < FRAME_HEADER_BYTES {
                return Ok(None);
            }
            let start = usize::try_from(offset - self.window_offset).unwrap_or(usize::MAX);
            let window = self.window.get(start..).unwrap_or_default();
            let last = window.len() + 1 - FRAME_HEADER_BYTES;
            let candidates = window.get(..last).unwrap_or_default();
            let found = memchr::memchr(MAGIC, candidates);
            offset += found.unwrap_or(last) as u64;
            if found.is_some() {
                if let Some(frame) = self.frame(offset)? {
                    return Ok(Some((offset, frame)));
                }
                offset += 1;
            }
        }
    }

    /// Behind what was being written at `offset`, as far as its first bytes tell; `None` when they
    /// are the zeros behind a whole batch.
    pub(crate) fn torn_end(&mut self, offset: u64) -> Result<Option<u64>, LogError> {
        let bytes = self.view(offset, TAIL_BYTES)?;
        let Some(last) = bytes.iter().rposition(|byte| *byte != 0) else { return Ok(None) };
        let header = Header::peek(bytes)
            .filter(|header| header.belongs(self.salt, self.base + offset))
            .filter(|header| header.size() as u64 <= self.room(offset));
        let len = header.map_or(last + 1, |header| header.size());
        Ok(Some(offset + len as u64))
    }

    /// The frame of any kind that verifies at `offset`.
    fn frame(&mut self, offset: u64) -> Result<Option<Frame>, LogError> {
        let position = self.base + offset;
        let header = Header::peek(self.view(offset, FRAME_HEADER_BYTES)?)
            .filter(|header| header.size() as u64 <= self.room(offset))
            .filter(|header| header.belongs(self.salt, position));
        let Some(header) = header else { return Ok(None) };
        let start = self.fill(offset, header.size())?;
        Ok(header.verify(&self.window, start, self.salt, position))
    }

    /// `len` bytes at `offset`, or fewer at the end of the file.
    fn view(&mut self, offset: u64, len: usize) -> Result<&[u8], LogError> {
        let start = self.fill(offset, len)?;
        let bytes = self.window.get(start..).unwrap_or_default();
        Ok(bytes.get(..len).unwrap_or(bytes))
    }

    /// Sees to it that the window holds `len` bytes at `offset`, unless the file ends before, and
    /// says where in the window they begin.
    fn fill(&mut self, offset: u64, len: usize) -> Result<usize, LogError> {
        let start = usize::try_from(offset.wrapping_sub(self.window_offset)).unwrap_or(usize::MAX);
        if start.checked_add(len).is_some_and(|end| end <= self.window.len()) {
            return Ok(start);
        }
        let room = usize::try_from(self.room(offset)).unwrap_or(usize::MAX);
        self.window = (self.read)(offset, len.max(CHUNK_BYTES).min(room))?;
        self.window_offset = offset;
        Ok(0)
    }

    /// Bytes of the segment from `offset` on.
    fn room(&self, offset: u64) -> u64 {
        self.geometry.segment_bytes.saturating_sub(offset)
    }
}

/// What was found behind a hole.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Remains {
    /// A position behind the hole that was synced: then the hole is corruption.
    pub(crate) durable: Option<Position>,
    /// Offset behind the last byte that is known to have been written since the file has its
    /// name: behind it nothing verifies.
    pub(crate) end: Option<u64>,
}

/// What [`recover_bytes`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The frames before the first hole, the log's own left out.
    pub frames: Vec<(Position, Frame)>,
    /// Where nothing verifies; `None` when the segment is full.
    pub hole: Option<Position>,
    /// A position behind the hole that was synced: the segment is corrupt, not torn.
    pub durable: Option<Position>,
}

/// Reads arbitrary bytes as the file of the segment at position 0, as recovery does, without
/// touching files. `salt` stands for the one in the segment's header, which is not looked at.
/// `None` when the configuration is not usable.
#[must_use]
pub fn recover_bytes(config: &LogConfig, salt: u64, bytes: &Bytes) -> Option<Recovered> {
    let geometry = Geometry::new(config).ok()?;
    let mut read = |offset: u64, len: usize| {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        Ok(bytes.slice(start..start.saturating_add(len).min(bytes.len())))
    };
    let mut scan = Scan::new(geometry, salt, 0, &mut read);
    let mut recovered = Recovered::default();
    let stop = scan.replay(SEGMENT_HEADER_BYTES as u64, &mut |position, frame| {
        if frame.kind < KINDS_MAX {
            recovered.frames.push((position, frame));
        }
    });
    if let Ok(Stop::Hole(hole)) = stop {
        recovered.hole = Some(Position(hole));
        recovered.durable = scan.search(hole, hole).ok()?.durable;
    }
    Some(recovered)
}
