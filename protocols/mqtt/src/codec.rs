//! Bytes to packets and back, for MQTT 3.1, 3.1.1 and 5. Pure; what a client may not send is a
//! [`Fault`] that tells malformed bytes (0x81) from protocol errors (0x82).
//!
//! Reading order: [`frame`] cuts the stream, [`decode`] reads one packet, [`reply`] and
//! [`publish`] write. Payloads, topics and property blocks are slices of the read buffer.

pub mod ack;
pub mod connect;
pub mod frame;
pub mod input;
pub mod output;
pub mod property;
pub mod publish;
pub mod reason;
pub mod reply;
pub mod subscribe;
pub mod websocket;

#[cfg(test)]
mod tests;

use bytes::BytesMut;

pub use ack::{Ack, Auth, Disconnect};
pub use connect::{Connect, Will};
pub use frame::Frame;
pub use input::{Input, Text};
pub use publish::{MessageProperties, Outgoing, OutgoingProperties, Publish, Qos};
pub use reason::{Fault, Reason};
pub use reply::{ConnAck, Reply};
pub use subscribe::{RetainHandling, Subscribe, TopicFilter, Unsubscribe, Wish};

/// The protocol's versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V31,
    V311,
    V5,
}

/// What a client may send after its CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    Publish(Publish),
    PubAck(Ack),
    PubRec(Ack),
    PubRel(Ack),
    PubComp(Ack),
    Subscribe(Subscribe),
    Unsubscribe(Unsubscribe),
    PingReq,
    Disconnect(Disconnect),
    Auth(Auth),
}

/// Reads a packet that came after the CONNECT.
pub fn decode(frame: &Frame, version: Version) -> Result<Packet, Fault> {
    let flags = frame.first & 0x0f;
    let kind = frame.first >> 4;
    let expected = match kind {
        3 => flags,
        // PUBREL, SUBSCRIBE and UNSUBSCRIBE. MQTT 3.1 also had DUP there.
        6 | 8 | 10 if version == Version::V31 => flags & 0x08 | 0x02,
        6 | 8 | 10 => 0x02,
        _ => 0,
    };
    if flags != expected {
        return Err(Fault::malformed("[MQTT-2.1.3-1] a reserved flag of a packet is set"));
    }
    Ok(match kind {
        1 => return Err(Fault::protocol("[MQTT-3.1.0-2] a second CONNECT")),
        3 => Packet::Publish(publish::decode(frame, version)?),
        4 => Packet::PubAck(ack::decode_outcome(frame, version)?),
        5 => Packet::PubRec(ack::decode_outcome(frame, version)?),
        6 => Packet::PubRel(ack::decode_found(frame, version)?),
        7 => Packet::PubComp(ack::decode_found(frame, version)?),
        8 => Packet::Subscribe(subscribe::decode_subscribe(frame, version)?),
        10 => Packet::Unsubscribe(subscribe::decode_unsubscribe(frame, version)?),
        12 => Input::new(frame.body.clone()).end().map(|()| Packet::PingReq)?,
        14 => Packet::Disconnect(ack::decode_disconnect(frame, version)?),
        15 if version == Version::V5 => Packet::Auth(ack::decode_auth(frame)?),
        2 | 9 | 11 | 13 => return Err(Fault::protocol("a packet that only servers send")),
        _ => return Err(Fault::malformed("a packet of a reserved type")),
    })
}

/// Reads a whole byte stream as a connection would, for fuzzing: a CONNECT, then packets until
/// the stream ends or breaks the rules; and the same bytes as a WebSocket's. Answers how many packets
/// were read.
#[must_use]
pub fn fuzz(bytes: &[u8]) -> usize {
    const PACKET_BYTES_MAX: usize = 1 << 20;
    let (mut frames, mut socket) = (websocket::Frames::default(), BytesMut::from(bytes));
    while let Ok(Some(_)) = frames.next(&mut socket) {}
    let mut buffer = BytesMut::from(bytes);
    let Ok(Some(first)) = frame::next(&mut buffer, PACKET_BYTES_MAX) else { return 0 };
    let Ok(greeting) = connect::decode(&first) else { return 0 };
    let mut count = 1;
    while let Ok(Some(frame)) = frame::next(&mut buffer, PACKET_BYTES_MAX) {
        if decode(&frame, greeting.version).is_err() {
            break;
        }
        count += 1;
    }
    count
}
