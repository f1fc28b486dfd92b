//! A point in time until which a test waits for something.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Between two looks at a condition that nothing announces.
const POLL_MS: u64 = 10;

/// When a wait becomes a failure.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    start: Instant,
    end: Instant,
}

impl Deadline {
    /// This many seconds from now.
    #[must_use]
    pub fn seconds(seconds: u64) -> Self {
        Self::millis(seconds * 1000)
    }

    /// This many milliseconds from now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place where the tests read the clock")]
    pub fn millis(millis: u64) -> Self {
        let start = Instant::now();
        Self { start, end: start + Duration::from_millis(millis) }
    }

    /// What is left; zero when it has passed.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place where the tests read the clock")]
    pub fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// How long ago it was set.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    #[must_use]
    pub fn passed(&self) -> bool {
        self.left().is_zero()
    }

    /// Looks at a condition until it gives something; panics with `what` at the deadline.
    pub fn until<T>(&self, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
        loop {
            if let Some(value) = condition() {
                return value;
            }
            assert!(!self.passed(), "waited {:?} for {what}", self.elapsed());
            thread::sleep(Duration::from_millis(POLL_MS));
        }
    }

    /// As [`Deadline::until`], for a condition that is itself a future.
    pub async fn until_async<T, F>(&self, what: &str, mut condition: impl FnMut() -> F) -> T
    where
        F: Future<Output = Option<T>>,
    {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            assert!(!self.passed(), "waited {:?} for {what}", self.elapsed());
            tokio::time::sleep(Duration::from_millis(POLL_MS)).await;
        }
    }
}
