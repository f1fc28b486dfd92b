//! Very many queues: what they cost in memory and on disk, and how long a start takes with them.

use std::time::Duration;

use super::{Bench, child::Child, usage::disk_bytes};
use crate::{
    figure::{Figure, seconds, volume},
    load::Result,
};

const DATA_BYTES: u64 = 256;

pub(super) fn with_a_record(bench: &Bench) -> Result<Vec<Figure>> {
    let count = bench.size(100_000, 1_000_000);
    let data = bench.fresh()?;
    let mut child = Child::start(&data, bench.bound)?;
    let empty = child.pid.resident_mib()?;
    child.ask(&format!("declare {count}"), bench.bound)?;
    child.ask(&format!("fill {count} {DATA_BYTES}"), bench.bound)?;
    let (resident, peak) = (child.pid.resident_mib()?, child.pid.peak_mib()?);
    child.kill()?;
    let child = Child::start(&data, bench.bound)?;
    let (until_serving, again) = (child.until_serving, child.pid.resident_mib()?);
    child.kill()?;
    // A quick run has fewer of both.
    let mib_max = 1024 * count / 1_000_000;
    let time_max = Duration::from_millis(5000 * count / 1_000_000);
    Ok(vec![
        Figure::new(
            format!("resident with {count} queues of one record"),
            format!("{resident} MiB (empty {empty}, peak {peak}, after a restart {again})"),
        )
        .bar(format!("under {mib_max} MiB"), resident.max(again) < mib_max),
        Figure::new("kill -9, then serving after", seconds(until_serving))
            .bar(format!("under {}", seconds(time_max)), until_serving < time_max),
    ])
}

pub(super) fn declared(bench: &Bench) -> Result<Vec<Figure>> {
    let count = bench.size(500_000, 10_000_000);
    let data = bench.fresh()?;
    let mut child = Child::start(&data, bench.bound)?;
    child.ask(&format!("declare {count}"), bench.bound)?;
    // In good order, so that what the index has in memory is on the disk too.
    child.ask("stop", bench.bound)?;
    let (peak, each) = (child.pid.peak_mib()?, |bytes: u64| bytes as f64 / count as f64);
    let (log, index) = (disk_bytes(&data.join("log")), disk_bytes(&data.join("index")));
    child.kill()?;
    let child = Child::start(&data, bench.bound)?;
    let (until_serving, resident) = (child.until_serving, child.pid.resident_mib()?);
    child.kill()?;
    Ok(vec![
        Figure::new(
            format!("disk for each of {count} declared queues"),
            format!(
                "{} (index {}, log {})",
                volume(each(log + index)),
                volume(each(index)),
                volume(each(log))
            ),
        )
        .bar("under 250 B", each(log + index) < 250.0),
        Figure::new(
            "stopped, then serving after",
            format!("{} with {resident} MiB (peak before {peak})", seconds(until_serving)),
        )
        .bar("it still starts", true),
    ])
}
