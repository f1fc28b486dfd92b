//! Settling: deliveries end, and their consumers get room for more.

use std::mem;

use mainstem_schemas::{CursorId, DeliveryId, Offset, QueueId, Settlement, UnixMillis, Verdict};

use super::{Commit, send};
use crate::{
    command::{Claim, ClientId, Reply},
    cursor::InHand,
    entry::{Entry, Settled},
    error::Refusal,
};

/// Ranges in one entry, twenty bytes each at most: an entry must fit into a segment.
const RANGES_MAX: usize = 4096;

impl Commit {
    pub(super) fn settle(
        &mut self,
        client: ClientId,
        batch: &[Settlement],
        reply: Option<Reply<Vec<bool>>>,
    ) {
        let outcomes: Vec<bool> =
            batch.iter().map(|settlement| self.settle_one(client, *settlement)).collect();
        let Some(reply) = reply else { return };
        self.flush_settled();
        if outcomes.contains(&true) {
            self.open.needs_sync = true;
            self.open.replies.push(Box::new(move || send(reply, outcomes)));
        } else {
            send(reply, outcomes);
        }
    }

    pub(super) fn settle_one(&mut self, client: ClientId, settlement: Settlement) -> bool {
        let Settlement { id, verdict } = settlement;
        let Some(hand) = self.take_hand(client, id) else { return false };
        let offset = id.offset.0;
        match verdict {
            Verdict::Accept | Verdict::Reject => {
                self.counts.settled += 1;
                self.settled.entry((id.queue, id.cursor)).or_default().push((offset, offset + 1));
            }
            Verdict::Release | Verdict::Unread => {
                let counts = verdict == Verdict::Release;
                self.put_back(id.queue, id.cursor, offset, &hand, counts);
            }
        }
        true
    }

    /// Takes a delivery out of its holder's hand, if it is still there under this id. A lease may
    /// be settled by any client of its group; everything else only by its holder.
    fn take_hand(&mut self, client: ClientId, id: DeliveryId) -> Option<InHand> {
        let cursor = self.state.queues.get_mut(&id.queue)?.cursors.get_mut(&id.cursor)?;
        let hand = *cursor.in_hand.get(&id.offset.0)?;
        let is_holder = hand.client == client || hand.deadline.is_set();
        if hand.epoch != id.epoch || !is_holder {
            return None;
        }
        cursor.in_hand.remove(&id.offset.0);
        self.give_room(&hand);
        Some(hand)
    }

    /// The holder has one delivery less in hand.
    pub(super) fn give_room(&mut self, hand: &InHand) {
        let Some(id) = hand.consumer else { return };
        let Some(member) = self.members.get_mut(&hand.client) else { return };
        let pool = member.pools.entry(hand.pool).or_default();
        let pool_was_full = !pool.has_room();
        pool.in_hand = pool.in_hand.saturating_sub(1);
        let consumer = self.consumers.get_mut(&(hand.client, id));
        let touched = consumer.and_then(|consumer| {
            let was_full = consumer.limit != 0 && consumer.in_hand >= consumer.limit;
            consumer.in_hand = consumer.in_hand.saturating_sub(1);
            was_full.then_some((consumer.queue, consumer.cursor))
        });
        if pool_was_full {
            self.touch_consumers(hand.client);
        } else if let Some((queue, cursor)) = touched {
            self.touch_cursor(queue, cursor);
        }
    }

    pub(super) fn put_back(
        &mut self,
        queue_id: QueueId,
        cursor_id: CursorId,
        offset: u64,
        hand: &InHand,
        counts: bool,
    ) {
        let queue = self.state.queues.get_mut(&queue_id);
        if let Some(cursor) = queue.and_then(|queue| queue.cursors.get_mut(&cursor_id)) {
            cursor.release(offset, hand, counts);
        }
        self.touch_cursor(queue_id, cursor_id);
    }

    /// What was settled in this turn becomes one entry; what is transient is applied at once.
    pub(super) fn flush_settled(&mut self) {
        if self.settled.is_empty() {
            return;
        }
        let mut durable = Vec::new();
        let mut count = 0;
        for ((queue, cursor), mut ranges) in mem::take(&mut self.settled) {
            if ranges.is_empty() {
                continue;
            }
            ranges.sort_unstable();
            ranges.dedup_by(|next, last| {
                let joins = next.0 <= last.1;
                if joins {
                    last.1 = last.1.max(next.1);
                }
                joins
            });
            if queue.is_transient() || cursor.is_transient() {
                for (from, to) in ranges {
                    self.state.settle(queue, cursor, from, to);
                }
            } else {
                for part in ranges.chunks(RANGES_MAX) {
                    count += part.len();
                    durable.push(Settled { queue, cursor, ranges: part.to_vec() });
                    if count >= RANGES_MAX {
                        self.log_lazily(Entry::Settle(mem::take(&mut durable)));
                        count = 0;
                    }
                }
            }
        }
        if !durable.is_empty() {
            self.log_lazily(Entry::Settle(durable));
        }
    }

    /// A lease ran out: the delivery comes back and counts as an attempt.
    pub(super) fn end_lease(&mut self, queue: QueueId, cursor: CursorId, offset: u64, epoch: u32) {
        let Some(found) = self.state.queues.get_mut(&queue) else { return };
        let Some(at) = found.cursors.get_mut(&cursor) else { return };
        let Some(hand) = at.in_hand.get(&offset).copied() else { return };
        if hand.epoch != epoch || !hand.deadline.reached(self.now) {
            return;
        }
        at.in_hand.remove(&offset);
        self.put_back(queue, cursor, offset, &hand, true);
    }

    pub(super) fn renew(
        &mut self,
        client: ClientId,
        id: DeliveryId,
        claim: Claim,
    ) -> Result<DeliveryId, Refusal> {
        let now = self.now;
        let found = self.state.queues.get_mut(&id.queue).ok_or(Refusal::Stale)?;
        let cursor = found.cursors.get_mut(&id.cursor).ok_or(Refusal::Stale)?;
        let epoch = cursor.next_epoch();
        let hand = cursor.in_hand.get_mut(&id.offset.0).ok_or(Refusal::Stale)?;
        if hand.epoch != id.epoch || (hand.client != client && !hand.deadline.is_set()) {
            return Err(Refusal::Stale);
        }
        hand.epoch = epoch;
        hand.deadline = match claim {
            Claim::Lease { ms } => now.plus(ms),
            Claim::Client => UnixMillis::NONE,
        };
        let deadline = hand.deadline;
        let renewed = DeliveryId { offset: Offset(id.offset.0), epoch, ..id };
        self.lease(renewed, deadline);
        Ok(renewed)
    }
}
