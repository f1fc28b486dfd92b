//! What waits to be written to the socket, in one contiguous buffer.

use std::{io, sync::Arc};

use bytes::{Buf, BytesMut};
use mainstem_broker::Line;

use super::stream::Writer;

/// Memory kept for an idle connection; a larger buffer is given back once it is empty.
const KEPT_BYTES: usize = 64 << 10;

/// The writing end of a connection.
pub(super) struct Output {
    writer: Writer,
    line: Arc<Line>,
    pub(super) buffer: BytesMut,
    /// Whether something went out since the last heartbeat was due.
    pub(super) is_active: bool,
    /// Whether the writer may hold back something of what it took.
    needs_flush: bool,
}

impl Output {
    pub(super) fn new(writer: Writer, line: Arc<Line>) -> Self {
        Self { writer, line, buffer: BytesMut::new(), is_active: false, needs_flush: false }
    }

    /// Writes what the socket takes now.
    pub(super) fn write_ready(&mut self) -> io::Result<()> {
        while !self.buffer.is_empty() {
            match self.writer.try_write(&self.buffer) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.buffer.advance(written);
                    self.line.sent.add(written);
                    self.is_active = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.line.waits(self.buffer.len());
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.line.waits(0);
        if self.buffer.capacity() > KEPT_BYTES {
            self.buffer = BytesMut::new();
        }
        Ok(())
    }

    /// Whether something waits for the socket.
    pub(super) fn is_waiting(&self) -> bool {
        self.needs_flush || !self.buffer.is_empty()
    }

    /// Writes everything, waiting for the socket.
    pub(super) async fn write_all(&mut self) -> io::Result<()> {
        loop {
            self.write_ready()?;
            if !self.is_waiting() {
                return Ok(());
            }
            self.writable().await?;
        }
    }

    /// Waits until the socket takes more. Cancel-safe.
    pub(super) async fn writable(&mut self) -> io::Result<()> {
        let waiting = self.buffer.len();
        self.writer.write(&mut self.buffer).await?;
        let written = waiting.saturating_sub(self.buffer.len());
        if written > 0 {
            self.line.sent.add(written);
        }
        if self.writer.holds_back() {
            self.needs_flush = waiting > 0;
            self.is_active = true;
        }
        Ok(())
    }

    /// Tells the peer that nothing more comes.
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        self.writer.shutdown().await
    }
}
