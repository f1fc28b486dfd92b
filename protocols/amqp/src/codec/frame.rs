//! A frame: the unit in which channels share a connection.

use bytes::{BufMut, Bytes, BytesMut};

use super::cursor::Cursor;

/// The eight bytes a 0-9-1 client begins with, and what a server answers to any others.
pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";
/// What 0-9 clients begin with. RabbitMQ serves them 0-9-1.
pub const PROTOCOL_HEADER_0_9: [u8; 8] = *b"AMQP\x01\x01\x00\x09";
/// Bytes of a frame around its payload.
pub const OVERHEAD: usize = 8;

const HEAD: usize = 7;
const END: u8 = 0xCE;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Method = 1,
    Header = 2,
    Body = 3,
    Heartbeat = 8,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub channel: u16,
    pub payload: Bytes,
}

/// Why bytes are not a frame. All of them end the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    #[error("type {kind}, all octets = <<>>: {{frame_too_large,{size},{max}}}")]
    TooLarge { kind: u8, size: usize, max: usize },
    #[error("type {kind}, all octets = <<>>: {{invalid_frame_end_marker,{end}}}")]
    BadEnd { kind: u8, end: u8 },
    #[error("type {0}, all octets = <<>>: unknown_frame")]
    UnknownKind(u8),
}

impl Frame {
    /// Splits the first frame off `buffer`; `None` until all of it is there.
    pub fn split(buffer: &mut BytesMut, frame_max: usize) -> Result<Option<Self>, FrameFault> {
        let mut head = Cursor::new(buffer);
        let (Ok(kind), Ok(channel), Ok(size)) = (head.u8(), head.u16(), head.u32()) else {
            return Ok(None);
        };
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let max = frame_max.saturating_sub(OVERHEAD);
        if size > max {
            return Err(FrameFault::TooLarge { kind, size, max });
        }
        let known = match kind {
            1 => Kind::Method,
            2 => Kind::Header,
            3 => Kind::Body,
            8 => Kind::Heartbeat,
            _ => return Err(FrameFault::UnknownKind(kind)),
        };
        let Some(end) = buffer.get(HEAD + size).copied() else { return Ok(None) };
        if end != END {
            return Err(FrameFault::BadEnd { kind, end });
        }
        let mut frame = buffer.split_to(HEAD + size + 1).freeze();
        let payload = frame.split_off(HEAD).split_to(size);
        Ok(Some(Self { kind: known, channel, payload }))
    }
}

/// Writes a frame around what `payload` writes.
pub fn put(out: &mut BytesMut, kind: Kind, channel: u16, payload: impl FnOnce(&mut BytesMut)) {
    out.put_u8(kind as u8);
    out.put_u16(channel);
    let size_at = out.len();
    out.put_u32(0);
    payload(out);
    let size = out.len() - size_at - 4;
    let size = u32::try_from(size).expect("a frame's payload is far below 4 GiB");
    if let Some(slot) = out.get_mut(size_at..size_at + 4) {
        slot.copy_from_slice(&size.to_be_bytes());
    }
    out.put_u8(END);
}

/// Writes the frame that only shows that somebody is there.
pub fn put_heartbeat(out: &mut BytesMut) {
    put(out, Kind::Heartbeat, 0, |_| {});
}
