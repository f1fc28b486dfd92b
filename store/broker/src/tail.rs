//! The newest records, kept in memory for readers that follow closely.

use std::{cell::Cell, collections::VecDeque, sync::Arc};

use mainstem_schemas::{Position, Record};
use rustc_hash::FxHashMap;

use crate::passage::Passage;

/// A record, and how it came where it is if it was not published there.
pub(crate) type Kept = (Record, Option<Arc<Passage>>);

/// Bytes that the place of a record counts for, besides the record's own.
const PLACE_BYTES: usize = 64;

/// The part of the bytes, one of so many, that records may take which were read back.
const READ_BACK_PART: usize = 16;

/// How many positions more than twice the records read back may be remembered, so that one record
/// that nobody takes does not keep those of all that came after it.
const READ_ORDER_SPARE: usize = 16;

/// Records by position. Positions only grow, so a search is by halving.
#[derive(Debug)]
pub(crate) struct Tail {
    records: VecDeque<Slot>,
    /// How many records have left, so that a place can be told whatever leaves.
    left: usize,
    /// Where the record after the one found last is, counted from the very first: readers follow
    /// the log.
    likely: Cell<usize>,
    bytes: usize,
    bytes_max: usize,
    /// Old records that were read back for a queue and are about to be handed out.
    read_back: FxHashMap<Position, Record>,
    /// In this order; some have left already.
    read_order: VecDeque<Position>,
    read_back_bytes: usize,
}

#[derive(Debug)]
struct Slot {
    position: Position,
    /// `None` when its only reader has it.
    kept: Option<Kept>,
    /// Only one party will read it, unless that gives it back.
    is_sole: bool,
}

impl Slot {
    fn bytes(&self) -> usize {
        PLACE_BYTES + self.kept.as_ref().map_or(0, |(record, _)| record.bytes().len())
    }
}

impl Tail {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            records: VecDeque::new(),
            left: 0,
            likely: Cell::new(0),
            bytes: 0,
            bytes_max,
            read_back: FxHashMap::default(),
            read_order: VecDeque::new(),
            read_back_bytes: 0,
        }
    }

    /// Adds the newest record. Older ones go when there are too many bytes, but never one at
    /// `written` or above, which nobody could read elsewhere.
    pub(crate) fn push(
        &mut self,
        position: Position,
        kept: Kept,
        is_sole: bool,
        written: Position,
    ) {
        let slot = Slot { position, kept: Some(kept), is_sole };
        self.bytes += slot.bytes();
        self.records.push_back(slot);
        while let Some(oldest) = self.records.front()
            && oldest.position < written
            && (oldest.kept.is_none() || self.bytes > self.bytes_max)
        {
            self.bytes -= oldest.bytes();
            self.records.pop_front();
            self.left += 1;
        }
    }

    /// Records are mostly of a size, so the place is guessed from the position; from there the search
    /// goes in growing steps.
    fn search(&self, position: Position) -> Option<usize> {
        let (first, last) = (self.records.front()?.position, self.records.back()?.position);
        if position < first || position > last {
            return None;
        }
        let at = |index: usize| self.records.get(index).map_or(u64::MAX, |slot| slot.position.0);
        let end = self.records.len() - 1;
        let share = u128::from(position.0 - first.0) * (end as u128)
            / u128::from((last.0 - first.0).max(1));
        let guess = usize::try_from(share).unwrap_or(end).min(end);
        let (mut low, mut high) = (guess, guess);
        let mut step = 4;
        while low > 0 && at(low) > position.0 {
            high = low;
            low = low.saturating_sub(step);
            step *= 2;
        }
        while high < end && at(high) < position.0 {
            low = high;
            high = (high + step).min(end);
            step *= 2;
        }
        while low < high {
            let middle = low + (high - low) / 2;
            if at(middle) < position.0 { low = middle + 1 } else { high = middle }
        }
        (at(low) == position.0).then_some(low)
    }

    /// Keeps an old record that was read back, so that its reader need not do so again.
    pub(crate) fn keep_read(&mut self, position: Position, record: Record) {
        self.take_read(position);
        self.read_back_bytes += PLACE_BYTES + record.bytes().len();
        self.read_back.insert(position, record);
        self.read_order.push_back(position);
        while let Some(oldest) = self.read_order.front().copied()
            && (self.read_back_bytes > self.bytes_max / READ_BACK_PART
                || self.read_order.len() > 2 * self.read_back.len() + READ_ORDER_SPARE
                || !self.read_back.contains_key(&oldest))
        {
            self.take_read(oldest);
            self.read_order.pop_front();
        }
    }

    fn take_read(&mut self, position: Position) -> Option<Record> {
        if self.read_back.is_empty() {
            return None;
        }
        let record = self.read_back.remove(&position)?;
        self.read_back_bytes -= PLACE_BYTES + record.bytes().len();
        Some(record)
    }

    fn find(&self, position: Position) -> Option<usize> {
        let likely = self.likely.get().wrapping_sub(self.left);
        let is_there = self.records.get(likely).is_some_and(|slot| slot.position == position);
        let index = if is_there { likely } else { self.search(position)? };
        self.likely.set(self.left + index + 1);
        Some(index)
    }

    pub(crate) fn get(&self, position: Position) -> Option<Kept> {
        self.records.get(self.find(position)?)?.kept.clone()
    }

    /// The record for a reader to keep. To its only reader it is given away, if it can be read
    /// from the log by now, should it come back: sharing it costs more than all the rest here.
    pub(crate) fn hand_out(&mut self, position: Position, written: Position) -> Option<Kept> {
        let Some(index) = self.find(position) else {
            return self.take_read(position).map(|record| (record, None));
        };
        let slot = self.records.get_mut(index)?;
        if !slot.is_sole || position >= written {
            return slot.kept.clone();
        }
        let kept = slot.kept.take()?;
        self.bytes -= kept.0.bytes().len();
        Some(kept)
    }
}

