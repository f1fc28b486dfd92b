//! The client's only loop: one publisher and its readers on one thread and one poll, so that
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

const PUBLISHER: Token = Token(0);
/// How long the poll waits before the loop looks at the time.
const POLL_MAX: Duration = Duration::from_millis(20);
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
    fn take(&mut self, intake: &mut Intake, out: &mut Vec<u8>, tally: &mut Tally)
    -> io::Result<()>;
}

/// What has come back so far.
pub struct Tally {
    /// When the turn began.
    pub now_nanos: u64,
    pub unconfirmed: Unconfirmed,
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
    pub messages: usize,
    /// The publisher waits for confirms.
    pub confirms: bool,
    /// The window also counts messages that are confirmed and not yet delivered everywhere.
    pub until_delivered: bool,
}

/// One connection, ready to publish or subscribed already.
pub struct Party<D> {
    pub dialect: D,
    stream: mio::net::TcpStream,
    intake: Intake,
    out: Vec<u8>,
}

impl<D: Dialect> Party<D> {
    pub fn new(dialect: D, stream: TcpStream, intake: Intake) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let stream = mio::net::TcpStream::from_std(stream);
        Ok(Self { dialect, stream, intake, out: Vec::new() })
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
            self.dialect.take(&mut self.intake, &mut self.out, tally)?;
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

/// Publishes for the load's time, then waits until everything is confirmed and delivered.
pub fn run<D: Dialect>(
    load: Load,
    window: Window,
    mut publisher: Party<D>,
    mut readers: Vec<Party<D>>,
) -> Result<Measured> {
    let mut poll = Poll::new()?;
    publisher.register(&poll, PUBLISHER)?;
    for (index, reader) in readers.iter_mut().enumerate() {
        reader.register(&poll, Token(index + 1))?;
    }
    let mut events = Events::with_capacity(readers.len() + 1);
    let fan_out = u64::try_from(readers.len())?;
    let few = u64::try_from(window.messages)?.div_ceil(FEW);
    let mut tally = Tally {
        now_nanos: 0,
        unconfirmed: Unconfirmed::new(window.messages),
        outcome: Outcome::default(),
    };
    let meter = Meter::start(load.pid)?;
    let start = now_nanos();
    let mut progressed = start;
    loop {
        tally.now_nanos = now_nanos();
        let settled = (tally.unconfirmed.floor(), tally.outcome.delivered);
        if since(start, tally.now_nanos) < load.duration {
            publish(&mut publisher, window, fan_out, &mut tally)?;
        } else if tally.unconfirmed.is_empty()
            && tally.outcome.delivered >= tally.unconfirmed.published() * fan_out
        {
            break;
        }
        match poll.poll(&mut events, Some(POLL_MAX)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        tally.now_nanos = now_nanos();
        for event in &events {
            match event.token() {
                PUBLISHER => publisher.turn(&mut tally)?,
                Token(index) => match readers.get_mut(index - 1) {
                    Some(reader) => reader.turn(&mut tally)?,
                    None => continue,
                },
            }
        }
        let confirmed = tally.unconfirmed.floor() - settled.0;
        let delivered = tally.outcome.delivered - settled.1;
        if confirmed + delivered > 0 {
            progressed = tally.now_nanos;
        } else if since(progressed, tally.now_nanos) > STALL {
            return Err(tally.stalled(fan_out).into());
        }
        if confirmed + delivered / fan_out < few {
            thread::sleep(MOMENT);
        }
    }
    tally.outcome.published = tally.unconfirmed.published();
    tally.outcome.confirm = tally.unconfirmed.latency;
    meter.finish(tally.outcome)
}

fn publish<D: Dialect>(
    publisher: &mut Party<D>,
    window: Window,
    fan_out: u64,
    tally: &mut Tally,
) -> io::Result<()> {
    let mut room = tally.unconfirmed.room();
    if window.until_delivered {
        let everywhere = tally.outcome.delivered / fan_out;
        let lag = tally.unconfirmed.published().saturating_sub(everywhere);
        room = room.min(u64::try_from(window.messages).unwrap_or(0).saturating_sub(lag));
    }
    for _ in 0..room {
        let sequence = tally.unconfirmed.push(tally.now_nanos);
        publisher.dialect.publish(sequence, tally.now_nanos, &mut publisher.out);
    }
    if !window.confirms {
        tally.unconfirmed.forget();
    }
    publisher.flush()
}

impl Tally {
    fn stalled(&self, fan_out: u64) -> String {
        let published = self.unconfirmed.published();
        format!(
            "nothing came for {} s: {} of {published} messages confirmed, {} of {} delivered",
            STALL.as_secs(),
            self.unconfirmed.floor(),
            self.outcome.delivered,
            published * fan_out,
        )
    }
}
