//! Crashes of the whole store by seed: what was confirmed is kept, and nothing happens twice that
//! may happen once.
//!
//! One seed is one run on one thread: a simulated disk, a simulated clock, a real index that is
//! set back at a crash. `SEED=n` runs one seed and tells all it does; `SEEDS=n` so many;
//! `SIM_SECONDS=n` new ones for so long. Reading order: `world` is the store with its threads taken
//! apart, `play` what is done to it, `model` what must be true then, `audit` what must be true of
//! an index by itself.

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

mod audit;
mod away;
mod branches;
mod check;
mod dead;
mod desk;
mod gate;
mod keys;
mod limits;
mod model;
mod play;
mod pulls;
mod rules;
mod sleepers;
mod space;
mod turns;
mod undecided;
mod world;
mod writers;

/// Seeds of one `make test`.
const SEEDS: u64 = 2000;
const THREADS: usize = 2;

/// Where indexes are kept: in memory if the machine has a place for it.
fn scratch() -> tempfile::TempDir {
    let memory = PathBuf::from("/dev/shm");
    let dir = if memory.is_dir() { memory } else { env::temp_dir() };
    tempfile::Builder::new().prefix("mainstem-sim-").tempdir_in(dir).unwrap()
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

/// Runs seeds on all threads until `next` has no more; a failure ends all.
fn run(next: &(dyn Fn() -> Option<u64> + Sync)) -> u64 {
    let (failed, count) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let scratch = scratch();
                while let Some(seed) = next().filter(|_| !failed.load(Ordering::Relaxed)) {
                    let dir = scratch.path().join(seed.to_string());
                    let one = || play::run(seed, &dir, false);
                    if catch_unwind(AssertUnwindSafe(one)).is_err() {
                        failed.store(true, Ordering::Relaxed);
                        println!("SEED={seed}");
                    }
                    std::fs::remove_dir_all(&dir).unwrap();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert!(!failed.into_inner(), "a seed failed; its number is above");
    count.into_inner()
}

#[test]
fn nothing_confirmed_is_lost_by_any_seed() {
    if let Some(seed) = number("SEED") {
        let scratch = scratch();
        play::run(seed, &scratch.path().join("index"), true);
        return;
    }
    if number("SIM_SECONDS").is_some() {
        return;
    }
    let seeds = AtomicU64::new(0);
    let first = number("FIRST").unwrap_or(0);
    let max = number("SEEDS").unwrap_or(SEEDS);
    let next =
        || Some(first + seeds.fetch_add(1, Ordering::Relaxed)).filter(|at| *at < first + max);
    run(&next);
}

/// New seeds for `SIM_SECONDS`, with a word every few seconds.
#[test]
fn seeds_go_on_until_stopped() {
    let Some(seconds) = number("SIM_SECONDS") else { return };
    let (done, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let base = fastrand::u64(..1 << 48);
    thread::scope(|scope| {
        scope.spawn(|| {
            for second in 0..seconds {
                thread::sleep(Duration::from_secs(1));
                if second % 5 == 4 {
                    println!(
                        "{} s: {} seeds from {base}",
                        second + 1,
                        done.load(Ordering::Relaxed)
                    );
                }
                if over.load(Ordering::Relaxed) {
                    return;
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        let next = || {
            let at = done.fetch_add(1, Ordering::Relaxed);
            (!over.load(Ordering::Relaxed)).then_some(base + at)
        };
        let ran = catch_unwind(AssertUnwindSafe(|| run(&next)));
        over.store(true, Ordering::Relaxed);
        println!("{} seeds", ran.expect("a seed failed"));
    });
}
