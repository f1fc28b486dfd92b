//! A cursor: what one consuming party has settled, has in hand, and may get next.
//!
//! The floor and the settled ranges above it are durable and change only by applying log entries.
//! Everything else lives in memory: after a restart, what was in hand is handed out anew.

use std::collections::{BTreeMap, VecDeque};

use mainstem_index::CursorName;
use mainstem_schemas::{ConsumerId, UnixMillis};
use rustc_hash::FxHashMap;

use crate::{
    command::{Claim, ClientId, Reply},
    inbox::Delivery,
    ranges::Ranges,
};

/// A delivery that is not settled yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InHand {
    pub(crate) client: ClientId,
    /// `None` for what was taken one by one or fetched.
    pub(crate) consumer: Option<ConsumerId>,
    /// The pool it counts in, if a consumer took it.
    pub(crate) pool: u16,
    pub(crate) epoch: u32,
    pub(crate) attempt: u32,
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
    pub(crate) reply: Reply<Vec<Delivery>>,
}

/// A consumer's place in the cursor's round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) priority: i32,
    pub(crate) client: ClientId,
    pub(crate) consumer: ConsumerId,
}

#[derive(Debug)]
pub(crate) struct Cursor {
    pub(crate) name: CursorName,
    /// Everything below is settled.
    pub(crate) floor: u64,
    pub(crate) settled: Ranges,
    /// Changed since the last checkpoint.
    pub(crate) dirty: bool,

    /// The first offset never handed out, as far as this process knows.
    pub(crate) next: u64,
    /// Handed out and put back, with the attempts made.
    pub(crate) released: BTreeMap<u64, u32>,
    pub(crate) in_hand: FxHashMap<u64, InHand>,
    /// Below this, an earlier run of the process may have handed records out.
    pub(crate) seen_below: u64,
    epoch: u32,
    /// Consumers, the highest priority first.
    pub(crate) seats: Vec<Seat>,
    /// Whose turn it is among the seats.
    pub(crate) turn: usize,
    pub(crate) fetchers: VecDeque<Fetcher>,
    /// On the list of cursors to look at in this turn.
    pub(crate) is_touched: bool,
}

impl Cursor {
    /// A cursor at `floor` with what is settled above it. `seen_below` is where an earlier run
    /// may have come to.
    pub(crate) fn new(name: CursorName, floor: u64, settled: Ranges, seen_below: u64) -> Self {
        Self {
            name,
            floor,
            settled,
            dirty: true,
            next: floor,
            released: BTreeMap::new(),
            in_hand: FxHashMap::default(),
            seen_below,
            epoch: 0,
            seats: Vec::new(),
            turn: 0,
            fetchers: VecDeque::new(),
            is_touched: false,
        }
    }

    /// Applies that `from..to` is settled.
    pub(crate) fn settle(&mut self, from: u64, to: u64) {
        self.dirty = true;
        if from <= self.floor && self.settled.is_empty() {
            self.floor = self.floor.max(to);
        } else {
            self.settled.insert(from.max(self.floor), to);
            self.floor = self.settled.raise(self.floor);
        }
        self.next = self.next.max(self.floor);
        while from < to
            && let Some((offset, _)) = self.released.range(from..to).next()
        {
            let offset = *offset;
            self.released.remove(&offset);
        }
    }

    /// Applies that the queue forgot everything below `first`.
    pub(crate) fn forget_below(&mut self, first: u64) {
        if self.floor < first {
            self.settle(self.floor, first);
            self.in_hand.retain(|offset, _| *offset >= first);
        }
    }

    /// Whether a handed-out or handed-back record is still to be settled.
    pub(crate) fn is_settled(&self, offset: u64) -> bool {
        offset < self.floor || self.settled.contains(offset)
    }

    /// The offset to hand out next, given the queue's end, with the attempts made so far.
    pub(crate) fn peek(&mut self, end: u64) -> Option<(u64, u32)> {
        if let Some((offset, attempts)) = self.released.first_key_value() {
            return Some((*offset, *attempts));
        }
        if !self.settled.is_empty() {
            self.next = self.settled.skip(self.next);
        }
        (self.next < end).then_some((self.next, 0))
    }

    /// Takes what [`Cursor::peek`] showed.
    pub(crate) fn advance(&mut self, offset: u64) {
        if self.released.remove(&offset).is_none() {
            self.next = offset.saturating_add(1);
        }
    }

    /// A new epoch for a handing-out.
    pub(crate) fn next_epoch(&mut self) -> u32 {
        self.epoch = self.epoch.wrapping_add(1);
        self.epoch
    }

    /// Puts a delivery back. `counts` says whether the attempt counts.
    pub(crate) fn release(&mut self, offset: u64, hand: &InHand, counts: bool) {
        if !self.is_settled(offset) {
            self.released.insert(offset, hand.attempt.saturating_sub(u32::from(!counts)));
        }
    }

    /// How many records could be handed out now, given the queue's end.
    pub(crate) fn ready(&self, end: u64) -> u64 {
        let ahead = end.saturating_sub(self.next);
        ahead.saturating_sub(self.settled.count_from(self.next)) + self.released.len() as u64
    }

    /// Whether anybody wants records now.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.seats.is_empty() || !self.fetchers.is_empty()
    }

    /// Adds a consumer behind those of its priority.
    pub(crate) fn sit(&mut self, seat: Seat) {
        let place = self.seats.partition_point(|other| other.priority >= seat.priority);
        self.seats.insert(place, seat);
        self.turn = 0;
    }

    /// Removes a consumer.
    pub(crate) fn stand(&mut self, client: ClientId, consumer: ConsumerId) {
        self.seats.retain(|seat| seat.client != client || seat.consumer != consumer);
        self.turn = 0;
    }
}
