//! Everything the log's entries add up to, and `apply`, which adds them.
//!
//! `apply` is a function of the state and the entry: no clock, no randomness, no hash-map
//! order. A part of the state may be in the index only, and is read when it is come to. What it
//! changes is also noted for the index: definitions at once in the open batch, queues and cursors at
//! the next checkpoint. Transient queues use the same verbs and are never noted. Applying must also
//! work from the middle: a log whose beginning was trimmed states everything that is still true again
//! somewhere (see `commit/clean.rs`), but what happened to a queue may stand before what the queue is.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use bytes::Bytes;
use mainstem_index::{
    Batch, CursorName, Entry as Place, Index, IndexError, LANE_SHIFT, ParameterKey, ParameterValue,
    RetainedKey, RetainedValue, SegmentUse, WriterKey, WriterValue,
};
use mainstem_schemas::{CursorId, Position, QueueId, Record, UnixMillis, flags};
use rustc_hash::FxHashMap;

use crate::{
    command::Retention,
    cursor::{Cursor, InHand, Returned},
    entry::{Entry, Head, KIND_HOLD, KIND_MOVE, Once},
    exchange::BindingKey,
    namespace::{Namespace, Retained},
    policy::{DeliveryPolicy, shared_delivery},
    queue::Queue,
    schedule::Schedule,
    usage::Usage,
};

mod bodies;
mod checkpoint;
mod define;
mod listing;
mod parameters;
mod queues;
mod restore;
mod segments;
pub(crate) mod warm;

pub(crate) use bodies::key_hash;
pub(crate) use checkpoint::Checkpoint;
pub(crate) use queues::{Queues, show};
use segments::Segments;
use warm::AHEAD;

/// Flag of a queue's entry: nobody may see the record before it is as durable as it gets.
/// Persisted: never renumber.
pub(crate) const DURABLE: u8 = 1;
/// The entry's position is that of a `Place` entry, which tells where the body is.
pub(crate) const POINTER: u8 = 1 << 1;
/// An earlier run of the process may have handed the record out.
pub(crate) const SEEN: u8 = 1 << 2;

/// The due time of what waits for a decision and not for a time.
pub(crate) const UNDECIDED: UnixMillis = UnixMillis(u64::MAX - 1);

/// Offsets of a queue that share one range of look-up keys.
pub(crate) const BUCKET_BITS: u32 = 16;

/// A body that no queue has yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HeldBody {
    /// Where it stood first.
    pub(crate) origin: Position,
    pub(crate) position: Position,
    pub(crate) size: u32,
}

impl HeldBody {
    fn first_of(origin: Position) -> Self {
        Self { origin, position: Position(0), size: 0 }
    }
}

/// Keys in the index by which a record can be found, and those it has not got yet.
#[derive(Debug, Default)]
struct Fresh<K> {
    open: BTreeSet<K>,
    gathered: BTreeSet<K>,
}

pub(crate) struct State {
    pub(crate) index: Index,
    pub(crate) namespaces: FxHashMap<Arc<str>, Namespace>,
    pub(crate) queues: Queues,
    /// Bindings that lead to a queue, by exchange.
    pub(crate) bound: FxHashMap<QueueId, Vec<(String, BindingKey)>>,
    pub(crate) segments: Segments,
    /// Bodies that wait for their time.
    pub(crate) delayed: Schedule<HeldBody>,
    /// Bodies that wait for a decision, and whose they are, by where they stood first.
    pub(crate) undecided: BTreeMap<Position, (HeldBody, Arc<str>)>,
    /// Queues that are to be looked at.
    pub(crate) wakes: Schedule<QueueId>,
    pub(crate) writers: BTreeMap<(Arc<str>, String), WriterValue>,
    pointers: Fresh<(Position, Position)>,
    lookups: Fresh<(QueueId, u64, u64)>,
    /// Queues whose time to be looked at is to be found anew.
    pub(crate) due_unknown: Vec<QueueId>,
    /// Bytes that a queue which keeps everything may keep if it says nothing itself.
    pub(crate) kept_bytes_max: u64,
    /// Settings that are kept with the data.
    pub(crate) parameters: BTreeMap<ParameterKey, ParameterValue>,
    /// What namespaces and users have, and may have.
    pub(crate) usage: Arc<Usage>,
    /// Queues that go by other rules than before, for the commit thread to see to.
    pub(crate) governed: Vec<QueueId>,
    /// What consumers had in hand of records that are gone, for the commit thread to count off.
    pub(crate) lost_hands: Vec<InHand>,
    /// What is given up behind something that a cursor still needs is let go at once, if no other
    /// cursor needs it.
    pub(crate) lets_go_behind: bool,
    /// Where the log ended when the process started.
    pub(crate) started_at: Position,
    /// Definitions that changed since the last checkpoint.
    batch: Batch,
    /// Names that changed since the last checkpoint, and before it.
    renamed: Fresh<(Arc<str>, Bytes)>,
}

