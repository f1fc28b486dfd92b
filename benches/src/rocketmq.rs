//! The RocketMQ gRPC scenarios: sending alone, and receiving and acknowledging alone. No peer
//! speaks this protocol here, so their figures stand for themselves.

mod client;

use std::{cell::RefCell, rc::Rc};

use tokio::{runtime, task::LocalSet};

use self::client::Client;
use crate::{
    clock::{now_nanos, since},
    load::{Load, Measured, Meter, Outcome, Result},
};

pub const BODY_BYTES: usize = 1024;
/// Calls on their way over the one connection, one message each, as the SDKs send them.
pub const SENDERS: u64 = 64;
pub const RECEIVERS: u64 = 4;
pub const RECEIVE_BATCH: i32 = 32;
/// Only to have something to receive: not measured.
const FILL_BATCH: u64 = 32;

pub fn send(load: Load) -> Result<Measured> {
    block_on(async move {
        let client = Client::connect(load).await?;
        client.create_topic().await?;
        let meter = Meter::start(load.pid)?;
        let outcome = send_all(&client, load, 1, load.duration).await?;
        meter.finish(outcome)
    })
}

/// The confirm latency is that of one receive with its acknowledgement.
pub fn receive(load: Load) -> Result<Measured> {
    block_on(async move {
        let client = Client::connect(load).await?;
        client.create_topic().await?;
        client.create_group().await?;
        let wanted = send_all(&client, load, FILL_BATCH, load.duration / 2).await?.published;
        let meter = Meter::start(load.pid)?;
        let mut outcome = receive_all(&client, wanted).await?;
        outcome.published = wanted;
        meter.finish(outcome)
    })
}

/// One thread: the calls take turns on it, and the other core is the server's.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, work)
}

async fn send_all(
    client: &Client,
    load: Load,
    batch: u64,
    duration: std::time::Duration,
) -> Result<Outcome> {
    let outcome = Rc::new(RefCell::new(Outcome::default()));
    let start = now_nanos();
    let mut senders = Vec::new();
    for sender in 0..SENDERS {
        let (mut client, outcome) = (client.clone(), Rc::clone(&outcome));
        senders.push(tokio::task::spawn_local(async move {
            let mut sent = 0;
            loop {
                let now = now_nanos();
                if since(start, now) >= duration {
                    return Ok(());
                }
                let ids = (sent..sent + batch).map(|each| format!("{}-{sender}-{each}", load.run));
                client.send(ids).await?;
                sent += batch;
                let mut outcome = outcome.borrow_mut();
                outcome.published += batch;
                outcome.confirm.record(now_nanos().saturating_sub(now));
            }
        }));
    }
    finish(senders).await?;
    Ok(outcome.take())
}

async fn receive_all(client: &Client, wanted: u64) -> Result<Outcome> {
    let outcome = Rc::new(RefCell::new(Outcome::default()));
    let mut receivers = Vec::new();
    for _ in 0..RECEIVERS {
        let (mut client, outcome) = (client.clone(), Rc::clone(&outcome));
        receivers.push(tokio::task::spawn_local(async move {
            let mut nothing = 0;
            while outcome.borrow().delivered < wanted {
                let now = now_nanos();
                let received = client.receive(RECEIVE_BATCH).await?;
                // The last messages may be in another receiver's hands.
                nothing = if received.is_empty() { nothing + 1 } else { 0 };
                if nothing > 3 {
                    let delivered = outcome.borrow().delivered;
                    return Err(format!("received {delivered} of {wanted} messages").into());
                }
                if received.is_empty() {
                    continue;
                }
                let count = u64::try_from(received.len())?;
                client.acknowledge(received).await?;
                let mut outcome = outcome.borrow_mut();
                outcome.delivered += count;
                outcome.confirm.record(now_nanos().saturating_sub(now));
            }
            Ok(())
        }));
    }
    finish(receivers).await?;
    Ok(outcome.take())
}

async fn finish(tasks: Vec<tokio::task::JoinHandle<Result<()>>>) -> Result<()> {
    for task in tasks {
        task.await??;
    }
    Ok(())
}
