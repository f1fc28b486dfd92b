//! A queue: its lanes of places in the log, its cursors, and what it holds of each segment.

use std::sync::Arc;

use mainstem_index::{
    Batch, CursorKey, CursorName, CursorValue, Entry as Place, Index, IndexError, LANE_SHIFT,
    LaneState, QueueStateKey, QueueStateValue, SegmentUse,
};
use mainstem_schemas::{CursorId, Filter, Offset, Position, QueueId, UnixMillis};
use smallvec::SmallVec;

use crate::{
    command::{ClientId, QueueDef, Retention},
    cursor::{Cursor, InHand},
    few::Few,
    lane::Lane,
    meter::{KINDS_OF_QUEUES, Lazy},
    policy::{Policy, shared, shared_delivery},
    rules::Rules,
    wanted::Wanted,
};

/// Why a queue can be found besides by its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    ByName,
    ByFilter(Box<Filter>),
    AsTopic,
}

/// Records that a queue forgets at once when no cursor needs them any more: about a millisecond.
/// The log tells of cursors only, so that a replay must come to the same: never change it.
const FORGOTTEN_AT_ONCE: u64 = 8192;

#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) namespace: Arc<str>,
    pub(crate) found: Found,
    /// The definition as clients see it; for a queue without a name of its own, a made-up one.
    pub(crate) def: Arc<QueueDef>,
    /// What it was declared with, before anything that is asked by its name.
    pub(crate) declared: Arc<Policy>,
    /// The log entry that states all of it.
    pub(crate) home: Position,
    /// By priority, the highest first. The first one is always there.
    lanes: SmallVec<[Lane; 1]>,
    /// Records that are still needed, and their bytes: of their bodies, and where everything is kept,
    /// of their entries, since that is bounded for the room it takes.
    pub(crate) live: u64,
    pub(crate) bytes: u64,
    /// What is live, by segment of the log, ascending.
    segments: SmallVec<[SegmentUse; 1]>,
    /// Some record may have an expiry of its own.
    has_expiring: bool,
    /// There is a bound on what is ready (a copy of what the policy says, which is far away).
    pub(crate) is_bounded: bool,
    main: Option<Cursor>,
    others: Few<CursorId, Cursor>,
    /// Cursors that somebody waits on; the others sleep and cost nothing.
    pub(crate) wanted: Wanted,
    /// The connection that may use it alone, or nobody's.
    pub(crate) owner: ClientId,
    /// A consumer has it alone.
    pub(crate) has_exclusive_consumer: bool,
    /// It had a consumer once, so auto-delete may act.
    pub(crate) was_consumed: bool,
    /// On the list of queues to look at in this turn.
    pub(crate) is_touched: bool,
    /// On the list of queues whose time to be looked at is to be found anew.
    pub(crate) is_due_unknown: bool,
    /// It holds records that no cursor needs any more, and forgets them bit by bit.
    pub(crate) is_behind: bool,
    /// When to look at it by itself.
    pub(crate) wake: UnixMillis,
    /// When somebody used it last, for queues that go when unused.
    pub(crate) used: UnixMillis,
    /// The checkpoint that it waits for to be written; 0 when the index has it as it is.
    pub(crate) dirty_in: u64,
    /// On the list of queues that may leave memory.
    pub(crate) is_listed: bool,
    /// Only entries that reached it are known, not what it is: a log without its beginning is
    /// being replayed, and the definition is still to come.
    pub(crate) is_provisional: bool,
    /// What happens to its records, if operators know it by name.
    pub(crate) meter: Lazy<{ KINDS_OF_QUEUES + 2 }>,
}

/// What a million queues in memory take is a promise, and 384 is a size that the allocator gives.
const _: () = assert!(size_of::<Queue>() <= 384);

impl Queue {
    pub(crate) fn new(namespace: Arc<str>, found: Found, def: QueueDef, home: Position) -> Self {
        let main = (def.retention == Retention::Unsettled)
            .then(|| Cursor::new(CursorName::Main, shared_delivery(&def.policy.delivery), 0));
        Self {
            namespace,
            found,
            is_bounded: def.policy.is_bounded(),
            declared: def.policy.clone(),
            def: Arc::new(def),
            home,
            lanes: SmallVec::from_iter([Lane::new(0)]),
            live: 0,
            bytes: 0,
            segments: SmallVec::new(),
            has_expiring: false,
            main,
            others: Few::default(),
            wanted: Wanted::default(),
            owner: ClientId::NOBODY,
            has_exclusive_consumer: false,
            was_consumed: false,
            is_touched: false,
            is_due_unknown: false,
            is_behind: false,
            wake: UnixMillis::NONE,
            used: UnixMillis::NONE,
            dirty_in: 0,
            is_listed: false,
            is_provisional: false,
            meter: Lazy::default(),
        }
    }

