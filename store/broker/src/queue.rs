//! A queue: an ordered list of places in the log, kept in packed blocks, and its cursors.
//!
//! Blocks that are full and written to the index may leave memory; they come back when a cursor
//! reaches them.

use std::{collections::BTreeMap, sync::Arc};

use mainstem_index::{BLOCK_ENTRIES, BlockValue, CursorName, Entry, Index, IndexError, QueueName};
use mainstem_schemas::{CursorId, Offset, QueueId};

use crate::{
    command::{ClientId, QueueDef, Retention},
    cursor::Cursor,
    exchange::BindingKey,
    ranges::Ranges,
};

/// Full blocks of one queue that stay in memory after a checkpoint.
const RESIDENT_BLOCKS_MAX: usize = 16;

/// A queue's places in the log, in blocks; some in memory, the others in the index.
#[derive(Debug)]
pub(crate) struct Entries {
    queue: QueueId,
    /// Entries below are forgotten.
    pub(crate) first: u64,
    /// The offset the next record gets.
    pub(crate) next: u64,
    /// Blocks in memory, by number.
    blocks: BTreeMap<u64, Block>,
    /// Blocks below this number are not in the index.
    deleted_below: u64,
}

#[derive(Debug)]
struct Block {
    entries: Vec<Entry>,
    /// Has entries that no checkpoint wrote.
    dirty: bool,
    /// It was read from the index and has not changed, so it can be read again. A block that a
    /// checkpoint has just gathered is neither dirty nor in the index yet.
    is_read_back: bool,
}

#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: QueueName,
    /// The definition as clients see it; for a queue without a name of its own, a made-up one.
    pub(crate) def: Arc<QueueDef>,
    pub(crate) entries: Entries,
    /// How long a record stays worth delivering here, in milliseconds (argument `x-message-ttl`).
    ttl_ms: Option<u64>,
    pub(crate) cursors: BTreeMap<CursorId, Cursor>,
    /// Cursors that somebody waits on; the others sleep and cost nothing.
    pub(crate) wanted: Vec<CursorId>,
    /// The connection that may use it alone.
    pub(crate) owner: Option<ClientId>,
    /// A consumer has it alone.
    pub(crate) has_exclusive_consumer: bool,
    /// It had a consumer once, so auto-delete may act.
    pub(crate) was_consumed: bool,
    /// Bindings that lead here, by exchange.
    pub(crate) bound: Vec<(String, BindingKey)>,
    /// On the list of queues to look at in this turn.
    pub(crate) is_touched: bool,
    /// On the list of queues that the next checkpoint writes.
    pub(crate) is_dirty: bool,
}

impl Entries {
    fn new(queue: QueueId) -> Self {
        Self { queue, first: 0, next: 0, blocks: BTreeMap::new(), deleted_below: 0 }
    }

    /// Restores what a checkpoint wrote: `tail` is the block that `next` falls into, if it has
    /// entries.
    pub(crate) fn restore(&mut self, first: Offset, next: Offset, tail: Option<BlockValue>) {
        self.first = first.0;
        self.next = next.0;
        self.deleted_below = first.0 / BLOCK_ENTRIES;
        if let Some(tail) = tail {
            let block = Block { entries: tail.entries, dirty: false, is_read_back: true };
            self.blocks.insert(tail.first.0 / BLOCK_ENTRIES, block);
        }
    }

    /// Appends a record's place and returns its offset.
    pub(crate) fn push(&mut self, entry: Entry) -> u64 {
        let offset = self.next;
        let number = offset / BLOCK_ENTRIES;
        let empty = || Block { entries: Vec::new(), dirty: true, is_read_back: false };
        let block = match self.blocks.last_entry() {
            Some(last) if *last.key() == number => last.into_mut(),
            _ => self.blocks.entry(number).or_insert_with(empty),
        };
        block.dirty = true;
        block.is_read_back = false;
        block.entries.push(entry);
        self.next = offset.saturating_add(1);
        offset
    }

    /// The entry at an offset, from memory or from the index. `None` when it was forgotten.
    pub(crate) fn get(&mut self, offset: u64, index: &Index) -> Result<Option<Entry>, IndexError> {
        if offset < self.first || offset >= self.next {
            return Ok(None);
        }
        let number = offset / BLOCK_ENTRIES;
        let within = usize::try_from(offset % BLOCK_ENTRIES).unwrap_or(usize::MAX);
        if !self.blocks.contains_key(&number) && !self.queue.is_transient() {
            let Some(value) = index.block(self.queue, number)? else { return Ok(None) };
            if self.blocks.len() >= 2 * RESIDENT_BLOCKS_MAX {
                let tail = self.next / BLOCK_ENTRIES;
                self.blocks.retain(|at, block| !block.is_read_back || *at == tail);
            }
            let block = Block { entries: value.entries, dirty: false, is_read_back: true };
            self.blocks.insert(number, block);
        }
        Ok(self.blocks.get(&number).and_then(|block| block.entries.get(within)).copied())
    }

