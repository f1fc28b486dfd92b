//! A blocking MQTT connection, as far as a benchmark needs one.

use std::{
    io::{self, Write},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

use super::packet::{self, Packet, Qos, Session};
use crate::{intake::Intake, load::refused};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Connection {
    stream: TcpStream,
    intake: Intake,
}

impl Connection {
    pub(super) fn open(port: u16, client_id: &str, session: Session) -> io::Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut connection = Self { stream, intake: Intake::default() };
        connection.stream.write_all(&packet::connect(client_id, session))?;
        connection.expect(|packet| match packet {
            Packet::Connack { accepted } => Some(*accepted),
            _ => None,
        })?;
        Ok(connection)
    }

    pub(super) fn subscribe(&mut self, filter: &str, qos: Qos) -> io::Result<()> {
        self.stream.write_all(&packet::subscribe(filter, qos))?;
        self.expect(|packet| match packet {
            Packet::Suback { granted } => Some(*granted),
            _ => None,
        })
    }

    pub(super) fn close(mut self) -> io::Result<()> {
        self.stream.write_all(&packet::DISCONNECT)
    }

    /// Ends the session too, by a clean connection that takes it over.
    pub(super) fn forget(port: u16, client_id: &str) -> io::Result<()> {
        Self::open(port, client_id, Session::Clean)?.close()
    }

    pub(super) fn into_parts(self) -> (TcpStream, Intake) {
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
