//! Delivering: what is ready in a queue goes to those who wait for it and have room.

use std::{collections::BTreeSet, mem};

use mainstem_index::{Entry as Place, Index, IndexError};
use mainstem_schemas::{
    ConsumerId, CursorId, DeliveryId, Offset, Position, QueueId, Settlement, UnixMillis, Verdict,
};
use rustc_hash::FxHashMap;

use super::{
    Commit, Timer,
    chores::{Budget, Chores},
};
use crate::{
    command::{Claim, ClientId},
    cursor::{Cursor, Fetcher, InHand, Seat, Turn},
    inbox::{Delivery, Notice},
    member::{Consumer, Member},
    meter::Did,
    queue::Queue,
    ranges::{Spans, push_offset},
    state::{DURABLE, SEEN, warm::AHEAD},
    tail::Kept,
};

/// A record that may be handed out.
struct Ready {
    offset: u64,
    attempts: u32,
    place: Place,
}

/// What a walk along a cursor finds out besides the next record to hand out.
struct Walk<'a> {
    index: &'a Index,
    /// Durable records from here on are not down yet.
    gate: Position,
    /// Records from here on are handed out even if they were to live no time at all.
    fresh: Position,
    now: UnixMillis,
    parked_max: usize,
    /// Records whose time is over.
    expired: &'a mut Vec<(QueueId, CursorId, u64, Place)>,
    /// Records that rest, and until when.
    resting: &'a mut Vec<(UnixMillis, u64)>,
    /// Records that may be passed over.
    passes: &'a mut Budget,
    /// There were more.
    is_late: bool,
    /// The next record is not down yet.
    is_gated: bool,
}

impl Walk<'_> {
    /// Counts a record that is passed over, if there may be one more.
    fn may_not_pass(&mut self, bytes: u32) -> bool {
        self.is_late = self.passes.is_spent();
        self.passes.spend(bytes);
        self.is_late
    }
}

impl Commit {
    /// Delivers from everything on this turn's lists.
    pub(super) fn deliver_touched(&mut self) -> Result<(), IndexError> {
        for some in mem::take(&mut self.touched).chunks(AHEAD) {
            self.warm_consumers(some.iter().copied());
            for id in some {
                let Some(queue) = self.state.queues.get(*id) else { continue };
                queue.is_touched = false;
                if queue.wanted.is_empty() {
                    continue;
                }
                for cursor in self.chores.go_round(*id, &queue.wanted, true) {
                    self.deliver_cursor(*id, cursor)?;
                }
            }
        }
        for (id, cursor_id) in mem::take(&mut self.touched_cursors) {
            let queue = self.state.queues.get(id);
            let Some(cursor) = queue.and_then(|queue| queue.cursor_mut(cursor_id)) else {
                continue;
            };
            cursor.is_touched = false;
            self.deliver_cursor(id, cursor_id)?;
        }
        self.counts.waited.take().into_iter().for_each(|ms| self.stages.wait(ms));
        Ok(())
    }

