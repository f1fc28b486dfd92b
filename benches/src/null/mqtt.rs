//! One MQTT connection of the bare server: answers what the load generator says, and no more.

use std::io;

use super::amqp::Arrived;
use crate::{
    intake::Intake,
    mqtt::packet::{self, Packet, Qos},
};

#[derive(Default)]
pub(super) struct Mqtt {
    delivered: u16,
    qos: Option<Qos>,
}

impl Mqtt {
    pub(super) fn read(
        &mut self,
        intake: &mut Intake,
        out: &mut Vec<u8>,
        log: &mut Vec<u8>,
    ) -> io::Result<Arrived> {
        let mut arrived = Arrived::default();
        while let Some((packet, length)) = packet::first(intake.bytes())? {
            match packet {
                Packet::Publish { id, payload } => {
                    arrived.bodies.push(log.len()..log.len() + payload.len());
                    log.extend_from_slice(payload);
                    out.extend(id.map(packet::puback).into_iter().flatten());
                }
                Packet::Connect => out.extend([0x20, 2, 0, 0]),
                Packet::Subscribe { id, qos } => {
                    let [a, b] = id.to_be_bytes();
                    out.extend([0x90, 3, a, b, u8::from(qos == Qos::AtLeastOnce)]);
                    self.qos = Some(qos);
                    arrived.consumes = true;
                }
                Packet::Connack { .. }
                | Packet::Suback { .. }
                | Packet::Puback { .. }
                | Packet::Other => {}
            }
            intake.consume(length);
        }
        Ok(arrived)
    }

    pub(super) fn deliver(&mut self, body: &[u8], out: &mut Vec<u8>) {
        const TOPIC: &str = "bench";
        let id = (self.qos == Some(Qos::AtLeastOnce)).then(|| {
            self.delivered = self.delivered.checked_add(1).unwrap_or(1);
            self.delivered
        });
        packet::publish(out, TOPIC, id, body);
    }
}
