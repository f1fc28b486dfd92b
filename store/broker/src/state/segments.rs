//! What the log's segments still hold that somebody needs.
//!
//! Every queue entry, held body, retained record and definition is one reference to the segment it
//! lies in. A segment without references can go. Durable references are a function of the log;
//! those of transient queues end with the process and are counted apart.

use std::collections::{BTreeMap, BTreeSet};

use mainstem_index::{Batch, SegmentKey, SegmentUse, SegmentValue};
use mainstem_schemas::Position;

#[derive(Debug)]
pub(crate) struct Segments {
    segment_bytes: u64,
    durable: BTreeMap<u64, SegmentValue>,
    transient: BTreeMap<u64, u64>,
    changed: BTreeSet<u64>,
    /// The newest one, which almost every new reference is to, kept out of the map.
    newest: (u64, SegmentValue),
}

impl Segments {
    pub(crate) fn new(segment_bytes: u64) -> Self {
        Self {
            segment_bytes,
            durable: BTreeMap::new(),
            transient: BTreeMap::new(),
            changed: BTreeSet::new(),
            newest: (0, SegmentValue::default()),
        }
    }

    /// The number of the segment that a position is in.
    pub(crate) fn number(&self, position: Position) -> u64 {
        position.0 / self.segment_bytes
    }

    /// Where a segment begins.
    pub(crate) fn base(&self, number: u64) -> Position {
        Position(number.saturating_mul(self.segment_bytes))
    }

    fn entry(&mut self, number: u64) -> &mut SegmentValue {
        if number == self.newest.0 {
            return &mut self.newest.1;
        }
        if number > self.newest.0 {
            self.put_newest_away();
            self.newest = (number, SegmentValue::default());
            return &mut self.newest.1;
        }
        self.changed.insert(number);
        self.durable.entry(number).or_default()
    }

    fn put_newest_away(&mut self) {
        let (number, value) = self.newest;
        self.durable.insert(number, value);
        self.changed.insert(number);
    }

    pub(crate) fn refer(&mut self, number: u64, bytes: u32) {
        let entry = self.entry(number);
        entry.refs += 1;
        entry.bytes += u64::from(bytes);
    }

    pub(crate) fn release(&mut self, number: u64, bytes: u32) {
        let entry = self.entry(number);
        entry.refs = entry.refs.saturating_sub(1);
        entry.bytes = entry.bytes.saturating_sub(u64::from(bytes));
    }

    pub(crate) fn release_all(&mut self, used: &[SegmentUse]) {
        for used in used {
            let entry = self.entry(used.number);
            entry.refs = entry.refs.saturating_sub(used.refs);
            entry.bytes = entry.bytes.saturating_sub(used.bytes);
        }
    }

    pub(crate) fn refer_transient(&mut self, number: u64) {
        *self.transient.entry(number).or_default() += 1;
    }

    pub(crate) fn release_transient(&mut self, number: u64, refs: u64) {
        if let Some(count) = self.transient.get_mut(&number) {
            *count = count.saturating_sub(refs);
            if *count == 0 {
                self.transient.remove(&number);
            }
        }
    }

    /// The references to a segment that survive the process, the bytes they are to, and those that
    /// do not.
    pub(crate) fn usage(&self, number: u64) -> (SegmentValue, u64) {
        let durable = if number == self.newest.0 {
            self.newest.1
        } else {
            self.durable.get(&number).copied().unwrap_or_default()
        };
        (durable, self.transient.get(&number).copied().unwrap_or_default())
    }

    /// Bytes that are referred to, a segment counting at most as its size.
    pub(crate) fn live_bytes(&self) -> u64 {
        let all = self.durable.iter().filter(|(number, _)| **number != self.newest.0);
        let sealed: u64 = all.map(|(_, value)| value.bytes.min(self.segment_bytes)).sum();
        sealed + self.newest.1.bytes.min(self.segment_bytes)
    }

    /// Forgets all before `number`.
    pub(crate) fn trim(&mut self, number: u64) {
        while let Some(first) = self.durable.first_entry() {
            if *first.key() >= number {
                break;
            }
            self.changed.insert(*first.key());
            first.remove();
        }
    }

    pub(crate) fn restore(&mut self, number: u64, value: SegmentValue) {
        self.durable.insert(number, value);
        if number >= self.newest.0 {
            self.newest = (number, value);
        }
    }

    /// Writes what changed since the last time.
    pub(crate) fn write(&mut self, batch: &mut Batch) {
        self.put_newest_away();
        for number in std::mem::take(&mut self.changed) {
            match self.durable.get(&number) {
                Some(value) if value.refs > 0 => batch.put(&SegmentKey { number }, value),
                _ => batch.delete(&SegmentKey { number }),
            }
        }
    }
}
