//! A blocking MQTT connection, as far as a benchmark needs one.

use std::{
    io::{self, Write},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

use super::packet::{self, Packet, Qos, Session};
use crate::{
    intake::Intake,
    load::{READ_TIMEOUT, refused},
};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

pub struct Connection {
    pub stream: TcpStream,
    intake: Intake,
}

impl Connection {
    pub fn open(port: u16, client_id: &str, session: Session) -> io::Result<Self> {
        Self::open_with(port, client_id, session, Intake::default())
    }

    pub fn open_with(
        port: u16,
        client_id: &str,
        session: Session,
        intake: Intake,
    ) -> io::Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut connection = Self { stream, intake };
        connection.stream.write_all(&packet::connect(client_id, session))?;
        connection.expect(|packet| match packet {
            Packet::Connack { accepted } => Some(*accepted),
            _ => None,
        })?;
        connection.stream.set_read_timeout(Some(READ_TIMEOUT))?;
        Ok(connection)
    }

    pub fn subscribe(&mut self, filter: &str, qos: Qos) -> io::Result<()> {
        self.stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        self.stream.write_all(&packet::subscribe(filter, qos))?;
        self.expect(|packet| match packet {
            Packet::Suback { granted } => Some(*granted),
            _ => None,
        })?;
        self.stream.set_read_timeout(Some(READ_TIMEOUT))
    }

    pub fn close(mut self) -> io::Result<()> {
        self.stream.write_all(&packet::DISCONNECT)
    }

    /// Ends the session too, by a clean connection that takes it over.
    pub fn forget(port: u16, client_id: &str) -> io::Result<()> {
        Self::open_with(port, client_id, Session::Clean, Intake::small())?.close()
    }

    pub fn fill(&mut self) -> io::Result<()> {
        self.intake.fill(&mut self.stream).map(drop)
    }

    pub fn take_all(&mut self, each: impl FnMut(Packet<'_>) -> io::Result<()>) -> io::Result<()> {
        take_all(&mut self.intake, each)
    }

    pub fn into_parts(self) -> (TcpStream, Intake) {
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
            self.fill()?;
        }
    }
}

pub fn take_all(
    intake: &mut Intake,
    mut each: impl FnMut(Packet<'_>) -> io::Result<()>,
) -> io::Result<()> {
    while let Some((packet, length)) = packet::first(intake.bytes())? {
        each(packet)?;
        intake.consume(length);
    }
    Ok(())
}