    /// Takes over what a checkpoint wrote.
    pub(crate) fn restore(&mut self, state: &QueueStateValue) {
        self.restore_lanes(&state.lanes);
        self.live = state.live;
        self.bytes = state.bytes;
        self.segments = state.segments.iter().copied().collect();
        self.has_expiring = true;
        if let (Some(main), Some(progress)) = (&mut self.main, &state.main) {
            main.take_over(progress);
            main.dirty = false;
        }
    }

    pub(crate) fn restore_lanes(&mut self, lanes: &[LaneState]) {
        if !lanes.is_empty() {
            self.lanes = lanes.iter().map(|l| Lane::restore(l.first.0, l.next.0)).collect();
        }
    }

    /// Writes what changed since the last time.
    pub(crate) fn write(&mut self, batch: &mut Batch) {
        let id = self.def.id;
        for lane in &mut self.lanes {
            lane.write(id, batch);
        }
        let state = QueueStateValue {
            lanes: self.lane_states(),
            live: self.live,
            bytes: self.bytes,
            segments: self.segments.to_vec(),
            main: self.main.as_ref().map(Cursor::progress),
        };
        batch.put(&QueueStateKey { queue: id }, &state);
        for (cursor, at) in self.others.iter_mut() {
            if at.dirty && !cursor.is_transient() {
                at.dirty = false;
                let mut policy = Vec::new();
                at.policy.encode(&mut policy);
                let value = CursorValue {
                    name: (*at.name).clone(),
                    policy: policy.into(),
                    progress: at.progress(),
                };
                batch.put(&CursorKey { queue: id, cursor: *cursor }, &value);
            }
        }
    }

    pub(crate) fn lane_states(&self) -> Vec<LaneState> {
        let bounds = self.lanes.iter().map(Lane::bounds);
        bounds.map(|(first, next)| LaneState { first, next }).collect()
    }

    /// Lets go of blocks that the index has.
    pub(crate) fn evict(&mut self) {
        for lane in &mut self.lanes {
            lane.evict();
        }
        for cursor in self.cursors_mut() {
            cursor.shrink();
        }
    }

    /// Looks at each part of itself, and answers anything.
    pub(crate) fn near(&self) -> u64 {
        let lane = self.lanes.first().map_or(0, Lane::near);
        let main = self.main.as_ref().map_or(0, Cursor::near);
        let own = [self.home.0, self.live, self.bytes, self.dirty_in, self.wake.0, self.used.0];
        own.into_iter().fold(lane, u64::wrapping_add).wrapping_add(main)
    }

    /// The same for what lies elsewhere.
    pub(crate) fn far(&self) -> u64 {
        let lane = self.lanes.first().map_or(0, Lane::far);
        let main = self.main.as_ref().map_or(0, Cursor::far);
        (self.def.retention as u64).wrapping_add(lane).wrapping_add(main)
    }

    /// Whether it is a topic below a topic.
    pub(crate) fn is_branch(&self) -> bool {
        self.found == Found::AsTopic && self.def.name.contains('/')
    }

    /// Whether it is not kept in memory for its next use. Of topics below topics there may be a million,
    /// and most are used once; of queues of filters, for sessions that sleep. One that very many read
    /// takes long to come back.
    pub(crate) fn leaves_early(&self) -> bool {
        self.is_branch() || (matches!(self.found, Found::ByFilter(_)) && self.others.is_row())
    }

    /// Whether all there is to it is in the index.
    pub(crate) fn may_leave(&self) -> bool {
        self.dirty_in == 0
            && !self.def.id.is_transient()
            && self.owner == ClientId::NOBODY
            && self.wanted.is_empty()
            && !self.is_touched
            && !self.is_due_unknown
            && !self.has_exclusive_consumer
            && (self.def.policy.expires_ms.is_none() || self.found == Found::AsTopic)
            // With no record to go by, only its memory tells when it goes.
            && !(self.is_branch() && self.used.is_set() && self.live == 0)
            && self.cursors().all(|(id, cursor)| !id.is_transient() && cursor.is_idle())
    }

    // Places.

    /// The offset the next record of a priority gets.
    pub(crate) fn next_offset(&self, priority: u8) -> u64 {
        let lane = self.lane_of(priority);
        let found = self.lanes.iter().find(|found| found.id() == u64::from(lane));
        found.map_or_else(|| u64::from(lane) << LANE_SHIFT, |found| found.next)
    }

