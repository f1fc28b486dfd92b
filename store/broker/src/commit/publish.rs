//! Publishing: route, give the record its places, plan it, apply it.

use std::{cell::LazyCell, mem, sync::Arc};

use bytes::Bytes;
use mainstem_index::Entry as Place;
use mainstem_log::FRAME_HEADER_BYTES;
use mainstem_schemas::{
    Address, ConsumerId, CursorId, Doors, Entrance, Offset, Path, Position, QueueId, Record,
    UnixMillis,
};
use smallvec::SmallVec;
use tokio::sync::OwnedSemaphorePermit;

use super::{Commit, dead::routing_key, send};
use crate::{
    command::{Bind, ClientId, HeldId, Publish, Published, Reply, Retention},
    entry::{Head, KIND_HOLD, KIND_PUBLISH, Once, decode_carried, encode_head},
    error::Refusal,
    exchange::{History, Keys, Led, Said, Targets},
    inbox::{Delivery, Notice},
    meter::Did,
    namespace::Reader,
    passage::{Passage, Reason},
    policy::Overflow,
    state::{UNDECIDED, body_bytes, key_hash, warm::AHEAD},
};

mod path;

use path::route_path;

/// Connected readers that get a copy and keep nothing.
type LiveReaders = SmallVec<[(ClientId, ConsumerId, u64); 4]>;

/// Who gets a record.
#[derive(Default)]
pub(super) struct Route {
    pub(super) queues: Targets,
    pub(super) live: LiveReaders,
    /// Exchanges that remember it.
    pub(super) histories: Vec<String>,
}

/// What the queues say to a record that comes to them.
#[derive(Default)]
pub(super) struct Admitted {
    /// The offsets that it gets in durable ones.
    pub(super) places: SmallVec<[(QueueId, u64); 8]>,
    /// Those that are full, and whether what they refuse is dead-lettered.
    pub(super) refused: SmallVec<[(QueueId, bool); 1]>,
    /// Its offset in one that keeps everything.
    offset: Option<Offset>,
    /// One of them has bounds to be kept.
    is_bounded: bool,
    /// There is one queue, which one cursor reads.
    is_sole: bool,
}

/// Who publishes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// A client, who may not enter at an internal exchange, and may not everywhere that a path leads to.
    Sender(Doors),
    /// The store itself, again: a dead record, or one that was held back.
    Store(Doors),
}

/// Whether a record is what a front-end keeps for itself, and nobody's message: it is retained where
/// nobody looks for it.
fn is_note(record: &Record) -> bool {
    record.is_retain() && record.direct_queue().is_some()
}

impl Commit {
    pub(super) fn publish(
        &mut self,
        client: ClientId,
        batch: Vec<Publish>,
        permit: OwnedSemaphorePermit,
        reply: Reply<Vec<Published>>,
    ) {
        let Some(namespace) = self.namespace_of(client) else { return };
        let needs_sync = mem::replace(&mut self.open.needs_sync, false);
        let notes = batch.iter().filter(|publish| is_note(&publish.record)).count();
        self.counts.published += (batch.len() - notes) as u64;
        let is_alone = batch.len() == 1;
        let mut outcomes = Vec::with_capacity(batch.len());
        let mut each = batch.into_iter();
        while !each.as_slice().is_empty() {
            self.warm_named(&namespace, each.as_slice());
            let some = each.by_ref().take(AHEAD);
            outcomes.extend(some.map(|publish| self.publish_one(&namespace, publish, is_alone)));
        }
        self.note_direct(&namespace);
        if self.open.needs_sync {
            self.open.published.push((reply, outcomes));
        } else {
            send(reply, outcomes);
        }
        self.open.needs_sync |= needs_sync;
        self.open.permits.push(permit);
    }

    pub(super) fn publish_one(
        &mut self,
        namespace: &Arc<str>,
        publish: Publish,
        is_alone: bool,
    ) -> Published {
        let forgets = is_alone && self.forgets(namespace, &publish.record);
        let may_take = if forgets { Ok(()) } else { self.may_take(&publish.record) };
        match may_take.and_then(|()| self.try_publish(namespace, publish)) {
            Ok(published) => published,
            Err(refusal) => Published::Refused(refusal),
        }
    }

