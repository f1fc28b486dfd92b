//! A frame: the unit the log stores, checks and reads back.
//!
//! ```text
//! offset  bytes  field      (all little-endian)
//!      0      1  magic      0xa6
//!      1      1  kind       the caller's below 0xf0, the log's own from there
//!      2      2  check      the CRC-32C of: position xor salt (8 bytes), bytes 0..2, 4..8, 12..24,
//!                          its two halves xored
//!      4      4  body_len   bytes of the body
//!      8      4  checksum   the same CRC-32C continued over the body
//!     12      4  writer     who appended it
//!     16      8  sequence   the writer's own number for it
//!     24      n  body
//! ```
//!
//! The position is in the checksum, so bytes that were moved, or that an earlier use of the file
//! left behind, never verify: two positions at one offset differ in fewer than 32 bits that lie
//! together, which a CRC-32C always tells apart. The check tells a header of this place from
//! anything else before its body is read: what is searched stays cheap whatever a sender put into
//! bodies, and of a frame whose body is damaged the kind and the end are known. The salt is a random number of this log: a sender who puts something
//! that looks like a frame into a body cannot make it verify where a recovery may look for one.
//!
//! The log's own kinds:
//!
//! ```text
//! 0xf0 SEGMENT  first in every segment file, salt taken as 0; see `segment.rs`
//! 0xf1 BATCH    first in every batch; body: synced (8 bytes), the position up to which the log
//!               was known to be synced when the batch was planned
//! 0xf2 END      no body; the next frame is in the next segment. Left out where less than a
//!               frame header's room is left
//! ```

use bytes::{BufMut, Bytes, BytesMut};

use mainstem_schemas::Position;

/// Bytes before a frame's body.
pub const FRAME_HEADER_BYTES: usize = 24;
/// Kinds below this are the caller's. Persisted: never renumber.
pub const KINDS_MAX: u8 = 0xf0;

pub(crate) const KIND_SEGMENT: u8 = 0xf0;
pub(crate) const KIND_BATCH: u8 = 0xf1;
pub(crate) const KIND_END: u8 = 0xf2;

/// Bytes of a whole BATCH frame.
pub(crate) const BATCH_BYTES: usize = FRAME_HEADER_BYTES + 8;

pub(crate) const MAGIC: u8 = 0xa6;

/// A frame read back from the log, checksum verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub writer: u32,
    pub sequence: u64,
    pub body: Bytes,
}

impl Frame {
    /// Bytes it takes on disk: the best hint for reading it again.
    #[must_use]
    pub fn size(&self) -> usize {
        FRAME_HEADER_BYTES + self.body.len()
    }

    /// What a BATCH frame says was synced.
    pub(crate) fn synced(&self) -> Option<Position> {
        let body: [u8; 8] = self.body.as_ref().try_into().ok()?;
        (self.kind == KIND_BATCH).then(|| Position(u64::from_le_bytes(body)))
    }
}

/// The first 24 bytes of a frame.
#[derive(Clone, Copy)]
pub(crate) struct Header {
    pub(crate) kind: u8,
    pub(crate) body_len: u32,
    pub(crate) writer: u32,
    pub(crate) sequence: u64,
    check: u16,
    checksum: u32,
}

impl Header {
    /// A header whose checksums are filled in by [`Header::put`].
    pub(crate) fn new(kind: u8, body_len: u32, writer: u32, sequence: u64) -> Self {
        Self { kind, body_len, writer, sequence, check: 0, checksum: 0 }
    }

    /// Appends a whole frame that is to lie at `position`.
    pub(crate) fn put(mut self, out: &mut BytesMut, salt: u64, position: u64, parts: &[&[u8]]) {
        debug_assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), self.body_len());
        let seed = self.seed(salt, position);
        self.checksum = parts.iter().fold(seed, |sum, part| crc32c::crc32c_append(sum, part));
        self.check = fold(seed);
        out.put_slice(&self.bytes());
        for part in parts {
            out.put_slice(part);
        }
    }

    /// The header at the start of `bytes`, if they look like one. Says nothing of the checksums.
    pub(crate) fn peek(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; FRAME_HEADER_BYTES] = bytes.first_chunk()?;
        let [magic, kind, h0, h1, l0, l1, l2, l3, c0, c1, c2, c3, w0, w1, w2, w3, sequence @ ..] =
            *bytes;
        (magic == MAGIC).then_some(Self {
            kind,
            body_len: u32::from_le_bytes([l0, l1, l2, l3]),
            writer: u32::from_le_bytes([w0, w1, w2, w3]),
            sequence: u64::from_le_bytes(sequence),
            check: u16::from_le_bytes([h0, h1]),
            checksum: u32::from_le_bytes([c0, c1, c2, c3]),
        })
    }

    /// Bytes of the body.
    pub(crate) fn body_len(&self) -> usize {
        self.body_len as usize
    }

    /// Bytes of the whole frame.
    pub(crate) fn size(&self) -> usize {
        FRAME_HEADER_BYTES + self.body_len()
    }

    /// Whether the header was written for this place of this log, by its check; as good as
    /// certain, not certain.
    pub(crate) fn belongs(&self, salt: u64, position: u64) -> bool {
        fold(self.seed(salt, position)) == self.check
    }

    /// The frame that starts at `start` of `bytes`, if it was written for this place of this log.
    pub(crate) fn verify(
        &self,
        bytes: &Bytes,
        start: usize,
        salt: u64,
        position: u64,
    ) -> Option<Frame> {
        let body = bytes.get(start..)?.get(FRAME_HEADER_BYTES..self.size())?;
        let seed = self.seed(salt, position);
        if fold(seed) != self.check || crc32c::crc32c_append(seed, body) != self.checksum {
            return None;
        }
        Some(Frame {
            kind: self.kind,
            writer: self.writer,
            sequence: self.sequence,
            body: bytes.slice_ref(body),
        })
    }

    fn bytes(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut out = [0; FRAME_HEADER_BYTES];
        let mut rest = out.as_mut_slice();
        rest.put_u8(MAGIC);
        rest.put_u8(self.kind);
        rest.put_u16_le(self.check);
        rest.put_u32_le(self.body_len);
        rest.put_u32_le(self.checksum);
        rest.put_u32_le(self.writer);
        rest.put_u64_le(self.sequence);
        out
    }

    /// The checksum of everything before the body.
    fn seed(&self, salt: u64, position: u64) -> u32 {
        let mut covered = [0; 26];
        let mut rest = covered.as_mut_slice();
        rest.put_u64_le(position ^ salt);
        rest.put_u8(MAGIC);
        rest.put_u8(self.kind);
        rest.put_u32_le(self.body_len);
        rest.put_u32_le(self.writer);
        rest.put_u64_le(self.sequence);
        crc32c::crc32c(&covered)
    }
}

/// The two halves of a checksum, xored.
fn fold(checksum: u32) -> u16 {
    let [a, b, c, d] = checksum.to_le_bytes();
    u16::from_le_bytes([a ^ c, b ^ d])
}
