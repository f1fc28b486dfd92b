//! Clients that come, ask one question and go.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    thread,
    time::Duration,
};

use super::{
    PERSISTENT, TRANSIENT,
    connection::Connection,
    consume, declare, delete,
    frame::{self, Frame},
    queue_name,
};
use crate::{
    clock::now_nanos,
    histogram::Histogram,
    load::{Load, Measured, Meter, Outcome, Result},
};

/// Connections in all, and how many there are at a time.
const CLIENTS: u32 = 2000;
const AT_ONCE: usize = 8;
const BODY: &[u8] = &[b'?'; 64];

/// Each client opens a connection and a channel, declares a reply queue of its own that goes with
/// it, asks a service and leaves with the answer. The latency is that of the question alone.
pub fn churn(load: Load) -> Result<Measured> {
    let questions = queue_name(load, 0);
    let mut service = Connection::open(load.port)?;
    declare(&mut service, &questions, load.queue_type)?;
    consume(&mut service, &questions, false)?;
    let meter = Meter::start(load.pid)?;
    let (left, done) = (AtomicU32::new(CLIENTS), AtomicBool::new(false));
    let asked = thread::scope(|scope| {
        let serving = scope.spawn(|| serve(service, &done));
        let all: Vec<_> = (0..AT_ONCE)
            .map(|_| scope.spawn(|| ask_until_none_is_left(load, &questions, &left)))
            .collect();
        let mut asked = Histogram::default();
        let mut outcome = Ok(());
        for one in all {
            match one.join().map_err(|_| "a client panicked")? {
                Ok(latency) => asked.add(&latency),
                Err(error) => outcome = Err(error),
            }
        }
        done.store(true, Relaxed);
        serving.join().map_err(|_| "the service panicked")??;
        outcome.map(|()| asked)
    })?;
    let published = u64::from(CLIENTS);
    let outcome =
        Outcome { published, delivered: 0, confirm: Histogram::default(), delivery: asked };
    let measured = meter.finish(outcome)?;
    delete(load, &questions)?;
    Ok(measured)
}

fn ask_until_none_is_left(load: Load, questions: &str, left: &AtomicU32) -> Result<Histogram> {
    let mut latency = Histogram::default();
    while left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
        let mut client = Connection::open(load.port)?;
        // Exclusive and auto-delete, with a name that the server gives.
        let unnamed = [&[0, 0][..], &frame::short(""), &[0b1100], &[0; 4]].concat();
        let declared = client.ask(frame::DECLARE, &unnamed, frame::DECLARE_OK)?;
        let (name, _) = frame::split_short(&declared);
        let name = String::from_utf8(name.to_vec())?;
        consume(&mut client, &name, false)?;
        let start = now_nanos();
        client.publish(questions, TRANSIENT, Some(&name), BODY)?;
        client.body()?;
        latency.record(now_nanos() - start);
        client.close()?;
    }
    Ok(latency)
}

/// Answers every question to the queue that it names.
fn serve(mut service: Connection, done: &AtomicBool) -> Result<()> {
    service.wait_at_most(Duration::from_millis(50))?;
    let mut reply_to = String::new();
    while !done.load(Relaxed) {
        let mut answers = Vec::new();
        service.take(&mut |frame| match frame {
            Frame::Header(header) => reply_to = frame::reply_to(header),
            Frame::Body(_) => answers.push(reply_to.clone()),
            Frame::Method(..) | Frame::Other => {}
        })?;
        for answer in answers {
            service.publish(&answer, PERSISTENT, None, BODY)?;
        }
    }
    Ok(())
}
