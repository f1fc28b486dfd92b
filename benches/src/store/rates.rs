//! Records per second, against what the disk could take of the same bytes in writes of the same
//! size.

use std::time::Duration;

use mainstem_broker::Broker;

use super::{
    Bench,
    flow::{self, Flow, Outcome},
    subject,
};
use crate::{
    figure::{Figure, millis, rate, volume},
    load::Result,
};

const RAW_TIME: Duration = Duration::from_secs(2);
const PUBLISHERS: u64 = 64;
const APPEND_BYTES: usize = 1024;
const EMPTIED_EVERY: Duration = Duration::from_millis(200);

/// A promised rate.
pub(super) struct Promise {
    queues: u64,
    /// In a quick run.
    few_queues: u64,
    data_bytes: usize,
    batch: u64,
    in_flight: u64,
    bar: f64,
    records: u64,
}

pub(super) const ONE: Promise = Promise {
    queues: 1,
    few_queues: 1,
    data_bytes: 256,
    batch: 500,
    in_flight: 20_000,
    bar: 2e6,
    records: 20_000_000,
};
pub(super) const THOUSAND: Promise = Promise { queues: 1000, few_queues: 1000, ..ONE };
pub(super) const MILLION: Promise =
    Promise { queues: 1_000_000, few_queues: 100_000, bar: 1e6, ..ONE };
pub(super) const KIB: Promise =
    Promise { data_bytes: 1024, bar: 800e3, records: 5_000_000, ..THOUSAND };
pub(super) const SINGLY: Promise =
    Promise { batch: 1, in_flight: 2000, bar: 600e3, records: 5_000_000, ..THOUSAND };

pub(super) fn flow(bench: &Bench, promise: &Promise) -> Result<Vec<Figure>> {
    let flow = Flow {
        queues: 0..bench.size(promise.few_queues, promise.queues),
        data_bytes: promise.data_bytes,
        batch: promise.batch,
        in_flight: promise.in_flight,
        records: bench.size(promise.records / 10, promise.records),
        publishers: 1,
        consumers: 1,
    };
    let broker = subject::open(&bench.fresh()?)?;
    let outcome = bench.block_on(async {
        // What a store does once, when it is new, is not what is asked.
        let warm_up = Flow { records: flow.records / 4, ..flow.clone() };
        flow::run(&broker, &warm_up).await?;
        let outcome = flow::run(&broker, &flow).await;
        broker.stop().await;
        outcome
    })?;
    let limit = disk_limit(bench, &outcome)?;
    let memcpy = bench.memcpy / (flow.data_bytes as f64);
    Ok(vec![
        Figure::new("published, consumed and settled", rate(outcome.rate()))
            .limit(
                format!("disk {} (memcpy {})", rate(limit), rate(memcpy)),
                outcome.rate() / limit,
            )
            .bar(format!("at least {}", rate(promise.bar)), outcome.rate() >= promise.bar),
        Figure::new("publish to confirm p50, p99", confirms(&outcome)),
        Figure::new("where the time goes", outcome.effort()),
    ])
}

fn confirms(outcome: &Outcome) -> String {
    let percentile = |percent| millis(outcome.confirm.percentile(percent));
    format!("{}, {}", percentile(50), percentile(99))
}

/// Records per second the disk alone would take, in synced writes as large as the store's.
fn disk_limit(bench: &Bench, outcome: &Outcome) -> Result<f64> {
    let raw = bench.raw.measure(outcome.log.write_bytes(), RAW_TIME)?;
    let record_bytes = outcome.log.written_bytes as f64 / outcome.records as f64;
    Ok(raw.bytes_per_second / record_bytes.max(1.0))
}

/// Publishes while the queues are emptied at intervals: a log that only grows never gets a segment
/// back, and what would be measured is the making of files.
async fn emptied(broker: &Broker, flow: &Flow) -> Result<Outcome> {
    let (janitor, _inbox) = subject::login(broker).await?;
    let running = flow::run(broker, flow);
    tokio::pin!(running);
    loop {
        tokio::select! {
            outcome = &mut running => return outcome,
            () = tokio::time::sleep(EMPTIED_EVERY) => {
                for number in flow.queues.clone() {
                    // A queue that is not declared yet is as good as empty.
                    let _records = janitor.purge_queue(subject::queue_name(number)).await;
                }
            }
        }
    }
}

pub(super) fn append(bench: &Bench) -> Result<Vec<Figure>> {
    let flow = |publishers, batch, records| Flow {
        queues: 0..8,
        data_bytes: APPEND_BYTES,
        batch,
        in_flight: batch,
        records,
        publishers,
        consumers: 0,
    };
    let records = bench.size(200_000, 2_000_000);
    let broker = subject::open(&bench.fresh()?)?;
    let mut figures = Vec::new();
    bench.block_on(async {
        // The second time around, the segments are those that the first left behind.
        emptied(&broker, &flow(PUBLISHERS, 16, records)).await?;
        Ok(())
    })?;
    for batch in [1, 4, 16, 64] {
        let outcome = bench.block_on(emptied(&broker, &flow(PUBLISHERS, batch, records)))?;
        figures.extend(appended(bench, &outcome, batch)?);
    }
    let lone = flow(1, 1, bench.size(2000, 10_000));
    let lone = bench.block_on(async {
        let outcome = flow::run(&broker, &lone).await;
        broker.stop().await;
        outcome
    })?;
    let raw = bench.raw.measure(1, RAW_TIME)?.latency;
    let times = lone.confirm.percentile(50).as_secs_f64() / raw.percentile(50).as_secs_f64();
    let limit =
        format!("one synced write {}, {}", millis(raw.percentile(50)), millis(raw.percentile(99)));
    figures.push(
        Figure::new("a lone publisher's confirm p50, p99", confirms(&lone))
            .limit(limit, times)
            .bar("p50 within 1.3 x", times <= 1.3),
    );
    Ok(figures)
}

/// What many publishers reached, each with one batch on its way.
fn appended(bench: &Bench, outcome: &Outcome, batch: u64) -> Result<[Figure; 2]> {
    let raw = bench.raw.measure(outcome.log.write_bytes(), RAW_TIME)?;
    let ours = outcome.rate() * APPEND_BYTES as f64;
    let (limit, write_bytes) = (volume(raw.bytes_per_second), volume(raw.write_bytes as f64));
    Ok([
        Figure::new(
            format!("{PUBLISHERS} publishers with {batch} on their way each, payload bytes"),
            format!("{}/s ({})", volume(ours), rate(outcome.rate())),
        )
        .limit(format!("{limit}/s in synced writes of {write_bytes}"), ours / raw.bytes_per_second)
        .bar("at least 0.70 of it", ours >= 0.7 * raw.bytes_per_second),
        Figure::new("where the time goes", outcome.effort()),
    ])
}
