//! Queues over their bounds: the oldest ready records make room.

use std::ops::Range;

use mainstem_schemas::{CursorId, QueueId};

use super::{Commit, chores::Budget};
use crate::{command::Retention, passage::Reason, policy::Overflow};

/// Records that each publish drops from a queue over its bounds, whatever else a turn does: more
/// than one, so that bounds are met again while publishes come.
const DROPPED_PER_PUBLISH: usize = 2;
/// As many as that while the turn has some to drop for publishes.
const DROPPED_PER_PUBLISH_MAX: usize = 32;

impl Commit {
    /// Drops the oldest ready records of a queue that is over its bounds. One that refuses keeps
    /// what it took, though that took it over them.
    pub(super) fn keep_bounds(&mut self, id: QueueId) {
        let mut left = self.chores.publish_drops;
        if self.drop_heads(id, DROPPED_PER_PUBLISH..DROPPED_PER_PUBLISH_MAX, &mut left) {
            self.over_bounds.insert(id);
        }
        self.chores.publish_drops = left;
    }

    /// The same, so many records: those from `count.start` on are for as long as there are some left.
    /// Tells whether there may be more to drop.
    fn drop_heads(&mut self, id: QueueId, count: Range<usize>, left: &mut Budget) -> bool {
        let mut dropped = 0;
        while dropped < count.start || (dropped < count.end && !left.is_spent()) {
            let Some(queue) = self.state.queues.get(id) else { return false };
            let policy = &queue.def.policy;
            if !queue.is_bounded || policy.overflow != Overflow::DropHead {
                return false;
            }
            let (len, bytes) = queue.ready();
            let is_over = policy.len_max.is_some_and(|max| len > max)
                || policy.bytes_max.is_some_and(|max| bytes > max);
            let cursor = CursorId::MAIN;
            if !is_over || queue.def.retention != Retention::Unsettled {
                return false;
            }
            // What was settled in this turn is in nobody's hand and still counted.
            if self.settled.contains_key(&(id, cursor)) {
                self.flush_settled();
                continue;
            }
            let Some((main, lanes)) = queue.cursor_and_lanes(cursor) else { return false };
            let Some(offset) = main.peek(lanes) else { return false };
            main.advance(offset);
            let place = queue.get(offset, &self.state.index);
            let Some(place) = self.state.sound(place) else { continue };
            self.counts.died(Reason::Overflow);
            self.bury(id, cursor, offset, (Reason::Overflow, self.now));
            self.state_settle(id, cursor, offset, place.group);
            if dropped >= count.start {
                left.spend(place.body);
            }
            dropped += 1;
        }
        true
    }

    /// The same for queues that something died into, one after the other: each may make the next
    /// one overflow, and no chain of them is deeper than another. What is more than a turn's work is
    /// left to the next one.
    pub(super) fn keep_all_bounds(&mut self) {
        let mut left = self.chores.drops;
        while !left.is_spent()
            && let Some(id) = self.next_over_bounds()
        {
            self.over_bounds.remove(&id);
            if self.drop_heads(id, 0..usize::MAX, &mut left) {
                self.over_bounds.insert(id);
            }
        }
        self.chores.drops = left;
    }

    /// The queue behind the one that was looked at last.
    fn next_over_bounds(&mut self) -> Option<QueueId> {
        let behind = self.over_bounds.range(self.chores.bounds_from..).next();
        let next = behind.or_else(|| self.over_bounds.first()).copied()?;
        self.chores.bounds_from = QueueId(next.0.saturating_add(1));
        Some(next)
    }

    /// Settles one record now, so that the queue's counts are true at once.
    fn state_settle(&mut self, id: QueueId, cursor: CursorId, offset: u64, group: u32) {
        self.note_settled(id, cursor, offset, group);
        self.flush_settled();
    }
}
