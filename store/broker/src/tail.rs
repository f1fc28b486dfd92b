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

    pub(crate) fn get(&self, position: Position) -> Option<Kept> {
        let likely = self.likely.get().wrapping_sub(self.left);
        let is_there = self.records.get(likely).is_some_and(|(at, _)| *at == position);
        let index = if is_there {
            likely
        } else {
            self.records.binary_search_by_key(&position, |(at, _)| *at).ok()?
        };
        self.likely.set(self.left + index + 1);
        self.records.get(index).map(|(_, kept)| kept.clone())
    }
}