    /// Whether a record is the end of a front-end's note, for which there is room as there is for
    /// settlements. One that comes with something else shares its lot.
    fn forgets(&self, namespace: &Arc<str>, record: &Record) -> bool {
        is_note(record)
            && record.data_len() == 0
            && (self.state.namespaces.get(namespace))
                .is_some_and(|space| space.retained.contains_key(&record.address().path()))
    }

    /// Whether there is room for a record.
    fn may_take(&self, record: &Record) -> Result<(), Refusal> {
        let (size, max) = (record.data_len(), self.config.message_bytes_max);
        // Properties have no bound of their own here.
        if size > max || record.bytes().len() as u64 > self.config.record_bytes_max() {
            return Err(Refusal::TooLarge { size, max });
        }
        if self.is_full {
            return Err(Refusal::DiskFull);
        }
        if self.is_over {
            return Err(Refusal::Limit { name: "log_bytes_max", max: self.config.log_bytes_max });
        }
        Ok(())
    }

    fn try_publish(
        &mut self,
        namespace: &Arc<str>,
        publish: Publish,
    ) -> Result<Published, Refusal> {
        let Publish { record, extra_keys, terms } = publish;
        let mut head = Head::default();
        if let Some(terms) = terms {
            if self.is_again(namespace, &terms)? {
                return Ok(Published::Again);
            }
            head.once = terms.once.map(|(writer, sequence)| Once { writer, sequence });
            head.keys = terms.keys.iter().map(|key| key_hash(key)).collect();
            if terms.undecided {
                head.held = UNDECIDED;
            }
        }
        if !head.held.is_set() && !record.deliver_at().reached(self.now) {
            head.held = record.deliver_at();
        }
        let views = self.views;
        let said = LazyCell::new(|| views.routing_of(&record));
        let mut route = match record.direct_queue() {
            // The way of most service traffic, without a copy of the name.
            Some(queue) if extra_keys.is_empty() => {
                let queues: Targets = self.state.find_named(namespace, queue).into_iter().collect();
                self.counts.note_direct(queues.len());
                Route { queues, ..Route::default() }
            }
            _ => {
                let address = record.address();
                self.route_to(namespace, &address, &extra_keys, &said, By::Sender(record.doors()))?
            }
        };
        if head.held.is_set() {
            return self.hold(head, record);
        }
        self.remember(namespace, &route.histories, &record, &said);
        let admitted = self.admit(&mut route.queues, record.priority());
        let readers = route.queues.len() + route.live.len();
        let is_a_note = is_note(&record);
        self.counts.note(Did::Route, route.queues.len() as u64);
        let buries = admitted.refused.iter().any(|(_, buries)| *buries);
        let is_stored = !route.queues.is_empty() || record.is_retain() || buries;
        let (position, size) = if is_stored {
            self.store(&head, &route.queues, &admitted.places, &record)
        } else {
            let size = record.bytes().len();
            (Position::default(), u32::try_from(size).unwrap_or(u32::MAX))
        };
        let is_sole = admitted.is_sole && route.live.is_empty();
        self.deliver_live(&route.live, (position, size), &record, None);
        let Admitted { refused, offset, is_bounded, .. } = admitted;
        let again = (!refused.is_empty()).then(|| record.clone());
        if is_stored {
            let is_sole = is_sole && again.is_none() && !record.is_retain();
            self.tail.push(position, (record, None), is_sole, self.written);
        }
        if is_bounded {
            for id in &route.queues {
                self.keep_bounds(*id);
            }
        }
        if let (Some((first, _)), Some(record)) = (refused.first(), again) {
            let name = self.bury_refused(&refused, position, size, &record);
            return Err(Refusal::QueueFull(name.unwrap_or_else(|| first.0.to_string())));
        }
        if readers == 0 && !is_a_note {
            self.counts.unroutable += 1;
        }
        Ok(Published::Taken { readers: u32::try_from(readers).unwrap_or(u32::MAX), offset })
    }

    /// Keeps a record that nobody sees yet.
    fn hold(&mut self, head: Head, record: Record) -> Result<Published, Refusal> {
        let max = self.config.undecided_max;
        if head.held == UNDECIDED && self.state.undecided.len() >= max {
            return Err(Refusal::Limit { name: "undecided_max", max: max as u64 });
        }
        let due = head.held;
        let (origin, _) = self.plan_carried(KIND_HOLD, &head, &[], &record);
        self.tail.push(origin, (record, None), false, self.written);
        self.open.needs_sync = true;
        Ok(Published::Held(HeldId { due, origin }))
    }

