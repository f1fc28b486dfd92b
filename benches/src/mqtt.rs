//! The MQTT scenarios: one to one, many to one, one to many, and what waited.

pub(crate) mod connection;
pub mod packet;

use std::io;

use self::{
    connection::Connection,
    packet::{Packet, Qos, Session},
};
use crate::{
    drive::{self, Dialect, Party, Tally, Window},
    intake::Intake,
    load::{Load, Measured, Result, Unconfirmed},
};

pub const BODY_BYTES: usize = 256;
pub const WINDOW: usize = 100;
/// Publishers that send to one subscriber together, and what each has on its way.
const FAN_IN: u16 = 50;
const FAN_IN_WINDOW: usize = 20;
/// Messages that wait: for a subscription, or for a session.
const WAITING: u64 = 100_000;

const PACKET_IDS: u64 = 65_535;

/// The subscriber's session is persistent above QoS 0, so what is confirmed to the publisher is owed
/// to it.
pub fn one_to_one(load: Load, qos: Qos) -> Result<Measured> {
    let window = Window { until_delivered: qos == Qos::AtMostOnce, ..window(qos, 1) };
    one_to(1, load, qos, window)
}

/// The publisher never runs further ahead of its readers than the window, so that no server has
/// to choose between dropping and hoarding.
pub fn one_to_many(load: Load, qos: Qos, subscribers: u16) -> Result<Measured> {
    one_to(subscribers, load, qos, window(qos, subscribers))
}

fn window(qos: Qos, subscribers: u16) -> Window {
    Window {
        messages: WINDOW,
        copies: u64::from(subscribers),
        total: None,
        confirms: qos != Qos::AtMostOnce,
        until_delivered: true,
        pace: None,
    }
}

fn one_to(subscribers: u16, load: Load, qos: Qos, window: Window) -> Result<Measured> {
    let topic = format!("bench/{}", load.run);
    let session = if qos == Qos::AtMostOnce { Session::Clean } else { Session::Persistent };
    let client_id = |number: u16| format!("sub-{}-{number}", load.run);
    let mut readers = Vec::new();
    for number in 0..subscribers {
        let mut subscriber = Connection::open(load.port, &client_id(number), session)?;
        subscriber.subscribe(&topic, qos)?;
        readers.push(subscriber.party(&topic, qos)?);
    }
    let publisher = format!("pub-{}", load.run);
    let publisher = Connection::open(load.port, &publisher, Session::Clean)?;
    let measured = drive::run(load, window, vec![publisher.party(&topic, qos)?], readers)?;
    if session == Session::Persistent {
        (0..subscribers)
            .try_for_each(|number| Connection::forget(load.port, &client_id(number)))?;
    }
    Ok(measured)
}

/// Each of them publishes to a topic of its own.
pub fn fan_in(load: Load) -> Result<Measured> {
    let qos = Qos::AtLeastOnce;
    let reader = format!("sub-{}", load.run);
    let mut subscriber = Connection::open(load.port, &reader, Session::Persistent)?;
    subscriber.subscribe(&format!("bench/{}/#", load.run), qos)?;
    let mut publishers = Vec::new();
    for number in 0..FAN_IN {
        let name = format!("pub-{}-{number}", load.run);
        let publisher = Connection::open(load.port, &name, Session::Clean)?;
        publishers.push(publisher.party(&format!("bench/{}/{number}", load.run), qos)?);
    }
    let window = Window { messages: FAN_IN_WINDOW, until_delivered: false, ..window(qos, 1) };
    let readers = vec![subscriber.party("", qos)?];
    let measured = drive::run(load, window, publishers, readers)?;
    Connection::forget(load.port, &reader)?;
    Ok(measured)
}