    /// The first offset that is kept of the lane that one is in, and the first that is not given.
    pub(crate) fn bounds_at(&self, offset: Offset) -> (Offset, Offset) {
        let found = self.lanes.iter().find(|lane| lane.id() == offset.0 >> LANE_SHIFT);
        found.map_or((offset, offset), Lane::bounds)
    }

    fn lane_of(&self, priority: u8) -> u8 {
        let max = self.def.policy.priority_max;
        max - priority.min(max)
    }

    fn lane(&mut self, offset: u64) -> &mut Lane {
        let id = offset >> LANE_SHIFT;
        let at = match self.lanes.binary_search_by_key(&id, Lane::id) {
            Ok(at) => at,
            Err(at) => {
                self.lanes.insert(at, Lane::new(u8::try_from(id).unwrap_or(u8::MAX)));
                at
            }
        };
        self.lanes.get_mut(at).expect("it was found or inserted just above")
    }

    /// The end of the first lane, which is the only one of a queue that readers seek in.
    pub(crate) fn next(&self) -> u64 {
        self.lanes.first().map_or(0, |lane| lane.next)
    }

    /// The beginning of the first lane.
    pub(crate) fn first(&self) -> u64 {
        self.lanes.first().map_or(0, |lane| lane.first)
    }

    /// Whether it gives out by priority, so that its offsets are in no order of time.
    pub(crate) fn is_ranked(&self) -> bool {
        self.lanes.len() > 1 || self.def.policy.priority_max > 0
    }

    /// Where each lane begins and ends, those of the highest priority first.
    pub(crate) fn bounds(&self) -> SmallVec<[(u64, u64); 1]> {
        self.lanes.iter().map(|lane| (lane.first, lane.next)).collect()
    }

    /// A topic goes by what is declared of it from now on; tells whether that is something else than
    /// before.
    pub(crate) fn redeclare(&mut self, policy: Policy) -> bool {
        if self.found != Found::AsTopic || *self.declared == policy {
            return false;
        }
        self.declared = shared(policy);
        self.is_bounded = self.declared.is_bounded();
        Arc::make_mut(&mut self.def).policy = self.declared.clone();
        true
    }

    /// Puts a place at an offset, and counts it. Returns what it replaced.
    pub(crate) fn put(
        &mut self,
        offset: u64,
        place: Place,
        segment: u64,
        index: &Index,
    ) -> Result<Option<Place>, IndexError> {
        self.has_expiring |= place.expiry.is_set();
        let id = self.def.id;
        let lane = self.lane(offset);
        if offset < lane.first {
            return Ok(Some(place));
        }
        let before = lane.put(id, offset, place, index)?;
        self.count(segment, &place);
        Ok(Some(before).filter(|before| !before.is_hole()))
    }

    /// A place as it is kept.
    pub(crate) fn get_kept(
        &mut self,
        offset: u64,
        index: &Index,
    ) -> Result<Option<Place>, IndexError> {
        let id = self.def.id;
        let at = self.lanes.binary_search_by_key(&(offset >> LANE_SHIFT), Lane::id);
        let Some(lane) = at.ok().and_then(|at| self.lanes.get_mut(at)) else { return Ok(None) };
        lane.get(id, offset, index)
    }

    /// A place, with the end of its time by the record's own word and by the queue's rules.
    pub(crate) fn get(&mut self, offset: u64, index: &Index) -> Result<Option<Place>, IndexError> {
        let mut found = self.get_kept(offset, index)?;
        if let (Some(place), Some(ttl_ms)) = (&mut found, self.def.policy.ttl_ms) {
            // Kept is only what the record says itself: the queue's rules may change.
            let expiry = place.appended.plus(ttl_ms);
            place.expiry = if place.expiry.is_set() { place.expiry.min(expiry) } else { expiry };
        }
        Ok(found)
    }

    /// Gives up the entry at an offset. The caller uncounts it.
    pub(crate) fn take(&mut self, offset: u64, index: &Index) -> Result<Option<Place>, IndexError> {
        let id = self.def.id;
        self.lane(offset).take(id, offset, index)
    }

    /// What a place adds to the bytes of the queue.
    fn bytes_of(&self, place: &Place) -> u64 {
        let keeps_all = self.def.retention == Retention::Time;
        u64::from(if keeps_all { place.size } else { place.body })
    }