    fn deliver_cursor(&mut self, id: QueueId, cursor_id: CursorId) -> Result<(), IndexError> {
        self.deliver_to_fetchers(id, cursor_id)?;
        let gate = if id.is_transient() { Position(u64::MAX) } else { self.written };
        let started_at = self.state.started_at;
        let mut resting = Vec::new();
        let mut settle = Spans::new();
        let Self { state, members, consumers, noticed, tail, settled, counts, now, .. } = self;
        let (chores, written) = (&mut self.chores, self.written);
        let Some(queue) = state.queues.get(id) else { return Ok(()) };
        let mut walk = Walk {
            index: &state.index,
            gate,
            fresh: self.fresh,
            now: *now,
            parked_max: self.config.parked_per_cursor_max,
            expired: &mut self.expired,
            resting: &mut resting,
            passes: &mut chores.passes,
            is_late: false,
            is_gated: false,
        };
        while let Some(cursor) = queue.cursor_mut(cursor_id) {
            let Some((place, seat, share)) = pick(cursor, consumers, members) else {
                note_stalled(cursor, members, (id, cursor_id));
                break;
            };
            let Some(consumer) = consumers.get_mut(&(seat.client, seat.consumer)) else { break };
            let Some(member) = members.get_mut(&seat.client) else { break };
            let (mut given, mut held, mut again) = (0, 0, 0);
            while given < share && member.has_room() {
                let Some(ready) = next_ready(queue, id, cursor_id, &mut walk)? else { break };
                let Some(cursor) = queue.cursor_mut(cursor_id) else { break };
                let kept = tail.hand_out(ready.place.position, written);
                let delivery =
                    hand_out(cursor, (id, cursor_id), &seat, consumer, &ready, kept, started_at);
                if consumer.settle_at_once && !delivery.settles_when_read {
                    push_offset(&mut settle, ready.offset);
                } else {
                    held += 1;
                }
                given += 1;
                again += u32::from(delivery.redelivered);
                counts.waited = Some(now.since(ready.place.appended));
                if member.push(Notice::Delivery(delivery)) {
                    noticed.push(seat.client);
                }
            }
            // Who found nothing there keeps its turn; else every other seat would be passed over.
            if (given > 0 || !member.has_room())
                && let Some(cursor) = queue.cursor_mut(cursor_id)
            {
                cursor.turn = place + 1;
            }
            counts.handed_out(queue, walk.now, consumer.settle_at_once, (given, again));
            if given > 0 {
                member.served = (id, cursor_id);
            }
            if held > 0 {
                consumer.in_hand += held;
                member.pools.entry(consumer.pool).or_default().in_hand += held;
            }
            if given == 0 && member.has_room() {
                break;
            }
        }
        let stops = (walk.is_late, walk.is_gated);
        note_stops(chores, &mut self.gated, (id, cursor_id), stops);
        if !settle.is_empty() {
            settled.entry((id, cursor_id)).or_default().extend(settle);
        }
        self.note_resting(id, cursor_id, resting);
        Ok(())
    }

    fn note_resting(&mut self, queue: QueueId, cursor: CursorId, all: Vec<(UnixMillis, u64)>) {
        for (until, offset) in all {
            self.set_timer(until, Timer::Rest { queue, cursor, offset });
        }
    }

    /// A record has rested long enough.
    pub(super) fn end_rest(&mut self, queue: QueueId, cursor: CursorId, offset: u64) {
        let found = self.state.queues.get(queue).and_then(|queue| queue.cursor_mut(cursor));
        if let Some(found) = found {
            found.make_ready(offset);
        }
        self.touch_cursor(queue, cursor);
    }

    /// A cursor that hands out something when it is looked at between turns, though nobody would
    /// have looked at it. One that put aside as much as it may waits for its readers, even where
    /// time has passed for what stopped it.
    #[cfg(test)]
    pub(crate) fn forgotten_cursor(&mut self) -> Result<Option<(QueueId, CursorId)>, IndexError> {
        let wanted = |(id, queue): (QueueId, &Queue)| {
            queue.wanted.iter().map(|cursor| (id, cursor)).collect::<Vec<_>>()
        };
        let mut all: Vec<_> = self.state.queues.resident().flat_map(wanted).collect();
        all.sort_unstable();
        for (id, cursor) in all {
            let parked_max = self.config.parked_per_cursor_max;
            let found = self.state.queues.peek(id).and_then(|queue| queue.cursor(cursor));
            if found.is_some_and(|found| found.parked() >= parked_max)
                || self.gated.contains(&(id, cursor))
                || self.chores.is_late(id, cursor)
                || self.chores.goes_round(id)
                || self.open.touched.contains(&id)
                || self.writing.as_ref().is_some_and(|writing| writing.touched.contains(&id))
            {
                continue;
            }
            let before = self.counts.delivered;
            self.deliver_cursor(id, cursor)?;
            if self.counts.delivered > before {
                return Ok(Some((id, cursor)));
            }
        }
        Ok(None)
    }

