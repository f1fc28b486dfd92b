//! Bytes to frames and methods, and back. Pure: no I/O, no clock, no state of a conversation.
//!
//! ```text
//! frame:   type:u8 | channel:u16 | size:u32 | payload | 0xCE
//! method:  class:u16 | method:u16 | arguments
//! header:  class:u16 | weight:u16 | body size:u64 | property flags:u16 | properties
//! ```
//!
//! Everything read is a slice of the read buffer; nothing here recurses deeper than
//! [`mainstem_schemas::value::DEPTH_MAX`].

pub mod content;
pub mod cursor;
pub mod frame;
pub mod method;
pub mod properties;
pub mod reply;
pub mod table;

pub use content::{ContentHeader, Envelope};
pub use cursor::Malformed;
pub use frame::{Frame, FrameFault, Kind, PROTOCOL_HEADER};
pub use method::{Method, MethodFault};
pub use properties::Properties;
pub use reply::Reply;

use bytes::{Bytes, BytesMut};

/// Reads arbitrary bytes as a client's side of a conversation, as far as they make sense, and
/// answers how many frames that were. For fuzzing: it must not panic, whatever comes.
#[must_use]
pub fn walk(bytes: &[u8], frame_max: usize) -> usize {
    let mut buffer = BytesMut::from(bytes);
    let mut frames = 0;
    while let Ok(Some(frame)) = Frame::split(&mut buffer, frame_max) {
        frames += 1;
        if walk_frame(&frame).is_err() {
            break;
        }
    }
    frames
}

fn walk_frame(frame: &Frame) -> Result<(), Malformed> {
    match frame.kind {
        Kind::Method => match Method::decode(&frame.payload) {
            Ok(Method::QueueDeclare(declare)) => table::parse(&declare.arguments).map(drop),
            Ok(Method::StartOk { client_properties, .. }) => {
                table::parse(&client_properties).map(drop)
            }
            Ok(_) | Err(MethodFault::Unknown { .. }) => Ok(()),
            Err(MethodFault::Truncated) => Err(Malformed),
        },
        Kind::Header => {
            let header = ContentHeader::decode(&frame.payload)?;
            let properties = Properties::parse(&header.properties)?;
            let headers = properties.headers.unwrap_or_default();
            let checked = table::check(headers);
            let parsed = table::parse(&Bytes::copy_from_slice(headers));
            debug_assert_eq!(checked.is_ok(), parsed.is_ok());
            checked
        }
        Kind::Body | Kind::Heartbeat => Ok(()),
    }
}

#[cfg(test)]
mod tests;