impl<K> Fresh<K> {
    fn new() -> Self {
        Self { open: BTreeSet::new(), gathered: BTreeSet::new() }
    }
}

impl<K: Ord + Clone> Fresh<K> {
    fn begin_checkpoint(&mut self) {
        self.gathered.append(&mut self.open);
    }

    fn end_checkpoint(&mut self) -> BTreeSet<K> {
        mem::take(&mut self.gathered)
    }

    fn range(&self, range: std::ops::Range<K>) -> impl Iterator<Item = &K> {
        self.open.range(range.clone()).chain(self.gathered.range(range))
    }
}

impl State {
    pub(crate) fn new(index: Index, segment_bytes: u64, queues_resident_max: usize) -> Self {
        let batch = index.batch();
        Self {
            queues: Queues::new(index.clone(), queues_resident_max),
            index,
            namespaces: FxHashMap::default(),
            bound: FxHashMap::default(),
            segments: Segments::new(segment_bytes),
            delayed: Schedule::default(),
            undecided: BTreeMap::new(),
            wakes: Schedule::default(),
            writers: BTreeMap::new(),
            pointers: Fresh::new(),
            lookups: Fresh::new(),
            due_unknown: Vec::new(),
            kept_bytes_max: u64::MAX,
            parameters: BTreeMap::new(),
            usage: Arc::default(),
            governed: Vec::new(),
            lost_hands: Vec::new(),
            lets_go_behind: false,
            started_at: Position(0),
            batch,
            renamed: Fresh::new(),
        }
    }

    /// The namespace of that name; it exists as soon as somebody works in it.
    pub(crate) fn namespace(&mut self, name: &str) -> &mut Namespace {
        if !self.namespaces.contains_key(name) {
            let name = self.queues.intern(name);
            self.namespaces.insert(name.clone(), Namespace::new(name));
        }
        self.namespaces.get_mut(name).expect("it was inserted just above")
    }

    /// The value, or nothing where the index failed; the store stops over that at the end of the
    /// turn.
    pub(crate) fn sound<T: Default>(&mut self, result: Result<T, IndexError>) -> T {
        result.unwrap_or_else(|error| {
            self.queues.failed.get_or_insert(error);
            T::default()
        })
    }

    /// Applies an entry that carries no record. `position` is where it stands in the log, `size`
    /// how long it is.
    pub(crate) fn apply(&mut self, position: Position, size: u32, entry: Entry) {
        match entry {
            Entry::Settle(all) => {
                for some in all.chunks(AHEAD) {
                    self.queues.warm(some.iter().map(|settled| settled.queue));
                    for settled in some {
                        for (from, to) in &settled.ranges {
                            self.settle(settled.queue, settled.cursor, *from, *to);
                        }
                    }
                }
            }
            Entry::Trim { queue, below } => self.trim(queue, below.0),
            Entry::OpenCursor { queue, name, start, policy } => {
                self.open_cursor(queue, CursorId(position.0), name, start.0, policy);
            }
            Entry::CloseCursor { queue, cursor } => self.close_cursor(queue, cursor),
            Entry::Returned { queue, cursor, records } => {
                self.apply_returned(queue, cursor, &records);
            }
            Entry::Place(placed) => self.place_again(position, size, &placed),
            Entry::Trimmed { below } => self.trimmed(below),
            Entry::Writer { namespace, writer, sequence, seen } => {
                let once = Once { writer, sequence };
                self.note_writer(&namespace, once, seen, position);
            }
            other => self.define(position, other),
        }
    }

