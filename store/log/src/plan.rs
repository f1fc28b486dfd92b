//! The planner: gives every frame its place in the log and encodes batches, in memory only.

use bytes::{BufMut, Bytes, BytesMut};

use mainstem_schemas::Position;

use crate::{
    error::PushError,
    frame::{BATCH_BYTES, FRAME_HEADER_BYTES, Header, KIND_BATCH, KIND_END, KINDS_MAX},
    segment::{Geometry, LogConfig, TAIL_BYTES},
};

/// Bytes of a chunk, as long as no frame is longer. Few enough in tests for a crash to come between
/// two chunks of one segment.
pub(crate) const CHUNK_BYTES: usize = if cfg!(test) { 512 } else { 1 << 20 };
/// Of memory that files are written from.
const PAGE_BYTES: usize = if cfg!(test) { 64 } else { 4096 };
/// Zeros behind a batch, at most.
pub(crate) const ZEROS_MAX: usize = TAIL_BYTES + PAGE_BYTES;
/// Buffers kept for further chunks: those of a batch on the disk, and of the one being filled.
const SPARE_MAX: usize = 16;

/// Frames to be written together, in the order of their positions.
#[derive(Clone, Debug)]
#[must_use = "planned positions exist only once the batch is written"]
pub struct Batch {
    chunks: Vec<Chunk>,
    end: Position,
}

/// A run of a batch that lies in one segment. The last one has zeros behind its frames.
#[derive(Clone, Debug)]
pub struct Chunk {
    pub base: Position,
    pub bytes: Bytes,
}

impl Batch {
    #[must_use]
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Where the log ends with this batch: what is synced once the batch was written and synced.
    #[must_use]
    pub fn end(&self) -> Position {
        self.end
    }

    /// Whether nothing was pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Bytes to be written.
    #[must_use]
    pub fn size(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.bytes.len()).sum()
    }
}

/// The one who knows where the log will end. Every batch must be written, in order.
#[derive(Debug)]
pub struct Planner {
    geometry: Geometry,
    salt: u64,
    writer: u32,
    body_bytes_max: usize,
    /// Behind the last planned frame.
    end: u64,
    synced: Position,
    /// The BATCH frame of the batch in hand was planned.
    open: bool,
    /// Planned bytes from `chunk_base` on, all in one segment.
    buffer: BytesMut,
    chunk_base: u64,
    chunks: Vec<Chunk>,
    /// Empty buffers of written batches.
    spare: Vec<BytesMut>,
}

