//! The bounds of everything the store holds in memory, and where it keeps its files.

use std::path::PathBuf;

/// When a publish counts as kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Confirmed after its bytes were synced, together with all that waited. A power cut loses
    /// nothing confirmed.
    Fsync,
    /// Confirmed after its bytes were handed to the operating system, which is told to sync every
    /// `ms` milliseconds. A kill of the process loses nothing confirmed; a power cut may lose the
    /// last `ms` milliseconds.
    Interval { ms: u64 },
    /// Confirmed at once and never synced on purpose. For tests: a power cut may lose anything.
    None,
}

/// What of too much is dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drops {
    #[default]
    Oldest,
    Newest,
}

/// What may wait for one subscription whose holder is away; 0 for no bound. What was handed out to
/// it before is not counted. The rest is dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AwayBounds {
    pub records_max: u64,
    /// Bytes of bodies.
    pub bytes_max: u64,
    /// How long a record may wait, also for a holder who is there and slow.
    pub age_ms_max: u64,
    /// What goes when there are too many records or bytes.
    pub drops: Drops,
}

impl AwayBounds {
    pub(crate) fn records_max(&self) -> Option<u64> {
        (self.records_max > 0).then_some(self.records_max)
    }

    pub(crate) fn bytes_max(&self) -> Option<u64> {
        (self.bytes_max > 0).then_some(self.bytes_max)
    }

    /// Whether queues are to be kept from growing.
    pub(crate) fn bounds_a_queue(&self) -> bool {
        self.records_max > 0 || self.bytes_max > 0
    }
}

/// Settings of the store. Every count and size here is a bound of something held in memory.
#[derive(Clone, Debug)]
pub struct Config {
    /// Holds `log/` and `index/`; locked by the process that has it open.
    pub data_dir: PathBuf,
    pub durability: Durability,
    /// Size of one log segment file in bytes; a power of two, and larger than any record.
    pub segment_bytes: u64,
    /// Largest payload taken in, in bytes.
    pub message_bytes_max: usize,
    /// Commands that may wait for the commit thread; a full channel stops reading sockets.
    pub commands_max: usize,
    /// Bytes of records that may be on their way to the disk; at most an eighth of a segment counts
    /// (see [`Config::uncommitted_bytes_max`]).
    pub uncommitted_bytes_max: usize,
    /// Bytes of the newest records kept in memory for readers.
    pub tail_cache_bytes: usize,
    /// Deliveries that may wait for one connection to write them.
    pub inbox_deliveries_max: usize,
    /// Payload bytes that may wait for one connection to write them.
    pub inbox_bytes_max: usize,
    /// Log bytes between two checkpoints of the index.
    pub checkpoint_bytes: u64,
    /// How long records of a topic stay readable for new groups, in milliseconds.
    pub topic_retention_ms: u64,
    /// How many bytes of records a topic keeps at most; 0 for no bound.
    pub topic_retention_bytes: u64,
    /// How large the log may be, in bytes; 0 for as large as the disk takes. When it comes close,
    /// the oldest records of topics and streams go; what nobody may drop stays, and when that is
    /// too much, publishes are refused. At least [`Config::LOG_SEGMENTS_MIN`] segments.
    pub log_bytes_max: u64,
    /// Queues in memory; those that nobody uses leave when there are more.
    pub queues_resident_max: usize,
    /// Records of an ordered cursor that are put aside while another of their group is out.
    pub parked_per_cursor_max: usize,
    /// Writers whose last sequence is remembered, so that nothing is taken twice.
    pub writers_max: usize,
    /// How long a writer is remembered after its last record, in milliseconds.
    pub writer_idle_ms: u64,
    /// Records that wait for a decision.
    pub undecided_max: usize,
    pub away: AwayBounds,
}

impl Config {
    /// The smallest log there can be a bound for, in segments: the one in use, the next one, and
    /// those between the beginning of the dropping and the bound.
    pub const LOG_SEGMENTS_MIN: u64 = 8;

    /// The largest record that is taken in, with all its properties: a payload may be a quarter of a
    /// segment. One that is larger than [`Config::uncommitted_bytes_max`] is on its way alone, and
    /// there is room for it where a full disk does not show yet.
    #[must_use]
    pub fn record_bytes_max(&self) -> u64 {
        self.segment_bytes / 16 * 5
    }

    /// How many bytes may be on their way to the disk. When a full disk shows, there is room left in
    /// the segment in use for as many as are being written, and as many as are planned behind
    /// them, and for the settlements that give space back.
    #[must_use]
    pub fn uncommitted_bytes_max(&self) -> usize {
        let part = usize::try_from(self.segment_bytes / 8).unwrap_or(usize::MAX);
        self.uncommitted_bytes_max.min(part)
    }

    /// The defaults, with files below `data_dir`.
    #[must_use]
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            durability: Durability::Fsync,
            segment_bytes: 64 << 20,
            message_bytes_max: 16 << 20,
            commands_max: 4096,
            uncommitted_bytes_max: 8 << 20,
            tail_cache_bytes: 64 << 20,
            inbox_deliveries_max: 2048,
            inbox_bytes_max: 8 << 20,
            checkpoint_bytes: 256 << 20,
            topic_retention_ms: 72 * 3600 * 1000,
            topic_retention_bytes: 0,
            log_bytes_max: 0,
            queues_resident_max: 1 << 20,
            parked_per_cursor_max: 10_000,
            writers_max: 262_144,
            writer_idle_ms: 24 * 3600 * 1000,
            undecided_max: 100_000,
            away: AwayBounds::default(),
        }
    }
}
