//! A queue that turns over far more than it holds, while a few of its records are never settled.

use std::{path::Path, sync::atomic::Ordering::Relaxed, time::Duration};

use super::{
    Bench,
    flow::{self, Flow, Outcome, Progress},
    subject,
    usage::disk_bytes,
};
use crate::{
    figure::{Figure, rate, volume},
    load::Result,
};

const DATA_BYTES: u64 = 1024;
const STUCK_EVERY: u64 = 100_000;
/// A store that pins its log is found out before it has filled the disk.
const DISK_BYTES_MAX: u64 = 8 << 30;
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The disk at one moment.
#[derive(Clone, Copy, Default)]
struct Look {
    log: u64,
    all: u64,
    /// Payloads of what is not settled.
    live: u64,
}

pub(super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let bytes = bench.size(2 << 30, 50 << 30);
    let records = bytes / DATA_BYTES;
    let segment = subject::config(&bench.data).segment_bytes;
    let data = bench.fresh()?;
    let (outcome, looks) = bench.block_on(turn_over(&data, records))?;
    let allowed = |look: &Look| 3 * look.live + 2 * segment;
    let part = |look: &Look| look.all as f64 / allowed(look) as f64;
    let worst = looks.iter().max_by(|a, b| part(a).total_cmp(&part(b))).copied();
    let worst = worst.unwrap_or_default();
    let last = looks.last().copied().unwrap_or_default();
    let show = |look: &Look| {
        format!(
            "{} (log {}) with {} live",
            volume(look.all as f64),
            volume(look.log as f64),
            volume(look.live as f64)
        )
    };
    let within = looks.iter().filter(|look| look.all <= allowed(look)).count();
    let mut figures = vec![
        Figure::new(
            format!("worst disk use while {} turn over", volume(bytes as f64)),
            format!("{}; {within} of {} looks within", show(&worst), looks.len()),
        )
        .limit(volume(allowed(&worst) as f64), part(&worst))
        .bar("under 3 x live + 2 segments", within == looks.len()),
        Figure::new("disk use at the end", show(&last))
            .limit(volume(allowed(&last) as f64), part(&last)),
    ];
    match outcome {
        Some(outcome) => figures.extend([
            Figure::new("rate meanwhile", rate(outcome.rate())),
            Figure::new("where the time goes", outcome.effort()),
        ]),
        None => figures.push(Figure::missing(
            "the whole of it",
            "",
            &format!("given up at {} of disk", volume(DISK_BYTES_MAX as f64)),
        )),
    }
    Ok(figures)
}

/// What the disk was like all the time, and without an outcome when it was too much.
async fn turn_over(data: &Path, records: u64) -> Result<(Option<Outcome>, Vec<Look>)> {
    let broker = subject::open(data)?;
    let progress = Progress::new(records, STUCK_EVERY);
    let flow = Flow {
        queues: 0..1,
        data_bytes: usize::try_from(DATA_BYTES)?,
        batch: 500,
        in_flight: 20_000,
        records,
        publishers: 1,
        consumers: 1,
    };
    let mut looks = Vec::new();
    let turning = flow::run_with(&broker, &flow, progress.clone());
    tokio::pin!(turning);
    let outcome = loop {
        tokio::select! {
            outcome = &mut turning => break outcome?,
            () = tokio::time::sleep(LOOK_EVERY) => {
                let untaken = progress.published.load(Relaxed) - progress.taken.load(Relaxed);
                let live = (untaken + progress.stuck.load(Relaxed)) * DATA_BYTES;
                looks.push(Look { log: disk_bytes(&data.join("log")), all: disk_bytes(data), live });
                if looks.last().is_some_and(|look| look.all > DISK_BYTES_MAX) {
                    broker.stop().await;
                    return Ok((None, looks));
                }
            }
        }
    };
    // What the store clears up by itself once nobody hurries it.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let live = progress.stuck.load(Relaxed) * DATA_BYTES;
    looks.push(Look { log: disk_bytes(&data.join("log")), all: disk_bytes(data), live });
    broker.stop().await;
    Ok((Some(outcome), looks))
}
