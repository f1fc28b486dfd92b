//! Very many records that wait for their time: what they take in memory, and how late they come.

use std::time::Duration;

use bytes::Bytes;
use mainstem_broker::{Notice, Publish};
use mainstem_schemas::{Address, RecordDraft, Settlement, UnixMillis, Verdict, flags};

use super::{
    Bench,
    subject::{self, queue_name},
};
use crate::{
    clock::now_nanos,
    figure::{Figure, millis, per_second, rate},
    histogram::Histogram,
    load::Result,
    process::Pid,
};

const DATA_BYTES: usize = 64;
const BATCH: u64 = 1_000;
const MEMORY_MIB_MAX: u64 = 200;
/// The first is due so long after all were published, and the last so long after the first.
const AHEAD_MS: u64 = 10_000;
const SPREAD_MS: u64 = 30_000;

struct Wait {
    publish_rate: f64,
    grown: u64,
    early: u64,
    lateness: Histogram,
}

pub(super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let count = bench.size(100_000, 1_000_000);
    let data = bench.fresh()?;
    let waited = bench.block_on(wait_for(&data, count))?;
    let Wait { publish_rate, grown, early, lateness } = waited;
    let late = lateness.percentile(99);
    let memory_max = MEMORY_MIB_MAX * count / 1_000_000;
    Ok(vec![
        Figure::new(
            format!("memory that {count} pending delays take, all due within ten minutes"),
            format!("{} MiB, published at {}", grown, rate(publish_rate)),
        )
        .bar(format!("under {} MiB", memory_max), grown < memory_max),
        Figure::new(
            format!("lateness p50, p99, over {} s; early ones", SPREAD_MS / 1000),
            format!("{}, {}; {early}", millis(lateness.percentile(50)), millis(late)),
        )
        .bar("p99 under 50 ms, none early", late < Duration::from_millis(50) && early == 0),
    ])
}

async fn wait_for(data: &std::path::Path, count: u64) -> Result<Wait> {
    let broker = subject::open(data)?;
    let (client, mut inbox) = subject::login(&broker).await?;
    subject::declare(&client, 0).await?;
    subject::consume(&client, 0).await?;
    let address = Address::amqp(Bytes::new(), queue_name(0).into());
    let payload = [0; DATA_BYTES];
    let process = Pid::own();
    let before = process.resident_mib()?;
    let began = now_nanos();
    let first = broker.now().plus(count / 100 + AHEAD_MS);
    for _ in 0..count / BATCH {
        let mut batch = Vec::new();
        for _ in 0..BATCH {
            let stamp = client.stamp();
            let mut draft = RecordDraft::new(&address, "/", b"", &payload);
            draft.flags = flags::DURABLE;
            (draft.id, draft.now) = (stamp.id, stamp.now);
            draft.deliver_at = first.plus(fastrand::u64(..SPREAD_MS));
            batch.push(Publish::new(draft.encode()?));
        }
        client.publish(batch).await?.await?;
    }
    let publish_rate = per_second(count, Duration::from_nanos(now_nanos() - began));
    let grown = process.resident_mib()?.saturating_sub(before);
    let (mut lateness, mut early, mut left) = (Histogram::default(), 0, count);
    let mut notices = Vec::new();
    while left > 0 {
        client.recv(&mut inbox, &mut notices).await;
        let now: UnixMillis = broker.now();
        let deliveries = notices.drain(..).filter_map(|notice| match notice {
            Notice::Delivery(delivery) => Some(delivery),
            _ => None,
        });
        let mut deliveries: Vec<_> = deliveries.collect();
        client.resolve(&mut deliveries).await?;
        for delivery in &deliveries {
            let due = delivery.record.as_ref().map_or(now, mainstem_schemas::Record::deliver_at);
            early += u64::from(now < due);
            lateness.record(now.since(due) * 1_000_000);
            left -= 1;
        }
        let verdict = Verdict::Accept;
        let done = deliveries.iter().map(|one| Settlement { id: one.id, verdict }).collect();
        client.settle(done).await?;
    }
    broker.stop().await;
    Ok(Wait { publish_rate, grown, early, lateness })
}