impl Planner {
    pub(crate) fn new(config: &LogConfig, geometry: Geometry, salt: u64, end: Position) -> Self {
        Self {
            geometry,
            salt,
            writer: config.writer,
            body_bytes_max: config.body_bytes_max(),
            end: end.0,
            synced: end,
            open: false,
            buffer: BytesMut::new(),
            chunk_base: end.0,
            chunks: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Says what is synced by now; the next batch carries it. A `synced` beyond the truth makes a
    /// torn tail look like corruption at the next start.
    pub fn begin(&mut self, synced: Position) {
        debug_assert!(synced.0 <= self.end);
        self.synced = self.synced.max(synced);
    }

    /// Plans a frame with the concatenated `parts` as its body, and says where it will be.
    #[inline]
    pub fn push(
        &mut self,
        kind: u8,
        sequence: u64,
        parts: &[&[u8]],
    ) -> Result<Position, PushError> {
        let body_bytes: usize = parts.iter().map(|part| part.len()).sum();
        let body_len = u32::try_from(body_bytes).ok().filter(|_| body_bytes <= self.body_bytes_max);
        let Some(body_len) = body_len else {
            return Err(PushError::TooLong { body_bytes, body_bytes_max: self.body_bytes_max });
        };
        if kind >= KINDS_MAX {
            return Err(PushError::Reserved(kind));
        }
        self.open();
        Ok(self.put(kind, sequence, body_len, parts))
    }

    /// Where a frame with a body of `body_len` bytes would be if it were pushed now.
    #[must_use]
    pub fn next_position(&self, body_len: usize) -> Position {
        let end = if self.open {
            self.end
        } else {
            self.geometry.place(self.end, BATCH_BYTES) + BATCH_BYTES as u64
        };
        Position(self.geometry.place(end, FRAME_HEADER_BYTES + body_len))
    }

    /// What was pushed since the last call; empty when nothing was.
    pub fn finish(&mut self) -> Batch {
        self.end_batch();
        self.cut_chunk();
        self.open = false;
        Batch { chunks: std::mem::take(&mut self.chunks), end: self.end() }
    }

    /// Takes back the memory of a batch that was written: the pages of new memory cost more than
    /// filling them.
    pub fn recycle(&mut self, batch: Batch) {
        for chunk in batch.chunks {
            if self.spare.len() == SPARE_MAX {
                return;
            }
            if let Ok(mut buffer) = chunk.bytes.try_into_mut()
                && buffer.capacity() <= CHUNK_BYTES + ZEROS_MAX
            {
                buffer.clear();
                self.spare.push(buffer);
            }
        }
    }

    /// Behind the last planned frame.
    #[must_use]
    pub fn end(&self) -> Position {
        Position(self.end)
    }

    /// The longest body a frame may have.
    #[must_use]
    pub fn body_bytes_max(&self) -> usize {
        self.body_bytes_max
    }

    /// A batch of nothing but the statement that all before it is synced.
    pub(crate) fn seal(&mut self) -> Batch {
        self.begin(self.end());
        self.open();
        self.finish()
    }

    fn open(&mut self) {
        if !self.open {
            self.open = true;
            let synced = self.synced.0.to_le_bytes();
            self.put(KIND_BATCH, 0, 8, &[&synced]);
        }
    }

    fn put(&mut self, kind: u8, sequence: u64, body_len: u32, parts: &[&[u8]]) -> Position {
        let header = Header::new(kind, body_len, self.writer, sequence);
        let position = self.geometry.place(self.end, header.size());
        if self.geometry.number(position) != self.geometry.number(self.end) {
            self.end_segment();
        }
        if position != self.end {
            self.cut_chunk();
        }
        self.append(header, position, parts);
        Position(position)
    }

    /// Says that the next frame is in the next segment, if there is room to say it.
    fn end_segment(&mut self) {
        let header = Header::new(KIND_END, 0, self.writer, 0);
        let end = self.geometry.place(self.end, FRAME_HEADER_BYTES);
        if end == self.end {
            self.append(header, end, &[]);
        }
    }

    /// Zeros behind the batch, which the next one overwrites: by them a recovery knows that all
    /// of it arrived, whatever an earlier use of the file left behind it. They go on to the end of a
    /// page, since a part of one that is not in memory would have to be read before it is written.
    fn end_batch(&mut self) {
        if !self.buffer.is_empty() {
            let room = self.geometry.base(self.geometry.number(self.chunk_base) + 1) - self.end;
            let tail = self.end + TAIL_BYTES as u64;
            let zeros = room.min(tail.next_multiple_of(PAGE_BYTES as u64) - self.end);
            self.buffer.put_bytes(0, usize::try_from(zeros).unwrap_or(usize::MAX));
        }
    }

    #[inline]
    fn append(&mut self, header: Header, position: u64, parts: &[&[u8]]) {
        if self.buffer.len() + header.size() > CHUNK_BYTES {
            self.cut_chunk();
        }
        if self.buffer.is_empty() {
            self.chunk_base = position;
            if self.buffer.capacity() < header.size() + ZEROS_MAX {
                let spare =
                    self.spare.pop_if(|spare| spare.capacity() >= header.size() + ZEROS_MAX);
                let fresh = || BytesMut::with_capacity(header.size().max(CHUNK_BYTES) + ZEROS_MAX);
                self.buffer = spare.unwrap_or_else(fresh);
            }
        }
        assert_eq!(self.chunk_base + self.buffer.len() as u64, position, "a chunk has no holes");
        header.put(&mut self.buffer, self.salt, position, parts);
        self.end = position + header.size() as u64;
    }

    fn cut_chunk(&mut self) {
        if !self.buffer.is_empty() {
            let bytes = std::mem::take(&mut self.buffer).freeze();
            self.chunks.push(Chunk { base: Position(self.chunk_base), bytes });
        }
    }
}
