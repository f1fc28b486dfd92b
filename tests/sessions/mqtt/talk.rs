//! What was said by both sides so far: the client's words as they went out, damage and all, and the
//! server's, held to the rules of the protocol.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use mainstem_mqtt::codec::{self, Packet, Publish, Qos, Version, connect, frame};

use super::script::packet;
use crate::promises::Promises;

const PACKET_MAX: usize = 16 << 20;
/// What the server sends unacknowledged to clients that name no bound.
const IN_FLIGHT_MAX: usize = 1024;
const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const PUBREC: u8 = 5;
const PUBREL: u8 = 6;
const PUBCOMP: u8 = 7;
const SUBACK: u8 = 9;
const UNSUBACK: u8 = 11;
const PINGRESP: u8 = 13;
const DISCONNECT: u8 = 14;

/// A message above QoS 0 of ours that is not acknowledged.
#[derive(Debug)]
struct Sent {
    qos: Qos,
    /// Its body, if it went to the kept topic as it should.
    kept: Option<Bytes>,
}

/// A connection's talk.
#[derive(Debug, Default)]
pub struct Talk {
    kept: String,
    said: BytesMut,
    version: Option<Version>,
    is_garbled: bool,
    /// Something else went out among the client's words, so what the server answers is not known.
    pub is_scrambled: bool,
    /// The client said DISCONNECT.
    pub has_left: bool,
    sent: BTreeMap<u16, Vec<Sent>>,
    /// Every identifier that was ever said with a message of QoS 2.
    said_twos: BTreeSet<u16>,
    releases: BTreeMap<u16, usize>,
    subscribes: BTreeMap<u16, Vec<usize>>,
    unsubscribes: BTreeMap<u16, usize>,
    pings: usize,
    receive_max: usize,
    packet_max: usize,
    heard: BytesMut,
    pub is_let_in: bool,
    /// It goes on with a session of others, who may have left messages of QoS 2 unreleased: a new one
    /// under the identifier of such a one is that one again.
    is_resumed: bool,
    is_refused: bool,
    /// The reason the server gave for its end.
    pub goodbye: Option<u8>,
    in_flight: BTreeSet<u16>,
    /// What a client answers.
    pub replies: Vec<u8>,
    pub is_lazy: bool,
    pub delivered: u64,
    pub confirmed: u64,
    pub promises: Promises,
}

type Heard = Result<(), String>;

impl Talk {
    pub fn new(kept: &str, is_lazy: bool) -> Self {
        let kept = kept.to_owned();
        Self {
            kept,
            is_lazy,
            packet_max: PACKET_MAX,
            receive_max: IN_FLIGHT_MAX,
            ..Self::default()
        }
    }

    /// These bytes go out.
    pub fn say(&mut self, bytes: &[u8]) {
        self.said.extend_from_slice(bytes);
        while !self.is_garbled && !self.has_left {
            let frame = match frame::next(&mut self.said, PACKET_MAX) {
                Ok(Some(frame)) => frame,
                Ok(None) => return,
                Err(_) => return self.is_garbled = true,
            };
            self.is_garbled = match self.version {
                None => match connect::decode(&frame) {
                    Ok(connect) => {
                        self.version = Some(connect.version);
                        let said = usize::from(connect.properties.receive_max);
                        self.receive_max = said.min(IN_FLIGHT_MAX);
                        let max = connect.properties.packet_bytes_max;
                        self.packet_max =
                            max.map_or(PACKET_MAX, |max| usize::try_from(max).unwrap());
                        false
                    }
                    Err(_) => true,
                },
                Some(version) => match codec::decode(&frame, version) {
                    // Nobody here agreed on a way to prove who they are.
                    Ok(Packet::Auth(_)) | Err(_) => true,
                    Ok(packet) => {
                        self.note(packet);
                        false
                    }
                },
            };
        }
    }

    fn note(&mut self, packet: Packet) {
        match packet {
            Packet::Publish(publish) => self.note_publish(publish),
            Packet::PubAck(ack) | Packet::PubComp(ack) => {
                self.in_flight.remove(&ack.packet_id);
            }
            Packet::PubRec(ack) if ack.reason.is_failure() => {
                self.in_flight.remove(&ack.packet_id);
            }
            Packet::PubRec(_) => {}
            Packet::PubRel(ack) => *self.releases.entry(ack.packet_id).or_default() += 1,
            Packet::Subscribe(subscribe) => {
                let all = self.subscribes.entry(subscribe.packet_id).or_default();
                all.push(subscribe.wishes.len());
            }
            Packet::Unsubscribe(unsubscribe) => {
                *self.unsubscribes.entry(unsubscribe.packet_id).or_default() += 1;
            }
            Packet::PingReq => self.pings += 1,
            Packet::Disconnect(_) => self.has_left = true,
            Packet::Auth(_) => {}
        }
    }

