//! Cutting the byte stream into packets: the fixed header (MQTT 5 §2.1).

use bytes::{Buf, Bytes, BytesMut};

use super::{Fault, Reason, input};

/// A whole packet, its body not read yet.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Packet type and flags.
    pub first: u8,
    pub body: Bytes,
}

/// Takes the next whole packet off `buffer`; `None` when it has not arrived yet. Errors: a length
/// that is none, or a packet over `packet_bytes_max`, which is told before its body arrives.
pub fn next(buffer: &mut BytesMut, packet_bytes_max: usize) -> Result<Option<Frame>, Fault> {
    let Some((first, tail)) = buffer.split_first() else { return Ok(None) };
    let first = *first;
    let Some((len, len_bytes)) = input::varint(tail)? else { return Ok(None) };
    let body = len as usize;
    let head = 1 + len_bytes;
    if head + body > packet_bytes_max {
        return Err(Fault::new(
            Reason::PACKET_TOO_LARGE,
            "[MQTT-3.2.2-15] a packet is over the maximum packet size",
        ));
    }
    if buffer.len() < head + body {
        return Ok(None);
    }
    buffer.advance(head);
    Ok(Some(Frame { first, body: buffer.split_to(body).freeze() }))
}