#[cfg(test)]
mod tests {
    use mainstem_schemas::{Address, RecordDraft};

    use super::*;

    #[test]
    fn what_only_one_reads_is_given_away_once_it_is_written() {
        let address = Address::http("a".into());
        let record = || RecordDraft::new(&address, "/", b"", &[0; 100]).encode().unwrap();
        let size = PLACE_BYTES + record().bytes().len();
        let mut tail = Tail::new(2 * size);
        let (none, all) = (Position(0), Position(u64::MAX));
        tail.push(Position(1), (record(), None), true, none);
        tail.push(Position(2), (record(), None), false, none);
        assert!(tail.hand_out(Position(1), Position(1)).is_some(), "it is not written yet");
        assert!(tail.hand_out(Position(1), Position(2)).is_some());
        assert!(tail.hand_out(Position(1), Position(2)).is_none(), "it was given away");
        assert!(tail.get(Position(1)).is_none());
        for _ in 0..2 {
            assert!(tail.hand_out(Position(2), all).is_some(), "others read it too");
        }
        assert_eq!(tail.bytes, 2 * size - record().bytes().len());
        tail.push(Position(3), (record(), None), true, all);
        assert_eq!(tail.left, 1, "an empty place at the front goes");
        for at in 4..100 {
            tail.push(Position(at), (record(), None), true, all);
            assert!(tail.hand_out(Position(at), all).is_some());
        }
        assert!(tail.records.len() * PLACE_BYTES <= 2 * size, "empty places go too");
    }

    #[test]
    fn what_was_read_back_is_handed_out_once() {
        let address = Address::http("a".into());
        let record = || RecordDraft::new(&address, "/", b"", &[0; 100]).encode().unwrap();
        let size = PLACE_BYTES + record().bytes().len();
        let mut tail = Tail::new(3 * READ_BACK_PART * size);
        let all = Position(u64::MAX);
        tail.push(Position(1000), (record(), None), false, all);
        for round in 0..50 {
            for at in 1..=4 {
                tail.keep_read(Position(round * 10 + at), record());
            }
            let found =
                |tail: &mut Tail, at| tail.hand_out(Position(round * 10 + at), all).is_some();
            assert!(!found(&mut tail, 1), "there is room for three");
            for at in [3, 2, 4] {
                assert!(found(&mut tail, at) && !found(&mut tail, at));
            }
            assert!(tail.read_back.is_empty() && tail.read_back_bytes == 0);
            assert!(tail.read_order.len() <= 4);
        }
        // One that nobody comes for does not keep the places of all that come after it.
        for at in 1000..2000 {
            tail.keep_read(Position(at), record());
            assert!(at == 1000 || tail.hand_out(Position(at), all).is_some());
        }
        assert!(tail.read_order.len() <= 2 * READ_BACK_PART, "{}", tail.read_order.len());
    }

    #[test]
    fn every_record_is_found_however_large_its_neighbours_are() {
        let address = Address::http("a".into());
        for seed in 0..100 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut tail = Tail::new(20_000);
            let mut kept = Vec::new();
            let mut position = 48;
            for number in 0_u32..300 {
                let body = vec![0; if rng.u8(..10) == 0 { rng.usize(..3000) } else { 10 }];
                let mut draft = RecordDraft::new(&address, "/", b"", &body);
                draft.publisher = u64::from(number);
                let record = draft.encode().unwrap();
                position += rng.u64(1..200) * if rng.u8(..30) == 0 { 1000 } else { 1 };
                tail.push(Position(position), (record, None), false, Position(u64::MAX));
                kept.push((position, u64::from(number)));
                let (at, wanted) = kept[rng.usize(..kept.len())];
                let oldest = tail.records.front().map_or(0, |slot| slot.position.0);
                let found = tail.get(Position(at)).map(|(record, _)| record.publisher());
                assert_eq!(found, (at >= oldest).then_some(wanted), "seed {seed}");
                assert!(tail.get(Position(position + 1)).is_none());
                assert!(
                    tail.get(Position(at - 1))
                        .is_none_or(|(record, _)| { kept.contains(&(at - 1, record.publisher())) })
                );
            }
        }
    }
}
