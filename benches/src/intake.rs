//! Bytes received and not yet parsed, in one buffer that is filled by large reads.

use std::io::{self, ErrorKind, Read};

const SIZE: usize = 256 * 1024;

pub struct Intake {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Default for Intake {
    fn default() -> Self {
        Self { buffer: vec![0; SIZE], start: 0, end: 0 }
    }
}

impl Intake {
    /// One read; true when there may be more to read at once. The end of the stream is an error, since no peer here may leave first.
    pub fn fill(&mut self, from: &mut impl Read) -> io::Result<bool> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        if room.is_empty() {
            return Err(io::Error::new(ErrorKind::InvalidData, "frame larger than the buffer"));
        }
        let room_bytes = room.len();
        let read = from.read(room)?;
        if read == 0 {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "server closed the connection"));
        }
        self.end += read;
        Ok(read == room_bytes)
    }

    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    pub fn consume(&mut self, bytes: usize) {
        self.start = self.end.min(self.start + bytes);
    }
}

/// No data within the socket's read timeout, or none yet on a non-blocking socket.
pub fn is_idle(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