    /// Plans an entry that carries a record, and applies it. The caller puts the record into the
    /// tail.
    pub(super) fn plan_carried(
        &mut self,
        kind: u8,
        head: &Head,
        targets: &[(QueueId, u64)],
        record: &Record,
    ) -> (Position, u32) {
        let mut encoded = mem::take(&mut self.scratch);
        encode_head(head, targets, &mut encoded);
        let position = self.plan(kind, &[&encoded, record.bytes()]);
        let size = FRAME_HEADER_BYTES + encoded.len() + record.bytes().len();
        self.scratch = encoded;
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        self.state.apply_carried(position, size, kind, head, targets, record);
        if head.held.is_set() && !head.keys.is_empty() {
            self.unwritten_keys.insert(position, head.keys.clone());
        }
        (position, size)
    }

    /// Looks at the queues that a record comes to: takes those out that are at their limit and
    /// refuse, and gives the record its places in the others.
    pub(super) fn admit(&mut self, queues: &mut Targets, priority: u8) -> Admitted {
        let now = self.now;
        let mut admitted = Admitted { is_sole: queues.len() == 1, ..Admitted::default() };
        queues.retain(|id| {
            let Some(queue) = self.state.queues.get(*id) else { return true };
            if queue.is_bounded {
                let policy = &queue.def.policy;
                let (mut len, mut bytes) = queue.ready();
                if policy.delivery.keeps_dead
                    && let Some(doomed) = self.doomed.get(&(*id, CursorId::MAIN))
                {
                    let (dead_len, dead_bytes) = doomed.size();
                    (len, bytes) = (len + dead_len, bytes + dead_bytes);
                }
                let is_full = policy.len_max.is_some_and(|max| len >= max)
                    || policy.bytes_max.is_some_and(|max| bytes >= max);
                if is_full && policy.overflow != Overflow::DropHead {
                    let buries = policy.overflow == Overflow::RefuseDeadLetter;
                    admitted.refused.push((*id, buries));
                    return false;
                }
                admitted.is_bounded = true;
            }
            let is_crowd = queue.def.retention == Retention::Cursors;
            if !id.is_transient() {
                let next = queue.next_offset(priority);
                admitted.places.push((*id, next));
                if queue.def.retention == Retention::Time {
                    admitted.offset = Some(Offset(next));
                    // A topic below a topic goes no sooner for what it forgot of this.
                    queue.used = now;
                }
            }
            admitted.is_sole &= queue.main().is_some();
            queue.note(now, Did::Publish, 1);
            if is_crowd {
                self.note_crowd(*id);
            }
            true
        });
        admitted
    }

    /// Dead-letters what was refused, where that is wanted. Returns the name of a queue that
    /// refused.
    fn bury_refused(
        &mut self,
        refused: &[(QueueId, bool)],
        position: Position,
        size: u32,
        record: &Record,
    ) -> Option<String> {
        let mut name = None;
        for (id, buries) in refused {
            let Some(queue) = self.state.queues.get(*id) else { continue };
            let shown = queue.def.name.clone();
            let (namespace, policy) = (queue.namespace.clone(), queue.def.policy.clone());
            if let (true, Some(to)) = (*buries, &policy.delivery.dead_letter) {
                let place = Place {
                    position,
                    size,
                    flags: if record.is_durable() { crate::state::DURABLE } else { 0 },
                    body: body_bytes(record),
                    ..Place::HOLE
                };
                self.counts.died(Reason::Overflow);
                self.bury_place(
                    &namespace,
                    &shown,
                    to,
                    (place, false),
                    (Reason::Overflow, self.now),
                );
            }
            name.get_or_insert(shown);
        }
        name
    }

