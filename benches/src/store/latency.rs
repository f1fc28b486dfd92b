//! How long a confirm takes when the store is half busy, and the longest stall while checkpoints,
//! compactions and new segments pass by.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use mainstem_broker::{Broker, Receipt};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{
    Bench,
    flow::{self, Flow, Progress, all_taken},
    subject::{self, Names},
    usage::Usage,
};
use crate::{
    clock::now_nanos,
    figure::{Figure, millis, rate},
    histogram::Histogram,
    load::Result,
};

const QUEUES: u64 = 1000;
const DATA_BYTES: usize = 256;
/// Records are published this often, as many at once as the rate wants.
const TICK: Duration = Duration::from_millis(1);
const TICKS_PER_SECOND: u64 = 1000;
/// Batches that may wait for their confirm: ten seconds of them.
const WAITING_MAX: usize = 10_000;
const STALL_MAX: Duration = Duration::from_millis(100);

struct Half {
    maximum: f64,
    per_tick: u64,
    confirm: Histogram,
    log: Usage,
}

pub(super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let data = bench.fresh()?;
    let seconds = bench.size(30, 600);
    let half = bench.block_on(half_load(&data, bench.size(1_000_000, 10_000_000), seconds))?;
    let raw = Duration::from_secs(bench.size(5, 60));
    let raw = bench.raw.measure(half.log.write_bytes(), raw)?;
    let (ours, theirs) = (half.confirm.percentile(99), raw.latency.percentile(99));
    let times = ours.as_secs_f64() / theirs.as_secs_f64();
    let stall = half.confirm.percentile(100);
    let longest = raw.latency.percentile(100);
    Ok(vec![
        Figure::new("maximum rate", rate(half.maximum)),
        Figure::new(
            format!("publish to confirm at {}: p50, p99", rate(half.per_tick as f64 * 1e3)),
            format!("{}, {}", millis(half.confirm.percentile(50)), millis(ours)),
        )
        .limit(
            format!(
                "a synced write of {} KiB: {}, {}",
                raw.write_bytes >> 10,
                millis(raw.latency.percentile(50)),
                millis(theirs)
            ),
            times,
        )
        .bar("p99 under 3 x", times < 3.0),
        Figure::new(format!("longest stall in {seconds} s"), millis(stall))
            .limit(
                format!("a synced write's longest {}", millis(longest)),
                stall.as_secs_f64() / longest.as_secs_f64(),
            )
            .bar("under 100 ms", stall < STALL_MAX),
    ])
}

async fn half_load(data: &Path, records: u64, seconds: u64) -> Result<Half> {
    let broker = subject::open(data)?;
    let flow = Flow {
        queues: 0..QUEUES,
        data_bytes: DATA_BYTES,
        batch: 500,
        in_flight: 20_000,
        records,
        publishers: 1,
        consumers: 1,
    };
    let outcome = flow::run(&broker, &flow).await?;
    let micros = u64::try_from(outcome.elapsed.as_micros())?.max(1);
    let per_tick = outcome.records * 1_000_000 / micros / 2 / TICKS_PER_SECOND;
    let log = Usage::of_threads("log")?;
    let confirm = paced(&broker, per_tick.max(1), seconds * TICKS_PER_SECOND).await?;
    let log = Usage::of_threads("log")?.since(log);
    broker.stop().await;
    Ok(Half { maximum: outcome.rate(), per_tick, confirm, log })
}

/// Publishes on time, whatever the confirms do, and measures from when a batch was due.
async fn paced(broker: &Broker, per_tick: u64, ticks: u64) -> Result<Histogram> {
    let progress = Progress::new(per_tick * ticks, 0);
    let mut consumers = flow::attach(broker, 0..QUEUES, 1, &progress).await?;
    let (client, _inbox) = subject::login(broker).await?;
    let (names, data) = (Names::new(0..QUEUES), [b'm'; DATA_BYTES]);
    let (sent, mut receipts) = mpsc::channel::<(u64, Receipt)>(WAITING_MAX);
    let confirms = tokio::spawn(async move {
        let mut confirm = Histogram::default();
        while let Some((due, receipt)) = receipts.recv().await {
            all_taken(&receipt.await?)?;
            confirm.record(now_nanos() - due);
        }
        Result::Ok(confirm)
    });
    let mut clock = interval(TICK);
    clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let start = now_nanos();
    for tick in 0..ticks {
        clock.tick().await;
        let due = start + tick * u64::try_from(TICK.as_nanos())?;
        let one = |_| subject::publish(&client, Bytes::new(), names.any(), &data);
        let batch = (0..per_tick).map(one).collect::<Result<Vec<_>>>()?;
        // A timer may fire a moment early.
        let due = due.min(now_nanos());
        sent.send((due, client.publish(batch).await?)).await?;
    }
    drop(sent);
    let confirm = confirms.await??;
    flow::finish(&mut consumers, &progress).await?;
    Ok(confirm)
}
