//! The bare server: answers the protocols, appends every message to one file and syncs it once
//! per turn of its loop before it confirms. No server that keeps what it confirms can be much
//! faster on the same machine.

mod amqp;
mod mqtt;

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, ErrorKind, Write},
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::FileExt,
    path::Path,
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};

use self::{
    amqp::{Amqp, Arrived},
    mqtt::Mqtt,
};
use crate::{
    clock::now_nanos,
    histogram::Histogram,
    intake::{Intake, is_idle},
    load::Result,
};

const AMQP_LISTENER: Token = Token(0);
const MQTT_LISTENER: Token = Token(1);
const FIRST_CONNECTION: usize = 2;
/// Written round and round, so that a sync never waits for the file system's metadata.
const FILE_BYTES: usize = 128 << 20;
const CHUNK_BYTES: usize = 1 << 20;

pub fn serve(amqp_port: u16, mqtt_port: u16, data: &Path) -> Result<()> {
    let mut poll = Poll::new()?;
    let mut amqp = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, amqp_port)))?;
    let mut mqtt = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, mqtt_port)))?;
    let mut server = Null { connections: Vec::new(), journal: Journal::create(data)? };
    poll.registry().register(&mut amqp, AMQP_LISTENER, Interest::READABLE)?;
    poll.registry().register(&mut mqtt, MQTT_LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(256);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        let mut arrived = Vec::new();
        for event in &events {
            match event.token() {
                AMQP_LISTENER => server.accept(&poll, &amqp, || Face::Amqp(Amqp::default()))?,
                MQTT_LISTENER => server.accept(&poll, &mqtt, || Face::Mqtt(Mqtt::default()))?,
                Token(token) => server.read(token - FIRST_CONNECTION, &mut arrived),
            }
        }
        server.finish_turn(&arrived)?;
    }
}

/// How long one small write and its sync take on this machine now. Where no core is idle the
/// answer is the scheduler's tick rather than the disk's time.
pub fn sync_times(data: &Path) -> io::Result<String> {
    let mut journal = Journal::create(data)?;
    let mut times = Histogram::default();
    for _ in 0..200 {
        journal.turn.resize(4096, 1);
        let start = now_nanos();
        journal.sync()?;
        times.record(now_nanos() - start);
    }
    let micros = |percent| times.percentile(percent).as_micros();
    Ok(format!("{} / {} us", micros(50), micros(99)))
}

struct Null {
    connections: Vec<Option<Connection>>,
    journal: Journal,
}

struct Connection {
    stream: TcpStream,
    intake: Intake,
    out: Vec<u8>,
    face: Face,
    consumes: bool,
    waiting: VecDeque<Box<[u8]>>,
}

enum Face {
    Amqp(Amqp),
    Mqtt(Mqtt),
}

impl Null {
    fn accept(
        &mut self,
        poll: &Poll,
        listener: &TcpListener,
        face: impl Fn() -> Face,
    ) -> io::Result<()> {
        loop {
            let mut stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if is_idle(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.set_nodelay(true)?;
            let token = Token(FIRST_CONNECTION + self.connections.len());
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut stream, token, interest)?;
            self.connections.push(Some(Connection {
                stream,
                intake: Intake::default(),
                out: Vec::new(),
                face: face(),
                consumes: false,
                waiting: VecDeque::new(),
            }));
        }
    }

    /// Reads until the socket is empty; a connection that fails is forgotten.
    fn read(&mut self, index: usize, arrived: &mut Vec<std::ops::Range<usize>>) {
        let Some(slot) = self.connections.get_mut(index) else { return };
        let Some(connection) = slot else { return };
        let mut more = true;
        while more {
            match connection.read(&mut self.journal.turn) {
                Ok((read, again)) => {
                    connection.consumes |= read.consumes;
                    arrived.extend(read.bodies);
                    more = again;
                }
                Err(error) if is_idle(&error) => return,
                Err(_) => {
                    *slot = None;
                    return;
                }
            }
        }
    }

    /// Sync, and only then confirm and deliver.
    fn finish_turn(&mut self, arrived: &[std::ops::Range<usize>]) -> Result<()> {
        self.journal.sync()?;
        for slot in &mut self.connections {
            let Some(connection) = slot else { continue };
            if connection.consumes {
                let bodies = arrived.iter().filter_map(|at| self.journal.turn.get(at.clone()));
                bodies.for_each(|body| connection.take(body));
            }
            if connection.write().is_err() {
                *slot = None;
            }
        }
        self.journal.turn.clear();
        Ok(())
    }
}

impl Connection {
    /// What one read brought, and whether another may bring more.
    fn read(&mut self, log: &mut Vec<u8>) -> io::Result<(Arrived, bool)> {
        let more = self.intake.fill(&mut self.stream)?;
        let arrived = match &mut self.face {
            Face::Amqp(amqp) => amqp.read(&mut self.intake, &mut self.out, log),
            Face::Mqtt(mqtt) => mqtt.read(&mut self.intake, &mut self.out, log),
        }?;
        Ok((arrived, more))
    }

    fn take(&mut self, body: &[u8]) {
        match &mut self.face {
            Face::Amqp(_) => self.waiting.push_back(body.into()),
            Face::Mqtt(mqtt) => mqtt.deliver(body, &mut self.out),
        }
    }

    fn write(&mut self) -> io::Result<()> {
        if let Face::Amqp(amqp) = &mut self.face {
            amqp.deliver(&mut self.waiting, &mut self.out);
        }
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(written) => drop(self.out.drain(..written)),
                // The poll tells when there is room again.
                Err(error) if is_idle(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

struct Journal {
    file: File,
    at: usize,
    /// The bodies of this turn of the loop, one behind the other.
    turn: Vec<u8>,
}

impl Journal {
    fn create(data: &Path) -> io::Result<Self> {
        let mut file = File::create(data.join("journal"))?;
        let zeros = vec![0; CHUNK_BYTES];
        for _ in 0..FILE_BYTES / CHUNK_BYTES {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
        Ok(Self { file, at: 0, turn: Vec::new() })
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.turn.is_empty() {
            return Ok(());
        }
        if self.at + self.turn.len() > FILE_BYTES {
            self.at = 0;
        }
        let at = u64::try_from(self.at).unwrap_or(0);
        self.file.write_all_at(&self.turn, at)?;
        self.at += self.turn.len();
        self.file.sync_data()
    }
}
