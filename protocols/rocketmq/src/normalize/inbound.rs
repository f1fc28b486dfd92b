//! A message as sent, into a record.

use bytes::Bytes;
use mainstem_broker::Stamp;
use mainstem_schemas::{Address, Record, RecordDraft, RecordError, UnixMillis, flags};
use md5::{Digest as _, Md5};
use prost::Message as _;

use super::Native;
use crate::codec::proto::{Digest, DigestType, Encoding, Message, MessageType, SystemProperties};

/// What surrounds a message that arrives.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    pub namespace: &'a str,
    pub topic: &'a str,
    pub stamp: Stamp,
}

/// The record of a message. Its limits have been checked. Errors: its parts are too long for a
/// record.
pub fn record(message: Message, arrival: Arrival<'_>) -> Result<Record, RecordError> {
    let mut system = message.system_properties.unwrap_or_default();
    forget_delivery(&mut system);
    if system.body_encoding() == Encoding::Unspecified {
        system.set_body_encoding(Encoding::Identity);
    }
    system.body_digest = Some(digest(&message.body));
    let topic = Bytes::copy_from_slice(arrival.topic.as_bytes());
    let address = match &system.lite_topic {
        Some(lite) => Address { lite: true, ..Address::rocketmq(topic, lite.clone().into()) },
        None => {
            let tag = system.tag.take().filter(|tag| !tag.is_empty()).unwrap_or_default();
            Address::rocketmq(topic, tag.into())
        }
    };
    let partition = system.message_group.as_deref().map_or(0, hash);
    let priority = system.priority().clamp(0, 255);
    let deliver_at = match system.message_type() {
        MessageType::Delay => system.delivery_timestamp.as_ref().and_then(millis),
        _ => None,
    };
    let native =
        Native { system: Some(system), properties: message.user_properties.into_iter().collect() };
    let expiry = native.properties.get("expirytime").and_then(|text| instant(text));
    let bytes = native.encode_to_vec();
    RecordDraft {
        flags: flags::DURABLE,
        id: arrival.stamp.id,
        now: arrival.stamp.now,
        expiry: expiry.unwrap_or_default(),
        deliver_at: deliver_at.unwrap_or_default(),
        priority: u8::try_from(priority).unwrap_or(u8::MAX),
        qos: 1,
        partition,
        ..RecordDraft::new(&address, arrival.namespace, &bytes, &message.body)
    }
    .encode()
}

/// The one digest that all clients accept: MD5 in upper-case hexadecimal, over the body as sent.
pub(super) fn digest(body: &[u8]) -> Digest {
    let checksum = Md5::digest(body).iter().map(|byte| format!("{byte:02X}")).collect();
    Digest { r#type: DigestType::Md5 as i32, checksum }
}

/// Clears what only a delivery has.
fn forget_delivery(system: &mut SystemProperties) {
    system.receipt_handle = None;
    system.store_timestamp = None;
    system.store_host = String::new();
    system.queue_id = 0;
    system.queue_offset = None;
    system.invisible_duration = None;
    system.delivery_attempt = None;
}

/// A stable hash of a message group, never zero.
fn hash(group: &str) -> u64 {
    // FNV-1a: the hash is stored, so it must not change with a compiler or a process.
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    group.bytes().fold(0xcbf2_9ce4_8422_2325, fold).max(1)
}

/// Milliseconds of an RFC 3339 time.
fn instant(text: &str) -> Option<UnixMillis> {
    let time: prost_types::Timestamp = text.parse().ok()?;
    millis(&time)
}

/// Milliseconds of a timestamp since the epoch; `None` before it.
pub fn millis(time: &prost_types::Timestamp) -> Option<UnixMillis> {
    let seconds = u64::try_from(time.seconds).ok()?;
    let nanos = u64::try_from(time.nanos).ok()?;
    Some(UnixMillis(seconds.checked_mul(1000)?.checked_add(nanos / 1_000_000)?))
}
