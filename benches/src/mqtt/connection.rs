//! A blocking MQTT connection, as far as a benchmark needs one.

use std::{
    io::{self, Write},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

use super::{
    BODY_BYTES,
    packet::{self, Packet, Qos, Session},
};
use crate::{clock::now_nanos, intake::Intake, load::refused};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Retained messages that wait for their acknowledgements.
const ON_THEIR_WAY: usize = 500;

pub(crate) struct Connection {
    stream: TcpStream,
    intake: Intake,
}

impl Connection {
    pub(crate) fn open(port: u16, client_id: &str, session: Session) -> io::Result<Self> {
        let mut connection = Self::begin(port, client_id, session)?;
        connection.expect(|packet| match packet {
            Packet::Connack { accepted, .. } => Some(*accepted),
            _ => None,
        })?;
        Ok(connection)
    }

    fn begin(port: u16, client_id: &str, session: Session) -> io::Result<Self> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.write_all(&packet::connect(client_id, session))?;
        Ok(Self { stream, intake: Intake::default() })
    }

    /// Comes back to a session, which must be there.
    pub(crate) fn resume(port: u16, client_id: &str) -> io::Result<Self> {
        let mut connection = Self::begin(port, client_id, Session::Persistent)?;
        connection.expect(|packet| match packet {
            Packet::Connack { accepted, present } => Some(*accepted && *present),
            _ => None,
        })?;
        Ok(connection)
    }

    /// Publishes with QoS 1, and waits until it is acknowledged.
    pub(crate) fn publish(&mut self, topic: &str, body: &[u8]) -> io::Result<()> {
        let mut out = Vec::new();
        packet::publish(&mut out, topic, Qos::AtLeastOnce, 1, body);
        self.stream.write_all(&out)?;
        self.expect(|packet| matches!(packet, Packet::Puback { .. }).then_some(true))
    }

    /// The next message of QoS 1, which is acknowledged.
    pub(crate) fn receive(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let mut got = None;
            if let Some((packet, length)) = packet::first(self.intake.bytes())? {
                if let Packet::Publish { id, payload, .. } = packet {
                    got = Some((id, payload.to_vec()));
                }
                self.intake.consume(length);
            } else {
                self.intake.fill(&mut self.stream)?;
            }
            if let Some((id, payload)) = got {
                self.stream.write_all(&packet::puback(id))?;
                return Ok(payload);
            }
        }
    }

    pub(crate) fn subscribe(&mut self, filter: &str, qos: Qos) -> io::Result<()> {
        self.stream.write_all(&packet::subscribe(filter, qos))?;
        self.expect(|packet| match packet {
            Packet::Suback { granted } => Some(*granted),
            _ => None,
        })
    }

    /// Publishes messages to be kept, one to each topic, with bounded many on their way.
    pub(crate) fn retain(&mut self, topics: impl Iterator<Item = String>) -> io::Result<()> {
        let (mut out, mut waiting) = (Vec::new(), 0);
        for (number, topic) in topics.enumerate() {
            let id = u16::try_from(number % ON_THEIR_WAY + 1).unwrap_or(1);
            let mut body = [b'x'; BODY_BYTES];
            if let Some(stamp) = body.first_chunk_mut() {
                *stamp = now_nanos().to_be_bytes();
            }
            packet::publish_retained(&mut out, &topic, id, &body);
            waiting += 1;
            if waiting == ON_THEIR_WAY {
                self.retained(&mut out, &mut waiting)?;
            }
        }
        self.retained(&mut out, &mut waiting)
    }

    fn retained(&mut self, out: &mut Vec<u8>, waiting: &mut usize) -> io::Result<()> {
        self.stream.write_all(out)?;
        out.clear();
        for _ in 0..std::mem::take(waiting) {
            self.expect(|packet| matches!(packet, Packet::Puback { .. }).then_some(true))?;
        }
        Ok(())
    }

    pub(crate) fn close(mut self) -> io::Result<()> {
        self.stream.write_all(&packet::DISCONNECT)
    }

    /// Ends the session too, by a clean connection that takes it over.
    pub(crate) fn forget(port: u16, client_id: &str) -> io::Result<()> {
        Self::open(port, client_id, Session::Clean)?.close()
    }

    pub(crate) fn into_parts(self) -> (TcpStream, Intake) {
        (self.stream, self.intake)
    }

    fn expect(&mut self, answer: impl Fn(&Packet<'_>) -> Option<bool>) -> io::Result<()> {
        loop {
            if let Some((packet, length)) = packet::first(self.intake.bytes())? {
                let verdict = answer(&packet);
                self.intake.consume(length);
                match verdict {
                    Some(true) => return Ok(()),
                    Some(false) => return Err(refused("server refused to connect or subscribe")),
                    None => continue,
                }
            }
            self.intake.fill(&mut self.stream)?;
        }
    }
}
