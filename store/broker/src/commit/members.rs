//! Clients come and go, and so do their consumers.

use mainstem_index::{CursorName, Index};
use mainstem_schemas::{ConsumerId, CursorId, QueueId};

use super::{Commit, Timer};
use crate::{
    command::{Claim, ClientId, Consume, Fetch, QueueStats, Reply, Source, Start},
    cursor::{Fetcher, InHand, Seat},
    error::Refusal,
    inbox::Delivery,
    member::Consumer,
    meter::Did,
    queue::Queue,
    roll::{ConsumersFrom, Consuming},
};

impl Commit {
    pub(super) fn set_pool(&mut self, client: ClientId, pool: u16, limit: u32) {
        if let Some(member) = self.members.get_mut(&client) {
            member.pools.entry(pool).or_default().limit = limit;
        }
        self.touch_consumers(client);
    }

    /// The client took what waited in its inbox.
    pub(super) fn on_room(&mut self, client: ClientId) {
        self.touch_consumers(client);
    }

    /// The client has room again.
    pub(super) fn touch_consumers(&mut self, client: ClientId) {
        let Some(member) = self.members.get_mut(&client) else { return };
        let served = member.served;
        let stalled = std::mem::take(&mut member.stalled);
        // Not the same one first each time: it may take all the room there is.
        let (before, after): (Vec<_>, Vec<_>) = stalled.into_iter().partition(|at| *at <= served);
        for (queue, cursor) in after.into_iter().chain(before) {
            self.touch_cursor(queue, cursor);
        }
    }

    pub(super) fn consume(&mut self, client: ClientId, consume: Consume) -> Result<(), Refusal> {
        let (name, start) = match &consume.source {
            Source::Queue(name) => (name, None),
            Source::Stream(name, start) => (name, Some(*start)),
        };
        let queue_id = self.usable_queue(client, name)?;
        if self.consumers.contains_key(&(client, consume.consumer)) {
            return Err(Refusal::ConsumerExists(consume.consumer.0));
        }
        let Some(queue) = self.state.queues.get(queue_id) else {
            return Err(Refusal::NoQueue(name.clone()));
        };
        if queue.has_exclusive_consumer || (consume.exclusive && queue.consumers() > 0) {
            return Err(Refusal::ExclusiveConsumer(name.clone()));
        }
        queue.has_exclusive_consumer = consume.exclusive;
        queue.was_consumed = true;
        let owns_cursor = queue.main().is_none();
        let cursor = if owns_cursor {
            self.open_stream(queue_id, start.unwrap_or(Start::Next))
        } else {
            CursorId::MAIN
        };
        let consumer = Consumer {
            queue: queue_id,
            cursor,
            options: consume.options,
            pool: consume.pool,
            limit: consume.limit,
            in_hand: 0,
            priority: consume.priority,
            settle_at_once: consume.settle_at_once,
            exclusive: consume.exclusive,
            owns_cursor,
        };
        self.seat(client, consume.consumer, consumer);
        Ok(())
    }

    /// Where a place is in a queue that keeps everything, and where that begins and ends.
    pub(super) fn find_start(&mut self, id: QueueId, start: Start) -> Option<(u64, u64, u64)> {
        self.find_starts(id, start)?.first().copied()
    }

    /// The same for each priority in use, the highest first.
    pub(super) fn find_starts(
        &mut self,
        id: QueueId,
        start: Start,
    ) -> Option<Vec<(u64, u64, u64)>> {
        let index = self.state.index.clone();
        let queue = self.state.queues.get(id)?;
        let bounds = queue.bounds();
        Some(bounds.into_iter().map(|bounds| find_in(queue, &index, bounds, start)).collect())
    }

    /// A cursor for one reader of a queue that keeps everything.
    pub(super) fn open_stream(&mut self, id: QueueId, start: Start) -> CursorId {
        let cursor = CursorId(self.next_transient());
        let Some((at, ..)) = self.find_start(id, start) else { return cursor };
        let Some(queue) = self.state.queues.get(id) else { return cursor };
        let policy = queue.def.policy.delivery.clone();
        self.state.open_cursor(id, cursor, CursorName::Main, at, policy);
        cursor
    }

    /// Puts a consumer on its cursor's round and lets it have what is ready.
    pub(super) fn seat(&mut self, client: ClientId, id: ConsumerId, consumer: Consumer) {
        let Some(member) = self.members.get_mut(&client) else { return };
        member.consumers.push(id);
        member.hands.insert((consumer.queue, consumer.cursor));
        self.consumers.insert((client, id), consumer);
        if let Some(queue) = self.state.queues.get(consumer.queue) {
            if let Some(cursor) = queue.cursor_mut(consumer.cursor) {
                let priority = consumer.priority;
                cursor.sit(Seat { priority, client, consumer: id });
            }
            queue.note_wanted(consumer.cursor);
        }
        self.touch_cursor(consumer.queue, consumer.cursor);
    }

