//! A delivery's identity, and how a consumer ends it.

use crate::{CursorId, Offset, QueueId};

/// A consumer, named by its client; unique within that client's connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerId(pub u64);

/// One handing-out of one record through one cursor. `epoch` changes at every handing-out and at
/// every change of the lease, so a stale id settles nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId {
    pub queue: QueueId,
    pub cursor: CursorId,
    pub offset: Offset,
    pub epoch: u32,
}

/// How a delivery ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done: the cursor never sees the record again.
    Accept,
    /// Put it back at its place; it will be handed out again, and counts as one more attempt.
    Release,
    /// As `Release`, without counting an attempt: it was never given to the peer.
    Unread,
    /// Refused for good. Today the same as `Accept`; a dead-letter move hooks in here.
    Reject,
}

/// The end of one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    pub id: DeliveryId,
    pub verdict: Verdict,
}
