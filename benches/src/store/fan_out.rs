//! One record to very many queues: one body, and how soon the last queue has it.

use std::time::Duration;

use bytes::Bytes;
use mainstem_broker::{Bind, DeclareExchange, ExchangeDef, ExchangeKind};
use mainstem_schemas::Table;

use super::{
    Bench,
    flow::all_taken,
    subject::{self, for_each, queue_name},
    usage::Usage,
};
use crate::{
    clock::now_nanos,
    figure::{Figure, millis, volume},
    histogram::Histogram,
    load::Result,
};

const QUEUES: u64 = 10_000;
const DATA_BYTES: usize = 64 << 10;
const EXCHANGE: &str = "all";

struct Spread {
    confirm: Histogram,
    visible: Histogram,
    log: Usage,
}

pub(super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let rounds = bench.size(20, 200);
    let data = bench.fresh()?;
    let Spread { confirm, visible, log } = bench.block_on(spread(&data, rounds))?;
    let each = log.written_bytes / rounds;
    let bodies = each as f64 / DATA_BYTES as f64;
    let raw = bench.raw.measure(each, Duration::from_secs(1))?.latency;
    let last = visible.percentile(50);
    Ok(vec![
        Figure::new(
            "log growth for one 64 KiB body",
            format!("{} ({bodies:.2} bodies)", volume(each as f64)),
        )
        .bar("one body", bodies < 2.0),
        Figure::new(
            "publish until the last queue counts it, p50, p99",
            format!(
                "{}, {} (confirm p50 {})",
                millis(last),
                millis(visible.percentile(99)),
                millis(confirm.percentile(50))
            ),
        )
        .limit(
            format!("one synced write of it {}", millis(raw.percentile(50))),
            last.as_secs_f64() / raw.percentile(50).as_secs_f64(),
        )
        .bar("under 25 ms", last < Duration::from_millis(25)),
    ])
}

async fn spread(data: &std::path::Path, rounds: u64) -> Result<Spread> {
    let broker = subject::open(data)?;
    let (client, _inbox) = subject::login(&broker).await?;
    subject::declare_all(&client, 0..QUEUES).await?;
    let def = ExchangeDef {
        name: EXCHANGE.to_owned(),
        kind: ExchangeKind::Fanout,
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: Table::new(),
    };
    client.declare_exchange(DeclareExchange { def }).await?;
    let binder = client.clone();
    for_each(0..QUEUES, move |number| {
        let client = binder.clone();
        async move {
            let bind = Bind {
                source: EXCHANGE.to_owned(),
                destination: queue_name(number),
                to_exchange: false,
                key: Bytes::new(),
                arguments: Table::new(),
            };
            Ok(client.bind(bind).await?)
        }
    })
    .await?;
    let (mut confirm, mut visible) = (Histogram::default(), Histogram::default());
    let body = vec![b'm'; DATA_BYTES];
    let log = Usage::of_threads("log")?;
    for round in 1..=rounds {
        let publish = subject::publish(&client, EXCHANGE.into(), Bytes::new(), &body)?;
        let start = now_nanos();
        let outcomes = client.publish(vec![publish]).await?.await?;
        confirm.record(now_nanos() - start);
        let ready = client.find_queue(queue_name(QUEUES - 1)).await?.stats.ready;
        visible.record(now_nanos() - start);
        all_taken(&outcomes)?;
        if ready != round {
            return Err(format!("the last queue has {ready} of {round} records").into());
        }
    }
    let log = Usage::of_threads("log")?.since(log);
    broker.stop().await;
    Ok(Spread { confirm, visible, log })
}