    /// Consumers of these clients, at most `max`, of the first client those behind a consumer; and the
    /// last one, if there may be more behind it.
    pub(super) fn list_consumers(
        &self,
        clients: &[ClientId],
        after: ConsumerId,
        max: usize,
    ) -> (Vec<Consuming>, Option<ConsumersFrom>) {
        let mut page = Vec::new();
        let mut after = Some(after);
        for client in clients {
            let after = after.take().unwrap_or(ConsumerId(0));
            let Some(member) = self.members.get(client) else { continue };
            let behind = member.consumers.iter().copied().filter(|id| *id > after);
            let mut ids: Vec<ConsumerId> = behind.collect();
            ids.sort_unstable();
            for id in ids {
                page.extend(self.consuming(*client, id));
                if page.len() >= max {
                    return (page, Some((client.0, id)));
                }
            }
        }
        (page, None)
    }

    fn consuming(&self, client: ClientId, id: ConsumerId) -> Option<Consuming> {
        let consumer = self.consumers.get(&(client, id))?;
        // It is in memory for as long as somebody consumes from it.
        let queue = self.state.queues.peek(consumer.queue)?;
        let cursor = queue.cursor(consumer.cursor)?;
        let first = cursor.seats.first();
        let takes_turns = cursor.policy.single_active;
        Some(Consuming {
            connection: client.0,
            consumer: id,
            queue: queue.def.name.clone(),
            pool: consumer.pool,
            limit: consumer.limit,
            priority: consumer.priority,
            exclusive: consumer.exclusive,
            settles_at_once: consumer.settle_at_once,
            takes_turns,
            is_active: !takes_turns
                || first.is_some_and(|seat| seat.client == client && seat.consumer == id),
        })
    }

    pub(super) fn cancel(&mut self, client: ClientId, id: ConsumerId) -> bool {
        let Some(consumer) = self.unseat(client, id) else { return false };
        if let Some(member) = self.members.get_mut(&client) {
            member.consumers.retain(|other| *other != id);
        }
        self.after_unseat(&consumer);
        true
    }

    /// Takes a consumer off its cursor; what it has in hand stays there.
    pub(super) fn unseat(&mut self, client: ClientId, id: ConsumerId) -> Option<Consumer> {
        let consumer = self.consumers.remove(&(client, id))?;
        let now = self.now;
        if let Some(queue) = self.state.queues.get(consumer.queue) {
            queue.used = now;
            if let Some(cursor) = queue.cursor_mut(consumer.cursor) {
                cursor.stand(client, id);
            }
            if consumer.exclusive {
                queue.has_exclusive_consumer = false;
            }
            queue.note_wanted(consumer.cursor);
        }
        self.note_due_unknown(consumer.queue);
        // Where one consumer is active, the next one takes over.
        self.touch_cursor(consumer.queue, consumer.cursor);
        Some(consumer)
    }

    /// A cursor of its own goes with its consumer; an auto-delete queue with its last one.
    fn after_unseat(&mut self, consumer: &Consumer) {
        if consumer.owns_cursor {
            let queue = self.state.queues.get(consumer.queue);
            let cursor = queue.and_then(|queue| queue.cursor_mut(consumer.cursor));
            let hands = cursor.map(|at| at.in_hand.take_all()).unwrap_or_default();
            for (_, hand) in &hands {
                self.give_room(hand);
            }
            self.settled.remove(&(consumer.queue, consumer.cursor));
            self.state.close_cursor(consumer.queue, consumer.cursor);
        }
        let queue = self.state.queues.get(consumer.queue);
        if queue.is_some_and(|queue| {
            queue.def.auto_delete && queue.was_consumed && queue.consumers() == 0
        }) {
            self.remove_queue(consumer.queue);
        }
    }

    pub(super) fn detach(&mut self, client: ClientId) {
        if self.members.get(&client).is_some_and(|member| member.session.is_some()) {
            self.close_session(client, None, None);
        }
        let Some(member) = self.members.remove(&client) else { return };
        let gone: Vec<Consumer> =
            member.consumers.iter().filter_map(|id| self.unseat(client, *id)).collect();
        for (queue, cursor) in member.hands {
            // One that is not in memory has nothing in hand, and there may be a million.
            if self.state.queues.peek(queue).is_none() {
                continue;
            }
            self.release_all(client, queue, cursor);
        }
        for consumer in gone {
            self.after_unseat(&consumer);
        }
        for queue in member.exclusive {
            self.remove_queue(queue);
        }
    }