    /// Serves those who asked for a batch, first come first served.
    fn deliver_to_fetchers(&mut self, id: QueueId, cursor_id: CursorId) -> Result<(), IndexError> {
        loop {
            let Some(queue) = self.state.queues.get(id) else { return Ok(()) };
            queue.note_levels(self.now);
            let Some(cursor) = queue.cursor_mut(cursor_id) else { return Ok(()) };
            let Some(fetcher) = cursor.fetchers.front() else {
                if cursor.seats.is_empty() {
                    queue.note_wanted(cursor_id);
                }
                return Ok(());
            };
            let (client, max, claim) = (fetcher.client, fetcher.max, fetcher.claim);
            if fetcher.reply.is_closed() || !self.members.contains_key(&client) {
                self.drop_fetcher(id, cursor_id, 0);
                continue;
            }
            if cursor.has_batch_out() {
                return Ok(());
            }
            if max == 0 {
                // It is only to be told.
                let Some(ready) = self.next_of(id, cursor_id)? else { return Ok(()) };
                let queue = self.state.queues.get(id);
                if let Some(cursor) = queue.and_then(|queue| queue.cursor_mut(cursor_id)) {
                    cursor.make_ready(ready.offset);
                }
                if let Some(fetcher) = self.drop_fetcher(id, cursor_id, 0) {
                    super::send(fetcher.reply, Vec::new());
                }
                continue;
            }
            let mut deliveries = Vec::new();
            while deliveries.len() < max {
                let Some(delivery) = self.take_one(id, cursor_id, client, Some(claim))? else {
                    break;
                };
                deliveries.push(delivery);
            }
            if deliveries.is_empty() {
                return Ok(());
            }
            let again = deliveries.iter().filter(|delivery| delivery.redelivered).count();
            self.note(id, Did::Deliver, deliveries.len() as u64);
            self.note(id, Did::Redeliver, again as u64);
            let Some(fetcher) = self.drop_fetcher(id, cursor_id, 0) else { return Ok(()) };
            if let Err(unread) = fetcher.reply.send(deliveries) {
                let verdict = Verdict::Unread;
                for delivery in unread {
                    self.settle_one(client, Settlement { id: delivery.id, verdict });
                }
            }
        }
    }

    pub(super) fn drop_fetcher(
        &mut self,
        queue: QueueId,
        cursor: CursorId,
        place: usize,
    ) -> Option<Fetcher> {
        let found = self.state.queues.get(queue)?;
        let fetcher = found.cursor_mut(cursor)?.fetchers.remove(place)?;
        self.drop_timer(fetcher.deadline, Timer::Fetch { queue, cursor, id: fetcher.id });
        // One that nobody waits at may have come to its end.
        self.note_due_unknown(queue);
        if cursor.is_transient() {
            self.end_pull(fetcher.client, queue, cursor);
        }
        Some(fetcher)
    }

    /// Takes the next ready record of a cursor for a client, without a consumer. With no claim it
    /// is settled at once.
    pub(super) fn take_one(
        &mut self,
        id: QueueId,
        cursor_id: CursorId,
        client: ClientId,
        claim: Option<Claim>,
    ) -> Result<Option<Delivery>, IndexError> {
        let Some(ready) = self.next_of(id, cursor_id)? else { return Ok(None) };
        let now = self.now;
        let Some(queue) = self.state.queues.get(id) else { return Ok(None) };
        let Ready { offset, attempts, place } = ready;
        let Some(cursor) = queue.cursor_mut(cursor_id) else { return Ok(None) };
        let epoch = cursor.next_epoch();
        let attempt = attempts.saturating_add(1);
        let delivery_id =
            DeliveryId { queue: id, cursor: cursor_id, offset: Offset(offset), epoch };
        let needs_settle = claim.is_some();
        let (record, passage) = self.tail.hand_out(place.position, self.written).unzip();
        // Its place in the log must outlast the reading.
        let settles_when_read = claim.is_none() && record.is_none();
        let claim = if settles_when_read { Some(Claim::Client) } else { claim };
        match claim {
            None => {
                cursor.end_turn(offset, place.group);
                self.settled.entry((id, cursor_id)).or_default().push((offset, offset + 1));
            }
            Some(claim) => {
                let deadline = match claim {
                    Claim::Client => UnixMillis::NONE,
                    Claim::Lease { ms } => now.plus(ms),
                };
                let (consumer, pool, body, group) = (None, 0, place.body, place.group);
                let hand = InHand { client, consumer, pool, epoch, attempt, body, group, deadline };
                cursor.hand_out(offset, hand);
                if let Some(member) = self.members.get_mut(&client) {
                    member.hands.insert((id, cursor_id));
                }
                self.lease(delivery_id, deadline);
            }
        }
        self.counts.delivered += 1;
        Ok(Some(Delivery {
            id: delivery_id,
            consumer: ConsumerId::default(),
            options: 0,
            position: place.position,
            attempt,
            redelivered: attempt > 1 || was_seen(&place, self.state.started_at),
            needs_settle,
            record,
            passage: passage.flatten(),
            size: place.size,
            settles_when_read,
        }))
    }

