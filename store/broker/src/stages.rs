//! How long each stage of a batch's way takes: histograms, in seconds.

use std::time::{Duration, Instant};

use metrics::{Histogram, Unit, describe_histogram, histogram};

/// A described histogram in seconds.
macro_rules! stage {
    ($name:literal, $meaning:literal) => {{
        describe_histogram!($name, Unit::Seconds, $meaning);
        histogram!($name)
    }};
}

/// A moment to measure from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment(Instant);

impl Moment {
    #[expect(clippy::disallowed_methods, reason = "durations are measured here and decide nothing")]
    pub(crate) fn now() -> Self {
        Self(Instant::now())
    }

    /// Records how long it took from this moment until now, and answers now.
    pub(crate) fn lap(self, stage: &Histogram) -> Self {
        let now = Self::now();
        stage.record(now.0.duration_since(self.0).as_secs_f64());
        now
    }
}

/// The stages of the commit thread. Taken once, since looking a histogram up costs more than what
/// some of them measure.
#[derive(Clone)]
pub(crate) struct Stages {
    /// From a batch's first command until the disk gets it.
    pub(crate) append: Histogram,
    /// Bytes of a batch.
    pub(crate) batch_bytes: Histogram,
    /// Handling the commands of one turn.
    pub(crate) apply: Histogram,
    /// Delivering from what one turn touched.
    pub(crate) deliver: Histogram,
    /// From a record's coming until it is handed out; one of each turn.
    waiting: Histogram,
    /// From a batch's first command until its publishers are told.
    pub(crate) confirm: Histogram,
    /// From the beginning of a checkpoint until the index has it.
    pub(crate) checkpoint: Histogram,
    /// Bringing the index to the disk.
    pub(crate) flush: Histogram,
}

/// The stages of the thread that writes.
pub(crate) struct DiskStages {
    pub(crate) write: Histogram,
    pub(crate) sync: Histogram,
}

impl Stages {
    pub(crate) fn new() -> Self {
        let bytes = "bytes of a batch of log entries";
        describe_histogram!("mainstem_batch_bytes", Unit::Bytes, bytes);
        Self {
            append: stage!("mainstem_append_seconds", "a batch's first command until its write"),
            batch_bytes: histogram!("mainstem_batch_bytes"),
            apply: stage!("mainstem_apply_seconds", "handling the commands of one turn"),
            deliver: stage!("mainstem_deliver_seconds", "delivering what one turn touched"),
            waiting: stage!("mainstem_wait_seconds", "a record's coming until it is handed out"),
            confirm: stage!("mainstem_confirm_seconds", "a batch's first command until confirmed"),
            checkpoint: stage!("mainstem_checkpoint_seconds", "a checkpoint, begin to commit"),
            flush: stage!("mainstem_flush_seconds", "bringing the index to the disk"),
        }
    }
}

impl Stages {
    /// A record was handed out after so many milliseconds.
    pub(crate) fn wait(&self, ms: u64) {
        self.waiting.record(Duration::from_millis(ms).as_secs_f64());
    }
}

impl DiskStages {
    pub(crate) fn new() -> Self {
        Self {
            write: stage!("mainstem_write_seconds", "writing one batch to the log's file"),
            sync: stage!("mainstem_sync_seconds", "syncing the log"),
        }
    }
}
