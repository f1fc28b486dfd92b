//! The AMQP scenario: one publisher, one durable queue, one consumer, at the same time.

mod connection;
pub mod frame;

use std::{io::Write, thread};

use self::{
    connection::Connection,
    frame::{Frame, Method},
};
use crate::{
    clock::{now_nanos, since},
    intake::is_idle,
    load::{
        Load, Measured, Meter, Outcome, Patience, Progress, Result, Unconfirmed, join, refused,
    },
};

pub const BODY_BYTES: usize = 1024;
pub const CONFIRM_WINDOW: usize = 500;
pub const PREFETCH: u16 = 500;

/// Persistent messages, confirms, manual acknowledgement of each message.
pub fn one_to_one(load: Load) -> Result<Measured> {
    let queue = format!("bench-{}", load.run);
    let mut publisher = Connection::open(load.port)?;
    let mut consumer = Connection::open(load.port)?;
    declare(&mut publisher, &queue, load.queue_type)?;
    publisher.call(frame::SELECT, &[0], frame::SELECT_OK)?;
    consume(&mut consumer, &queue)?;

    let progress = Progress::new(1);
    let meter = Meter::start(load.pid)?;
    let outcome = thread::scope(|scope| -> Result<Outcome> {
        let reading = scope.spawn(|| read(&mut consumer, &progress));
        let publishing = publish(&mut publisher, &queue, load, &progress);
        if publishing.is_err() {
            progress.finish(0);
        }
        let mut outcome = join(reading)?;
        let unconfirmed = publishing?;
        outcome.published = unconfirmed.published();
        outcome.confirm = unconfirmed.latency;
        Ok(outcome)
    })?;
    let measured = meter.finish(outcome)?;
    publisher.call(frame::DELETE, &delete_arguments(&queue), frame::DELETE_OK)?;
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
    let prefetch = [&[0; 4], &*PREFETCH.to_be_bytes().as_slice(), &[0]].concat();
    connection.call(frame::QOS, &prefetch, frame::QOS_OK)?;
    let arguments = [&[0, 0], &*frame::short(queue), &*frame::short("c"), &[0], &[0; 4]].concat();
    Ok(connection.call(frame::CONSUME, &arguments, frame::CONSUME_OK)?)
}

fn delete_arguments(queue: &str) -> Vec<u8> {
    [&[0, 0], &*frame::short(queue), &[0]].concat()
}

/// Fills the window, then waits for confirms, until the time is over and all is confirmed.
fn publish(
    connection: &mut Connection,
    queue: &str,
    load: Load,
    progress: &Progress,
) -> Result<Unconfirmed> {
    let template = publish_template(queue);
    let stamp_at = template.len() - BODY_BYTES - 1;
    let mut unconfirmed = Unconfirmed::new(CONFIRM_WINDOW);
    let mut out = Vec::with_capacity(template.len() * CONFIRM_WINDOW);
    let mut patience = Patience::new();
    let start = now_nanos();
    loop {
        let now = now_nanos();
        if since(start, now) < load.duration {
            out.clear();
            for _ in 0..unconfirmed.room() {
                unconfirmed.push(now);
                let stamp = out.len() + stamp_at;
                out.extend_from_slice(&template);
                if let Some(bytes) = out.get_mut(stamp..stamp + 8) {
                    bytes.copy_from_slice(&now.to_be_bytes());
                }
            }
            connection.stream.write_all(&out)?;
        } else if unconfirmed.is_empty() {
            progress.finish(unconfirmed.published());
            return Ok(unconfirmed);
        }
        match connection.fill() {
            Ok(()) => patience.progressed(),
            Err(error) if is_idle(&error) => patience.check()?,
            Err(error) => return Err(error.into()),
        }
        let now = now_nanos();
        connection.take_all(|frame| match frame {
            Frame::Method(frame::ACK, arguments) => confirm(&mut unconfirmed, arguments, now),
            Frame::Method(method, arguments) => Err(unexpected(method, arguments)),
            Frame::Body(_) | Frame::Other => Ok(()),
        })?;
    }
}

fn publish_template(queue: &str) -> Vec<u8> {
    let mut template = Vec::new();
    let arguments = [&[0, 0], &*frame::short(""), &*frame::short(queue), &[0]].concat();
    frame::method(&mut template, frame::CHANNEL, frame::PUBLISH, &arguments);
    frame::content(&mut template, &[b'x'; BODY_BYTES]);
    template
}

fn confirm(unconfirmed: &mut Unconfirmed, ack: &[u8], now: u64) -> std::io::Result<()> {
    let Some((tag, [multiple, ..])) = ack.split_first_chunk::<8>() else {
        return Err(refused("basic.ack without its fields"));
    };
    // Tags count from 1.
    let Some(sequence) = u64::from_be_bytes(*tag).checked_sub(1) else {
        return Ok(());
    };
    if *multiple == 0 {
        unconfirmed.confirm(sequence, now);
    } else {
        unconfirmed.confirm_through(sequence, now);
    }
    Ok(())
}

/// Acknowledges every message by itself, all those of one read in one write.
fn read(connection: &mut Connection, progress: &Progress) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut acks = Vec::new();
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
        acks.clear();
        connection.take_all(|frame| match frame {
            Frame::Method(frame::DELIVER, arguments) => {
                let (_consumer, rest) = frame::split_short(arguments);
                let tag = rest.first_chunk::<8>().ok_or_else(|| refused("deliver without tag"))?;
                let ack = [tag.as_slice(), &[0]].concat();
                frame::method(&mut acks, frame::CHANNEL, frame::ACK, &ack);
                Ok(())
            }
            Frame::Method(method, arguments) => Err(unexpected(method, arguments)),
            Frame::Body(body) => {
                let stamp = body.first_chunk::<8>().map_or(now, |stamp| u64::from_be_bytes(*stamp));
                outcome.delivery.record(now.saturating_sub(stamp));
                outcome.delivered += 1;
                Ok(())
            }
            Frame::Other => Ok(()),
        })?;
        connection.stream.write_all(&acks)?;
        progress.delivered(outcome.delivered - before);
    }
    Ok(outcome)
}

fn unexpected(method: Method, arguments: &[u8]) -> std::io::Error {
    let text = String::from_utf8_lossy(arguments);
    refused(&format!("server sent method {}.{}: {text:?}", method.0, method.1))
}