    /// The next record of a cursor that may be handed out to somebody who is no consumer. The cursor
    /// is behind it then.
    fn next_of(&mut self, id: QueueId, cursor_id: CursorId) -> Result<Option<Ready>, IndexError> {
        let gate = if id.is_transient() { Position(u64::MAX) } else { self.written };
        let mut resting = Vec::new();
        let mut walk = Walk {
            index: &self.state.index,
            gate,
            fresh: Position(u64::MAX),
            now: self.now,
            parked_max: self.config.parked_per_cursor_max,
            expired: &mut self.expired,
            resting: &mut resting,
            passes: &mut self.chores.passes,
            is_late: false,
            is_gated: false,
        };
        let Some(queue) = self.state.queues.get(id) else { return Ok(None) };
        let ready = next_ready(queue, id, cursor_id, &mut walk)?;
        let stops = (walk.is_late, walk.is_gated);
        note_stops(&mut self.chores, &mut self.gated, (id, cursor_id), stops);
        self.note_resting(id, cursor_id, resting);
        Ok(ready)
    }

    /// Makes a lease end by itself.
    pub(super) fn lease(&mut self, id: DeliveryId, deadline: UnixMillis) {
        if deadline.is_set() {
            self.set_timer(deadline, lease_timer(id));
        }
    }
}

/// What fires when a lease has run out.
pub(super) fn lease_timer(id: DeliveryId) -> Timer {
    let DeliveryId { queue, cursor, offset: Offset(offset), epoch } = id;
    Timer::Lease { queue, cursor, offset, epoch }
}

/// Whether an earlier run of the process may have handed a record out.
fn was_seen(place: &Place, started_at: Position) -> bool {
    place.flags & SEEN != 0 || place.position < started_at
}

/// Gives a record to a consumer, as far as its cursor goes.
fn hand_out(
    cursor: &mut Cursor,
    (queue, cursor_id): (QueueId, CursorId),
    seat: &Seat,
    consumer: &Consumer,
    ready: &Ready,
    kept: Option<Kept>,
    started_at: Position,
) -> Delivery {
    let Ready { offset, attempts, place } = ready;
    let epoch = cursor.next_epoch();
    let attempt = attempts.saturating_add(1);
    // Its place in the log must outlast the reading.
    let settles_when_read = consumer.settle_at_once && kept.is_none();
    if consumer.settle_at_once && !settles_when_read {
        cursor.end_turn(*offset, place.group);
    } else {
        let hand = InHand {
            client: seat.client,
            consumer: Some(seat.consumer),
            pool: consumer.pool,
            epoch,
            attempt,
            body: place.body,
            group: place.group,
            deadline: UnixMillis::NONE,
        };
        cursor.hand_out(*offset, hand);
    }
    let (record, passage) = kept.unzip();
    Delivery {
        id: DeliveryId { queue, cursor: cursor_id, offset: Offset(*offset), epoch },
        consumer: seat.consumer,
        options: consumer.options,
        position: place.position,
        attempt,
        redelivered: attempt > 1 || was_seen(place, started_at),
        needs_settle: !consumer.settle_at_once,
        record,
        passage: passage.flatten(),
        size: place.size,
        settles_when_read,
    }
}