    /// Puts back what a client has in hand of a cursor.
    pub(super) fn release_all(&mut self, client: ClientId, queue: QueueId, cursor: CursorId) {
        let found = self.state.queues.get(queue);
        let Some(at) = found.and_then(|queue| queue.cursor_mut(cursor)) else { return };
        let its = at.in_hand.iter().filter(|(_, hand)| hand.client == client);
        let mut offsets: Vec<u64> = its.map(|(offset, _)| offset).collect();
        // In order, so that it does not matter how they are kept.
        offsets.sort_unstable();
        let released: Vec<(u64, InHand)> = offsets
            .into_iter()
            .filter_map(|offset| Some((offset, at.drop_hand(offset)?)))
            .collect();
        for (offset, hand) in released {
            self.give_room(&hand);
            let id = mainstem_schemas::DeliveryId {
                queue,
                cursor,
                offset: mainstem_schemas::Offset(offset),
                epoch: hand.epoch,
            };
            self.drop_timer(hand.deadline, super::deliver::lease_timer(id));
            self.put_back(queue, cursor, offset, &hand, true);
        }
    }

    pub(super) fn get(
        &mut self,
        client: ClientId,
        name: &str,
        settle_at_once: bool,
    ) -> Result<Result<Option<(Delivery, QueueStats)>, Refusal>, mainstem_index::IndexError> {
        let id = match self.usable_queue(client, name) {
            Ok(id) => id,
            Err(refusal) => return Ok(Err(refusal)),
        };
        // What came back in this turn has been handed out once more than the cursor knows.
        if !self.returned.is_empty() {
            self.flush_settled();
        }
        let claim = (!settle_at_once).then_some(Claim::Client);
        let taken = self.take_one(id, CursorId::MAIN, client, claim)?;
        if let Some(delivery) = &taken {
            self.note(id, if settle_at_once { Did::GetNoAck } else { Did::Get }, 1);
            self.note(id, Did::Redeliver, u64::from(delivery.redelivered));
        }
        Ok(Ok(taken.map(|delivery| (delivery, self.stats(id)))))
    }

    /// Whether a queue has a record ready that waits for the disk.
    pub(super) fn has_unwritten(&mut self, client: ClientId, name: &str) -> bool {
        let Ok(id) = self.usable_queue(client, name) else { return false };
        !self.planner_is_empty() && self.stats(id).ready > 0
    }

    pub(super) fn fetch(&mut self, client: ClientId, fetch: Fetch, reply: Reply<Vec<Delivery>>) {
        let Fetch { group, max, claim, wait_ms } = fetch;
        let id = self.next_id();
        // A turn ends with the deliveries: what must not wait is answered in the next one.
        let deadline = self.now.plus(wait_ms.max(1));
        let queue = self.state.queues.get(group.queue);
        let Some(queue) = queue.filter(|queue| queue.cursor(group.cursor).is_some()) else {
            // The topic or the group went away; whoever asks finds that out when it opens it.
            super::send(reply, Vec::new());
            return;
        };
        if let Some(cursor) = queue.cursor_mut(group.cursor) {
            cursor.fetchers.push_back(Fetcher { id, client, max, claim, deadline, reply });
        }
        queue.note_wanted(group.cursor);
        let (queue, cursor) = (group.queue, group.cursor);
        self.set_timer(deadline, Timer::Fetch { queue, cursor, id });
        self.touch_cursor(queue, cursor);
    }

    /// A fetch has waited long enough: it gets nothing.
    pub(super) fn end_fetch(&mut self, queue: QueueId, cursor: CursorId, id: u64) {
        let Some(found) = self.state.queues.get(queue) else { return };
        let Some(at) = found.cursor_mut(cursor) else { return };
        let place = at.fetchers.iter().position(|fetcher| fetcher.id == id);
        if let Some(place) = place
            && let Some(fetcher) = self.drop_fetcher(queue, cursor, place)
        {
            super::send(fetcher.reply, Vec::new());
        }
        if let Some(found) = self.state.queues.get(queue) {
            found.note_wanted(cursor);
        }
    }
}

/// A place in one lane of a queue that keeps everything, and where that begins and ends.
fn find_in(
    queue: &mut Queue,
    index: &Index,
    (first, next): (u64, u64),
    start: Start,
) -> (u64, u64, u64) {
    let at = match start {
        Start::First => first,
        Start::Next => next,
        Start::Last => next.saturating_sub(1).max(first),
        Start::Offset(offset) => offset.0.clamp(first, next),
        Start::Time(time) => {
            let (mut low, mut high) = (first, next);
            while low < high {
                let middle = low + (high - low) / 2;
                let before = matches!(
                    queue.get(middle, index),
                    Ok(Some(entry)) if entry.appended < time
                );
                if before { low = middle + 1 } else { high = middle }
            }
            low
        }
    };
    (at, first, next)
}