    fn note_publish(&mut self, publish: Publish) {
        let Publish { qos, topic, packet_id, properties, payload, .. } = publish;
        let is_kept = topic.as_str() == self.kept;
        let is_open = qos == Qos::ExactlyOnce && self.sent.contains_key(&packet_id);
        if is_kept && !is_open {
            self.promises.say(payload.clone());
        }
        if qos == Qos::AtMostOnce {
            return;
        }
        // Under an identifier that was not released, as far as the server knows, it is the one before.
        let is_new = qos != Qos::ExactlyOnce || self.said_twos.insert(packet_id);
        let is_plain = properties.native.is_empty() && properties.expiry_s.is_none();
        let kept = (is_kept && is_plain && is_new).then_some(payload);
        self.sent.entry(packet_id).or_default().push(Sent { qos, kept });
    }

    /// Whether nothing that the client said waits for an answer.
    pub fn is_answered(&self) -> bool {
        self.is_let_in
            && self.sent.is_empty()
            && self.releases.is_empty()
            && self.subscribes.is_empty()
            && self.unsubscribes.is_empty()
            && self.pings == 0
    }

    pub fn unanswered(&self) -> String {
        let Self { sent, releases, subscribes, unsubscribes, pings, .. } = self;
        format!("{sent:?} {releases:?} {subscribes:?} {unsubscribes:?} {pings} pings")
    }

    /// What was heard of a packet that is not whole.
    pub fn half_heard(&self) -> String {
        let shown = self.heard.len().min(40);
        format!("{} bytes of a packet: {:02x?}", self.heard.len(), &self.heard[..shown])
    }

    /// Whether the client has a maximum packet size of its own.
    pub fn takes_little(&self) -> bool {
        self.packet_max < PACKET_MAX
    }

    /// Whether no packet is half said.
    pub fn is_between_packets(&self) -> bool {
        self.said.is_empty()
    }

    /// Whether the server can tell why it ends the connection.
    pub fn is_told_why(&self) -> bool {
        self.is_let_in && self.version == Some(Version::V5) && !self.has_left
    }

    /// The server said these bytes. Errors: it must not say so.
    pub fn hear(&mut self, bytes: &[u8]) -> Heard {
        self.heard.extend_from_slice(bytes);
        loop {
            let before = self.heard.len();
            let said = frame::next(&mut self.heard, PACKET_MAX).map_err(|fault| fault.text)?;
            let Some(said) = said else { return Ok(()) };
            let length = before - self.heard.len();
            if length > self.packet_max {
                return Err(format!(
                    "a packet of {length} bytes, and {} are taken",
                    self.packet_max
                ));
            }
            if let Some(goodbye) = self.goodbye {
                return Err(format!("{:#x} after its goodbye with {goodbye:#x}", said.first));
            }
            let (kind, flags) = (said.first >> 4, said.first & 0xf);
            let is_first = !self.is_let_in && !self.is_refused;
            if is_first != (kind == CONNACK) {
                return Err(format!("{:#x} where it must not be", said.first));
            }
            let flags_wanted = if kind == PUBREL { 2 } else { 0 };
            if kind != PUBLISH && flags != flags_wanted {
                return Err(format!("{:#x}, with flags that are reserved", said.first));
            }
            self.packet(kind, flags, &said.body).map_err(|why| {
                format!("{why}: {:#x} {:02x?}", said.first, &said.body[..said.body.len().min(40)])
            })?;
        }
    }