    /// Who gets a record that was published to an address.
    pub(super) fn route_to(
        &mut self,
        namespace: &Arc<str>,
        address: &Address,
        extra_keys: &[Bytes],
        said: &Said<'_>,
        by: By,
    ) -> Result<Route, Refusal> {
        let mut route = Route::default();
        let mut led = Led::default();
        let entrance = address.entrance();
        if let Entrance::Exchange { name, key } = &entrance
            && name.is_empty()
        {
            for key in std::iter::once(key).chain(extra_keys) {
                route.queues.extend(self.state.find_named(namespace, key));
            }
            sort_out(&mut route.queues);
            self.counts.note_direct(route.queues.len());
            return Ok(route);
        }
        let Some(space) = self.state.namespaces.get(namespace) else { return Ok(route) };
        let (path, is_private) = match entrance {
            Entrance::Exchange { name, key } => {
                let exchange = std::str::from_utf8(&name)
                    .ok()
                    .and_then(|name| space.exchanges.get(name))
                    .ok_or_else(|| Refusal::NoExchange(lossy(&name)))?;
                if exchange.def.internal && matches!(by, By::Sender(_)) {
                    return Err(Refusal::Internal(exchange.def.name.clone()));
                }
                let keys = Keys { key: &key, further: extra_keys, said };
                space.exchanges.route(exchange, keys, &mut led);
                sort_out(&mut led.queues);
                if let By::Sender(_) = by {
                    exchange.note(self.now, led.queues.len());
                }
                let has_readers = !space.readers.is_empty() || !space.branches.is_empty();
                let is_private = exchange.private || !has_readers;
                (if is_private { Path::default() } else { address.path() }, is_private)
            }
            Entrance::Path => {
                let path = address.path();
                let (By::Sender(doors) | By::Store(doors)) = by;
                let since = matches!(by, By::Sender(_)).then_some(self.now);
                route_path(space, &path, said, doors, since, &mut led);
                (path, false)
            }
        };
        (route.queues, route.histories) = (led.queues, led.histories);
        if !is_private {
            if !space.branches.is_empty() {
                route.queues.extend(space.branches.get(path.raw().as_ref()).copied());
            }
            space.readers.find(path.segments(), true, |reader| match reader {
                Reader::Queue(id) => route.queues.push(*id),
                Reader::Live { client, consumer, options } => {
                    route.live.push((*client, *consumer, *options));
                }
            });
        }
        sort_out(&mut route.queues);
        Ok(route)
    }

    /// Exchanges that remember what they saw saw this.
    pub(super) fn remember(
        &mut self,
        namespace: &str,
        exchanges: &[String],
        record: &Record,
        said: &Said<'_>,
    ) {
        for name in exchanges {
            self.state.namespace(namespace).exchanges.remember(name, record, said);
        }
    }

    /// Whether a new binding leads from an exchange that remembers something, while more is planned
    /// already than the disk takes at once.
    pub(super) fn must_replay_later(&mut self, client: ClientId, bind: &Bind) -> bool {
        if !self.has_planned_much() || self.is_full || self.is_over {
            return false;
        }
        let Some(namespace) = self.namespace_of(client) else { return false };
        self.remembers(&namespace, &bind.source) && !self.state.is_bound(&namespace, bind)
    }

    /// Whether an exchange remembers something for whom it is bound to next.
    pub(super) fn remembers(&mut self, namespace: &str, exchange: &str) -> bool {
        let exchange = self.state.namespace(namespace).exchanges.get(exchange);
        let history = exchange.and_then(|exchange| exchange.history.as_ref());
        history.is_some_and(|history| !history.is_empty())
    }

    /// What was just bound gets what the exchange remembers.
    pub(super) fn replay_history(&mut self, namespace: &Arc<str>, bind: &Bind) {
        let exchange = self.state.namespace(namespace).exchanges.get(&bind.source);
        let history = exchange.and_then(|exchange| exchange.history.as_ref());
        let Some(records) = history.map(History::records) else { return };
        for record in records {
            let mut queues: Targets = if bind.to_exchange {
                let key = routing_key(&record.address());
                let address = Address::exchange(bind.destination.clone().into(), key);
                let views = self.views;
                let said = LazyCell::new(|| views.routing_of(&record));
                let routed = self.route_to(namespace, &address, &[], &said, By::Store(Doors::Both));
                routed.map(|route| route.queues).unwrap_or_default()
            } else {
                let found = self.state.find_named(namespace, bind.destination.as_bytes());
                found.into_iter().collect()
            };
            let admitted = self.admit(&mut queues, record.priority());
            if queues.is_empty() {
                continue;
            }
            let (at, _) = self.store(&Head::default(), &queues, &admitted.places, &record);
            self.tail.push(at, (record, None), false, self.written);
            for id in &queues {
                self.keep_bounds(*id);
            }
        }
    }

