//! The AMQP scenario: one publisher, one durable queue, one consumer, at the same time.

mod connection;
pub mod frame;

use std::io;

use self::{
    connection::Connection,
    frame::{Frame, Method},
};
use crate::{
    drive::{self, Dialect, Party, Tally, Window},
    intake::Intake,
    load::{Load, Measured, Result, refused},
};

pub const BODY_BYTES: usize = 1024;
pub const PREFETCH: u16 = 500;
const WINDOW: Window = Window { messages: 500, confirms: true, until_delivered: false };

/// Persistent messages, confirms, manual acknowledgement of each message.
pub fn one_to_one(load: Load) -> Result<Measured> {
    let queue = format!("bench-{}", load.run);
    let mut publisher = Connection::open(load.port)?;
    let mut consumer = Connection::open(load.port)?;
    declare(&mut publisher, &queue, load.queue_type)?;
    publisher.call(frame::SELECT, &[0], frame::SELECT_OK)?;
    consume(&mut consumer, &queue)?;
    let parties = (publisher.party(&queue)?, vec![consumer.party(&queue)?]);
    let measured = drive::run(load, WINDOW, parties.0, parties.1)?;
    let delete = [&[0, 0][..], &frame::short(&queue), &[0]].concat();
    Connection::open(load.port)?.call(frame::DELETE, &delete, frame::DELETE_OK)?;
    Ok(measured)
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

fn consume(connection: &mut Connection, queue: &str) -> Result<()> {
    let prefetch = [&[0; 4][..], &PREFETCH.to_be_bytes(), &[0]].concat();
    connection.call(frame::QOS, &prefetch, frame::QOS_OK)?;
    let arguments = [&[0, 0][..], &frame::short(queue), &frame::short("c"), &[0], &[0; 4]].concat();
    Ok(connection.call(frame::CONSUME, &arguments, frame::CONSUME_OK)?)
}

/// The load's words in AMQP.
pub struct Amqp {
    template: Vec<u8>,
    stamp_at: usize,
}

impl Connection {
    fn party(self, queue: &str) -> io::Result<Party<Amqp>> {
        let mut template = Vec::new();
        let arguments = [&[0, 0][..], &frame::short(""), &frame::short(queue), &[0]].concat();
        frame::method(&mut template, frame::CHANNEL, frame::PUBLISH, &arguments);
        frame::content(&mut template, &[b'x'; BODY_BYTES]);
        // The end mark of the body's frame is one byte.
        let stamp_at = template.len() - BODY_BYTES - 1;
        let (stream, intake) = self.into_parts();
        Party::new(Amqp { template, stamp_at }, stream, intake)
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
        tally: &mut Tally,
    ) -> io::Result<()> {
        while let Some((frame, length)) = frame::first(intake.bytes())? {
            match frame {
                Frame::Method(frame::ACK, arguments) => confirm(arguments, tally)?,
                Frame::Method(frame::DELIVER, arguments) => {
                    let (_consumer, rest) = frame::split_short(arguments);
                    let tag = rest.first_chunk().ok_or_else(|| refused("deliver without tag"))?;
                    frame::ack(out, *tag);
                }
                Frame::Method(method, arguments) => return Err(unexpected(method, arguments)),
                Frame::Body(body) => tally.delivered(body),
                Frame::Other => {}
            }
            intake.consume(length);
        }
        Ok(())
    }
}

fn confirm(ack: &[u8], tally: &mut Tally) -> io::Result<()> {
    let Some((tag, [multiple, ..])) = ack.split_first_chunk::<8>() else {
        return Err(refused("basic.ack without its fields"));
    };
    // Tags count from 1.
    let Some(sequence) = u64::from_be_bytes(*tag).checked_sub(1) else {
        return Ok(());
    };
    if *multiple == 0 {
        tally.unconfirmed.confirm(sequence, tally.now_nanos);
    } else {
        tally.unconfirmed.confirm_through(sequence, tally.now_nanos);
    }
    Ok(())
}

fn unexpected(method: Method, arguments: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(arguments);
    refused(&format!("server sent method {}.{}: {text:?}", method.0, method.1))
}
