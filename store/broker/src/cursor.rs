//! A cursor: what one consuming party has settled, has in hand, and may get next.
//!
//! The floors, the settled ranges above them and the returned records are durable and change only
//! by applying log entries. Everything else lives in memory: after a restart, what was in hand is
//! handed out anew.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::{Deref, DerefMut},
    sync::{Arc, LazyLock},
};

use mainstem_index::{CursorName, HeldBack, LANE_SHIFT, Progress};
use mainstem_schemas::{ConsumerId, Offset, UnixMillis};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::{
    command::{Claim, ClientId, Reply},
    hands::Hands,
    inbox::Delivery,
    lane::Lane,
    policy::DeliveryPolicy,
    ranges::Ranges,
};

/// A delivery that is not settled yet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct InHand {
    pub(crate) client: ClientId,
    /// `None` for what was taken one by one or fetched.
    pub(crate) consumer: Option<ConsumerId>,
    /// The pool it counts in, if a consumer took it.
    pub(crate) pool: u16,
    pub(crate) epoch: u32,
    pub(crate) attempt: u32,
    /// Bytes of the record's body.
    pub(crate) body: u32,
    /// The record's ordering group; 0 for none.
    pub(crate) group: u32,
    /// When it is released by itself; unset if only its client's end releases it.
    pub(crate) deadline: UnixMillis,
}

/// Somebody who waits for records of this cursor.
#[derive(Debug)]
pub(crate) struct Fetcher {
    pub(crate) id: u64,
    pub(crate) client: ClientId,
    pub(crate) max: usize,
    pub(crate) claim: Claim,
    pub(crate) deadline: UnixMillis,
    pub(crate) reply: Reply<Vec<Delivery>>,
}

/// A consumer's place in the cursor's round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) priority: i32,
    pub(crate) client: ClientId,
    pub(crate) consumer: ConsumerId,
}

/// A record that came back, with how often it was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Returned {
    pub(crate) attempts: u32,
    /// It rests until then.
    pub(crate) until: UnixMillis,
}

/// Progress in one lane.
#[derive(Clone, Copy, Debug)]
struct Track {
    /// Everything below is settled.
    floor: u64,
    /// The first offset never looked at, as far as this process knows.
    next: u64,
}

/// An ordering group with a record that is handed out, or returned and to be handed out again.
#[derive(Debug)]
struct Busy {
    /// The one record of the group that may be handed out.
    head: u64,
    /// Those behind it that were looked at.
    parked: VecDeque<u64>,
}

#[derive(Debug)]
pub(crate) struct Cursor {
    pub(crate) name: Arc<CursorName>,
    pub(crate) policy: Arc<DeliveryPolicy>,
    /// By lane; the first lane's is always there.
    tracks: SmallVec<[Track; 1]>,
    pub(crate) settled: Ranges,
    epoch: u32,
    /// Changed since the last checkpoint.
    pub(crate) dirty: bool,
    /// On the list of cursors to look at in this turn.
    pub(crate) is_touched: bool,
    /// What there is only where somebody consumes, or has. Millions of cursors have none.
    party: Option<Box<Party>>,
}

/// Those who consume from a cursor, and what they have of it.
#[derive(Debug, Default)]
pub(crate) struct Party {
    pub(crate) returned: BTreeMap<u64, Returned>,
    /// Looked at before, and to be handed out before what was not.
    ready: BTreeSet<u64>,
    pub(crate) in_hand: Hands<InHand>,
    pub(crate) in_hand_bytes: u64,
    /// Consumers, the highest priority first.
    pub(crate) seats: Vec<Seat>,
    /// Whose turn it is among the seats.
    pub(crate) turn: usize,
    pub(crate) fetchers: VecDeque<Fetcher>,
    groups: Option<Box<Groups>>,
}

/// One for all: there may be millions.
static MAIN_NAME: LazyLock<Arc<CursorName>> = LazyLock::new(|| Arc::new(CursorName::Main));
/// The party of a cursor that has none.
static NOBODY: LazyLock<Party> = LazyLock::new(Party::default);

impl Deref for Cursor {
    type Target = Party;

    fn deref(&self) -> &Party {
        match &self.party {
            Some(party) => party,
            None => &NOBODY,
        }
    }
}

impl DerefMut for Cursor {
    fn deref_mut(&mut self) -> &mut Party {
        self.party.get_or_insert_default()
    }
}

#[derive(Debug, Default)]
struct Groups {
    busy: FxHashMap<u32, Busy>,
    parked: usize,
}

