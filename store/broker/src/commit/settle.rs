//! Settling: deliveries end, and their consumers get room for more.

use std::mem;

use mainstem_index::Entry as Place;
use mainstem_schemas::{CursorId, DeliveryId, Offset, QueueId, Settlement, UnixMillis, Verdict};
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::{Commit, deliver::lease_timer, send};
use crate::{
    command::{Claim, ClientId, Reply},
    cursor::{InHand, Returned},
    entry::{Entry, Settled},
    error::Refusal,
    meter::Did,
    passage::Reason,
    queue::{Found, Queue},
    ranges::{Spans, push_offset},
};

/// Ranges in one entry, twenty bytes each at most: an entry must fit into a segment.
pub(super) const RANGES_MAX: usize = 4096;
/// Cursors that something is settled of for which there is room beforehand: half a MiB.
const ROOM_MAX: usize = 8192;
/// How long a lease that ran out goes on when too many end at once.
const LEASE_AGAIN_MS: u64 = 10;

impl Commit {
    pub(super) fn settle(
        &mut self,
        client: ClientId,
        batch: &[Settlement],
        reply: Option<Reply<Vec<bool>>>,
    ) {
        let mut outcomes = Vec::with_capacity(if reply.is_some() { batch.len() } else { 0 });
        let mut rest = batch;
        let mut cold = batch;
        while let Some(first) = rest.first() {
            if rest.len() <= cold.len() && batch.len() > 1 {
                cold = self.warm_settled(rest);
            }
            let same = |one: &Settlement| {
                let (id, begin) = (one.id, first.id);
                id.queue == begin.queue
                    && id.cursor == begin.cursor
                    && one.verdict == Verdict::Accept
            };
            let len = rest.iter().take_while(|one| same(one)).count().max(1);
            let (run, after) = rest.split_at_checked(len).unwrap_or((rest, &[]));
            rest = after;
            match run {
                [one] => outcomes.push(self.settle_one(client, *one)),
                run => self.accept_run(client, run, &mut outcomes),
            }
        }
        self.keep_all_bounds();
        let Some(reply) = reply else { return };
        self.flush_settled();
        if outcomes.contains(&true) {
            self.open.needs_sync = true;
            self.open.replies.push(Box::new(move || send(reply, outcomes)));
        } else {
            send(reply, outcomes);
        }
    }

    /// Ends deliveries of one cursor that all succeeded.
    fn accept_run(&mut self, client: ClientId, run: &[Settlement], outcomes: &mut Vec<bool>) {
        let Some(first) = run.first().map(|one| one.id) else { return };
        let (queue, cursor_id) = (first.queue, first.cursor);
        let found = self.state.queues.get(queue).and_then(|queue| queue.cursor_mut(cursor_id));
        let Some(cursor) = found else {
            outcomes.extend(run.iter().map(|_| false));
            return;
        };
        let mut ranges = Spans::new();
        // Hands of one consumer follow each other: they are given room together.
        let mut hands: Vec<(InHand, u32)> = Vec::new();
        let mut timers = Vec::new();
        let is_ordered = cursor.policy.ordered;
        let is_batched = cursor.policy.batched;
        let mut count = 0;
        for one in run {
            let offset = one.id.offset.0;
            let hand = cursor.in_hand.get(offset).copied();
            let is_its = |hand: &InHand| hand.client == client || hand.deadline.is_set();
            let Some(hand) = hand.filter(|hand| hand.epoch == one.id.epoch && is_its(hand)) else {
                outcomes.push(false);
                continue;
            };
            outcomes.push(true);
            count += 1;
            cursor.drop_hand(offset);
            if hand.deadline.is_set() {
                timers.push((hand.deadline, lease_timer(one.id)));
            }
            push_offset(&mut ranges, offset);
            match hands.last_mut() {
                Some((last, count))
                    if last.client == hand.client
                        && last.consumer == hand.consumer
                        && last.pool == hand.pool =>
                {
                    *count += 1;
                }
                _ => hands.push((hand, 1)),
            }
            if is_ordered {
                cursor.end_turn(offset, hand.group);
            }
        }
        self.counts.settled += count;
        self.settled.entry((queue, cursor_id)).or_default().extend(ranges);
        let acked = hands.into_iter().map(|(hand, count)| u64::from(self.give_rooms(&hand, count)));
        let acked = acked.sum();
        self.note(queue, Did::Ack, acked);
        for (at, timer) in timers {
            self.drop_timer(at, timer);
        }
        if is_ordered || is_batched {
            self.touch_cursor(queue, cursor_id);
        }
    }