    /// Applies an entry that carries a record. Offsets are written in the entry, so that a log
    /// without its beginning gives every record the place it had.
    pub(crate) fn apply_carried(
        &mut self,
        position: Position,
        size: u32,
        kind: u8,
        head: &Head,
        targets: &[(QueueId, u64)],
        record: &Record,
    ) {
        let place = Place {
            position,
            size,
            expiry: record.expiry(),
            appended: record.appended(),
            flags: if record.is_durable() { DURABLE } else { 0 } | if head.seen { SEEN } else { 0 },
            group: group(record),
            body: body_bytes(record),
        };
        if kind == KIND_MOVE {
            self.moved(head, place, targets, record);
            return;
        }
        if let Some(once) = &head.once {
            self.note_writer(record.namespace(), once.clone(), record.appended(), position);
        }
        if kind == KIND_HOLD {
            let body = HeldBody { origin: position, position, size };
            self.hold(head.held, body, record.namespace());
            return;
        }
        for (id, offset) in targets {
            self.put(*id, *offset, place);
            for key in &head.keys {
                self.note_key(*id, *key, *offset);
            }
        }
        if record.is_retain() {
            self.retain(position, size, record);
        }
    }

    /// Puts a place into a queue. One that nobody reads does not keep it.
    pub(crate) fn put(&mut self, id: QueueId, offset: u64, place: Place) {
        if let Some(unread) = self.put_unread(id, offset, place) {
            self.trim(id, unread);
        }
    }

    /// The same, but that it stays though nobody reads the queue yet; then it returns where the
    /// queue ends.
    pub(crate) fn put_unread(&mut self, id: QueueId, offset: u64, place: Place) -> Option<u64> {
        let Self { queues, index, segments, due_unknown, kept_bytes_max, .. } = self;
        let queue = queues.change(id)?;
        let segment = segments.number(place.position);
        let was_empty = queue.live == 0;
        let is_unread = !queue.has_cursors() && queue.def.retention != Retention::Time;
        let put = queue.put(offset, place, segment, index);
        let unread = is_unread.then(|| queue.next());
        match put {
            Ok(None) => {}
            // An offset that is forgotten already: nothing was put.
            Ok(Some(same)) if same.position == place.position => return unread,
            Ok(Some(before)) => {
                let segment = segments.number(before.position);
                queue.uncount(segment, &before);
                release(segments, id, segment, before.size);
            }
            Err(error) => {
                queues.failed.get_or_insert(error);
                return None;
            }
        }
        if id.is_transient() {
            segments.refer_transient(segment);
        } else {
            segments.refer(segment, place.size);
        }
        let needs_look =
            was_empty || place.expiry.is_set() || queue.keeps_too_much(*kept_bytes_max);
        if needs_look {
            queue.note_due_unknown(due_unknown);
        }
        unread
    }

    /// A record stands elsewhere from now on.
    fn moved(&mut self, head: &Head, place: Place, targets: &[(QueueId, u64)], record: &Record) {
        for (id, offset) in targets {
            self.put(*id, *offset, place);
            for key in &head.keys {
                self.note_key(*id, *key, *offset);
            }
        }
        if head.held.is_set() {
            self.let_go(head.held, head.origin);
            let (origin, position, size) = (head.origin, place.position, place.size);
            self.hold(head.held, HeldBody { origin, position, size }, record.namespace());
        }
        if head.retained {
            let path = record.address().path();
            let known = self.namespace(record.namespace()).retained.get(&path).copied();
            // Without its beginning the log does not tell of the older place.
            if known.is_none_or(|known| known.position == head.from) && record.data_len() > 0 {
                self.retain(place.position, place.size, record);
            }
        }
    }

    fn retain(&mut self, position: Position, size: u32, record: &Record) {
        let path = record.address().path();
        let namespace = record.namespace();
        let key = RetainedKey { namespace: namespace.to_owned(), path: path.clone() };
        let before = if record.data_len() == 0 {
            self.batch.delete(&key);
            self.namespace(namespace).retained.remove(&path)
        } else {
            let expiry = record.expiry();
            self.batch.put(&key, &RetainedValue { position, size, expiry });
            let segment = self.segments.number(position);
            self.segments.refer(segment, size);
            let retained = Retained { position, size, expiry };
            self.namespace(namespace).retained.insert(path, retained)
        };
        if let Some(before) = before {
            let segment = self.segments.number(before.position);
            self.segments.release(segment, before.size);
        }
    }