    /// Plans the record into the open batch and puts its place into its queues. Returns where it
    /// is, and the bytes of its entry.
    fn store(
        &mut self,
        head: &Head,
        queues: &[QueueId],
        durable: &[(QueueId, u64)],
        record: &Record,
    ) -> (Position, u32) {
        let (position, size) = self.plan_carried(KIND_PUBLISH, head, durable, record);
        for (id, _) in durable {
            self.open.touched.push(*id);
        }
        for id in queues.iter().filter(|id| id.is_transient()) {
            let (expiry, appended) = (record.expiry(), record.appended());
            let group = crate::state::group(record);
            let body = body_bytes(record);
            let place = Place { position, size, expiry, appended, flags: 0, group, body };
            self.put_transient(*id, place, record.priority());
        }
        let kept = !durable.is_empty() || record.is_retain();
        if kept && record.is_durable() {
            self.open.needs_sync = true;
        }
        (position, size)
    }

    /// Puts a place into a queue that is not in the log.
    pub(super) fn put_transient(&mut self, id: QueueId, place: Place, priority: u8) {
        let Some(queue) = self.state.queues.get(id) else { return };
        let offset = queue.next_offset(priority);
        self.state.put(id, offset, place);
        self.touch(id);
    }

    /// The time of a held record has come, or the decision is to publish it.
    pub(super) fn publish_held(
        &mut self,
        due: UnixMillis,
        body: crate::state::HeldBody,
    ) -> Result<(), super::dead::ReadError> {
        let found = self.read_place(body.position, body.size)?;
        let record = found.record;
        let namespace: Arc<str> = self.state.queues.intern(record.namespace());
        let said = Box::new(self.views.routing_of(&record));
        let (address, keys) = (record.address(), &said.further_keys);
        let route = self.route_to(&namespace, &address, keys, &said, By::Store(record.doors()));
        let mut route = route.unwrap_or_default();
        self.remember(&namespace, &route.histories, &record, &said);
        let admitted = self.admit(&mut route.queues, record.priority());
        let keys = self.look_up_keys(body, &route.queues)?;
        let placed = crate::entry::Placed {
            source: body.position,
            size: body.size,
            expiry: record.expiry(),
            appended: self.now,
            flags: if record.is_durable() { crate::state::DURABLE } else { 0 },
            group: crate::state::group(&record),
            body: body_bytes(&record),
            held: due,
            origin: body.origin,
            passage: Bytes::new(),
            keys,
            targets: admitted.places.into_vec(),
        };
        self.log_placed(placed, &route.queues, &record, None);
        self.bury_refused(&admitted.refused, body.position, body.size, &record);
        self.deliver_live(&route.live, (body.position, body.size), &record, None);
        if !route.queues.is_empty() {
            self.tail.keep_read(body.position, record);
        }
        Ok(())
    }

    /// The look-up keys that a held record came with, if it comes to a queue that is looked into.
    fn look_up_keys(
        &mut self,
        body: crate::state::HeldBody,
        queues: &[QueueId],
    ) -> Result<Vec<u64>, super::dead::ReadError> {
        let is_topic = |id: &QueueId| {
            let queue = self.state.queues.get(*id);
            queue.is_some_and(|queue| queue.def.retention == Retention::Time)
        };
        if !queues.iter().any(is_topic) {
            return Ok(Vec::new());
        }
        if body.position >= self.written {
            return Ok(self.unwritten_keys.get(&body.position).cloned().unwrap_or_default());
        }
        let frame = self.reader.read(body.position, body.size as usize)?;
        Ok(decode_carried(frame.body)?.head.keys)
    }

    /// Copies for readers that keep nothing, as far as they have room.
    pub(super) fn deliver_live(
        &mut self,
        readers: &[(ClientId, ConsumerId, u64)],
        (position, size): (Position, u32),
        record: &Record,
        passage: Option<&Arc<Passage>>,
    ) {
        for (client, consumer, options) in readers {
            let Some(member) = self.members.get_mut(client) else { continue };
            if !member.has_room() {
                self.counts.dropped += 1;
                continue;
            }
            self.counts.delivered += 1;
            self.counts.note(Did::DeliverNoAck, 1);
            let delivery = Delivery {
                id: Delivery::NO_ID,
                consumer: *consumer,
                options: *options,
                position,
                attempt: 1,
                redelivered: false,
                needs_settle: false,
                record: Some(record.clone()),
                passage: passage.cloned(),
                size,
                settles_when_read: false,
            };
            self.notify(*client, Notice::Delivery(delivery));
        }
    }
}

/// Each queue once.
fn sort_out(queues: &mut Targets) {
    if queues.len() > 1 {
        queues.sort_unstable();
        queues.dedup();
    }
}

fn lossy(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
