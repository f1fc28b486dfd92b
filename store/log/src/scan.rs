//! A scan: what the bytes of one segment hold, and what they prove about the rest.

use bytes::Bytes;

use mainstem_schemas::Position;

use crate::{
    error::LogError,
    frame::{BATCH_BYTES, FRAME_HEADER_BYTES, Frame, Header, KIND_BATCH, KIND_END, KINDS_MAX},
    segment::{Geometry, LogConfig, SEGMENT_HEADER_BYTES},
};

/// Bytes read at once, unless one frame needs more.
const CHUNK_BYTES: usize = 1 << 20;
/// Zeros are skipped in runs of this size.
const BLOCK_BYTES: usize = 4096;

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

    /// Hands every frame from `offset` on to `on_frame`, the log's own BATCH frames included.
    pub(crate) fn replay(
        &mut self,
        mut offset: u64,
        on_frame: &mut dyn FnMut(Position, Frame),
    ) -> Result<Stop, LogError> {
        loop {
            let room = self.geometry.segment_bytes.saturating_sub(offset);
            if room < FRAME_HEADER_BYTES as u64 {
                return Ok(Stop::End);
            }
            let position = self.base + offset;
            let hole = Ok(Stop::Hole(position));
            let Some(header) = Header::peek(&self.view(offset, FRAME_HEADER_BYTES)?) else {
                return hole;
            };
            if header.size() as u64 > room {
                return hole;
            }
            let bytes = self.view(offset, header.size())?;
            let Some(frame) = header.verify(&bytes, self.salt, position) else {
                return hole;
            };
            match frame.kind {
                KIND_END => return Ok(Stop::End),
                kind if kind < KINDS_MAX || kind == KIND_BATCH => {
                    offset += frame.size() as u64;
                    on_frame(Position(position), frame);
                }
                _ => return hole,
            }
        }
    }

    /// What lies behind a hole at `hole`, looking from `offset` on.
    pub(crate) fn search(&mut self, mut offset: u64, hole: u64) -> Result<Remains, LogError> {
        let mut remains = Remains::default();
        loop {
            // The last bytes of a chunk are looked at again, since a frame may start there.
            let len = self.upto_end(offset, CHUNK_BYTES);
            let chunk = (self.read)(offset, len)?;
            let mut at = 0;
            for block in chunk.chunks(BLOCK_BYTES) {
                if let Some(last) = block.iter().rposition(|byte| *byte != 0) {
                    let end = offset + (at + last) as u64 + 1;
                    remains.end = Some(remains.end.map_or(end, |known| known.max(end)));
                    let proof = self.search_block(&chunk, at..at + block.len(), offset, hole);
                    remains.durable = remains.durable.max(proof);
                }
                at += block.len();
            }
            if remains.durable.is_some() || chunk.len() < CHUNK_BYTES {
                return Ok(remains);
            }
            offset += (chunk.len() - BATCH_BYTES + 1) as u64;
        }
    }

    /// A position behind `hole` that a BATCH frame starting in these bytes of the chunk proves to
    /// have been synced.
    fn search_block(
        &self,
        chunk: &Bytes,
        starts: std::ops::Range<usize>,
        chunk_offset: u64,
        hole: u64,
    ) -> Option<Position> {
        starts
            .filter_map(|start| {
                let bytes = chunk.get(start..start + BATCH_BYTES)?;
                let header = Header::peek(bytes)?;
                if header.kind != KIND_BATCH || header.size() != BATCH_BYTES {
                    return None;
                }
                let position = self.base + chunk_offset + start as u64;
                header.verify(&chunk.slice_ref(bytes), self.salt, position)?.synced()
            })
            .find(|synced| synced.0 > hole)
    }

    /// `len` bytes at `offset`, or fewer at the end of the file.
    fn view(&mut self, offset: u64, len: usize) -> Result<Bytes, LogError> {
        let start = usize::try_from(offset.wrapping_sub(self.window_offset)).unwrap_or(usize::MAX);
        let within = start.checked_add(len).is_some_and(|end| end <= self.window.len());
        if within {
            return Ok(self.window.slice(start..start + len));
        }
        let ahead = self.upto_end(offset, len.max(CHUNK_BYTES));
        self.window = (self.read)(offset, ahead)?;
        self.window_offset = offset;
        Ok(self.window.slice(..len.min(self.window.len())))
    }

    /// So many of `len` bytes at `offset` as the segment has.
    fn upto_end(&self, offset: u64, len: usize) -> usize {
        let room = self.geometry.segment_bytes.saturating_sub(offset);
        usize::try_from(room).unwrap_or(usize::MAX).min(len)
    }
}

/// What was found behind a hole.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Remains {
    /// A position behind the hole that was synced: then the hole is corruption.
    pub(crate) durable: Option<Position>,
    /// Offset behind the last byte that is not zero.
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