    /// Forgets everything below `below`.
    fn trim(&mut self, below: u64) {
        self.first = self.first.max(below.min(self.next));
        let number = self.first / BLOCK_ENTRIES;
        while let Some(block) = self.blocks.first_entry() {
            if *block.key() >= number {
                break;
            }
            block.remove();
        }
    }

    /// How many records the queue holds.
    pub(crate) fn len(&self) -> u64 {
        self.next.saturating_sub(self.first)
    }

    /// Hands out the blocks to be written and marks them written; returns the block numbers to be
    /// deleted, half open.
    pub(crate) fn write_blocks(&mut self, mut write: impl FnMut(u64, BlockValue)) -> (u64, u64) {
        for (number, block) in &mut self.blocks {
            if block.dirty {
                let first = Offset(number.saturating_mul(BLOCK_ENTRIES));
                write(*number, BlockValue { first, entries: block.entries.clone() });
                block.dirty = false;
            }
        }
        let below = self.first / BLOCK_ENTRIES;
        let deleted = (self.deleted_below, below);
        self.deleted_below = below;
        deleted
    }

    /// Lets go of blocks that the index has, the lowest ones first, which readers have passed.
    pub(crate) fn evict(&mut self) {
        let tail = self.next / BLOCK_ENTRIES;
        let mut excess = self.blocks.len().saturating_sub(RESIDENT_BLOCKS_MAX);
        self.blocks.retain(|number, block| {
            let keep = excess == 0 || block.dirty || *number == tail;
            excess = excess.saturating_sub(usize::from(!keep));
            keep
        });
    }
}

impl Queue {
    pub(crate) fn new(namespace: Arc<str>, name: QueueName, def: QueueDef) -> Self {
        let mut cursors = BTreeMap::new();
        if def.retention == Retention::Unsettled {
            cursors.insert(CursorId::MAIN, Cursor::new(CursorName::Main, 0, Ranges::default(), 0));
        }
        Self {
            namespace,
            name,
            entries: Entries::new(def.id),
            ttl_ms: ttl_ms(&def.arguments),
            def: Arc::new(def),
            cursors,
            wanted: Vec::new(),
            owner: None,
            has_exclusive_consumer: false,
            was_consumed: false,
            bound: Vec::new(),
            is_touched: false,
            is_dirty: false,
        }
    }

    /// Appends a record's place and returns its offset.
    pub(crate) fn push(&mut self, mut entry: Entry) -> u64 {
        if let Some(ttl_ms) = self.ttl_ms {
            let expiry = entry.appended.plus(ttl_ms);
            entry.expiry = if entry.expiry.is_set() { entry.expiry.min(expiry) } else { expiry };
        }
        let offset = self.entries.push(entry);
        if self.cursors.is_empty() {
            self.trim_settled();
        }
        offset
    }

    /// Forgets everything below `below`, and so do the cursors.
    pub(crate) fn trim(&mut self, below: u64) {
        self.entries.trim(below);
        for cursor in self.cursors.values_mut() {
            cursor.forget_below(self.entries.first);
        }
    }

    /// Trims to what the queue's cursors still need.
    pub(crate) fn trim_settled(&mut self) {
        if self.def.retention == Retention::Time {
            return;
        }
        let floors = self.cursors.values().map(|cursor| cursor.floor);
        let floor = floors.min().unwrap_or(self.entries.next);
        if floor > self.entries.first {
            self.trim(floor);
        }
    }

    /// Notes whether a cursor is waited on.
    pub(crate) fn note_wanted(&mut self, id: CursorId) {
        let is_wanted = self.cursors.get(&id).is_some_and(Cursor::is_wanted);
        let listed = self.wanted.contains(&id);
        if is_wanted && !listed {
            self.wanted.push(id);
        } else if !is_wanted && listed {
            self.wanted.retain(|other| *other != id);
        }
    }

    /// How many consumers its cursors have.
    pub(crate) fn consumers(&self) -> usize {
        let seats = |id: &CursorId| self.cursors.get(id).map_or(0, |cursor| cursor.seats.len());
        self.wanted.iter().map(seats).sum()
    }
}

fn ttl_ms(arguments: &mainstem_schemas::Table) -> Option<u64> {
    let (_, value) = arguments.iter().find(|(name, _)| name == "x-message-ttl")?;
    u64::try_from(value.as_int()?).ok()
}
