//! The newest records, kept in memory for readers that follow closely.

use std::{collections::VecDeque, sync::Arc};

use mainstem_schemas::{Position, Record};

use crate::passage::Passage;

/// A record, and how it came where it is if it was not published there.
type Kept = (Record, Option<Arc<Passage>>);

/// Records by position. Positions only grow, so a search is by halving.
#[derive(Debug)]
pub(crate) struct Tail {
    records: VecDeque<(Position, Kept)>,
    bytes: usize,
    bytes_max: usize,
}

impl Tail {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { records: VecDeque::new(), bytes: 0, bytes_max }
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
                }
                _ => break,
            }
        }
    }

    pub(crate) fn get(&self, position: Position) -> Option<Kept> {
        let index = self.records.binary_search_by_key(&position, |(at, _)| *at).ok()?;
        self.records.get(index).map(|(_, kept)| kept.clone())
    }
}
