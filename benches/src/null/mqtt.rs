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
                Packet::Publish { qos, id, payload } => {
                    arrived.bodies.push(log.len()..log.len() + payload.len());
                    log.extend_from_slice(payload);
                    match qos {
                        Qos::AtMostOnce => {}
                        Qos::AtLeastOnce => out.extend(packet::puback(id)),
                        Qos::ExactlyOnce => out.extend(packet::pubrec(id)),
                    }
                }
                Packet::Pubrel { id } => out.extend(packet::pubcomp(id)),
                Packet::Pubrec { id } => out.extend(packet::pubrel(id)),
                Packet::Connect => out.extend([0x20, 2, 0, 0]),
                Packet::Subscribe { id, qos } => {
                    let [a, b] = id.to_be_bytes();
                    out.extend([0x90, 3, a, b, packet::qos_bits(qos)]);
                    self.qos = Some(qos);
                    arrived.consumes = true;
                }
                Packet::Connack { .. }
                | Packet::Suback { .. }
                | Packet::Puback { .. }
                | Packet::Pubcomp { .. }
                | Packet::Other => {}
            }
            intake.consume(length);
        }
        Ok(arrived)
    }

    pub(super) fn deliver(&mut self, body: &[u8], out: &mut Vec<u8>) {
        const TOPIC: &str = "bench";
        self.delivered = self.delivered.checked_add(1).unwrap_or(1);
        let qos = self.qos.unwrap_or(Qos::AtMostOnce);
        packet::publish(out, TOPIC, qos, self.delivered, body);
    }
}
