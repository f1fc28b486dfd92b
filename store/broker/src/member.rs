//! A connected client and its consumers, as the commit thread knows them.

use std::{collections::BTreeSet, mem, sync::Arc};

use mainstem_schemas::{CursorId, QueueId};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::inbox::{Notice, Outbox};

/// Notices in one turn from which on a client keeps the room for them.
const ROOM_KEPT_MIN: usize = 16;

/// A limit that several consumers of one client share.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pool {
    /// Zero for no limit.
    pub(crate) limit: u32,
    pub(crate) in_hand: u32,
}

impl Pool {
    /// How many more there may be.
    pub(crate) fn room(&self) -> u32 {
        if self.limit == 0 { u32::MAX } else { self.limit.saturating_sub(self.in_hand) }
    }
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) namespace: Arc<str>,
    outbox: Outbox,
    /// Notices of this turn.
    pending: Vec<Notice>,
    pending_deliveries: usize,
    pending_bytes: usize,
    pub(crate) pools: FxHashMap<u16, Pool>,
    pub(crate) consumers: Vec<mainstem_schemas::ConsumerId>,
    /// Cursors with a consumer of its that got nothing for want of room.
    pub(crate) stalled: BTreeSet<(QueueId, CursorId)>,
    /// The last one that got something: the next one after it is thought of first.
    pub(crate) served: (QueueId, CursorId),
    /// Cursors it may have deliveries of.
    pub(crate) hands: FxHashSet<(QueueId, CursorId)>,
    /// Queues that go with it.
    pub(crate) exclusive: Vec<QueueId>,
    pub(crate) session: Option<String>,
}

impl Member {
    pub(crate) fn new(namespace: Arc<str>, outbox: Outbox) -> Self {
        Self {
            namespace,
            outbox,
            pending: Vec::new(),
            pending_deliveries: 0,
            pending_bytes: 0,
            pools: FxHashMap::default(),
            consumers: Vec::new(),
            stalled: BTreeSet::new(),
            served: (QueueId::default(), CursorId::default()),
            hands: FxHashSet::default(),
            exclusive: Vec::new(),
            session: None,
        }
    }

    /// Appends a notice; true when it is the first of this turn.
    pub(crate) fn push(&mut self, notice: Notice) -> bool {
        if let Notice::Delivery(delivery) = &notice {
            self.pending_deliveries += 1;
            self.pending_bytes += delivery.size as usize;
        }
        self.pending.push(notice);
        self.pending.len() == 1
    }

    /// Whether its inbox takes another delivery.
    pub(crate) fn has_room(&self) -> bool {
        self.outbox.has_room(self.pending_deliveries, self.pending_bytes)
    }

    pub(crate) fn send_pending(&mut self) {
        let deliveries = mem::take(&mut self.pending_deliveries);
        let bytes = mem::take(&mut self.pending_bytes);
        let count = self.pending.len();
        self.outbox.send(&mut self.pending, deliveries, bytes);
        // Those who get little keep no room: there may be a million of them.
        if count < ROOM_KEPT_MIN {
            self.pending = Vec::new();
        }
    }
}

/// A reader on a cursor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Consumer {
    pub(crate) queue: QueueId,
    pub(crate) cursor: CursorId,
    pub(crate) options: u64,
    pub(crate) pool: u16,
    /// Zero for no limit.
    pub(crate) limit: u32,
    pub(crate) in_hand: u32,
    pub(crate) priority: i32,
    pub(crate) settle_at_once: bool,
    pub(crate) exclusive: bool,
    /// The cursor was made for this consumer and goes with it.
    pub(crate) owns_cursor: bool,
}