    pub(super) fn settle_one(&mut self, client: ClientId, settlement: Settlement) -> bool {
        let Settlement { id, verdict } = settlement;
        let Some(hand) = self.take_hand(client, id) else { return false };
        let offset = id.offset.0;
        match verdict {
            Verdict::Accept => {
                self.counts.settled += 1;
                self.note_settled(id.queue, id.cursor, offset, hand.group);
                self.note(id.queue, Did::Ack, u64::from(self.was_asked(&hand)));
            }
            Verdict::Reject => {
                self.counts.settled += 1;
                self.end_record((id.queue, id.cursor), offset, Reason::Rejected, hand);
            }
            Verdict::Release => self.put_back(id.queue, id.cursor, offset, &hand, true),
            Verdict::Unread => self.put_back(id.queue, id.cursor, offset, &hand, false),
        }
        true
    }

    /// A cursor is done with a record; its ordering group may go on.
    pub(super) fn note_settled(
        &mut self,
        queue: QueueId,
        cursor: CursorId,
        offset: u64,
        group: u32,
    ) {
        push_offset(self.settled.entry((queue, cursor)).or_default(), offset);
        let found = self.state.queues.get(queue).and_then(|queue| queue.cursor_mut(cursor));
        let Some(found) = found else { return };
        let is_batched = found.policy.batched;
        if group != 0 && found.policy.ordered {
            found.end_turn(offset, group);
        } else if !is_batched {
            return;
        }
        self.touch_cursor(queue, cursor);
    }

    /// Takes a delivery out of its holder's hand, if it is still there under this id. A lease may
    /// be settled by any client of its group; everything else only by its holder.
    fn take_hand(&mut self, client: ClientId, id: DeliveryId) -> Option<InHand> {
        let cursor = self.state.queues.get(id.queue)?.cursor_mut(id.cursor)?;
        let hand = *cursor.in_hand.get(id.offset.0)?;
        let is_holder = hand.client == client || hand.deadline.is_set();
        if hand.epoch != id.epoch || !is_holder {
            return None;
        }
        cursor.drop_hand(id.offset.0);
        self.give_room(&hand);
        self.drop_timer(hand.deadline, lease_timer(id));
        Some(hand)
    }

    /// The holder has one delivery less in hand.
    pub(super) fn give_room(&mut self, hand: &InHand) {
        self.give_rooms(hand, 1);
    }

    /// Whether whoever had it in hand was to settle it. What is not in memory stays in hand until it
    /// is read, also where nobody is.
    fn was_asked(&self, hand: &InHand) -> bool {
        let consumer = hand.consumer.and_then(|id| self.consumers.get(&(hand.client, id)));
        consumer.is_none_or(|consumer| !consumer.settle_at_once)
    }

    /// The holder has `count` deliveries less in hand, all like this one. Tells how many of them it
    /// was to settle.
    fn give_rooms(&mut self, hand: &InHand, count: u32) -> u32 {
        let Some(id) = hand.consumer else { return count };
        let Some(member) = self.members.get_mut(&hand.client) else { return count };
        let pool = member.pools.entry(hand.pool).or_default();
        let pool_was_full = pool.room() == 0;
        pool.in_hand = pool.in_hand.saturating_sub(count);
        let consumer = self.consumers.get_mut(&(hand.client, id));
        let is_asked = consumer.as_ref().is_none_or(|consumer| !consumer.settle_at_once);
        let touched = consumer.and_then(|consumer| {
            let was_full = consumer.limit != 0 && consumer.in_hand >= consumer.limit;
            consumer.in_hand = consumer.in_hand.saturating_sub(count);
            was_full.then_some((consumer.queue, consumer.cursor))
        });
        if pool_was_full {
            self.touch_consumers(hand.client);
        }
        if let Some((queue, cursor)) = touched {
            self.touch_cursor(queue, cursor);
        }
        if is_asked { count } else { 0 }
    }