    fn count(&mut self, segment: u64, place: &Place) {
        self.live += 1;
        self.bytes += self.bytes_of(place);
        let bytes = u64::from(place.size);
        match self.segments.last_mut() {
            Some(last) if last.number == segment => {
                last.refs += 1;
                last.bytes += bytes;
            }
            Some(last) if last.number > segment => {
                let at = self.segments.partition_point(|used| used.number < segment);
                match self.segments.get_mut(at).filter(|used| used.number == segment) {
                    Some(used) => {
                        used.refs += 1;
                        used.bytes += bytes;
                    }
                    None => {
                        self.segments.insert(at, SegmentUse { number: segment, refs: 1, bytes });
                    }
                }
            }
            _ => self.segments.push(SegmentUse { number: segment, refs: 1, bytes }),
        }
    }

    pub(crate) fn uncount(&mut self, segment: u64, place: &Place) {
        self.live = self.live.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(self.bytes_of(place));
        let at = self.segments.iter().position(|used| used.number == segment);
        if let Some(at) = at
            && let Some(used) = self.segments.get_mut(at)
        {
            used.refs = used.refs.saturating_sub(1);
            used.bytes = used.bytes.saturating_sub(u64::from(place.size));
            if used.refs == 0 {
                self.segments.remove(at);
            }
        }
        if self.live == 0 {
            self.has_expiring = false;
        }
    }

    /// Forgets everything, and says what it held of each segment.
    pub(crate) fn clear(&mut self) -> SmallVec<[SegmentUse; 1]> {
        for lane in &mut self.lanes {
            lane.clear();
        }
        self.live = 0;
        self.bytes = 0;
        self.has_expiring = false;
        std::mem::take(&mut self.segments)
    }

    /// Forgets everything of the first lane below `below`, and so do the cursors. Tells of
    /// every place that was still there; what consumers had in hand of it is returned.
    pub(crate) fn trim(
        &mut self,
        below: u64,
        index: &Index,
        each: impl FnMut(u64, Place),
    ) -> Result<Vec<InHand>, IndexError> {
        let id = self.def.id;
        let lane = self.lane(below);
        lane.trim(id, below, index, each)?;
        let first = lane.first;
        let mut hands = Vec::new();
        for cursor in self.cursors_mut() {
            hands.extend(cursor.forget_below(first).into_iter().map(|(_, hand)| hand));
        }
        Ok(hands)
    }

    /// The floor below which no cursor needs anything, in the lane of `offset`.
    pub(crate) fn common_floor(&mut self, offset: u64) -> u64 {
        let floor = self.cursors().map(|(_, cursor)| cursor.floor_at(offset)).min();
        floor.unwrap_or_else(|| self.lane(offset).next)
    }

    /// Up to where a queue that keeps what its cursors need is to forget next: not more than is
    /// done in one turn. Notes whether there is more.
    pub(crate) fn unneeded_below(&mut self) -> Option<u64> {
        let first = self.first();
        let floor = self.common_floor(self.next().saturating_sub(1).max(first));
        let below = floor.min(first.saturating_add(FORGOTTEN_AT_ONCE));
        self.is_behind = below < floor;
        (below > first).then_some(below)
    }

    /// Passes over what the only cursor settled, which are holes by now.
    pub(crate) fn pass(&mut self, offset: u64) {
        let floor = self.main.as_ref().map_or(0, |main| main.floor_at(offset));
        self.lane(offset).pass(floor);
    }

    /// All places in memory, for a queue that was never written down.
    pub(crate) fn places(&self) -> Vec<(u64, Place)> {
        self.lanes.iter().flat_map(Lane::places).collect()
    }

    /// Whether it holds something of a segment.
    pub(crate) fn uses(&self, segment: u64) -> bool {
        self.segments.iter().any(|used| used.number == segment)
    }

    /// What the cursors had of the queue before its lanes were known is nothing.
    pub(crate) fn begin_at_lanes(&mut self) {
        let lanes: Vec<u64> = self.lanes.iter().map(|lane| lane.first).collect();
        if let Some(main) = &mut self.main {
            for first in lanes {
                main.forget_below(first);
            }
        }
    }

    // Cursors.

    pub(crate) fn main(&self) -> Option<&Cursor> {
        self.main.as_ref()
    }

    pub(crate) fn cursor(&self, id: CursorId) -> Option<&Cursor> {
        if id == CursorId::MAIN { self.main.as_ref() } else { self.others.get(&id) }
    }

    pub(crate) fn cursor_mut(&mut self, id: CursorId) -> Option<&mut Cursor> {
        if id == CursorId::MAIN { self.main.as_mut() } else { self.others.get_mut(&id) }
    }

