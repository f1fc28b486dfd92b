//! Names of places: in the log, in a queue, and of a queue's readers.

/// A place in the log: opaque, growing, with holes. It belongs to one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// A place in one queue: 0 for the first record ever put in it, then one more for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

/// A queue. A durable queue's id is the position of the log entry that declared it; a transient
/// queue's id has the top bit set and is never written to the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub u64);

/// A cursor of a queue. [`CursorId::MAIN`] is the only cursor of a queue that trims what it has
/// settled; other ids are positions of the entries that made them, or have the top bit set when
/// the cursor is transient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CursorId(pub u64);

/// Ids with this bit live in memory only.
pub const TRANSIENT_BIT: u64 = 1 << 63;

impl Offset {
    /// The place after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl QueueId {
    /// Whether the queue is forgotten at restart.
    #[must_use]
    pub fn is_transient(self) -> bool {
        self.0 & TRANSIENT_BIT != 0
    }
}

impl CursorId {
    /// The one cursor of a queue that trims what it has settled.
    pub const MAIN: Self = Self(0);

    /// Whether the cursor is forgotten at restart.
    #[must_use]
    pub fn is_transient(self) -> bool {
        self.0 & TRANSIENT_BIT != 0
    }
}
