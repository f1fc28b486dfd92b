//! The newest records, kept in memory for readers that follow closely.

use std::{cell::Cell, collections::VecDeque, sync::Arc};

use mainstem_schemas::{Position, Record};

use crate::passage::Passage;

/// A record, and how it came where it is if it was not published there.
pub(crate) type Kept = (Record, Option<Arc<Passage>>);

/// Records by position. Positions only grow, so a search is by halving.
#[derive(Debug)]
pub(crate) struct Tail {
    records: VecDeque<(Position, Kept)>,
    /// How many records have left, so that a place can be told whatever leaves.
    left: usize,
    /// Where the record after the one found last is, counted from the very first: readers follow
    /// the log.
    likely: Cell<usize>,
    bytes: usize,
    bytes_max: usize,
}

impl Tail {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { records: VecDeque::new(), left: 0, likely: Cell::new(0), bytes: 0, bytes_max }
    }

    /// Adds the newest record. Older ones go when there are too many bytes, but never one at
    /// `written` or above, which nobody could read elsewhere.
    pub(crate) fn push(
        &mut self,
        position: Position,
        record: Record,
        passage: Option<Arc<Passage>>,
        written: Position,
    ) {
        self.bytes += record.bytes().len();
        self.records.push_back((position, (record, passage)));
        while self.bytes > self.bytes_max {
            match self.records.front() {
                Some((oldest, (record, _))) if *oldest < written => {
                    self.bytes -= record.bytes().len();
                    self.records.pop_front();
                    self.left += 1;
                }
                _ => break,
            }
        }
    }

    /// Records are mostly of a size, so the place is guessed from the position; from there the search
    /// goes in growing steps.
    fn search(&self, position: Position) -> Option<usize> {
        let (first, last) = (self.records.front()?.0, self.records.back()?.0);
        if position < first || position > last {
            return None;
        }
        let at = |index: usize| self.records.get(index).map_or(u64::MAX, |(at, _)| at.0);
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

    pub(crate) fn get(&self, position: Position) -> Option<Kept> {
        let likely = self.likely.get().wrapping_sub(self.left);
        let is_there = self.records.get(likely).is_some_and(|(at, _)| *at == position);
        let index = if is_there { likely } else { self.search(position)? };
        self.likely.set(self.left + index + 1);
        self.records.get(index).map(|(_, kept)| kept.clone())
    }
}

#[cfg(test)]
mod tests {
    use mainstem_schemas::{Address, RecordDraft};

    use super::*;

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
                tail.push(Position(position), record, None, Position(u64::MAX));
                kept.push((position, u64::from(number)));
                let (at, wanted) = kept[rng.usize(..kept.len())];
                let oldest = tail.records.front().map_or(0, |(at, _)| at.0);
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
