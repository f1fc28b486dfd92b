//! Content: the header frame behind a method, and the bodies behind that.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    cursor::{Cursor, Malformed},
    frame::{self, Kind, OVERHEAD},
    table::put_short_string,
};

/// The class of all content.
pub const BASIC: u16 = 60;

/// A content header frame's payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentHeader {
    pub class: u16,
    pub body_size: u64,
    /// Flags and fields, verbatim.
    pub properties: Bytes,
}

impl ContentHeader {
    /// Reads a header frame's payload, the properties unread.
    pub fn decode(payload: &Bytes) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(payload);
        let class = cursor.u16()?;
        let _weight = cursor.u16()?;
        let body_size = cursor.u64()?;
        Ok(Self { class, body_size, properties: payload.slice_ref(cursor.rest()) })
    }
}

/// The method that a content travels behind, on its way to a client.
#[derive(Clone, Copy, Debug)]
pub enum Envelope<'a> {
    Deliver {
        consumer_tag: &'a [u8],
        delivery_tag: u64,
        redelivered: bool,
        exchange: &'a [u8],
        routing_key: &'a [u8],
    },
    GetOk {
        delivery_tag: u64,
        redelivered: bool,
        exchange: &'a [u8],
        routing_key: &'a [u8],
        message_count: u32,
    },
    Return {
        code: u16,
        text: &'a [u8],
        exchange: &'a [u8],
        routing_key: &'a [u8],
    },
}

impl Envelope<'_> {
    /// Writes the method, the header frame with what `properties` writes, and the body in frames
    /// of at most `frame_max` bytes; no body frame for an empty body.
    pub fn put(
        &self,
        out: &mut BytesMut,
        channel: u16,
        frame_max: usize,
        properties: impl FnOnce(&mut BytesMut),
        body: &[u8],
    ) {
        out.reserve(body.len() + 256);
        frame::put(out, Kind::Method, channel, |out| self.put_method(out));
        frame::put(out, Kind::Header, channel, |out| {
            out.put_u16(BASIC);
            out.put_u16(0);
            out.put_u64(body.len() as u64);
            properties(out);
        });
        for chunk in body.chunks(frame_max.saturating_sub(OVERHEAD).max(1)) {
            frame::put(out, Kind::Body, channel, |out| out.put_slice(chunk));
        }
    }

    fn put_method(&self, out: &mut BytesMut) {
        out.put_u16(BASIC);
        match *self {
            Self::Deliver { consumer_tag, delivery_tag, redelivered, exchange, routing_key } => {
                out.put_u16(60);
                put_short_string(out, consumer_tag);
                out.put_u64(delivery_tag);
                out.put_u8(u8::from(redelivered));
                put_short_string(out, exchange);
                put_short_string(out, routing_key);
            }
            Self::GetOk { delivery_tag, redelivered, exchange, routing_key, message_count } => {
                out.put_u16(71);
                out.put_u64(delivery_tag);
                out.put_u8(u8::from(redelivered));
                put_short_string(out, exchange);
                put_short_string(out, routing_key);
                out.put_u32(message_count);
            }
            Self::Return { code, text, exchange, routing_key } => {
                out.put_u16(50);
                out.put_u16(code);
                put_short_string(out, text);
                put_short_string(out, exchange);
                put_short_string(out, routing_key);
            }
        }
    }
}
