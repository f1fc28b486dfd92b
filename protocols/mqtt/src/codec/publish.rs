//! PUBLISH, both ways (MQTT 5 §3.3).

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    Fault, Frame, Input, Text, Version,
    output::{self, put_binary, put_varint, varint_len},
    property::{self, Context, Value, id},
};

/// Quality of service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Qos {
    #[default]
    AtMostOnce = 0,
    AtLeastOnce = 1,
    ExactlyOnce = 2,
}

impl Qos {
    /// The level with this number.
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Self> {
        [Self::AtMostOnce, Self::AtLeastOnce, Self::ExactlyOnce]
            .into_iter()
            .find(|qos| *qos as u8 == bits)
    }
}

/// A message as a client sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    pub dup: bool,
    pub qos: Qos,
    pub retain: bool,
    /// Empty when the topic alias stands for it.
    pub topic: Text,
    /// Zero at quality of service 0.
    pub packet_id: u16,
    pub properties: MessageProperties,
    pub payload: Bytes,
}

/// A message's properties.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageProperties {
    /// The checked property bytes that belong to the message and never change: without topic
    /// alias, will delay and expiry.
    pub native: Bytes,
    pub topic_alias: Option<u16>,
    pub expiry_s: Option<u32>,
    /// Only of a will.
    pub will_delay_s: u32,
}

/// Reads a PUBLISH.
pub fn decode(frame: &Frame, version: Version) -> Result<Publish, Fault> {
    let dup = frame.first & 0x08 != 0;
    let qos = Qos::from_bits(frame.first >> 1 & 0x03)
        .ok_or(Fault::malformed("[MQTT-3.3.1-4] a PUBLISH has quality of service 3"))?;
    if dup && qos == Qos::AtMostOnce {
        return Err(Fault::malformed("[MQTT-3.3.1-2] DUP at quality of service 0"));
    }
    let mut input = Input::new(frame.body.clone());
    let topic = input.text()?;
    if property::has_wildcard(&topic) {
        return Err(Fault::malformed("[MQTT-3.3.2-2] a topic name has a wildcard"));
    }
    let packet_id = if qos == Qos::AtMostOnce { 0 } else { input.packet_id()? };
    let properties = match version {
        Version::V5 => read_properties(&mut input, Context::Publish)?,
        Version::V31 | Version::V311 => MessageProperties::default(),
    };
    if topic.is_empty() && properties.topic_alias.is_none() {
        return Err(match version {
            Version::V5 => Fault::protocol("a PUBLISH has neither topic nor alias"),
            Version::V31 | Version::V311 => Fault::malformed("[MQTT-4.7.3-1] an empty topic"),
        });
    }
    let retain = frame.first & 1 != 0;
    Ok(Publish { dup, qos, retain, topic, packet_id, properties, payload: input.rest() })
}

/// Reads the property block of a PUBLISH or of a will.
pub fn read_properties(input: &mut Input, context: Context) -> Result<MessageProperties, Fault> {
    let mut properties = MessageProperties::default();
    let mut cut: [Option<Range<usize>>; 2] = [None, None];
    let raw = property::read_block(input, context, |id, value, place| {
        match (id, value) {
            (id::MESSAGE_EXPIRY, Value::Long(seconds)) => {
                properties.expiry_s = Some(seconds);
                cut[0] = Some(place);
            }
            (id::TOPIC_ALIAS, Value::Short(alias)) => {
                properties.topic_alias = Some(alias);
                cut[1] = Some(place);
            }
            (id::WILL_DELAY, Value::Long(seconds)) => {
                properties.will_delay_s = seconds;
                cut[1] = Some(place);
            }
            (id::SUBSCRIPTION_ID, _) => {
                return Err(Fault::protocol("[MQTT-3.3.4-6] a client's PUBLISH has one"));
            }
            _ => {}
        }
        Ok(())
    })?;
    properties.native = without(raw, cut);
    Ok(properties)
}

/// The block without up to two of its places.
fn without(raw: Bytes, mut cut: [Option<Range<usize>>; 2]) -> Bytes {
    cut.sort_by_key(|place| place.as_ref().map_or(usize::MAX, |place| place.start));
    if cut.iter().all(Option::is_none) {
        return raw;
    }
    let mut kept = BytesMut::with_capacity(raw.len());
    let mut from = 0;
    for place in cut.into_iter().flatten() {
        kept.put_slice(raw.get(from..place.start).unwrap_or_default());
        from = place.end;
    }
    kept.put_slice(raw.get(from..).unwrap_or_default());
    kept.freeze()
}

/// A message on its way to a client. Everything is borrowed from the record and the session.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    pub dup: bool,
    pub qos: Qos,
    pub retain: bool,
    pub topic: &'a [u8],
    /// Zero at quality of service 0.
    pub packet_id: u16,
    pub properties: OutgoingProperties<'a>,
    pub payload: &'a [u8],
}

/// The properties of a message on its way to a client; unused before MQTT 5.
#[derive(Clone, Copy, Debug, Default)]
pub struct OutgoingProperties<'a> {
    /// Property bytes that belong to the message.
    pub native: &'a [u8],
    pub expiry_s: Option<u32>,
    pub topic_alias: Option<u16>,
    pub subscription_ids: &'a [u32],
}

impl OutgoingProperties<'_> {
    fn len(&self) -> usize {
        let ids = self.subscription_ids.iter().map(|id| 1 + varint_len(*id as usize));
        self.native.len()
            + self.expiry_s.map_or(0, |_| 5)
            + self.topic_alias.map_or(0, |_| 3)
            + ids.sum::<usize>()
    }

    fn encode(&self, len: usize, out: &mut BytesMut) {
        put_varint(out, len);
        if let Some(seconds) = self.expiry_s {
            out.put_u8(id::MESSAGE_EXPIRY);
            out.put_u32(seconds);
        }
        if let Some(alias) = self.topic_alias {
            out.put_u8(id::TOPIC_ALIAS);
            out.put_u16(alias);
        }
        for subscription in self.subscription_ids {
            out.put_u8(id::SUBSCRIPTION_ID);
            put_varint(out, *subscription as usize);
        }
        out.put_slice(self.native);
    }
}

/// A packet that may not be sent: it is over the client's maximum packet size
/// ([MQTT-3.1.2-24]), or has a topic no packet can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

impl Outgoing<'_> {
    /// Appends the packet, or nothing at all.
    pub fn encode(
        &self,
        version: Version,
        packet_bytes_max: usize,
        out: &mut BytesMut,
    ) -> Result<(), TooLarge> {
        debug_assert_eq!(self.packet_id == 0, self.qos == Qos::AtMostOnce);
        let properties = if version == Version::V5 { self.properties.len() } else { 0 };
        let mut body = 2 + self.topic.len() + self.payload.len();
        if self.qos != Qos::AtMostOnce {
            body += 2;
        }
        if version == Version::V5 {
            body += varint_len(properties) + properties;
        }
        if body > output::VARINT_MAX
            || 1 + varint_len(body) + body > packet_bytes_max
            || self.topic.len() > usize::from(u16::MAX)
        {
            return Err(TooLarge);
        }
        out.reserve(5 + body);
        let flags = u8::from(self.dup) << 3 | (self.qos as u8) << 1 | u8::from(self.retain);
        out.put_u8(0x30 | flags);
        put_varint(out, body);
        put_binary(out, self.topic);
        if self.qos != Qos::AtMostOnce {
            out.put_u16(self.packet_id);
        }
        if version == Version::V5 {
            self.properties.encode(properties, out);
        }
        out.put_slice(self.payload);
        Ok(())
    }
}