/// Whether a record may be handed out as far as its ordering group goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Free,
    /// Another of its group is out; this one was put aside.
    Parked,
    /// As many were put aside as may be: nothing behind is looked at.
    Full,
}

impl Cursor {
    /// A cursor whose lane of `floor` begins there.
    pub(crate) fn new(name: CursorName, policy: Arc<DeliveryPolicy>, floor: u64) -> Self {
        let name = match name {
            CursorName::Main => MAIN_NAME.clone(),
            name => Arc::new(name),
        };
        Self {
            name,
            policy,
            tracks: SmallVec::from_elem(Track { floor, next: floor }, 1),
            settled: Ranges::default(),
            epoch: 0,
            dirty: true,
            is_touched: false,
            party: None,
        }
    }

    /// Looks at itself, and answers anything.
    pub(crate) fn near(&self) -> u64 {
        let floor = self.tracks.first().map_or(0, |track| track.floor);
        floor.wrapping_add(u64::from(self.epoch)).wrapping_add(u64::from(self.settled.is_empty()))
    }

    /// The same for those who consume from it.
    pub(crate) fn far(&self) -> u64 {
        self.party.as_ref().map_or(0, |party| party.in_hand_bytes.wrapping_add(party.turn as u64))
    }

    /// The same for what they have.
    pub(crate) fn farther(&self) -> u64 {
        self.party.as_ref().map_or(0, |party| party.in_hand.near())
    }

    /// A cursor as it was written down.
    pub(crate) fn restore(
        name: CursorName,
        policy: Arc<DeliveryPolicy>,
        progress: &Progress,
    ) -> Self {
        let mut cursor = Self::new(name, policy, 0);
        cursor.dirty = false;
        cursor.take_over(progress);
        cursor
    }

    /// Takes the durable part from what was written down.
    pub(crate) fn take_over(&mut self, progress: &Progress) {
        if !progress.floors.is_empty() {
            self.tracks = progress
                .floors
                .iter()
                .map(|floor| Track { floor: floor.0, next: floor.0 })
                .collect();
        }
        self.settled = Ranges::of(progress.settled.iter().map(|(from, to)| (from.0, to.0)));
        if !progress.held.is_empty() {
            let returned = progress.held.iter().map(|held| {
                (held.offset.0, Returned { attempts: held.attempts, until: held.until })
            });
            self.returned = returned.collect();
        }
    }

    /// The durable part. A lane where nothing was settled is left out, but for the first: that it
    /// has a track says only that somebody looked at it.
    pub(crate) fn progress(&self) -> Progress {
        let is_told = |floor: &u64| *floor >> LANE_SHIFT == 0 || *floor << (64 - LANE_SHIFT) != 0;
        let floors = self.tracks.iter().map(|track| track.floor).filter(is_told);
        Progress {
            floors: floors.map(Offset).collect(),
            settled: self.settled.iter().map(|(from, to)| (Offset(from), Offset(to))).collect(),
            held: self
                .returned
                .iter()
                .map(|(offset, returned)| HeldBack {
                    offset: Offset(*offset),
                    attempts: returned.attempts,
                    until: returned.until,
                })
                .collect(),
        }
    }

    fn track(&mut self, offset: u64) -> &mut Track {
        let lane = offset >> LANE_SHIFT;
        let at = match self.tracks.iter().position(|track| track.floor >> LANE_SHIFT >= lane) {
            Some(at) => at,
            None => self.tracks.len(),
        };
        let is_there = self.tracks.get(at).is_some_and(|track| track.floor >> LANE_SHIFT == lane);
        if !is_there {
            let start = lane << LANE_SHIFT;
            self.tracks.insert(at, Track { floor: start, next: start });
        }
        self.tracks.get_mut(at).expect("it was found or inserted just above")
    }

    /// The floor of the lane that `offset` is in.
    pub(crate) fn floor_at(&self, offset: u64) -> u64 {
        let lane = offset >> LANE_SHIFT;
        let track = self.tracks.iter().find(|track| track.floor >> LANE_SHIFT == lane);
        track.map_or(lane << LANE_SHIFT, |track| track.floor)
    }

    /// Applies that `from..to`, offsets of one lane, is settled.
    pub(crate) fn settle(&mut self, from: u64, to: u64) {
        self.dirty = true;
        let alone = self.settled.is_empty();
        let track = self.track(from);
        let mut floor = track.floor;
        if from <= floor && alone {
            floor = floor.max(to);
        } else {
            self.settled.insert(from.max(floor), to);
            floor = self.settled.raise(floor);
        }
        let track = self.track(from);
        track.floor = floor;
        track.next = track.next.max(floor);
        if !self.returned.is_empty() || !self.ready.is_empty() {
            while let Some((offset, _)) = self.returned.range(from..to).next() {
                let offset = *offset;
                self.returned.remove(&offset);
            }
            while let Some(offset) = self.ready.range(from..to).next().copied() {
                self.ready.remove(&offset);
            }
        }
    }

