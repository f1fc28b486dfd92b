//! The MQTT scenarios: one publisher to one subscriber, and to a hundred.

mod connection;
mod fan_out;
pub mod packet;

use std::{io, io::Write, thread, time::Duration};

use self::{
    connection::Connection,
    packet::{Packet, Qos, Session},
};
use crate::{
    clock::{now_nanos, since},
    intake::{Intake, is_idle},
    load::{Load, Measured, Meter, Outcome, Patience, Progress, Result, Unconfirmed, join},
};

pub const BODY_BYTES: usize = 256;
/// Publishes on their way: unconfirmed, and in a fan-out also not yet everywhere.
pub const WINDOW: usize = 100;
pub const SUBSCRIBERS: u16 = 100;

/// How long a publisher whose readers lag looks away.
const LAG_PAUSE: Duration = Duration::from_micros(50);
const PACKET_IDS: u64 = 65_535;

/// The subscriber's session is persistent, so what is confirmed to the publisher is owed to it.
pub fn one_to_one(load: Load) -> Result<Measured> {
    let (topic, client_id) = (format!("bench/{}", load.run), format!("sub-{}", load.run));
    let mut subscriber = Connection::open(load.port, &client_id, Session::Persistent)?;
    subscriber.subscribe(&topic, Qos::AtLeastOnce)?;
    let publisher = Publisher::open(load, &topic, Qos::AtLeastOnce, u64::MAX)?;
    let progress = Progress::new(1);
    let outcome = together(publisher, &progress, || read(subscriber, &progress))?;
    Connection::forget(load.port, &client_id)?;
    Ok(outcome)
}

/// The publisher never runs further ahead of its readers than the window, so that no server has
/// to choose between dropping and hoarding.
pub fn one_to_many(load: Load, qos: Qos) -> Result<Measured> {
    let topic = format!("bench/{}", load.run);
    let session = match qos {
        Qos::AtMostOnce => Session::Clean,
        Qos::AtLeastOnce => Session::Persistent,
    };
    let client_id = |number: u16| format!("sub-{}-{number}", load.run);
    let mut subscribers = Vec::new();
    for number in 0..SUBSCRIBERS {
        let id = client_id(number);
        let mut subscriber = Connection::open_with(load.port, &id, session, Intake::small())?;
        subscriber.subscribe(&topic, qos)?;
        subscribers.push(subscriber);
    }
    let lag_max = u64::try_from(WINDOW)?;
    let publisher = Publisher::open(load, &topic, qos, lag_max)?;
    let progress = Progress::new(u64::from(SUBSCRIBERS));
    let outcome = together(publisher, &progress, || fan_out::read(subscribers, &progress))?;
    if session == Session::Persistent {
        (0..SUBSCRIBERS)
            .try_for_each(|number| Connection::forget(load.port, &client_id(number)))?;
    }
    Ok(outcome)
}

fn together(
    publisher: Publisher,
    progress: &Progress,
    readers: impl FnOnce() -> Result<Outcome> + Send,
) -> Result<Measured> {
    let meter = Meter::start(publisher.load.pid)?;
    let outcome = thread::scope(|scope| -> Result<Outcome> {
        let reading = scope.spawn(readers);
        let publishing = publisher.run(progress, || reading.is_finished());
        progress.finish(publishing.as_ref().map_or(0, Unconfirmed::published));
        let mut outcome = join(reading)?;
        let unconfirmed = publishing?;
        outcome.published = unconfirmed.published();
        outcome.confirm = unconfirmed.latency;
        Ok(outcome)
    })?;
    meter.finish(outcome)
}

struct Publisher {
    connection: Connection,
    load: Load,
    qos: Qos,
    lag_max: u64,
    template: Vec<u8>,
    identifier_at: usize,
    unconfirmed: Unconfirmed,
}

impl Publisher {
    fn open(load: Load, topic: &str, qos: Qos, lag_max: u64) -> io::Result<Self> {
        let client_id = format!("pub-{}", load.run);
        let (template, identifier_at) = packet::publish_template(topic, qos, BODY_BYTES);
        Ok(Self {
            connection: Connection::open(load.port, &client_id, Session::Clean)?,
            load,
            qos,
            lag_max,
            template,
            identifier_at,
            unconfirmed: Unconfirmed::new(WINDOW),
        })
    }

