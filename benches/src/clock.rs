//! The one clock of the load generator: nanoseconds since the process first asked.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

static START: OnceLock<Instant> = OnceLock::new();

/// Also what a message carries as its first eight bytes, so that its reader knows its age.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub fn now_nanos() -> u64 {
    let since = START.get_or_init(Instant::now).elapsed();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

pub fn since(start_nanos: u64, end_nanos: u64) -> Duration {
    Duration::from_nanos(end_nanos.saturating_sub(start_nanos))
}