    /// A cursor and the lanes it goes through.
    pub(crate) fn cursor_and_lanes(&mut self, id: CursorId) -> Option<(&mut Cursor, &[Lane])> {
        let cursor =
            if id == CursorId::MAIN { self.main.as_mut() } else { self.others.get_mut(&id) };
        Some((cursor?, &self.lanes))
    }

    pub(crate) fn cursors(&self) -> impl Iterator<Item = (CursorId, &Cursor)> {
        let main = self.main.iter().map(|main| (CursorId::MAIN, main));
        main.chain(self.others.iter().map(|(id, cursor)| (*id, cursor)))
    }

    /// Its further cursors, from this one on.
    pub(crate) fn cursors_from(&self, from: CursorId) -> impl Iterator<Item = CursorId> {
        self.others.iter_from(from).map(|(id, _)| *id)
    }

    pub(crate) fn cursors_mut(&mut self) -> impl Iterator<Item = &mut Cursor> {
        self.main.iter_mut().chain(self.others.iter_mut().map(|(_, cursor)| cursor))
    }

    pub(crate) fn has_cursors(&self) -> bool {
        self.main.is_some() || !self.others.is_empty()
    }

    pub(crate) fn insert_cursor(&mut self, id: CursorId, cursor: Cursor) {
        self.others.insert(id, cursor);
    }

    /// Puts a cursor where one of this id is or is not.
    pub(crate) fn replace_cursor(&mut self, id: CursorId, cursor: Cursor) {
        if id == CursorId::MAIN {
            self.main = Some(cursor);
        } else {
            self.others.insert(id, cursor);
        }
    }

    pub(crate) fn remove_cursor(&mut self, id: CursorId) -> Option<Cursor> {
        let removed = self.others.remove(&id);
        self.note_wanted(id);
        removed
    }

    /// Notes whether a cursor is waited on.
    pub(crate) fn note_wanted(&mut self, id: CursorId) {
        if self.cursor(id).is_some_and(Cursor::is_wanted) {
            self.wanted.insert(id);
        } else {
            self.wanted.remove(id);
        }
    }

    /// How many consumers its cursors have.
    pub(crate) fn consumers(&self) -> usize {
        let seats = |id| self.cursor(id).map_or(0, |cursor| cursor.seats.len());
        self.wanted.iter().map(seats).sum()
    }

    /// Records that could be handed out, and their bytes, for a queue that has its own cursor.
    pub(crate) fn ready(&self) -> (u64, u64) {
        let (out, bytes) = self
            .main
            .as_ref()
            .map_or((0, 0), |main| (main.in_hand.len() as u64, main.in_hand_bytes));
        (self.live.saturating_sub(out), self.bytes.saturating_sub(bytes))
    }

    /// Whether a queue that keeps everything keeps more than it may.
    pub(crate) fn keeps_too_much(&self, default_max: u64) -> bool {
        self.def.retention == Retention::Time
            && self.bytes > self.def.policy.bytes_max.unwrap_or(default_max)
    }

    /// Notes that its time to be looked at is to be found anew, if it has any.
    pub(crate) fn note_due_unknown(&mut self, all: &mut Vec<QueueId>) {
        if self.has_times() && !self.is_due_unknown {
            self.is_due_unknown = true;
            all.push(self.def.id);
        }
    }

    /// Whether some record may have an end to its time.
    pub(crate) fn may_expire(&self) -> bool {
        self.has_expiring || (self.def.policy.ttl_ms.is_some() && self.live > 0)
    }

    /// A queue of a filter goes by this, whatever was declared.
    pub(crate) fn follow_filters(&mut self, policy: &Arc<Policy>) {
        if matches!(self.found, Found::ByFilter(_)) && self.def.policy != *policy {
            Arc::make_mut(&mut self.def).policy = policy.clone();
        }
    }

    /// Goes by what these rules ask of its name from now on; tells whether that is something else
    /// than before.
    pub(crate) fn follow(&mut self, rules: &Rules) -> bool {
        if self.found != Found::ByName || self.is_provisional {
            return false;
        }
        let policy = rules.of_queue(&self.def, &self.declared);
        if self.def.policy == policy {
            return false;
        }
        self.is_bounded = policy.is_bounded();
        if let Some(main) = &mut self.main {
            main.policy = shared_delivery(&policy.delivery);
        }
        Arc::make_mut(&mut self.def).policy = policy;
        true
    }

    /// Whether its definition asks for a look at some time, or its records do.
    pub(crate) fn has_times(&self) -> bool {
        self.may_expire()
            || self.is_behind
            || self.def.retention == Retention::Time
            || self.def.policy.expires_ms.is_some()
    }
}
