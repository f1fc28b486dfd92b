//! The client's only loop: all publishers and readers on one thread and one poll, so that
//! the client costs as little as it can and the other core is the server's.

use std::{
    io::{self, ErrorKind, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use mio::{Events, Interest, Poll, Token};

use crate::{
    clock::{now_nanos, since},
    intake::{Intake, is_idle},
    load::{Load, Measured, Meter, Outcome, Result, Unconfirmed},
};

/// How long the poll waits before the loop looks at the time.
const POLL_MAX: Duration = Duration::from_millis(20);
/// The same where messages go at a pace.
const PACED_POLL_MAX: Duration = Duration::from_millis(1);
/// A server that owes messages and sends none for so long has lost them.
const STALL: Duration = Duration::from_secs(10);
/// When a turn brought less than a twentieth of the window, the loop waits a moment. Otherwise a
/// server that writes every message by itself would have its client woken for each of them,
/// and compete with it for the processor.
const FEW: u64 = 20;
const MOMENT: Duration = Duration::from_micros(50);

/// How a protocol says the few things the loop needs.
pub trait Dialect {
    fn publish(&mut self, sequence: u64, now_nanos: u64, out: &mut Vec<u8>);

    /// Takes every whole frame: counts confirms and deliveries, and acknowledges the latter.
    fn take(
        &mut self,
        intake: &mut Intake,
        out: &mut Vec<u8>,
        unconfirmed: &mut Unconfirmed,
        tally: &mut Tally,
    ) -> io::Result<()>;
}

/// What has come back so far.
pub struct Tally {
    /// When the turn began.
    pub now_nanos: u64,
    outcome: Outcome,
}

impl Tally {
    /// A body, whose first bytes say when it was sent.
    pub fn delivered(&mut self, body: &[u8]) {
        let sent = body.first_chunk::<8>().map_or(self.now_nanos, |sent| u64::from_be_bytes(*sent));
        self.outcome.delivery.record(self.now_nanos.saturating_sub(sent));
        self.outcome.delivered += 1;
    }
}

/// Bounds of what is on its way.
#[derive(Clone, Copy)]
pub struct Window {
    /// Of each publisher.
    pub messages: usize,
    /// Deliveries of each message.
    pub copies: u64,
    /// So many are published in all, instead of for the load's time.
    pub total: Option<u64>,
    /// The publisher waits for confirms.
    pub confirms: bool,
    /// The window also counts messages that are confirmed and not yet delivered everywhere.
    pub until_delivered: bool,
    /// Messages a second of all publishers together, instead of as many as the window takes.
    pub pace: Option<u64>,
}

/// One connection, ready to publish or subscribed already.
pub struct Party<D> {
    pub dialect: D,
    stream: mio::net::TcpStream,
    intake: Intake,
    out: Vec<u8>,
    unconfirmed: Unconfirmed,
}

impl<D: Dialect> Party<D> {
    pub fn new(dialect: D, stream: TcpStream, intake: Intake) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let stream = mio::net::TcpStream::from_std(stream);
        Ok(Self { dialect, stream, intake, out: Vec::new(), unconfirmed: Unconfirmed::new(0) })
    }

    /// Says something before anything else, once it is driven.
    pub fn first(&mut self, words: &[u8]) {
        self.out.extend_from_slice(words);
    }

    fn register(&mut self, poll: &Poll, token: Token) -> io::Result<()> {
        poll.registry().register(&mut self.stream, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Reads until the socket is empty, and writes what that calls for.
    fn turn(&mut self, tally: &mut Tally) -> io::Result<()> {
        let mut more = true;
        while more {
            more = match self.intake.fill(&mut self.stream) {
                Ok(more) => more,
                Err(error) if is_idle(&error) => false,
                Err(error) => return Err(error),
            };
            let Self { dialect, intake, out, unconfirmed, .. } = self;
            dialect.take(intake, out, unconfirmed, tally)?;
        }
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut written = 0;
        let outcome = loop {
            let rest = self.out.get(written..).unwrap_or_default();
            if rest.is_empty() {
                break Ok(());
            }
            match self.stream.write(rest) {
                Ok(more) => written += more,
                // The poll tells when there is room again.
                Err(error) if is_idle(&error) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.out.drain(..written);
        outcome
    }
}

/// Publishes for the load's time or as much as the window says, then waits until everything is
/// confirmed and delivered.
pub fn run<D: Dialect>(
    load: Load,
    window: Window,
    mut publishers: Vec<Party<D>>,
    mut readers: Vec<Party<D>>,
) -> Result<Measured> {
    let mut poll = Poll::new()?;
    for publisher in &mut publishers {
        publisher.unconfirmed = Unconfirmed::new(window.messages);
    }
    for (index, party) in publishers.iter_mut().chain(&mut readers).enumerate() {
        party.register(&poll, Token(index))?;
    }
    let mut events = Events::with_capacity(publishers.len() + readers.len());
    let many = u64::try_from(window.messages * publishers.len())?;
    let few = many.div_ceil(FEW);
    let mut tally = Tally { now_nanos: 0, outcome: Outcome::default() };
    let meter = Meter::start(load.pid)?;
    let start = now_nanos();
    let mut progressed = start;
    loop {
        tally.now_nanos = now_nanos();
        let sent = count(&publishers, Unconfirmed::published);
        let before = (count(&publishers, Unconfirmed::floor), tally.outcome.delivered);
        let is_over = match window.total {
            Some(total) => sent >= total,
            None => since(start, tally.now_nanos) >= load.duration,
        };
        if !is_over {
            let due = window.pace.map(|pace| due(pace, since(start, tally.now_nanos)));
            let left = due.map_or(u64::MAX, |due| due.saturating_sub(sent));
            publish(&mut publishers, window, (sent, left), &tally)?;
        } else if publishers.iter().all(|publisher| publisher.unconfirmed.is_empty())
            && tally.outcome.delivered >= sent * window.copies
        {
            break;
        }
        let poll_max = if window.pace.is_some() { PACED_POLL_MAX } else { POLL_MAX };
        match poll.poll(&mut events, Some(poll_max)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        tally.now_nanos = now_nanos();
        for event in &events {
            let Token(index) = event.token();
            if let Some(party) = publishers.iter_mut().chain(&mut readers).nth(index) {
                party.turn(&mut tally)?;
            }
        }
        let confirmed = count(&publishers, Unconfirmed::floor) - before.0;
        let delivered = tally.outcome.delivered - before.1;
        if confirmed + delivered > 0 {
            progressed = tally.now_nanos;
        } else if since(progressed, tally.now_nanos) > STALL {
            let confirmed = count(&publishers, Unconfirmed::floor);
            return Err(tally.stalled(sent, confirmed, window.copies).into());
        }
        if window.pace.is_none() && confirmed + delivered / window.copies.max(1) < few {
            thread::sleep(MOMENT);
        }
    }
    tally.outcome.published = count(&publishers, Unconfirmed::published);
    for publisher in &publishers {
        tally.outcome.confirm.add(&publisher.unconfirmed.latency);
    }
    meter.finish(tally.outcome)
}

/// Takes what is there already, and no more than that.
pub fn drain<D: Dialect>(load: Load, messages: u64, mut reader: Party<D>) -> Result<Measured> {
    let mut poll = Poll::new()?;
    reader.register(&poll, Token(0))?;
    let mut events = Events::with_capacity(1);
    let mut tally = Tally { now_nanos: 0, outcome: Outcome::default() };
    let meter = Meter::start(load.pid)?;
    let mut progressed = now_nanos();
    while tally.outcome.delivered < messages {
        poll.poll(&mut events, Some(POLL_MAX))?;
        tally.now_nanos = now_nanos();
        let before = tally.outcome.delivered;
        reader.turn(&mut tally)?;
        if tally.outcome.delivered > before {
            progressed = tally.now_nanos;
        } else if since(progressed, tally.now_nanos) > STALL {
            return Err(tally.stalled(messages, messages, 1).into());
        }
    }
    meter.finish(tally.outcome)
}

fn count<D>(publishers: &[Party<D>], of: fn(&Unconfirmed) -> u64) -> u64 {
    publishers.iter().map(|publisher| of(&publisher.unconfirmed)).sum()
}

/// How many messages should have gone by now at a pace.
fn due(pace: u64, elapsed: Duration) -> u64 {
    let due = u128::from(pace) * elapsed.as_nanos() / Duration::from_secs(1).as_nanos();
    u64::try_from(due).unwrap_or(u64::MAX)
}

fn publish<D: Dialect>(
    publishers: &mut [Party<D>],
    window: Window,
    (sent, left): (u64, u64),
    tally: &Tally,
) -> io::Result<()> {
    let mut left = window.total.map_or(left, |total| left.min(total - sent));
    if window.until_delivered {
        let everywhere = tally.outcome.delivered / window.copies.max(1);
        let may = u64::try_from(window.messages * publishers.len()).unwrap_or(u64::MAX);
        left = left.min(may.saturating_sub(sent.saturating_sub(everywhere)));
    }
    for publisher in publishers {
        let room = publisher.unconfirmed.room().min(left);
        left -= room;
        for _ in 0..room {
            let sequence = publisher.unconfirmed.push(tally.now_nanos);
            publisher.dialect.publish(sequence, tally.now_nanos, &mut publisher.out);
        }
        if !window.confirms {
            publisher.unconfirmed.forget();
        }
        publisher.flush()?;
    }
    Ok(())
}

impl Tally {
    fn stalled(&self, published: u64, confirmed: u64, copies: u64) -> String {
        format!(
            "nothing came for {} s: {confirmed} of {published} messages confirmed, {} of {} \
             delivered",
            STALL.as_secs(),
            self.outcome.delivered,
            published * copies,
        )
    }
}
