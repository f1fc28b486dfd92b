//! Bodies that are referred to by more than the queues they were published to: placed again, held
//! back, moved, or looked up by a key.

use std::collections::{BTreeMap, BTreeSet};

use mainstem_index::{Entry as Place, HeldKey, HeldValue, LookupKey, PointerKey};
use mainstem_schemas::{Offset, Position, QueueId, UnixMillis};
use rustc_hash::{FxHashMap, FxHasher};

use super::{BUCKET_BITS, HeldBody, POINTER, State, UNDECIDED};
use crate::entry::Placed;

impl State {
    /// A body in the log comes to queues.
    pub(super) fn place_again(&mut self, position: Position, size: u32, placed: &Placed) {
        if placed.held.is_set() {
            self.let_go(placed.held, placed.origin);
        }
        let is_pointer = !placed.passage.is_empty();
        // With a passage, a transient queue may point here that the log does not name.
        if placed.targets.is_empty() && !is_pointer {
            return;
        }
        let place = Place {
            position: if is_pointer { position } else { placed.source },
            size: if is_pointer { size } else { placed.size },
            expiry: placed.expiry,
            appended: placed.appended,
            flags: placed.flags | if is_pointer { POINTER } else { 0 },
            group: placed.group,
            body: placed.body,
        };
        for (id, offset) in &placed.targets {
            self.put(*id, *offset, place);
            for key in &placed.keys {
                self.note_key(*id, *key, *offset);
            }
        }
        self.pointers.open.insert((placed.source, position));
        self.batch.put(&PointerKey { body: placed.source, frame: position }, &size);
        // Whether the placing is still of use, who cleans the body's segment finds out.
        let segment = self.segments.number(placed.source);
        self.segments.refer(segment, 0);
    }

    /// The entries that bring bodies of a part of the log to queues again, by body.
    pub(crate) fn pointers_in(
        &mut self,
        from: Position,
        upto: Position,
    ) -> BTreeMap<Position, Vec<(Position, u32)>> {
        let stored: Result<Vec<_>, _> = self.index.pointers(from, upto).collect();
        let stored = self.sound(stored);
        let mut found: BTreeMap<Position, Vec<(Position, u32)>> = BTreeMap::new();
        for (key, size) in stored {
            found.entry(key.body).or_default().push((key.frame, size));
        }
        for (body, frame) in self.pointers.range((from, Position(0))..(upto, Position(0))) {
            let all = found.entry(*body).or_default();
            if all.iter().all(|(known, _)| known != frame) {
                all.push((*frame, 0));
            }
        }
        found
    }

    /// The placings of a segment's bodies were looked at, and those in use lead elsewhere now.
    pub(crate) fn forget_pointers_of(&mut self, number: u64) {
        let (from, upto) = (self.segments.base(number), self.segments.base(number + 1));
        for _ in self.pointers_in(from, upto).values().flatten() {
            self.segments.release(number, 0);
        }
        self.batch.delete_pointers(from, upto);
        for fresh in [&mut self.pointers.open, &mut self.pointers.gathered] {
            fresh.retain(|(body, _)| *body < from || *body >= upto);
        }
    }

    /// Entries of transient queues that lie in a segment, by position.
    pub(crate) fn transient_places_in(
        &self,
        number: u64,
    ) -> FxHashMap<Position, Vec<(QueueId, u64)>> {
        let mut found: FxHashMap<Position, Vec<(QueueId, u64)>> = FxHashMap::default();
        for (id, queue) in self.queues.resident().filter(|(id, _)| id.is_transient()) {
            if !queue.uses(number) {
                continue;
            }
            for (offset, place) in queue.places() {
                if self.segments.number(place.position) == number {
                    found.entry(place.position).or_default().push((id, offset));
                }
            }
        }
        found
    }