    /// Applies that the queue forgot everything below `first`. Returns what was in hand of it.
    pub(crate) fn forget_below(&mut self, first: u64) -> Vec<(u64, InHand)> {
        let floor = self.floor_at(first);
        if floor >= first {
            return Vec::new();
        }
        self.settle(floor, first);
        let hands = self.in_hand.iter().map(|(offset, _)| offset);
        let gone: Vec<u64> = hands.filter(|offset| (floor..first).contains(offset)).collect();
        gone.into_iter().filter_map(|offset| Some((offset, self.drop_hand(offset)?))).collect()
    }

    /// Whether a handed-out or handed-back record is still to be settled.
    pub(crate) fn is_settled(&self, offset: u64) -> bool {
        offset < self.floor_at(offset) || self.settled.contains(offset)
    }

    /// The first offset of the first lane that nobody looked at.
    pub(crate) fn first_new(&self) -> u64 {
        self.tracks.first().map_or(0, |track| track.next.max(track.floor))
    }

    /// The offset to hand out next: the lowest, of what came back and of what is new.
    pub(crate) fn peek(&mut self, lanes: &[Lane]) -> Option<u64> {
        let back = self.ready.first().copied();
        if let [lane] = lanes
            && let [track] = self.tracks.as_mut_slice()
        {
            if back.is_some() {
                return back;
            }
            if !self.settled.is_empty() {
                track.next = self.settled.skip(track.next);
            }
            track.next = track.next.max(lane.first);
            return (track.next < lane.next).then_some(track.next);
        }
        for lane in lanes {
            if back.is_some_and(|back| back < lane.next) {
                return back;
            }
            let next = self.track(lane.first).next.max(lane.first);
            let next = self.settled.skip(next);
            self.track(lane.first).next = next;
            if next < lane.next {
                return Some(next);
            }
        }
        back
    }

    /// Takes what [`Cursor::peek`] showed.
    pub(crate) fn advance(&mut self, offset: u64) {
        if self.ready.is_empty() || !self.ready.remove(&offset) {
            self.track(offset).next = offset.saturating_add(1);
        }
    }

    /// How often a record was handed out before, and until when it rests.
    pub(crate) fn returned(&self, offset: u64) -> Returned {
        let fresh = Returned { attempts: 0, until: UnixMillis::NONE };
        if self.returned.is_empty() {
            return fresh;
        }
        self.returned.get(&offset).copied().unwrap_or(fresh)
    }

    /// A record that was looked at before may be handed out now.
    pub(crate) fn make_ready(&mut self, offset: u64) {
        if !self.is_settled(offset)
            && self.in_hand.get(offset).is_none()
            && offset < self.track(offset).next
        {
            self.ready.insert(offset);
        }
    }

    /// Drops what is new or came back from the round, up to `end` of a lane; it is to be settled.
    pub(crate) fn drain(&mut self, lane: &Lane) -> Vec<(u64, u64)> {
        let id = lane.id();
        let back: Vec<u64> =
            self.ready.iter().filter(|offset| **offset >> LANE_SHIFT == id).copied().collect();
        let mut ranges: Vec<(u64, u64)> = back.iter().map(|at| (*at, at + 1)).collect();
        let track = self.track(lane.first);
        ranges.push((track.next.max(lane.first), lane.next));
        track.next = lane.next;
        for offset in back {
            self.ready.remove(&offset);
        }
        ranges.retain(|(from, to)| from < to);
        ranges
    }

    /// Whether nothing is left unsettled when this range within a lane is settled.
    pub(crate) fn ends_with(&self, lanes: &[Lane], range: (u64, u64)) -> bool {
        let all = lanes.iter().map(|lane| self.unsettled((lane.first, lane.next))).sum::<u64>();
        all == self.unsettled(range)
    }

    /// How many offsets of a range within a lane are not settled.
    pub(crate) fn unsettled(&self, (from, to): (u64, u64)) -> u64 {
        self.unsettled_in(from, to).into_iter().map(|(from, to)| to - from).sum()
    }

    /// The parts of a range within a lane that are not settled.
    pub(crate) fn unsettled_in(&self, from: u64, to: u64) -> SmallVec<[(u64, u64); 2]> {
        self.settled.gaps(from.max(self.floor_at(from)), to)
    }

