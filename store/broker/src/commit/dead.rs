//! Dead letters: a record that a queue is done with goes to another, as a pointer to its body.

use std::{cell::LazyCell, sync::Arc};

use bytes::Bytes;
use mainstem_index::Entry as Place;
use mainstem_log::LogError;
use mainstem_schemas::{
    Address, CursorId, Dialect, Doors, Entrance, Position, QueueId, Record, UnixMillis,
};

use super::{
    Commit,
    publish::{By, Route},
};
use crate::{
    entry::{Entry, EntryError, KIND_PLACE, Placed, decode_record},
    exchange::Said,
    passage::{Death, Passage, Reason},
    policy::{DeadLetter, Policy},
    state::{POINTER, body_bytes},
};

/// Queues and reasons that one record may die of; more would let it grow without bound.
pub(crate) const DEATHS_MAX: usize = 256;

/// A record read back, with how it came where it is and where its body stands.
pub(super) struct Found {
    pub(super) record: Record,
    pub(super) passage: Option<Arc<Passage>>,
    pub(super) body: (Position, u32),
}

/// Why a record cannot be read back.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("{0}")]
    Entry(#[from] EntryError),
}

impl Commit {
    /// The record at a place, from memory or from the log.
    pub(super) fn read_place(&self, position: Position, size: u32) -> Result<Found, ReadError> {
        if let Some((record, passage)) = self.tail.get(position) {
            let body = passage.as_ref().map_or((position, size), |passage| passage.body);
            return Ok(Found { record, passage, body });
        }
        let frame = self.reader.read(position, size as usize)?;
        if frame.kind != KIND_PLACE {
            return Ok(Found {
                record: decode_record(frame.body)?,
                passage: None,
                body: (position, size),
            });
        }
        let placed = Placed::decode(mainstem_schemas::wire::Reader::new(frame.body));
        let placed = placed.map_err(EntryError::from)?;
        let passage = Passage::of(&placed).map_err(EntryError::from)?;
        let body = (placed.source, placed.size);
        let record = match self.tail.get(placed.source) {
            Some((record, _)) => record,
            None => decode_record(self.reader.read(placed.source, placed.size as usize)?.body)?,
        };
        Ok(Found { record, passage: Some(Arc::new(passage)), body })
    }

    /// A cursor is done with a record for a reason other than success: it goes where the cursor's
    /// policy says, unless there is nobody to take it and it is to wait. The caller settles it if
    /// this tells that it has gone.
    pub(super) fn bury(
        &mut self,
        queue_id: QueueId,
        cursor_id: CursorId,
        offset: u64,
        (reason, time): (Reason, UnixMillis),
    ) -> bool {
        let Some(queue) = self.state.queues.get(queue_id) else { return true };
        let Some(cursor) = queue.cursor(cursor_id) else { return true };
        let Some(to) = cursor.policy.dead_letter.clone() else { return true };
        if matches!(to, DeadLetter::Topic(_))
            && matches!(reason, Reason::Expired | Reason::Overflow)
        {
            return true;
        }
        let waits = cursor.policy.keeps_dead && reason != Reason::Overflow;
        let (name, namespace) = (queue.def.name.clone(), queue.namespace.clone());
        if waits && self.leads_nowhere(&namespace, &to) {
            return false;
        }
        let Some(queue) = self.state.queues.get(queue_id) else { return true };
        let place = queue.get(offset, &self.state.index);
        let Some(place) = self.state.sound(place) else { return true };
        self.bury_place(&namespace, &name, &to, (place, waits), (reason, time))
    }

    /// Whether no record at all would be taken: what is not known of one need not be read.
    fn leads_nowhere(&self, namespace: &str, to: &DeadLetter) -> bool {
        let DeadLetter::Exchange { name, .. } = to else { return false };
        let Some(space) = self.state.namespaces.get(namespace).filter(|_| !name.is_empty()) else {
            return false;
        };
        space.exchanges.get(name).is_none_or(|exchange| {
            let is_private = exchange.private || space.readers.is_empty();
            exchange.bindings.is_empty() && exchange.alternate.is_none() && is_private
        })
    }

    /// A record that dies, and its way up to now; `None` for one that can die no more. Its body
    /// is where the way says.
    fn read_dying(
        &mut self,
        queue: &str,
        place: Place,
        (reason, time): (Reason, UnixMillis),
    ) -> Option<(Record, Passage)> {
        let found = match self.read_place(place.position, place.size) {
            Ok(found) => found,
            Err(error) => {
                let position = place.position.0;
                tracing::error!(
                    event = "record_unreadable",
                    queue,
                    position,
                    "a dead record cannot be moved: {error}"
                );
                self.counts.unreadable += 1;
                return None;
            }
        };
        let Found { record, passage, body } = found;
        let mut next = match passage {
            Some(passage) => (*passage).clone(),
            None => Passage { address: record.address(), deaths: Vec::new(), body },
        };
        next.die(Death {
            queue: queue.to_owned(),
            reason,
            address: next.address.clone(),
            count: 1,
            time,
            had_expiry: place.flags & POINTER == 0 && record.expiry().is_set(),
        });
        next.body = body;
        if next.deaths.len() > DEATHS_MAX {
            tracing::warn!(
                event = "deaths_max",
                queue,
                "a record died in too many queues and ends"
            );
            return None;
        }
        Some((record, next))
    }

