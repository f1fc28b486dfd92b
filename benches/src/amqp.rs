//! The AMQP scenarios: publishers, queues and consumers at the same time, a backlog, and clients
//! that come and go.

mod churn;
mod connection;
pub mod frame;

use std::io;

pub use self::churn::churn;
use self::{
    connection::Connection,
    frame::{Frame, Method},
};
use crate::{
    drive::{self, Dialect, Party, Tally, Window},
    intake::Intake,
    load::{Load, Measured, Result, Unconfirmed, refused},
};

pub const PREFETCH: u16 = 500;
/// Records of the backlog scenarios.
pub const BACKLOG: u64 = 1_000_000;
/// Queues that one publish goes to.
pub const FAN_OUT: u16 = 10;

const KIB: usize = 1024;
const TRANSIENT: u8 = 1;
const PERSISTENT: u8 = 2;

const WINDOW: Window = Window {
    messages: 500,
    copies: 1,
    total: None,
    confirms: true,
    until_delivered: false,
    pace: None,
};
/// Messages a second that every server here has time for: half of what RabbitMQ's classic queue does.
const PACE: u64 = 12_000;

/// Persistent messages to a durable queue, confirms, manual acknowledgement of each message, by so
/// many publishers, each to a queue and a consumer of its own.
pub fn pairs(load: Load, count: u16, body_bytes: usize) -> Result<Measured> {
    let messages = WINDOW.messages / usize::from(count).min(10);
    pairs_within(load, Window { messages, ..WINDOW }, count, body_bytes)
}

/// One pair, and no more messages than every server has time for: what latency there is then.
pub fn paced(load: Load) -> Result<Measured> {
    pairs_within(load, Window { messages: 10_000, pace: Some(PACE), ..WINDOW }, 1, KIB)
}

fn pairs_within(load: Load, window: Window, count: u16, body_bytes: usize) -> Result<Measured> {
    let (mut publishers, mut consumers) = (Vec::new(), Vec::new());
    for number in 0..count {
        let queue = queue_name(load, number);
        let mut publisher = Connection::open(load.port)?;
        declare(&mut publisher, &queue, load.queue_type)?;
        publisher.call(frame::SELECT, &[0], frame::SELECT_OK)?;
        let mut consumer = Connection::open(load.port)?;
        consume(&mut consumer, &queue, true)?;
        publishers.push(publisher.party("", &queue, &vec![b'x'; body_bytes], PERSISTENT)?);
        consumers.push(consumer.party("", &queue, &[], PERSISTENT)?);
    }
    let measured = drive::run(load, window, publishers, consumers)?;
    (0..count).try_for_each(|number| delete(load, &queue_name(load, number)))?;
    Ok(measured)
}

/// Transient messages, no confirms, automatic acknowledgement. The publisher is never further
/// ahead of the consumer than the window.
pub fn transient(load: Load) -> Result<Measured> {
    let queue = queue_name(load, 0);
    let mut publisher = Connection::open(load.port)?;
    declare(&mut publisher, &queue, load.queue_type)?;
    let mut consumer = Connection::open(load.port)?;
    consume(&mut consumer, &queue, false)?;
    let publisher = publisher.party("", &queue, &[b'x'; KIB], TRANSIENT)?;
    let mut consumer = consumer.party("", &queue, &[], TRANSIENT)?;
    consumer.dialect.acks = false;
    let window = Window { confirms: false, until_delivered: true, ..WINDOW };
    let measured = drive::run(load, window, vec![publisher], vec![consumer])?;
    delete(load, &queue)?;
    Ok(measured)
}

/// One persistent message to ten durable queues by a fan-out exchange, a consumer on each.
pub fn fan_out(load: Load) -> Result<Measured> {
    let exchange = format!("bench-{}", load.run);
    let mut publisher = Connection::open(load.port)?;
    let arguments =
        [&[0, 0][..], &frame::short(&exchange), &frame::short("fanout"), &[0b10], &[0; 4]].concat();
    publisher.call(frame::EXCHANGE_DECLARE, &arguments, frame::EXCHANGE_DECLARE_OK)?;
    let mut consumers = Vec::new();
    for number in 0..FAN_OUT {
        let queue = queue_name(load, number);
        let mut consumer = Connection::open(load.port)?;
        declare(&mut consumer, &queue, load.queue_type)?;
        let (queue_name, exchange_name) = (frame::short(&queue), frame::short(&exchange));
        let bind =
            [&[0, 0][..], &queue_name, &exchange_name, &frame::short(""), &[0], &[0; 4]].concat();
        consumer.call(frame::BIND, &bind, frame::BIND_OK)?;
        consume(&mut consumer, &queue, true)?;
        consumers.push(consumer.party("", &queue, &[], PERSISTENT)?);
    }
    publisher.call(frame::SELECT, &[0], frame::SELECT_OK)?;
    let publisher = publisher.party(&exchange, "", &[b'x'; KIB], PERSISTENT)?;
    let window = Window { copies: u64::from(FAN_OUT), until_delivered: true, ..WINDOW };
    let measured = drive::run(load, window, vec![publisher], consumers)?;
    (0..FAN_OUT).try_for_each(|number| delete(load, &queue_name(load, number)))?;
    let gone = [&[0, 0][..], &frame::short(&exchange), &[0]].concat();
    Connection::open(load.port)?.call(frame::EXCHANGE_DELETE, &gone, frame::EXCHANGE_DELETE_OK)?;
    Ok(measured)
}

/// A backlog that nobody consumes.
pub fn fill(load: Load) -> Result<Measured> {
    let queue = queue_name(load, 0);
    let measured = fill_queue(load, &queue)?;
    delete(load, &queue)?;
    Ok(measured)
}