    /// Puts a delivery back at its place. If the attempt counts, it may have been one too many,
    /// and the record may have to rest.
    pub(super) fn put_back(
        &mut self,
        queue_id: QueueId,
        cursor_id: CursorId,
        offset: u64,
        hand: &InHand,
        counts: bool,
    ) {
        let now = self.now;
        let queue = self.state.queues.get(queue_id);
        let Some(cursor) = queue.and_then(|queue| queue.cursor_mut(cursor_id)) else { return };
        if cursor.is_settled(offset) {
            return;
        }
        if counts {
            if cursor.policy.attempts_max.is_some_and(|max| hand.attempt >= max) {
                self.end_record((queue_id, cursor_id), offset, Reason::Attempts, *hand);
                return;
            }
            let rest_ms = cursor.policy.rest_ms(hand.attempt);
            let until = if rest_ms == 0 { UnixMillis::NONE } else { now.plus(rest_ms) };
            let returned = Returned { attempts: hand.attempt, until };
            if until.is_set() {
                let (queue, cursor) = (queue_id, cursor_id);
                self.set_timer(until, super::Timer::Rest { queue, cursor, offset });
            } else {
                cursor.make_ready(offset);
            }
            self.returned.entry((queue_id, cursor_id)).or_default().push((offset, returned));
        } else {
            cursor.make_ready(offset);
        }
        // What came back may be more than the queue may hold.
        self.over_bounds.insert(queue_id);
        self.touch_cursor(queue_id, cursor_id);
    }

    /// A delivery's record cannot be read: it stays in hand, so that nothing is lost and nobody
    /// is given it again, but it takes no room from its holder.
    pub(super) fn set_aside(&mut self, client: ClientId, id: DeliveryId) {
        // What is read by its place is in nobody's hand.
        self.counts.unreadable += 1;
        let Some(hand) = self.take_hand(client, id) else { return };
        let queue = self.state.queues.get(id.queue);
        if let Some(cursor) = queue.and_then(|queue| queue.cursor_mut(id.cursor)) {
            let (client, deadline) = (ClientId::NOBODY, UnixMillis::NONE);
            let hand = InHand { client, consumer: None, deadline, ..hand };
            cursor.hand_out(id.offset.0, hand);
        }
        // The batch that it was of may be at its end.
        self.touch_cursor(id.queue, id.cursor);
    }