/// A cursor goes on in the next turn, or waits for the disk. A record that was moved lately stops it
/// as a new one does, and no publish is there to wake it.
fn note_stops(
    chores: &mut Chores,
    gated: &mut BTreeSet<(QueueId, CursorId)>,
    at: (QueueId, CursorId),
    (is_late, is_gated): (bool, bool),
) {
    if is_late {
        chores.note_late(at.0, at.1);
    }
    if is_gated {
        gated.insert(at);
    }
}

/// Clients that have no room are to be thought of when they have.
fn note_stalled(
    cursor: &Cursor,
    members: &mut FxHashMap<ClientId, Member>,
    at: (QueueId, CursorId),
) {
    for seat in &cursor.seats {
        if let Some(member) = members.get_mut(&seat.client) {
            member.stalled.insert(at);
        }
    }
}

/// Whose turn it is among the consumers that have room: the highest priority first, in rotation
/// among equals; only the first one where one is active. Returns the seat's place too, and how many
/// records it may have before it is another's turn.
fn pick(
    cursor: &Cursor,
    consumers: &FxHashMap<(ClientId, ConsumerId), Consumer>,
    members: &FxHashMap<ClientId, Member>,
) -> Option<(usize, Seat, u32)> {
    let room = |seat: &Seat| {
        let consumer = consumers.get(&(seat.client, seat.consumer))?;
        let member = members.get(&seat.client)?;
        let own = match consumer.limit {
            0 => u32::MAX,
            limit => limit.saturating_sub(consumer.in_hand),
        };
        let shared = member.pools.get(&consumer.pool).map_or(u32::MAX, |pool| pool.room());
        let room = own.min(shared);
        (room > 0 && member.has_room()).then_some(room)
    };
    let seats = &cursor.seats;
    if cursor.policy.single_active {
        let seat = seats.first()?;
        return room(seat).map(|room| (0, *seat, room));
    }
    let mut from = 0;
    while let Some(first) = seats.get(from) {
        let len = seats.iter().skip(from).take_while(|s| s.priority == first.priority).count();
        let turn = cursor.turn.saturating_sub(from);
        for step in 0..len {
            let place = from + (turn + step) % len;
            if let Some(seat) = seats.get(place)
                && let Some(room) = room(seat)
            {
                return Some((place, *seat, if len == 1 { room } else { 1 }));
            }
        }
        from += len;
    }
    None
}

/// The next record to hand out: down, not expired, rested, and its group's turn.
fn next_ready(
    queue: &mut Queue,
    id: QueueId,
    cursor_id: CursorId,
    walk: &mut Walk<'_>,
) -> Result<Option<Ready>, IndexError> {
    loop {
        let Some((cursor, lanes)) = queue.cursor_and_lanes(cursor_id) else { return Ok(None) };
        let Some(offset) = cursor.peek(lanes) else { return Ok(None) };
        let place = queue.get(offset, walk.index)?;
        let Some(cursor) = queue.cursor_mut(cursor_id) else { return Ok(None) };
        let Some(place) = place else {
            if walk.may_not_pass(0) {
                return Ok(None);
            }
            cursor.advance(offset);
            continue;
        };
        if place.position >= walk.gate && place.flags & DURABLE != 0 {
            walk.is_gated = true;
            return Ok(None);
        }
        let is_ordered = cursor.policy.ordered && place.group != 0;
        let passes = place.position >= walk.fresh && place.expiry <= place.appended;
        if place.expiry.reached(walk.now) && !passes {
            if walk.may_not_pass(place.body) {
                return Ok(None);
            }
            cursor.advance(offset);
            walk.expired.push((id, cursor_id, offset, place));
            continue;
        }
        if is_ordered {
            match cursor.take_turn(offset, place.group, walk.parked_max) {
                Turn::Free => {}
                Turn::Parked => {
                    cursor.advance(offset);
                    continue;
                }
                Turn::Full => return Ok(None),
            }
        }
        cursor.advance(offset);
        let returned = cursor.returned(offset);
        if returned.until.is_set() && !returned.until.reached(walk.now) {
            walk.resting.push((returned.until, offset));
            continue;
        }
        return Ok(Some(Ready { offset, attempts: returned.attempts, place }));
    }
}