    /// Entries of transient queues that point to placings, by placing.
    pub(crate) fn transient_pointers(&self) -> FxHashMap<Position, Vec<(QueueId, u64)>> {
        let mut found: FxHashMap<Position, Vec<(QueueId, u64)>> = FxHashMap::default();
        for (id, queue) in self.queues.resident().filter(|(id, _)| id.is_transient()) {
            for (offset, place) in queue.places() {
                if place.flags & POINTER != 0 {
                    found.entry(place.position).or_default().push((id, offset));
                }
            }
        }
        found
    }

    /// A record of a transient queue stands elsewhere from now on.
    pub(crate) fn move_transient(
        &mut self,
        id: QueueId,
        offset: u64,
        from: Position,
        to: Position,
        size: u32,
    ) {
        let Some(queue) = self.queues.get(id) else { return };
        let place = queue.get_kept(offset, &self.index);
        let place = self.sound(place).filter(|place| place.position == from);
        if let Some(place) = place {
            self.put(id, offset, Place { position: to, size, ..place });
        }
    }

    pub(super) fn hold(&mut self, due: UnixMillis, body: HeldBody, namespace: &str) {
        let HeldBody { origin, position, size } = body;
        let segment = self.segments.number(position);
        self.segments.refer(segment, size);
        let value = HeldValue { position, size, namespace: namespace.to_owned() };
        self.batch.put(&HeldKey { due, origin }, &value);
        if due == UNDECIDED {
            let namespace = self.queues.intern(namespace);
            self.undecided.insert(origin, (body, namespace));
        } else {
            self.delayed.insert(due, body);
        }
    }

    /// Ends a holding, if there is one.
    pub(super) fn let_go(&mut self, due: UnixMillis, origin: Position) {
        let Some(body) = self.held(due, origin) else { return };
        let segment = self.segments.number(body.position);
        self.segments.release(segment, body.size);
        self.batch.delete(&HeldKey { due, origin });
        if due == UNDECIDED {
            self.undecided.remove(&origin);
        } else {
            self.delayed.remove(due, body);
        }
    }

    /// A body that is held until `due`; `None` when it is not held.
    pub(crate) fn held(&mut self, due: UnixMillis, origin: Position) -> Option<HeldBody> {
        if due == UNDECIDED {
            return self.undecided.get(&origin).map(|(body, _)| *body);
        }
        let is_it = |body: &HeldBody| body.origin == origin;
        if let Some(known) = self.delayed.find(due, HeldBody::first_of(origin), is_it) {
            return known;
        }
        let stored = self.index.get(&HeldKey { due, origin });
        let HeldValue { position, size, .. } = self.sound(stored)?;
        Some(HeldBody { origin, position, size })
    }

    pub(super) fn note_key(&mut self, queue: QueueId, hash: u64, offset: u64) {
        if queue.is_transient() {
            return;
        }
        let key = LookupKey { queue, bucket: offset >> BUCKET_BITS, hash, offset: Offset(offset) };
        self.batch.put(&key, &());
        self.lookups.open.insert((queue, hash, offset));
    }

    /// The offsets in a queue of records with a key of this hash, ascending.
    pub(crate) fn find_key(&mut self, queue: QueueId, hash: u64) -> Vec<u64> {
        let Some(found) = self.queues.get(queue) else { return Vec::new() };
        let (first, next) = (found.first(), found.next());
        let mut offsets = BTreeSet::new();
        for bucket in first >> BUCKET_BITS..=next >> BUCKET_BITS {
            let stored: Result<Vec<_>, _> = self.index.lookups(queue, bucket, hash).collect();
            let stored = self.sound(stored);
            offsets.extend(stored.into_iter().map(|(key, ())| key.offset.0));
        }
        let fresh = self.lookups.range((queue, hash, first)..(queue, hash, next));
        offsets.extend(fresh.map(|(_, _, offset)| *offset));
        offsets.into_iter().filter(|offset| (first..next).contains(offset)).collect()
    }
}

/// The hash that look-up keys are kept under.
pub(crate) fn key_hash(key: &[u8]) -> u64 {
    use std::hash::Hasher;
    let mut hasher = FxHasher::default();
    hasher.write(key);
    hasher.finish()
}