/// Retained messages, each of a topic of its own, to who subscribes to all of them.
pub fn retained(load: Load) -> Result<Measured> {
    let mut publisher = Connection::open(load.port, &format!("pub-{}", load.run), Session::Clean)?;
    publisher.retain((0..WAITING).map(|number| format!("kept/{}/{number}", load.run)))?;
    let reader = Connection::open(load.port, &format!("sub-{}", load.run), Session::Clean)?;
    let mut reader = reader.party("", Qos::AtLeastOnce)?;
    reader.first(&packet::subscribe(&format!("kept/{}/#", load.run), Qos::AtLeastOnce));
    drive::drain(load, WAITING, reader)
}

/// What waited for a session that was away, from the moment it is back.
pub fn resumed(load: Load) -> Result<Measured> {
    let (qos, topic) = (Qos::AtLeastOnce, format!("bench/{}", load.run));
    let name = format!("sub-{}", load.run);
    let mut subscriber = Connection::open(load.port, &name, Session::Persistent)?;
    subscriber.subscribe(&topic, qos)?;
    subscriber.close()?;
    let publisher = Connection::open(load.port, &format!("pub-{}", load.run), Session::Clean)?;
    let publishers = vec![publisher.party(&topic, qos)?];
    let fill = Window { total: Some(WAITING), until_delivered: false, ..window(qos, 0) };
    drive::run(load, fill, publishers, Vec::new())?;
    let subscriber = Connection::open(load.port, &name, Session::Persistent)?;
    let measured = drive::drain(load, WAITING, subscriber.party(&topic, qos)?)?;
    Connection::forget(load.port, &name)?;
    Ok(measured)
}

/// The load's words in MQTT.
pub struct Mqtt {
    qos: Qos,
    template: Vec<u8>,
    identifier_at: usize,
}

impl Connection {
    fn party(self, topic: &str, qos: Qos) -> io::Result<Party<Mqtt>> {
        let (template, identifier_at) = packet::publish_template(topic, qos, BODY_BYTES);
        let (stream, intake) = self.into_parts();
        Party::new(Mqtt { qos, template, identifier_at }, stream, intake)
    }
}

impl Dialect for Mqtt {
    fn publish(&mut self, sequence: u64, now_nanos: u64, out: &mut Vec<u8>) {
        let patched = self.template.get_mut(self.identifier_at..).unwrap_or_default();
        let body = match self.qos {
            Qos::AtMostOnce => patched,
            Qos::AtLeastOnce | Qos::ExactlyOnce => {
                let id = u16::try_from(sequence % PACKET_IDS + 1).unwrap_or(1);
                let (identifier, body) = patched.split_at_mut(2);
                identifier.copy_from_slice(&id.to_be_bytes());
                body
            }
        };
        if let Some(stamp) = body.first_chunk_mut::<8>() {
            *stamp = now_nanos.to_be_bytes();
        }
        out.extend_from_slice(&self.template);
    }

    fn take(
        &mut self,
        intake: &mut Intake,
        out: &mut Vec<u8>,
        unconfirmed: &mut Unconfirmed,
        tally: &mut Tally,
    ) -> io::Result<()> {
        while let Some((packet, length)) = packet::first(intake.bytes())? {
            match packet {
                Packet::Publish { qos, id, payload } => {
                    tally.delivered(payload);
                    match qos {
                        Qos::AtMostOnce => {}
                        Qos::AtLeastOnce => out.extend(packet::puback(id)),
                        Qos::ExactlyOnce => out.extend(packet::pubrec(id)),
                    }
                }
                Packet::Pubrel { id } => out.extend(packet::pubcomp(id)),
                Packet::Pubrec { id } => out.extend(packet::pubrel(id)),
                Packet::Puback { id } | Packet::Pubcomp { id } => {
                    // Identifiers wrap long after the window: the nearest at or above the floor.
                    let floor = unconfirmed.floor();
                    let ahead = u64::from(id) + 2 * PACKET_IDS - 1 - floor % PACKET_IDS;
                    unconfirmed.confirm(floor + ahead % PACKET_IDS, tally.now_nanos);
                }
                Packet::Connect
                | Packet::Connack { .. }
                | Packet::Subscribe { .. }
                | Packet::Suback { .. }
                | Packet::Other => {}
            }
            intake.consume(length);
        }
        Ok(())
    }
}