/// The same backlog, consumed with nothing being published.
pub fn drain(load: Load) -> Result<Measured> {
    let queue = queue_name(load, 0);
    fill_queue(load, &queue)?;
    let mut consumer = Connection::open(load.port)?;
    consume(&mut consumer, &queue, true)?;
    let consumer = consumer.party("", &queue, &[], PERSISTENT)?;
    let measured = drive::drain(load, BACKLOG, consumer)?;
    delete(load, &queue)?;
    Ok(measured)
}

fn fill_queue(load: Load, queue: &str) -> Result<Measured> {
    let mut publisher = Connection::open(load.port)?;
    declare(&mut publisher, queue, load.queue_type)?;
    publisher.call(frame::SELECT, &[0], frame::SELECT_OK)?;
    let publisher = publisher.party("", queue, &[b'x'; KIB], PERSISTENT)?;
    let window = Window { copies: 0, total: Some(BACKLOG), ..WINDOW };
    drive::run(load, window, vec![publisher], Vec::new())
}

fn queue_name(load: Load, number: u16) -> String {
    format!("bench-{}-{number}", load.run)
}

fn delete(load: Load, queue: &str) -> Result<()> {
    let arguments = [&[0, 0][..], &frame::short(queue), &[0]].concat();
    Ok(Connection::open(load.port)?.call(frame::DELETE, &arguments, frame::DELETE_OK)?)
}

fn declare(connection: &mut Connection, queue: &str, kind: Option<&str>) -> Result<()> {
    const DURABLE: u8 = 0b10;
    const LONG_STRING: &[u8] = b"S";
    let table = kind.map_or(Vec::new(), |kind| {
        [&frame::short("x-queue-type")[..], LONG_STRING, &frame::long(kind)].concat()
    });
    let table_bytes = u32::try_from(table.len())?.to_be_bytes();
    let arguments = [&[0, 0][..], &frame::short(queue), &[DURABLE], &table_bytes, &table].concat();
    Ok(connection.call(frame::DECLARE, &arguments, frame::DECLARE_OK)?)
}

fn consume(connection: &mut Connection, queue: &str, acks: bool) -> Result<()> {
    const NO_ACK: u8 = 0b10;
    let prefetch = [&[0; 4][..], &PREFETCH.to_be_bytes(), &[0]].concat();
    connection.call(frame::QOS, &prefetch, frame::QOS_OK)?;
    let flags = if acks { 0 } else { NO_ACK };
    let arguments =
        [&[0, 0][..], &frame::short(queue), &frame::short("c"), &[flags], &[0; 4]].concat();
    Ok(connection.call(frame::CONSUME, &arguments, frame::CONSUME_OK)?)
}

/// The load's words in AMQP.
pub struct Amqp {
    template: Vec<u8>,
    stamp_at: usize,
    acks: bool,
}

impl Connection {
    fn party(self, exchange: &str, key: &str, body: &[u8], mode: u8) -> io::Result<Party<Amqp>> {
        let mut template = Vec::new();
        let arguments = [&[0, 0][..], &frame::short(exchange), &frame::short(key), &[0]].concat();
        frame::method(&mut template, frame::CHANNEL, frame::PUBLISH, &arguments);
        frame::content(&mut template, mode, None, body);
        // The end mark of the body's frame is one byte.
        let stamp_at = template.len() - body.len() - 1;
        let (stream, intake) = self.into_parts();
        Party::new(Amqp { template, stamp_at, acks: true }, stream, intake)
    }
}

impl Dialect for Amqp {
    fn publish(&mut self, _sequence: u64, now_nanos: u64, out: &mut Vec<u8>) {
        if let Some(stamp) = self.template.get_mut(self.stamp_at..self.stamp_at + 8) {
            stamp.copy_from_slice(&now_nanos.to_be_bytes());
        }
        out.extend_from_slice(&self.template);
    }

    fn take(
        &mut self,
        intake: &mut Intake,
        out: &mut Vec<u8>,
        unconfirmed: &mut Unconfirmed,
        tally: &mut Tally,
    ) -> io::Result<()> {
        while let Some((frame, length)) = frame::first(intake.bytes())? {
            match frame {
                Frame::Method(frame::ACK, arguments) => {
                    confirm(arguments, unconfirmed, tally.now_nanos)?;
                }
                Frame::Method(frame::DELIVER, _) if !self.acks => {}
                Frame::Method(frame::DELIVER, arguments) => {
                    let (_consumer, rest) = frame::split_short(arguments);
                    let tag = rest.first_chunk().ok_or_else(|| refused("deliver without tag"))?;
                    frame::ack(out, *tag);
                }
                Frame::Method(method, arguments) => return Err(unexpected(method, arguments)),
                Frame::Body(body) => tally.delivered(body),
                Frame::Header(_) | Frame::Other => {}
            }
            intake.consume(length);
        }
        Ok(())
    }
}

fn confirm(ack: &[u8], unconfirmed: &mut Unconfirmed, now_nanos: u64) -> io::Result<()> {
    let Some((tag, [multiple, ..])) = ack.split_first_chunk::<8>() else {
        return Err(refused("basic.ack without its fields"));
    };
    // Tags count from 1.
    let Some(sequence) = u64::from_be_bytes(*tag).checked_sub(1) else {
        return Ok(());
    };
    if *multiple == 0 {
        unconfirmed.confirm(sequence, now_nanos);
    } else {
        unconfirmed.confirm_through(sequence, now_nanos);
    }
    Ok(())
}

fn unexpected(method: Method, arguments: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(arguments);
    refused(&format!("server sent method {}.{}: {text:?}", method.0, method.1))
}
