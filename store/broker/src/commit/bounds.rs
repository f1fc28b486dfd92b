//! Queues over their bounds: the oldest ready records make room.

use mainstem_schemas::{CursorId, QueueId};

use super::{Commit, chores::Budget};
use crate::{command::Retention, passage::Reason, policy::Overflow};

/// Records that one publish drops from a queue over its bounds before it goes on. More than one, so
/// that bounds are met again while publishes come.
const DROPPED_PER_PUBLISH: usize = 32;

impl Commit {
    /// Drops the oldest ready records of a queue that is over its bounds. One that refuses keeps
    /// what it took, though that took it over them.
    pub(super) fn keep_bounds(&mut self, id: QueueId) {
        let mut left = Budget::new(DROPPED_PER_PUBLISH);
        self.drop_heads(id, &mut left);
        if left.is_spent() {
            self.over_bounds.insert(id);
        }
    }

    /// The same, as many as may be.
    fn drop_heads(&mut self, id: QueueId, left: &mut Budget) {
        while !left.is_spent() {
            let Some(queue) = self.state.queues.get(id) else { return };
            let policy = &queue.def.policy;
            if !queue.is_bounded || policy.overflow != Overflow::DropHead {
                return;
            }
            let (len, bytes) = queue.ready();
            let is_over = policy.len_max.is_some_and(|max| len > max)
                || policy.bytes_max.is_some_and(|max| bytes > max);
            let cursor = CursorId::MAIN;
            if !is_over || queue.def.retention != Retention::Unsettled {
                return;
            }
            // What was settled in this turn is in nobody's hand and still counted.
            if self.settled.contains_key(&(id, cursor)) {
                self.flush_settled();
                continue;
            }
            let Some((main, lanes)) = queue.cursor_and_lanes(cursor) else { return };
            let Some(offset) = main.peek(lanes) else { return };
            main.advance(offset);
            let place = queue.get(offset, &self.state.index);
            let Some(place) = self.state.sound(place) else { continue };
            self.counts.died(Reason::Overflow);
            self.bury(id, cursor, offset, (Reason::Overflow, self.now));
            self.state_settle(id, cursor, offset, place.group);
            left.spend(place.body);
        }
    }

    /// The same for queues that something died into, one after the other: each may make the next
    /// one overflow, and no chain of them is deeper than another. What is more than a turn's work is
    /// left to the next one.
    pub(super) fn keep_all_bounds(&mut self) {
        let mut left = self.chores.drops;
        while let Some(id) = self.over_bounds.pop_first() {
            self.drop_heads(id, &mut left);
            if left.is_spent() {
                self.over_bounds.insert(id);
                break;
            }
        }
        self.chores.drops = left;
    }

    /// Settles one record now, so that the queue's counts are true at once.
    fn state_settle(&mut self, id: QueueId, cursor: CursorId, offset: u64, group: u32) {
        self.note_settled(id, cursor, offset, group);
        self.flush_settled();
    }
}