    /// The same of a place, which may wait for somebody to take it. Tells whether it need not.
    pub(super) fn bury_place(
        &mut self,
        namespace: &Arc<str>,
        queue: &str,
        to: &DeadLetter,
        (place, waits): (Place, bool),
        died: (Reason, UnixMillis),
    ) -> bool {
        let Some((record, mut next)) = self.read_dying(queue, place, died) else { return true };
        next.address = dead_address(to, &next.address);
        let views = self.views;
        let said = LazyCell::new(|| views.routing_of(&record));
        let Route { queues: mut targets, live, histories } =
            self.dead_route(namespace, to, &next.address, (&record, &said));
        if waits && targets.is_empty() {
            return false;
        }
        // A topic gives up only what its readers failed at, which goes round no faster than they do.
        if matches!(to, DeadLetter::Exchange { .. }) {
            targets.retain(|id| {
                let name = self.state.queues.get(*id).map(|queue| queue.def.name.clone());
                name.is_some_and(|name| !next.closes_circle(&name))
            });
        }
        // A queue at its limit that refuses does so here, too.
        let admitted = self.admit(&mut targets, record.priority());
        if waits && !admitted.refused.is_empty() {
            return false;
        }
        self.remember(namespace, &histories, &record, &said);
        let next = Arc::new(next);
        self.deliver_live(&live, next.body, &record, Some(&next));
        if targets.is_empty() {
            return true;
        }
        let mut passage = Vec::new();
        next.encode(&mut passage);
        let placed = Placed {
            source: next.body.0,
            size: next.body.1,
            // What it would have expired at has no effect any more.
            expiry: UnixMillis::NONE,
            appended: self.now,
            flags: place.flags & !POINTER,
            group: crate::state::group(&record),
            body: body_bytes(&record),
            held: UnixMillis::NONE,
            origin: Position(0),
            passage: passage.into(),
            keys: Vec::new(),
            targets: admitted.places.into_vec(),
        };
        self.log_placed(placed, &targets, &record, Some(next));
        self.counts.took_dead(died.0);
        true
    }

    fn dead_route(
        &mut self,
        namespace: &Arc<str>,
        to: &DeadLetter,
        address: &Address,
        (record, said): (&Record, &Said<'_>),
    ) -> Route {
        match to {
            DeadLetter::Topic(topic) => {
                let kept_by = self.make_topic(namespace, topic, Policy::default());
                let routed = self.route_to(namespace, address, &[], said, By::Store(Doors::Both));
                let mut route = routed.unwrap_or_default();
                if !route.queues.contains(&kept_by) {
                    route.queues.push(kept_by);
                }
                route
            }
            DeadLetter::Exchange { .. } => {
                // A dead-letter key of its own takes the place of all others.
                let keys = match record.address().second == address.second {
                    true => said.further_keys.as_slice(),
                    false => &[],
                };
                let routed = self.route_to(namespace, address, keys, said, By::Store(Doors::Both));
                routed.unwrap_or_default()
            }
        }
    }

    /// Logs a placing. Transient queues among `targets` get theirs at once.
    pub(super) fn log_placed(
        &mut self,
        placed: Placed,
        targets: &[QueueId],
        record: &Record,
        passage: Option<Arc<Passage>>,
    ) {
        let touched: Vec<QueueId> = placed.targets.iter().map(|(queue, _)| *queue).collect();
        let place = Place {
            position: placed.source,
            size: placed.size,
            expiry: placed.expiry,
            appended: placed.appended,
            flags: placed.flags & !crate::state::DURABLE,
            group: placed.group,
            body: placed.body,
        };
        let has_passage = passage.is_some();
        let (position, size) = self.log_sized(Entry::Place(placed));
        if let Some(passage) = passage {
            let kept = (record.clone(), Some(passage));
            self.tail.push(position, kept, false, self.written);
        }
        self.open.touched.extend(touched);
        for id in targets.iter().filter(|id| id.is_transient()) {
            let place = if has_passage {
                Place { position, size, flags: place.flags | POINTER, ..place }
            } else {
                place
            };
            self.put_transient(*id, place, record.priority());
        }
        for id in targets {
            // At the turn's end: one queue's overflow may be the next one's.
            self.over_bounds.insert(*id);
        }
    }
}

/// Where a dead record is published again.
fn dead_address(to: &DeadLetter, before: &Address) -> Address {
    match to {
        DeadLetter::Exchange { name, key } => {
            let key = key.clone().unwrap_or_else(|| routing_key(before));
            Address::exchange(Bytes::copy_from_slice(name.as_bytes()), key)
        }
        DeadLetter::Topic(topic) => {
            Address { first: Bytes::copy_from_slice(topic.as_bytes()), ..before.clone() }
        }
    }
}

/// The key that an exchange sees of an address.
pub(super) fn routing_key(address: &Address) -> Bytes {
    match address.entrance() {
        Entrance::Exchange { key, .. } => key,
        Entrance::Path => address.path().render(Dialect::Amqp),
    }
}
