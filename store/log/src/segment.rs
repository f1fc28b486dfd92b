//! A segment: one file of the log, and the arithmetic between positions and files.
//!
//! A position is `segment number * segment_bytes + offset in the file`. The file is named by the
//! position of its first byte, in hexadecimal, so names sort like positions. It begins with a
//! SEGMENT frame (see `frame.rs`) that was synced before the file got its name:
//!
//! ```text
//! offset  bytes  field
//!      0     24  frame header, kind 0xf0, writer 0, sequence 0, checksum with salt 0
//!     24      4  format         1
//!     28      4  reserved       0
//!     32      8  segment_bytes
//!     40      8  salt           the same in every segment of a log
//!     48         frames, then 24 zero bytes (fewer at the end of the file), then anything
//! ```
//!
//! A segment that was trimmed is used again under a new name, so behind the zeros may stand what
//! an earlier use of the file left there, frames included: its positions were others, so none of
//! it verifies (see `frame.rs`).
//!
//! Format rule: a program that meets a format it does not know refuses the file and touches
//! nothing. A change to any byte drawn here or in `frame.rs` raises the format.

use std::path::PathBuf;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use mainstem_schemas::Position;

use crate::{
    disk::Disk,
    error::{Damage, LogError},
    frame::{BATCH_BYTES, FRAME_HEADER_BYTES, Header, KIND_SEGMENT},
};

/// The format that is written.
pub(crate) const FORMAT: u32 = 1;
/// Bytes of the SEGMENT frame.
pub(crate) const SEGMENT_HEADER_BYTES: usize = FRAME_HEADER_BYTES + 24;

/// Zeros behind the last frame: where they are not, something was being written.
pub(crate) const TAIL_BYTES: usize = FRAME_HEADER_BYTES;
/// Bytes of the SEGMENT frame and of the zeros behind it.
pub(crate) const SEGMENT_START_BYTES: usize = SEGMENT_HEADER_BYTES + TAIL_BYTES;

/// Room that a segment keeps for everything but the largest body.
const OVERHEAD_BYTES: usize = 128;
const _: () = assert!(SEGMENT_HEADER_BYTES + BATCH_BYTES + FRAME_HEADER_BYTES <= OVERHEAD_BYTES);

const SEGMENT_BYTES_MIN: u64 = 4 << 10;
const SEGMENT_BYTES_MAX: u64 = 1 << 30;
const EXTENSION: &str = ".seg";

/// How a log is laid out.
#[derive(Clone, Copy, Debug)]
pub struct LogConfig {
    /// Size of one segment file: a power of two from 4 KiB to 1 GiB. Fixed for the log's life.
    pub segment_bytes: u64,
    /// Who appends: stands in every frame.
    pub writer: u32,
}

impl LogConfig {
    /// A log with one writer.
    #[must_use]
    pub fn new(segment_bytes: u64) -> Self {
        Self { segment_bytes, writer: 1 }
    }

    /// The longest body a frame may have.
    #[must_use]
    pub fn body_bytes_max(&self) -> usize {
        usize::try_from(self.segment_bytes).unwrap_or(usize::MAX).saturating_sub(OVERHEAD_BYTES)
    }
}

/// Positions to files and back, for one checked segment size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    /// A power of two between the bounds above.
    pub(crate) segment_bytes: u64,
}

