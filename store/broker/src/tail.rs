//! The newest records, kept in memory for readers that follow closely.

use std::collections::VecDeque;

use mainstem_schemas::{Position, Record};

/// Records by position. Positions only grow, so a search is by halving.
#[derive(Debug)]
pub(crate) struct Tail {
    records: VecDeque<(Position, Record)>,
    bytes: usize,
    bytes_max: usize,
}

impl Tail {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { records: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Adds the newest record. Older ones go when there are too many bytes, but never one at
    /// `written` or above, which nobody could read elsewhere.
    pub(crate) fn push(&mut self, position: Position, record: Record, written: Position) {
        self.bytes += record.bytes().len();
        self.records.push_back((position, record));
        while self.bytes > self.bytes_max {
            match self.records.front() {
                Some((oldest, record)) if *oldest < written => {
                    self.bytes -= record.bytes().len();
                    self.records.pop_front();
                }
                _ => break,
            }
        }
    }

    pub(crate) fn get(&self, position: Position) -> Option<Record> {
        let index = self.records.binary_search_by_key(&position, |(at, _)| *at).ok()?;
        self.records.get(index).map(|(_, record)| record.clone())
    }
}