    fn packet(&mut self, kind: u8, flags: u8, body: &Bytes) -> Heard {
        let is_v5 = self.version == Some(Version::V5);
        match kind {
            PINGRESP => {
                if self.pings == 0 {
                    return self.unexpected("an answer to no ping".to_owned());
                }
                self.pings -= 1;
                return Ok(());
            }
            DISCONNECT if is_v5 => {
                self.goodbye = Some(body.first().copied().unwrap_or(0));
                return Ok(());
            }
            PUBLISH => return self.publish(flags, body),
            _ => {}
        }
        let &[high, low, ref rest @ ..] = &**body else { return Err("it is too short".to_owned()) };
        if kind == CONNACK {
            (self.is_let_in, self.is_refused) = (low == 0, low != 0);
            self.is_resumed = high & 1 == 1;
            return if high > 1 { Err("reserved flags".to_owned()) } else { Ok(()) };
        }
        let id = u16::from_be_bytes([high, low]);
        let is_failure = rest.first().is_some_and(|reason| *reason >= 0x80);
        match kind {
            PUBACK => self.acknowledged(id, Qos::AtLeastOnce, is_failure),
            PUBREC => {
                self.acknowledged(id, Qos::ExactlyOnce, is_failure)?;
                if !is_failure {
                    self.replies.extend(packet(0x62, &body[..2]));
                }
                Ok(())
            }
            PUBREL => {
                self.replies.extend(packet(0x70, &body[..2]));
                Ok(())
            }
            PUBCOMP => take(&mut self.releases, id).or_else(|why| self.unexpected(why)),
            SUBACK => {
                let of = self.subscribes.get_mut(&id).filter(|of| !of.is_empty());
                let Some(wanted) = of.map(|of| of.remove(0)) else {
                    return self.unexpected("an answer to no SUBSCRIBE".to_owned());
                };
                self.subscribes.retain(|_, of| !of.is_empty());
                let codes = if is_v5 { rest.len().saturating_sub(1) } else { rest.len() };
                if codes != wanted {
                    return self.unexpected(format!("{codes} codes for {wanted} filters"));
                }
                Ok(())
            }
            UNSUBACK => take(&mut self.unsubscribes, id).or_else(|why| self.unexpected(why)),
            _ => Err("no server says so".to_owned()),
        }
    }

    /// What the client's words, as they are known here, give no cause for.
    fn unexpected(&self, why: String) -> Heard {
        if self.is_scrambled { Ok(()) } else { Err(why) }
    }

    fn acknowledged(&mut self, id: u16, qos: Qos, is_failure: bool) -> Heard {
        let of = self.sent.get_mut(&id);
        let at = of.as_ref().and_then(|of| of.iter().position(|sent| sent.qos == qos));
        let (Some(of), Some(at)) = (of, at) else {
            // A repeated message of QoS 2 is acknowledged again.
            let is_again = qos == Qos::ExactlyOnce && self.said_twos.contains(&id);
            return if is_again {
                Ok(())
            } else {
                self.unexpected("an answer to no PUBLISH".to_owned())
            };
        };
        let Sent { kept, .. } = of.remove(at);
        if qos == Qos::ExactlyOnce {
            // Repeated ones may be answered once.
            of.retain(|sent| sent.qos != qos);
        }
        self.sent.retain(|_, of| !of.is_empty());
        self.confirmed += 1;
        let is_new = qos != Qos::ExactlyOnce || !self.is_resumed;
        self.promises.owed.extend(kept.filter(|_| is_new && !is_failure));
        Ok(())
    }

    fn publish(&mut self, flags: u8, body: &Bytes) -> Heard {
        self.delivered += 1;
        let (qos, is_dup) = (flags >> 1 & 3, flags & 8 != 0);
        let (topic, rest) = text(body)?;
        let topic = std::str::from_utf8(topic).map_err(|_| "a topic that is not UTF-8")?;
        if topic.contains(['+', '#', '\0']) || topic.is_empty() && self.version != Some(Version::V5)
        {
            return Err("a topic that is none".to_owned());
        }
        if qos == 0 {
            return if is_dup { Err("DUP at QoS 0".to_owned()) } else { Ok(()) };
        }
        let id = rest.first_chunk().map(|id| u16::from_be_bytes(*id));
        let id = id.filter(|id| *id > 0 && qos < 3).ok_or("QoS and identifier do not fit")?;
        // What an earlier connection left comes again, once.
        if !self.in_flight.insert(id) {
            return self.unexpected("its identifier is in use".to_owned());
        }
        if self.in_flight.len() > self.receive_max {
            return Err(format!("{} are under way", self.in_flight.len()));
        }
        if !self.is_lazy {
            let first = if qos == 1 { 0x40 } else { 0x50 };
            self.replies.extend(packet(first, &id.to_be_bytes()));
        }
        Ok(())
    }
}

fn take(waiting: &mut BTreeMap<u16, usize>, id: u16) -> Heard {
    let count = waiting.get_mut(&id).ok_or("an answer to nothing")?;
    *count -= 1;
    waiting.retain(|_, count| *count > 0);
    Ok(())
}

/// A string behind its length, and what follows it.
fn text(bytes: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let text = bytes
        .split_first_chunk()
        .and_then(|(length, rest)| rest.split_at_checked(usize::from(u16::from_be_bytes(*length))));
    text.ok_or_else(|| "a topic that ends too early".to_owned())
}