    /// A writer's newest sequence.
    fn note_writer(&mut self, namespace: &str, once: Once, seen: UnixMillis, home: Position) {
        let Once { writer, sequence } = once;
        let key = WriterKey { namespace: namespace.to_owned(), writer: writer.clone() };
        let namespace = self.queues.intern(namespace);
        let value = WriterValue { sequence, seen, home };
        let segment = self.segments.number(home);
        let before = if sequence == 0 {
            self.batch.delete(&key);
            self.writers.remove(&(namespace, writer))
        } else {
            self.batch.put(&key, &value);
            self.segments.refer(segment, HOME_BYTES);
            self.writers.insert((namespace, writer), value)
        };
        if let Some(before) = before {
            self.leave_home(before.home);
        }
    }

    pub(crate) fn settle(&mut self, id: QueueId, cursor_id: CursorId, from: u64, to: u64) {
        let Self { queues, index, segments, due_unknown, .. } = self;
        let Some(queue) = queues.change(id) else { return };
        let first = queue.first();
        let Some((cursor, lanes)) = queue.cursor_and_lanes(cursor_id) else { return };
        let was_last = cursor.floor_at(from) <= first;
        let lane = lanes.iter().find(|lane| lane.id() == from >> LANE_SHIFT);
        let Some(end) = lane.map(|lane| lane.next) else { return };
        let to = to.min(end);
        if from >= to {
            return;
        }
        // Ranges that are stated again hold nothing new, and may be very long.
        let fresh = cursor.settled.gaps(from.max(cursor.floor_at(from)), to);
        if fresh.is_empty() {
            return;
        }
        cursor.settle(from, to);
        if cursor_id == CursorId::MAIN {
            if lanes.iter().all(|lane| cursor.floor_at(lane.first) >= lane.next) {
                let used = queue.clear();
                release_all(segments, id, &used);
            } else {
                let taken = take_all((id, queue), fresh, (index, segments), |_, _| false);
                if let Err(error) = taken {
                    queues.failed.get_or_insert(error);
                    return;
                }
                queue.pass(from);
            }
        } else if queue.def.retention == Retention::Cursors {
            let is_crowded = queue.cursors().take(SHARERS_MAX + 1).count() > SHARERS_MAX;
            if is_crowded {
                // To find the last of them takes a look at all, which one look does for many.
                queue.is_behind |= was_last;
            } else if was_last && let Some(below) = queue.unneeded_below() {
                self.trim(id, below);
                return;
            } else if self.lets_go_behind {
                let is_needed = |queue: &Queue, offset| {
                    queue.cursors().any(|(_, cursor)| !cursor.is_settled(offset))
                };
                if let Err(error) = take_all((id, queue), fresh, (index, segments), is_needed) {
                    queues.failed.get_or_insert(error);
                    return;
                }
            }
        }
        queue.note_due_unknown(due_unknown);
    }

    /// A queue forgets what is before an offset.
    pub(crate) fn trim(&mut self, id: QueueId, below: u64) {
        let Self { queues, index, segments, due_unknown, lost_hands, batch, .. } = self;
        let Some(queue) = queues.change(id) else { return };
        let mut gone: Vec<Place> = Vec::new();
        let trimmed = queue.trim(below, index, |_, place| gone.push(place));
        match trimmed {
            Ok(hands) => lost_hands.extend(hands),
            Err(error) => {
                queues.failed.get_or_insert(error);
                return;
            }
        }
        for place in gone {
            let segment = segments.number(place.position);
            queue.uncount(segment, &place);
            release(segments, id, segment, place.size);
        }
        // Keys are looked up where there is one lane.
        if !id.is_transient() && below >> BUCKET_BITS > 0 && below >> LANE_SHIFT == 0 {
            batch.delete_lookups(id, below >> BUCKET_BITS);
        }
        queue.note_due_unknown(due_unknown);
    }