impl Geometry {
    pub(crate) fn new(config: &LogConfig) -> Result<Self, LogError> {
        let bytes = config.segment_bytes;
        if !bytes.is_power_of_two() || !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes) {
            return Err(LogError::Config(bytes));
        }
        Ok(Self { segment_bytes: bytes })
    }

    pub(crate) fn number(self, position: u64) -> u64 {
        position / self.segment_bytes
    }

    pub(crate) fn offset(self, position: u64) -> u64 {
        position % self.segment_bytes
    }

    pub(crate) fn base(self, number: u64) -> u64 {
        number.saturating_mul(self.segment_bytes)
    }

    /// Where the segment's first frame goes.
    pub(crate) fn first(self, number: u64) -> u64 {
        self.base(number) + SEGMENT_HEADER_BYTES as u64
    }

    /// Where a frame of `size` bytes goes that follows what ends at `end`.
    pub(crate) fn place(self, end: u64, size: usize) -> u64 {
        let at = end.max(self.first(self.number(end)));
        if self.offset(at) + size as u64 <= self.segment_bytes {
            at
        } else {
            self.first(self.number(end) + 1)
        }
    }

    pub(crate) fn name(self, number: u64) -> String {
        format!("{:016x}{EXTENSION}", self.base(number))
    }

    pub(crate) fn path(self, disk: &dyn Disk, number: u64) -> PathBuf {
        disk.path(&self.name(number))
    }

    /// The number of the segment with this file name; `None` for other files.
    pub(crate) fn parse_name(self, disk: &dyn Disk, name: &str) -> Result<Option<u64>, LogError> {
        let Some(base) = parse_base(name) else { return Ok(None) };
        if self.offset(base) != 0 {
            return Err(LogError::SegmentBytes {
                path: disk.path(name),
                found: 1 << base.trailing_zeros(),
                configured: self.segment_bytes,
            });
        }
        Ok(Some(self.number(base)))
    }

    pub(crate) fn corrupt(
        self,
        disk: &dyn Disk,
        Position(position): Position,
        damage: Damage,
    ) -> LogError {
        let path = self.path(disk, self.number(position));
        LogError::Corrupt { path, offset: self.offset(position), damage }
    }

    /// The bytes an empty segment file begins with, [`SEGMENT_START_BYTES`] of them.
    pub(crate) fn encode_header(self, number: u64, salt: u64) -> Bytes {
        let mut body = BytesMut::with_capacity(24);
        body.put_u32_le(FORMAT);
        body.put_u32_le(0);
        body.put_u64_le(self.segment_bytes);
        body.put_u64_le(salt);
        let mut out = BytesMut::with_capacity(SEGMENT_START_BYTES);
        Header::new(KIND_SEGMENT, 24, 0, 0).put(&mut out, 0, self.base(number), &[&body]);
        out.put_bytes(0, TAIL_BYTES);
        out.freeze()
    }

    /// The salt in a segment file's first bytes.
    pub(crate) fn decode_header(
        self,
        disk: &dyn Disk,
        number: u64,
        bytes: &Bytes,
    ) -> Result<u64, LogError> {
        let damaged = || self.corrupt(disk, Position(self.base(number)), Damage::Header);
        match Start::decode(self.base(number), bytes).ok_or_else(damaged)? {
            Start::Unknown { format } => {
                Err(LogError::Format { path: self.path(disk, number), found: format })
            }
            Start::Known { segment_bytes: found, .. } if found != self.segment_bytes => {
                let path = self.path(disk, number);
                Err(LogError::SegmentBytes { path, found, configured: self.segment_bytes })
            }
            Start::Known { salt, .. } => Ok(salt),
        }
    }
}

/// The position in the name of a segment file; `None` for other files.
pub(crate) fn parse_base(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(EXTENSION).filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// What the header of a segment file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Start {
    Known {
        segment_bytes: u64,
        salt: u64,
    },
    /// A format this program does not read.
    Unknown {
        format: u32,
    },
}

impl Start {
    /// Reads the header of the segment that begins at `base`, if it verifies.
    pub(crate) fn decode(base: u64, bytes: &Bytes) -> Option<Self> {
        let header = Header::peek(bytes)?;
        let mut body = header.verify(bytes, 0, 0, base)?.body;
        if header.kind != KIND_SEGMENT || body.len() < 4 {
            return None;
        }
        let format = body.get_u32_le();
        if format != FORMAT {
            return Some(Self::Unknown { format });
        }
        if body.len() != 20 {
            return None;
        }
        body.advance(4);
        Some(Self::Known { segment_bytes: body.get_u64_le(), salt: body.get_u64_le() })
    }
}