    /// Fills the window and waits for confirms, until the time is over and all is confirmed, or
    /// the readers have given up.
    fn run(mut self, progress: &Progress, gone: impl Fn() -> bool) -> Result<Unconfirmed> {
        let mut out = Vec::with_capacity(self.template.len() * WINDOW);
        let mut patience = Patience::new();
        let start = now_nanos();
        loop {
            let now = now_nanos();
            if gone() {
                return Ok(self.unconfirmed);
            } else if since(start, now) < self.load.duration {
                let room = self.lag_max.saturating_sub(progress.lag());
                let batch = room.min(self.unconfirmed.room());
                out.clear();
                (0..batch).try_for_each(|_| self.encode(&mut out, now))?;
                progress.sent(batch);
                self.connection.stream.write_all(&out)?;
                if batch == 0 && self.unconfirmed.is_empty() {
                    thread::sleep(LAG_PAUSE);
                }
            } else if self.unconfirmed.is_empty() {
                self.connection.close()?;
                return Ok(self.unconfirmed);
            }
            match self.qos {
                Qos::AtMostOnce => self.confirm_by_sending(),
                Qos::AtLeastOnce => self.wait(&mut patience)?,
            }
        }
    }

    fn encode(&mut self, out: &mut Vec<u8>, now: u64) -> Result<()> {
        let sequence = self.unconfirmed.push(now);
        let at = out.len() + self.identifier_at;
        out.extend_from_slice(&self.template);
        let patched = out.get_mut(at..).unwrap_or_default();
        let body = match self.qos {
            Qos::AtMostOnce => patched,
            Qos::AtLeastOnce => {
                let id = u16::try_from(sequence % PACKET_IDS + 1)?;
                let (identifier, body) = patched.split_at_mut(2);
                identifier.copy_from_slice(&id.to_be_bytes());
                body
            }
        };
        if let Some(stamp) = body.first_chunk_mut::<8>() {
            *stamp = now.to_be_bytes();
        }
        Ok(())
    }

    fn confirm_by_sending(&mut self) {
        if let Some(last) = self.unconfirmed.published().checked_sub(1) {
            self.unconfirmed.confirm_through(last, 0);
        }
    }

    fn wait(&mut self, patience: &mut Patience) -> Result<()> {
        if self.unconfirmed.is_empty() {
            patience.progressed();
            return Ok(());
        }
        match self.connection.fill() {
            Ok(()) => patience.progressed(),
            Err(error) if is_idle(&error) => patience.check()?,
            Err(error) => return Err(error.into()),
        }
        let now = now_nanos();
        let unconfirmed = &mut self.unconfirmed;
        self.connection.take_all(|packet| {
            if let Packet::Puback { id } = packet {
                // Identifiers wrap long after the window: the nearest at or above the floor.
                let floor = unconfirmed.floor();
                let ahead = (u64::from(id) + 2 * PACKET_IDS - 1 - floor % PACKET_IDS) % PACKET_IDS;
                unconfirmed.confirm(floor + ahead, now);
            }
            Ok(())
        })?;
        Ok(())
    }
}

/// Acknowledges every message, all those of one read in one write.
fn read(mut connection: Connection, progress: &Progress) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut pubacks = Vec::new();
    let mut patience = Patience::new();
    while !progress.complete() {
        match connection.fill() {
            Ok(()) => patience.progressed(),
            Err(error) if is_idle(&error) => {
                patience.check()?;
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        let now = now_nanos();
        let before = outcome.delivered;
        pubacks.clear();
        connection.take_all(|packet| {
            if let Packet::Publish { id, payload } = packet {
                let stamp = payload.first_chunk::<8>().map_or(now, |s| u64::from_be_bytes(*s));
                outcome.delivery.record(now.saturating_sub(stamp));
                outcome.delivered += 1;
                pubacks.extend(id.map(packet::puback).into_iter().flatten());
            }
            Ok(())
        })?;
        connection.stream.write_all(&pubacks)?;
        progress.delivered(outcome.delivered - before);
    }
    connection.close()?;
    Ok(outcome)
}