    /// The epoch of the last handing-out.
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Goes on behind the epochs of an earlier life in memory.
    pub(crate) fn set_epoch(&mut self, epoch: u32) {
        self.epoch = epoch;
    }

    /// A new epoch for a handing-out.
    pub(crate) fn next_epoch(&mut self) -> u32 {
        self.epoch = self.epoch.wrapping_add(1);
        self.epoch
    }

    /// Notes a handing-out.
    pub(crate) fn hand_out(&mut self, offset: u64, hand: InHand) {
        self.in_hand_bytes += u64::from(hand.body);
        self.in_hand.insert(offset, hand);
    }

    /// Notes that a handing-out is over.
    pub(crate) fn drop_hand(&mut self, offset: u64) -> Option<InHand> {
        let hand = self.in_hand.remove(offset)?;
        self.in_hand_bytes = self.in_hand_bytes.saturating_sub(u64::from(hand.body));
        Some(hand)
    }

    /// Whether a record may be handed out as far as its ordering group goes; if so, the group waits
    /// for it. At most `parked_max` records are put aside.
    pub(crate) fn take_turn(&mut self, offset: u64, group: u32, parked_max: usize) -> Turn {
        let head = self.groups.as_ref().and_then(|groups| groups.busy.get(&group));
        if let Some(head) = head.map(|busy| busy.head)
            && self.is_settled(head)
        {
            self.end_turn(head, group);
        }
        let groups = self.groups.get_or_insert_default();
        match groups.busy.get_mut(&group) {
            None => {
                groups.busy.insert(group, Busy { head: offset, parked: VecDeque::new() });
                Turn::Free
            }
            Some(busy) if busy.head == offset => Turn::Free,
            Some(_) if groups.parked >= parked_max => Turn::Full,
            Some(busy) => {
                busy.parked.push_back(offset);
                groups.parked += 1;
                Turn::Parked
            }
        }
    }

    /// Records put aside.
    #[cfg(test)]
    pub(crate) fn parked(&self) -> usize {
        self.groups.as_ref().map_or(0, |groups| groups.parked)
    }

    /// A record of an ordering group is settled: the next one of the group may go.
    pub(crate) fn end_turn(&mut self, offset: u64, group: u32) {
        loop {
            let Some(groups) = &mut self.groups else { return };
            let Some(busy) = groups.busy.get_mut(&group).filter(|busy| busy.head == offset) else {
                return;
            };
            let Some(next) = busy.parked.pop_front() else {
                groups.busy.remove(&group);
                return;
            };
            groups.parked -= 1;
            if self.is_settled(next) {
                continue;
            }
            if let Some(busy) = self.groups.as_mut().and_then(|all| all.busy.get_mut(&group)) {
                busy.head = next;
            }
            self.make_ready(next);
            return;
        }
    }

    /// Lets go of the room for a party where there is none.
    pub(crate) fn shrink(&mut self) {
        let is_over = self.party.as_ref().is_some_and(|party| {
            party.returned.is_empty()
                && party.ready.is_empty()
                && party.in_hand.is_empty()
                && party.seats.is_empty()
                && party.fetchers.is_empty()
                && party.groups.as_ref().is_none_or(|groups| groups.busy.is_empty())
        });
        if is_over {
            self.party = None;
        }
    }

    /// Whether anybody wants records now.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.seats.is_empty() || !self.fetchers.is_empty()
    }

    /// Whether nothing but what is written down would be lost with it.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_wanted()
            && self.in_hand.is_empty()
            && self.groups.as_ref().is_none_or(|groups| groups.busy.is_empty())
            && !self.is_touched
    }

    /// Whether what was fetched together last is still out. What cannot be read stays out for good,
    /// and keeps nobody waiting.
    pub(crate) fn has_batch_out(&self) -> bool {
        self.policy.batched && self.in_hand.iter().any(|(_, hand)| hand.client != ClientId::NOBODY)
    }

    /// Adds a consumer behind those of its priority; where only one is active, behind all.
    pub(crate) fn sit(&mut self, seat: Seat) {
        let place = if self.policy.single_active {
            self.seats.len()
        } else {
            self.seats.partition_point(|other| other.priority >= seat.priority)
        };
        self.seats.insert(place, seat);
        self.turn = 0;
    }

    /// Removes a consumer.
    pub(crate) fn stand(&mut self, client: ClientId, consumer: ConsumerId) {
        self.seats.retain(|seat| seat.client != client || seat.consumer != consumer);
        self.turn = 0;
    }
}