    /// What was settled or came back in this turn becomes entries; what is transient is applied at
    /// once.
    pub(super) fn flush_settled(&mut self) {
        for ((queue, cursor), records) in mem::take(&mut self.returned) {
            if queue.is_transient() || cursor.is_transient() {
                self.state.apply_returned(queue, cursor, &records);
            } else if self.is_full {
                // What is given back again and again must not fill the room that settlements need.
                self.state.apply_returned(queue, cursor, &records);
                self.unsaid.entry((queue, cursor)).or_default().extend(records);
            } else {
                self.log_returned(queue, cursor, &records);
            }
        }
        if self.settled.is_empty() {
            return;
        }
        let mut durable = Vec::new();
        let mut count = 0;
        // The next turn is likely to be as this one was.
        let room = self.settled.len().min(ROOM_MAX);
        let next = FxHashMap::with_capacity_and_hasher(room, FxBuildHasher);
        for ((queue, cursor), mut ranges) in mem::replace(&mut self.settled, next) {
            if ranges.is_empty() {
                continue;
            }
            if ranges.len() > 1 {
                ranges.sort_unstable();
                ranges.dedup_by(|next, last| {
                    let joins = next.0 <= last.1;
                    if joins {
                        last.1 = last.1.max(next.1);
                    }
                    joins
                });
            }
            if queue.is_transient() || cursor.is_transient() {
                for (from, to) in ranges {
                    self.state.settle(queue, cursor, from, to);
                }
            } else if count + ranges.len() <= RANGES_MAX {
                count += ranges.len();
                durable.push(Settled { queue, cursor, ranges });
            } else {
                for part in ranges.chunks(RANGES_MAX) {
                    count += part.len();
                    durable.push(Settled { queue, cursor, ranges: part.into() });
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

    fn log_returned(&mut self, queue: QueueId, cursor: CursorId, records: &[(u64, Returned)]) {
        for part in records.chunks(RANGES_MAX) {
            let records = part.to_vec();
            self.log_lazily(Entry::Returned { queue, cursor, records });
        }
    }

    /// The log learns what came back while the disk was full, each record once. A checkpoint must
    /// not know of it before.
    pub(super) fn say_returned(&mut self) {
        for ((queue, cursor), records) in mem::take(&mut self.unsaid) {
            let records: Vec<_> = records.into_iter().collect();
            self.log_returned(queue, cursor, &records);
        }
    }

    /// Records whose time was over when a cursor came to them.
    pub(super) fn bury_expired(&mut self) {
        for (queue, cursor, offset, place) in mem::take(&mut self.expired) {
            self.counts.away_age += u64::from(self.is_too_old(queue, &place));
            let hand = InHand { body: place.body, group: place.group, ..InHand::default() };
            self.end_record((queue, cursor), offset, Reason::Expired, hand);
        }
    }

    /// Whether it waited longer than records may for those who are away, and its own word would not
    /// have ended it yet.
    fn is_too_old(&mut self, queue: QueueId, place: &Place) -> bool {
        let age_ms = self.config.away.age_ms_max;
        let of_filter = |queue: &mut Queue| matches!(queue.found, Found::ByFilter(_));
        age_ms > 0
            && place.appended.plus(age_ms) == place.expiry
            && self.state.queues.get(queue).is_some_and(of_filter)
    }

    /// A lease ran out: the delivery comes back and counts as an attempt.
    pub(super) fn end_lease(&mut self, queue: QueueId, cursor: CursorId, offset: u64, epoch: u32) {
        let Some(found) = self.state.queues.get(queue) else { return };
        let Some(at) = found.cursor_mut(cursor) else { return };
        let Some(hand) = at.in_hand.get(offset).copied() else { return };
        if hand.epoch != epoch || !hand.deadline.reached(self.now) {
            return;
        }
        let is_last = at.policy.attempts_max.is_some_and(|max| hand.attempt >= max);
        if is_last && at.policy.dead_letter.is_some() {
            // Its body is read: of many that end together, the others do in later turns.
            if self.chores.burials.is_spent() {
                let id = DeliveryId { queue, cursor, offset: Offset(offset), epoch };
                return self.set_timer(self.now.plus(LEASE_AGAIN_MS), lease_timer(id));
            }
            self.chores.burials.spend(hand.body);
        }
        at.drop_hand(offset);
        self.put_back(queue, cursor, offset, &hand, true);
    }

    pub(super) fn renew(
        &mut self,
        client: ClientId,
        id: DeliveryId,
        claim: Claim,
    ) -> Result<DeliveryId, Refusal> {
        let now = self.now;
        let found = self.state.queues.get(id.queue).ok_or(Refusal::Stale)?;
        let cursor = found.cursor_mut(id.cursor).ok_or(Refusal::Stale)?;
        let epoch = cursor.next_epoch();
        let hand = cursor.in_hand.get_mut(id.offset.0).ok_or(Refusal::Stale)?;
        if hand.epoch != id.epoch || (hand.client != client && !hand.deadline.is_set()) {
            return Err(Refusal::Stale);
        }
        let before = hand.deadline;
        hand.epoch = epoch;
        hand.deadline = match claim {
            Claim::Lease { ms } => now.plus(ms),
            Claim::Client => {
                // It is released when the client goes that has it from now on.
                hand.client = client;
                if let Some(member) = self.members.get_mut(&client) {
                    member.hands.insert((id.queue, id.cursor));
                }
                UnixMillis::NONE
            }
        };
        let deadline = hand.deadline;
        let renewed = DeliveryId { offset: Offset(id.offset.0), epoch, ..id };
        self.drop_timer(before, lease_timer(id));
        self.lease(renewed, deadline);
        Ok(renewed)
    }
}
