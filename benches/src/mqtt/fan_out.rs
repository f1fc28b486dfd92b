//! Many subscribers on one thread: non-blocking sockets behind one poll.

use std::{
    io::{ErrorKind, Write},
    time::Duration,
};

use mio::{Events, Interest, Poll, Token, net::TcpStream};

use super::{
    connection::{self, Connection},
    packet::{self, Packet},
};
use crate::{
    clock::now_nanos,
    histogram::Histogram,
    intake::{Intake, is_idle},
    load::{Outcome, Patience, Progress, Result},
};

struct Subscriber {
    stream: TcpStream,
    intake: Intake,
    pubacks: Vec<u8>,
}

/// Reads and acknowledges until every subscriber has all that was published.
pub fn read(connections: Vec<Connection>, progress: &Progress) -> Result<Outcome> {
    let mut poll = Poll::new()?;
    let mut subscribers = Vec::new();
    for (index, connection) in connections.into_iter().enumerate() {
        let (stream, intake) = connection.into_parts();
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, Token(index), interest)?;
        subscribers.push(Subscriber { stream, intake, pubacks: Vec::new() });
    }
    let mut events = Events::with_capacity(subscribers.len());
    let mut outcome = Outcome::default();
    let mut patience = Patience::new();
    while !progress.complete() {
        match poll.poll(&mut events, Some(Duration::from_millis(20))) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        let now = now_nanos();
        let before = outcome.delivered;
        for event in &events {
            if let Some(subscriber) = subscribers.get_mut(event.token().0) {
                outcome.delivered += subscriber.turn(now, &mut outcome.delivery)?;
            }
        }
        progress.delivered(outcome.delivered - before);
        if outcome.delivered > before {
            patience.progressed();
        } else {
            patience.check()?;
        }
    }
    Ok(outcome)
}

impl Subscriber {
    /// Takes all that has arrived and returns how many messages that was.
    fn turn(&mut self, now: u64, latency: &mut Histogram) -> Result<u64> {
        let mut delivered = 0;
        loop {
            match self.intake.fill(&mut self.stream) {
                Ok(_) => {}
                Err(error) if is_idle(&error) => break,
                Err(error) => return Err(error.into()),
            }
            let pubacks = &mut self.pubacks;
            connection::take_all(&mut self.intake, |packet| {
                if let Packet::Publish { id, payload } = packet {
                    let stamp = payload.first_chunk::<8>().map_or(now, |s| u64::from_be_bytes(*s));
                    latency.record(now.saturating_sub(stamp));
                    delivered += 1;
                    pubacks.extend(id.map(packet::puback).into_iter().flatten());
                }
                Ok(())
            })?;
        }
        while !self.pubacks.is_empty() {
            match self.stream.write(&self.pubacks) {
                Ok(written) => drop(self.pubacks.drain(..written)),
                // The poll tells when there is room again.
                Err(error) if is_idle(&error) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(delivered)
    }
}
