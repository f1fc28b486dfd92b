//! The MQTT scenarios: one publisher to one subscriber, and to a hundred.

mod connection;
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
pub const SUBSCRIBERS: u16 = 100;

const PACKET_IDS: u64 = 65_535;

/// The subscriber's session is persistent, so what is confirmed to the publisher is owed to it.
pub fn one_to_one(load: Load) -> Result<Measured> {
    one_to(1, load, Qos::AtLeastOnce, false)
}

/// The publisher never runs further ahead of its readers than the window, so that no server has
/// to choose between dropping and hoarding.
pub fn one_to_many(load: Load, qos: Qos) -> Result<Measured> {
    one_to(SUBSCRIBERS, load, qos, true)
}

fn one_to(subscribers: u16, load: Load, qos: Qos, until_delivered: bool) -> Result<Measured> {
    let window = Window {
        messages: WINDOW,
        copies: u64::from(subscribers),
        total: None,
        confirms: qos == Qos::AtLeastOnce,
        until_delivered,
        pace: None,
    };
    let topic = format!("bench/{}", load.run);
    let session = match qos {
        Qos::AtMostOnce => Session::Clean,
        Qos::AtLeastOnce => Session::Persistent,
    };
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
            Qos::AtLeastOnce => {
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
                Packet::Publish { id, payload } => {
                    tally.delivered(payload);
                    if let Some(id) = id {
                        out.extend_from_slice(&packet::puback(id));
                    }
                }
                Packet::Puback { id } => {
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