    pub(crate) fn apply_returned(
        &mut self,
        id: QueueId,
        cursor: CursorId,
        records: &[(u64, Returned)],
    ) {
        let Self { queues, due_unknown, .. } = self;
        let Some(queue) = queues.change(id) else { return };
        let Some(at) = queue.cursor_mut(cursor) else { return };
        at.dirty = true;
        for (offset, returned) in records {
            if !at.is_settled(*offset) {
                at.returned.insert(*offset, *returned);
            }
        }
        queue.note_due_unknown(due_unknown);
    }

    pub(crate) fn open_cursor(
        &mut self,
        queue: QueueId,
        id: CursorId,
        name: CursorName,
        start: u64,
        policy: DeliveryPolicy,
    ) {
        let Some(found) = self.queues.change(queue) else { return };
        if found.is_provisional {
            return;
        }
        let start = start.max(found.first());
        found.insert_cursor(id, Cursor::new(name, shared_delivery(&policy), start));
    }

    pub(crate) fn close_cursor(&mut self, id: QueueId, cursor: CursorId) {
        let Some(queue) = self.queues.change(id) else { return };
        queue.remove_cursor(cursor);
        let keeps = queue.def.retention != Retention::Cursors;
        let below = if keeps { None } else { queue.unneeded_below() };
        if !id.is_transient() && !cursor.is_transient() {
            self.batch.delete(&mainstem_index::CursorKey { queue: id, cursor });
        }
        if let Some(below) = below {
            self.trim(id, below);
        }
    }

    /// The log has let go of everything before `below`.
    fn trimmed(&mut self, below: Position) {
        let number = self.segments.number(below);
        self.segments.trim(number);
        self.batch.delete_pointers(Position(0), below);
        for fresh in [&mut self.pointers.open, &mut self.pointers.gathered] {
            *fresh = fresh.split_off(&(below, Position(0)));
        }
    }

    /// A definition lies at `home`, as long as it is not stated again.
    fn move_in(&mut self, home: Position) {
        let segment = self.segments.number(home);
        self.segments.refer(segment, HOME_BYTES);
    }

    fn leave_home(&mut self, home: Position) {
        if home.0 != 0 {
            let segment = self.segments.number(home);
            self.segments.release(segment, HOME_BYTES);
        }
    }
}

/// Cursors of a queue that are asked before their turn whether they need a record.
const SHARERS_MAX: usize = 8;
/// What a definition counts for in its segment, whatever its length.
pub(crate) const HOME_BYTES: u32 = 128;

/// FNV-1a: it is stored, so it must not change with a compiler or a process.
const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// A record's ordering group: what it says itself, or the topic below a topic that it is for.
pub(crate) fn group(record: &Record) -> u32 {
    let mut hash = record.partition();
    if hash == 0 && record.flags() & flags::LITE != 0 {
        let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
        hash = record.address().second.iter().fold(FNV_BASIS, fold);
    }
    if hash == 0 {
        return 0;
    }
    let [a, b, c, d, e, f, g, h] = hash.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]) ^ u32::from_le_bytes([e, f, g, h])).max(1)
}

/// What a record counts where bytes are bounded.
pub(crate) fn body_bytes(record: &Record) -> u32 {
    u32::try_from(record.data_len()).unwrap_or(u32::MAX)
}

/// Takes what lies at these offsets out of a queue, where it is not needed, and out of what is counted
/// of the log's segments.
fn take_all(
    (id, queue): (QueueId, &mut Queue),
    ranges: impl IntoIterator<Item = (u64, u64)>,
    (index, segments): (&Index, &mut Segments),
    is_needed: impl Fn(&Queue, u64) -> bool,
) -> Result<(), IndexError> {
    for offset in ranges.into_iter().flat_map(|(from, to)| from..to) {
        if is_needed(queue, offset) {
            continue;
        }
        if let Some(place) = queue.take(offset, index)? {
            let segment = segments.number(place.position);
            queue.uncount(segment, &place);
            release(segments, id, segment, place.size);
        }
    }
    Ok(())
}

fn release(segments: &mut Segments, id: QueueId, segment: u64, size: u32) {
    if id.is_transient() {
        segments.release_transient(segment, 1);
    } else {
        segments.release(segment, size);
    }
}

fn release_all(segments: &mut Segments, id: QueueId, used: &[SegmentUse]) {
    if id.is_transient() {
        for used in used {
            segments.release_transient(used.number, used.refs);
        }
    } else {
        segments.release_all(used);
    }
}
