//! How many bytes to read at a time: more while reads come back full, fewer while they do not.

use bytes::BytesMut;

/// The smallest read.
const BYTES_MIN: usize = 512;

/// A reader's appetite.
#[derive(Debug)]
pub(super) struct Appetite {
    bytes: usize,
    max: usize,
}

impl Appetite {
    /// One that grows to `max`.
    pub(super) fn new(max: usize) -> Self {
        Self { bytes: BYTES_MIN, max: max.max(BYTES_MIN) }
    }

    /// Makes room for the next read.
    pub(super) fn reserve(&self, input: &mut BytesMut) {
        input.reserve(self.bytes);
    }

    /// A read brought so many bytes.
    pub(super) fn feed(&mut self, bytes: usize) {
        if bytes >= self.bytes {
            self.bytes = (self.bytes * 2).min(self.max);
        } else if bytes < self.bytes / 8 {
            self.bytes = (self.bytes / 2).max(BYTES_MIN);
        }
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }
}
