//! MQTT 3.1.1 packets: the few that a publisher and a subscriber exchange with a server.

use std::io;

use crate::load::refused;

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x60;
const PUBCOMP: u8 = 0x70;
const SUBSCRIBE: u8 = 0x80;
const SUBACK: u8 = 0x90;
pub const DISCONNECT: [u8; 2] = [0xE0, 0];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Qos {
    AtMostOnce,
    AtLeastOnce,
    ExactlyOnce,
}

/// What the server keeps for a client that is away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Session {
    Clean,
    Persistent,
}

pub enum Packet<'a> {
    Connect,
    Connack { accepted: bool, present: bool },
    Subscribe { id: u16, qos: Qos },
    Suback { granted: bool },
    Puback { id: u16 },
    Pubrec { id: u16 },
    Pubrel { id: u16 },
    Pubcomp { id: u16 },
    Publish { qos: Qos, id: u16, payload: &'a [u8] },
    Other,
}

/// The first whole packet and its length on the wire.
pub fn first(bytes: &[u8]) -> io::Result<Option<(Packet<'_>, usize)>> {
    let Some((head, rest)) = bytes.split_first() else { return Ok(None) };
    let Some((length, length_bytes)) = remaining_length(rest)? else { return Ok(None) };
    let Some(content) = rest.get(length_bytes..length_bytes + length) else { return Ok(None) };
    let packet = match head & 0xF0 {
        CONNECT => Packet::Connect,
        CONNACK => Packet::Connack {
            accepted: content.get(1) == Some(&0),
            present: content.first() == Some(&1),
        },
        SUBSCRIBE => {
            Packet::Subscribe { id: id(content)?.0, qos: qos(*content.last().unwrap_or(&0)) }
        }
        SUBACK => Packet::Suback { granted: content.get(2).is_some_and(|code| *code < 0x80) },
        PUBACK => Packet::Puback { id: id(content)?.0 },
        PUBREC => Packet::Pubrec { id: id(content)?.0 },
        PUBREL => Packet::Pubrel { id: id(content)?.0 },
        PUBCOMP => Packet::Pubcomp { id: id(content)?.0 },
        PUBLISH => split_publish(*head, content)?,
        _ => Packet::Other,
    };
    Ok(Some((packet, 1 + length_bytes + length)))
}

fn remaining_length(bytes: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let mut length = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((length, index + 1)));
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(refused("remaining length of five bytes")) }
}

fn id(content: &[u8]) -> io::Result<(u16, &[u8])> {
    let ([a, b], rest) =
        content.split_first_chunk::<2>().ok_or_else(|| refused("packet without identifier"))?;
    Ok((u16::from_be_bytes([*a, *b]), rest))
}

fn split_publish(head: u8, content: &[u8]) -> io::Result<Packet<'_>> {
    let (topic_bytes, rest) = id(content)?;
    let (_topic, rest) = rest
        .split_at_checked(usize::from(topic_bytes))
        .ok_or_else(|| refused("publish without topic"))?;
    let qos = qos((head >> 1) & 0b11);
    let (id, payload) = if qos == Qos::AtMostOnce { (0, rest) } else { id(rest)? };
    Ok(Packet::Publish { qos, id, payload })
}

fn qos(bits: u8) -> Qos {
    match bits {
        0 => Qos::AtMostOnce,
        1 => Qos::AtLeastOnce,
        _ => Qos::ExactlyOnce,
    }
}

pub fn connect(client_id: &str, session: Session) -> Vec<u8> {
    let flags = if session == Session::Clean { 0b10 } else { 0 };
    // Keep-alive 600 s: longer than any run; rumqttd refuses none at all.
    packet(CONNECT, &[&text("MQTT")[..], &[4, flags, 2, 88], &text(client_id)].concat())
}

pub fn subscribe(filter: &str, qos: Qos) -> Vec<u8> {
    packet(SUBSCRIBE | 0b10, &[&[0, 1], &*text(filter), &[qos_bits(qos)]].concat())
}

/// With packet identifier 0 above QoS 0, and where it is to be patched.
pub fn publish_template(topic: &str, qos: Qos, body_bytes: usize) -> (Vec<u8>, usize) {
    let mut whole = Vec::new();
    publish(&mut whole, topic, qos, 0, &vec![b'x'; body_bytes]);
    let id_bytes = if qos == Qos::AtMostOnce { 0 } else { 2 };
    let identifier_at = whole.len() - body_bytes - id_bytes;
    (whole, identifier_at)
}

/// QoS 0 has no identifier, whatever it is said to be.
pub fn publish(out: &mut Vec<u8>, topic: &str, qos: Qos, id: u16, body: &[u8]) {
    let has_id = qos != Qos::AtMostOnce;
    out.push(PUBLISH | (qos_bits(qos) << 1));
    push_length(out, 2 + topic.len() + if has_id { 2 } else { 0 } + body.len());
    out.extend(u16::try_from(topic.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(topic.as_bytes());
    if has_id {
        out.extend(id.to_be_bytes());
    }
    out.extend_from_slice(body);
}

/// A QoS 1 message that the server is to keep for its topic.
pub fn publish_retained(out: &mut Vec<u8>, topic: &str, id: u16, body: &[u8]) {
    const RETAIN: u8 = 1;
    let at = out.len();
    publish(out, topic, Qos::AtLeastOnce, id, body);
    if let Some(head) = out.get_mut(at) {
        *head |= RETAIN;
    }
}

pub fn puback(id: u16) -> [u8; 4] {
    answer(PUBACK, id)
}

pub fn pubrec(id: u16) -> [u8; 4] {
    answer(PUBREC, id)
}

pub fn pubrel(id: u16) -> [u8; 4] {
    const FLAGS: u8 = 0b10;
    answer(PUBREL | FLAGS, id)
}

pub fn pubcomp(id: u16) -> [u8; 4] {
    answer(PUBCOMP, id)
}

fn answer(head: u8, id: u16) -> [u8; 4] {
    let [a, b] = id.to_be_bytes();
    [head, 2, a, b]
}

pub fn qos_bits(qos: Qos) -> u8 {
    match qos {
        Qos::AtMostOnce => 0,
        Qos::AtLeastOnce => 1,
        Qos::ExactlyOnce => 2,
    }
}

fn packet(head: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![head];
    push_length(&mut out, content.len());
    out.extend(content);
    out
}

fn push_length(out: &mut Vec<u8>, mut length: usize) {
    loop {
        let byte = u8::try_from(length & 0x7F).unwrap_or(0);
        length >>= 7;
        out.push(if length > 0 { byte | 0x80 } else { byte });
        if length == 0 {
            return;
        }
    }
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
    bytes.extend(text.bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_is_read_back_only_when_whole() {
        let (mut wire, identifier_at) = publish_template("a/b", Qos::AtLeastOnce, 256);
        wire[identifier_at + 1] = 9;
        assert!(first(&wire[..wire.len() - 1]).unwrap().is_none());
        let (packet, length) = first(&wire).unwrap().unwrap();
        assert_eq!(length, wire.len());
        let Packet::Publish { qos: Qos::AtLeastOnce, id: 9, payload } = packet else {
            panic!("not that publish")
        };
        assert_eq!(payload, [b'x'; 256]);
    }

    #[test]
    fn a_qos_0_publish_has_no_identifier() {
        let (wire, _) = publish_template("a", Qos::AtMostOnce, 3);
        let (packet, _) = first(&wire).unwrap().unwrap();
        let at_most_once = Qos::AtMostOnce;
        assert!(
            matches!(packet, Packet::Publish { qos, payload: b"xxx", .. } if qos == at_most_once)
        );
    }
}
