//! Delivering: what is ready in a queue goes to those who wait for it and have room.

use std::mem;

use mainstem_index::{Entry as Place, Index, IndexError};
use mainstem_schemas::{
    CursorId, DeliveryId, Offset, Position, QueueId, Settlement, UnixMillis, Verdict,
};
use rustc_hash::FxHashMap;

use super::{Commit, Timer};
use crate::{
    command::{Claim, ClientId},
    cursor::{Cursor, InHand, Seat},
    inbox::{Delivery, Notice},
    member::{Consumer, Member},
    queue::Entries,
    state::DURABLE,
};

/// A record that may be handed out.
struct Ready {
    offset: u64,
    attempts: u32,
    place: Place,
}

impl Commit {
    /// Delivers from everything on this turn's lists.
    pub(super) fn deliver_touched(&mut self) -> Result<(), IndexError> {
        for id in mem::take(&mut self.touched) {
            let Some(queue) = self.state.queues.get_mut(&id) else { continue };
            queue.is_touched = false;
            if queue.wanted.is_empty() {
                continue;
            }
            for cursor in queue.wanted.clone() {
                self.deliver_cursor(id, cursor)?;
            }
        }
        for (id, cursor_id) in mem::take(&mut self.touched_cursors) {
            let queue = self.state.queues.get_mut(&id);
            let Some(cursor) = queue.and_then(|queue| queue.cursors.get_mut(&cursor_id)) else {
                continue;
            };
            cursor.is_touched = false;
            self.deliver_cursor(id, cursor_id)?;
        }
        Ok(())
    }

    fn deliver_cursor(&mut self, id: QueueId, cursor_id: CursorId) -> Result<(), IndexError> {
        self.deliver_to_fetchers(id, cursor_id)?;
        let written = self.written;
        let Self { state, members, consumers, noticed, tail, settled, counts, now, .. } = self;
        let Some(queue) = state.queues.get_mut(&id) else { return Ok(()) };
        let Some(cursor) = queue.cursors.get_mut(&cursor_id) else { return Ok(()) };
        let gate = if id.is_transient() { Position(u64::MAX) } else { written };
        loop {
            let Some((place, seat)) = pick(cursor, consumers, members) else { return Ok(()) };
            let entries = &mut queue.entries;
            let settle = settled.entry((id, cursor_id)).or_default();
            let Some(ready) = next_ready(cursor, entries, &state.index, gate, *now, |offset| {
                counts.expired += 1;
                settle.push((offset, offset + 1));
            })?
            else {
                return Ok(());
            };
            cursor.turn = place + 1;
            let key = (seat.client, seat.consumer);
            let Some(consumer) = consumers.get_mut(&key) else { return Ok(()) };
            let Some(member) = members.get_mut(&seat.client) else { return Ok(()) };
            let epoch = cursor.next_epoch();
            let attempt = ready.attempts.saturating_add(1);
            if consumer.settle_at_once {
                settle.push((ready.offset, ready.offset + 1));
            } else {
                consumer.in_hand += 1;
                member.pools.entry(consumer.pool).or_default().in_hand += 1;
                let (client, deadline) = (seat.client, UnixMillis::NONE);
                let (consumer, pool) = (Some(seat.consumer), consumer.pool);
                let hand = InHand { client, consumer, pool, epoch, attempt, deadline };
                cursor.in_hand.insert(ready.offset, hand);
            }
            let delivery = Delivery {
                id: DeliveryId {
                    queue: id,
                    cursor: cursor_id,
                    offset: Offset(ready.offset),
                    epoch,
                },
                consumer: seat.consumer,
                options: consumer.options,
                position: ready.place.position,
                attempt,
                redelivered: attempt > 1 || ready.offset < cursor.seen_below,
                needs_settle: !consumer.settle_at_once,
                record: tail.get(ready.place.position),
                size: ready.place.size,
            };
            counts.delivered += 1;
            if member.push(Notice::Delivery(delivery)) {
                noticed.push(seat.client);
            }
        }
    }

