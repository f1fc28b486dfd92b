//! A queue that nobody read for long: what it costs to have it.

use std::{thread, time::Duration};

use super::{Bench, child::Child};
use crate::{
    figure::{Figure, rate, seconds},
    load::Result,
};

/// Records outside memory are what the promise is about, with the same payload everywhere.
const DATA_BYTES: u64 = 256;

pub(super) fn run(bench: &Bench) -> Result<Vec<Figure>> {
    let backlog = bench.size(2_000_000, 20_000_000);
    let some = bench.size(1_000_000, 2_000_000);
    let data = bench.fresh()?;
    let mut child = Child::start(&data, bench.bound)?;
    let mut ask = |words: String| child.ask(&words, bench.bound);
    // The first records of a new store pay for its first segments.
    ask(format!("publish 1 {some} {DATA_BYTES}"))?;
    ask(format!("consume 1 {some}"))?;
    let publish = ask(format!("publish 1 {some} {DATA_BYTES}"))?;
    let consume = ask(format!("consume 1 {some}"))?;
    ask(format!("publish 2 {backlog} {DATA_BYTES}"))?;
    let deep_publish = ask(format!("publish 2 {some} {DATA_BYTES}"))?;
    let deep_consume = ask(format!("consume 2 {some}"))?;
    let (resident, peak) = (child.pid.resident_mib()?, child.pid.peak_mib()?);
    child.kill()?;
    let mut child = Child::start(&data, bench.bound)?;
    let (restart, again) = (child.until_serving, child.pid.resident_mib()?);
    child.tell(&format!("load 1000 {} {DATA_BYTES}", backlog * 100))?;
    thread::sleep(Duration::from_secs(bench.size(3, 20)));
    child.expect_busy()?;
    child.kill()?;
    let child = Child::start(&data, bench.bound)?;
    let loaded_restart = child.until_serving;
    child.kill()?;
    let compare = |what: &str, with: f64, without: f64| {
        Figure::new(format!("{what} with {backlog} records waiting"), rate(with))
            .limit(format!("{} with none", rate(without)), with / without)
            .bar("within 10 %", with >= 0.9 * without)
    };
    Ok(vec![
        compare("publish rate", deep_publish, publish),
        compare("consume rate from the head", deep_consume, consume),
        Figure::new("resident", format!("{resident} MiB (peak {peak}, after a restart {again})"))
            .bar("under 512 MiB", peak.max(again) < 512),
        Figure::new("kill -9, then serving after", seconds(restart))
            .bar("under 5 s", restart.as_secs() < 5),
        Figure::new("kill -9 at full load, then serving after", seconds(loaded_restart))
            .bar("under 10 s", loaded_restart.as_secs() < 10),
    ])
}