    /// Serves those who asked for a batch, first come first served.
    fn deliver_to_fetchers(&mut self, id: QueueId, cursor_id: CursorId) -> Result<(), IndexError> {
        loop {
            let Some(queue) = self.state.queues.get_mut(&id) else { return Ok(()) };
            let Some(cursor) = queue.cursors.get_mut(&cursor_id) else { return Ok(()) };
            let Some(fetcher) = cursor.fetchers.front() else {
                if cursor.seats.is_empty() {
                    queue.note_wanted(cursor_id);
                }
                return Ok(());
            };
            let (client, max, claim) = (fetcher.client, fetcher.max, fetcher.claim);
            if fetcher.reply.is_closed() || !self.members.contains_key(&client) {
                cursor.fetchers.pop_front();
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
            let Some(queue) = self.state.queues.get_mut(&id) else { return Ok(()) };
            let Some(cursor) = queue.cursors.get_mut(&cursor_id) else { return Ok(()) };
            if let Some(fetcher) = cursor.fetchers.pop_front()
                && let Err(unread) = fetcher.reply.send(deliveries)
            {
                let verdict = Verdict::Unread;
                for delivery in unread {
                    self.settle_one(client, Settlement { id: delivery.id, verdict });
                }
            }
        }
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
        let gate = if id.is_transient() { Position(u64::MAX) } else { self.written };
        let now = self.now;
        let Some(queue) = self.state.queues.get_mut(&id) else { return Ok(None) };
        let Some(cursor) = queue.cursors.get_mut(&cursor_id) else { return Ok(None) };
        let settle = self.settled.entry((id, cursor_id)).or_default();
        let counts = &mut self.counts;
        let index = &self.state.index;
        let Some(ready) = next_ready(cursor, &mut queue.entries, index, gate, now, |offset| {
            counts.expired += 1;
            settle.push((offset, offset + 1));
        })?
        else {
            return Ok(None);
        };
        let epoch = cursor.next_epoch();
        let attempt = ready.attempts.saturating_add(1);
        let delivery_id =
            DeliveryId { queue: id, cursor: cursor_id, offset: Offset(ready.offset), epoch };
        let redelivered = attempt > 1 || ready.offset < cursor.seen_below;
        match claim {
            None => settle.push((ready.offset, ready.offset + 1)),
            Some(claim) => {
                let deadline = match claim {
                    Claim::Client => UnixMillis::NONE,
                    Claim::Lease { ms } => now.plus(ms),
                };
                let (consumer, pool) = (None, 0);
                let hand = InHand { client, consumer, pool, epoch, attempt, deadline };
                cursor.in_hand.insert(ready.offset, hand);
                if let Some(member) = self.members.get_mut(&client) {
                    member.hands.insert((id, cursor_id));
                }
                self.lease(delivery_id, deadline);
            }
        }
        self.counts.delivered += 1;
        Ok(Some(Delivery {
            id: delivery_id,
            consumer: mainstem_schemas::ConsumerId::default(),
            options: 0,
            position: ready.place.position,
            attempt,
            redelivered,
            needs_settle: claim.is_some(),
            record: self.tail.get(ready.place.position),
            size: ready.place.size,
        }))
    }

    /// Makes a lease end by itself.
    pub(super) fn lease(&mut self, id: DeliveryId, deadline: UnixMillis) {
        if deadline.is_set() {
            let DeliveryId { queue, cursor, offset: Offset(offset), epoch } = id;
            self.set_timer(deadline, Timer::Lease { queue, cursor, offset, epoch });
        }
    }
}

/// Whose turn it is among the consumers that have room: the highest priority first, in rotation
/// among equals. Returns the seat's place too.
fn pick(
    cursor: &Cursor,
    consumers: &FxHashMap<(ClientId, mainstem_schemas::ConsumerId), Consumer>,
    members: &FxHashMap<ClientId, Member>,
) -> Option<(usize, Seat)> {
    let has_room = |seat: &Seat| {
        let Some(consumer) = consumers.get(&(seat.client, seat.consumer)) else { return false };
        let Some(member) = members.get(&seat.client) else { return false };
        (consumer.limit == 0 || consumer.in_hand < consumer.limit)
            && member.pools.get(&consumer.pool).is_none_or(|pool| pool.has_room())
            && member.has_room()
    };
    let seats = &cursor.seats;
    let mut from = 0;
    while let Some(first) = seats.get(from) {
        let len = seats.iter().skip(from).take_while(|s| s.priority == first.priority).count();
        let turn = cursor.turn.saturating_sub(from);
        for step in 0..len {
            let place = from + (turn + step) % len;
            if let Some(seat) = seats.get(place)
                && has_room(seat)
            {
                return Some((place, *seat));
            }
        }
        from += len;
    }
    None
}

/// The next record to hand out that is down and not expired. `expire` is told of those that are.
fn next_ready(
    cursor: &mut Cursor,
    entries: &mut Entries,
    index: &Index,
    gate: Position,
    now: UnixMillis,
    mut expire: impl FnMut(u64),
) -> Result<Option<Ready>, IndexError> {
    while let Some((offset, attempts)) = cursor.peek(entries.next) {
        let Some(place) = entries.get(offset, index)? else {
            cursor.advance(offset);
            continue;
        };
        if place.position >= gate && place.flags & DURABLE != 0 {
            return Ok(None);
        }
        cursor.advance(offset);
        if place.expiry.reached(now) {
            expire(offset);
            continue;
        }
        return Ok(Some(Ready { offset, attempts, place }));
    }
    Ok(None)
}
