//! A lane: an ordered list of places in the log, kept in packed blocks.
//!
//! A queue has one lane, or one for each priority in use. Offsets carry the lane in their top byte,
//! so that a plain comparison of offsets is the order of delivery. An entry that is no longer
//! needed becomes a hole at once; a block of nothing but holes is not kept anywhere. Blocks that
//! the index has may leave memory; they come back when a cursor reaches them.

use mainstem_index::{BLOCK_ENTRIES, Batch, Entry as Place, Index, IndexError, LANE_SHIFT};
use mainstem_schemas::{Offset, QueueId};
use smallvec::SmallVec;

/// Blocks of one lane that stay in memory after a checkpoint.
const RESIDENT_BLOCKS_MAX: usize = 16;

#[derive(Debug)]
pub(crate) struct Lane {
    /// Entries below are forgotten.
    pub(crate) first: u64,
    /// The offset the next record gets.
    pub(crate) next: u64,
    /// Blocks in memory, ascending.
    blocks: SmallVec<[Block; 1]>,
    /// Blocks of these numbers may be in the index.
    stored: (u64, u64),
    /// Of most lanes, of which there may be millions, there is nothing to say.
    rare: Option<Box<Rare>>,
}

/// What there is to say of a lane whose blocks come from the index, or leave it.
#[derive(Debug, Default)]
struct Rare {
    /// Counts blocks read back.
    clock: u32,
    /// Blocks that became empty since the last checkpoint, and may be in the index.
    emptied: Vec<u64>,
    /// The same, in the checkpoint that is being made: the index has them until that is committed.
    deleting: Vec<u64>,
}

#[derive(Debug)]
struct Block {
    number: u64,
    /// Where in the block `entries` begin; all before are holes.
    base: usize,
    entries: Vec<Place>,
    /// Entries that are no holes.
    live: u16,
    /// Has changes that no checkpoint wrote.
    dirty: bool,
    /// The index has it as it is, so it may be forgotten. A block that a checkpoint has gathered
    /// is neither dirty nor in the index yet.
    is_stored: bool,
    /// The lane's clock when it was used last.
    used: u32,
}

/// Holes at the front of a block that are let go of together.
const LEADING_HOLES_MAX: usize = 16;

fn within(offset: u64) -> usize {
    usize::try_from(offset % BLOCK_ENTRIES).unwrap_or(usize::MAX)
}

impl Block {
    fn new(number: u64) -> Self {
        Self {
            number,
            base: 0,
            entries: Vec::new(),
            live: 0,
            dirty: true,
            is_stored: false,
            used: 0,
        }
    }

    fn change(&mut self) {
        self.dirty = true;
        self.is_stored = false;
    }

    /// Puts an entry into a slot, and returns what was there.
    fn put(&mut self, slot: usize, place: Place) -> Place {
        self.change();
        if self.live == 0 {
            self.entries.clear();
            self.base = slot;
        }
        if slot < self.base {
            self.entries.splice(0..0, std::iter::repeat_n(Place::HOLE, self.base - slot));
            self.base = slot;
        }
        let at = slot - self.base;
        if at == self.entries.len() {
            if at == 0 {
                self.entries.reserve_exact(1);
            }
            self.entries.push(place);
            self.live += 1;
            return Place::HOLE;
        }
        if at > self.entries.len() {
            self.entries.resize(at + 1, Place::HOLE);
        }
        let Some(entry) = self.entries.get_mut(at) else { return Place::HOLE };
        let before = std::mem::replace(entry, place);
        self.live += u16::from(before.is_hole());
        before
    }

    fn get(&self, slot: usize) -> Option<Place> {
        let entry = self.entries.get(slot.checked_sub(self.base)?)?;
        (!entry.is_hole()).then_some(*entry)
    }

    fn take(&mut self, slot: usize) -> Option<Place> {
        let at = slot.checked_sub(self.base)?;
        let entry = self.entries.get_mut(at).filter(|entry| !entry.is_hole())?;
        let taken = std::mem::replace(entry, Place::HOLE);
        self.change();
        self.live -= 1;
        if at + 1 >= LEADING_HOLES_MAX {
            let holes = self.entries.iter().take_while(|entry| entry.is_hole()).count();
            if holes >= LEADING_HOLES_MAX {
                self.entries.drain(..holes);
                self.base += holes;
            }
        }
        Some(taken)
    }
}

impl Lane {
    /// An empty lane.
    pub(crate) fn new(lane: u8) -> Self {
        let start = u64::from(lane) << LANE_SHIFT;
        Self::restore(start, start)
    }

    /// A lane as a checkpoint wrote it.
    pub(crate) fn restore(first: u64, next: u64) -> Self {
        let stored = (first / BLOCK_ENTRIES, next.div_ceil(BLOCK_ENTRIES));
        Self { first, next, blocks: SmallVec::new(), stored, rare: None }
    }

    /// Looks at itself, and answers anything.
    pub(crate) fn near(&self) -> u64 {
        let block = self.blocks.last().map_or(0, |block| block.number);
        self.first.wrapping_add(self.stored.0).wrapping_add(block)
    }

    /// The same for its newest place.
    pub(crate) fn far(&self) -> u64 {
        let newest = self.blocks.last().and_then(|block| block.entries.last());
        newest.map_or(0, |place| place.position.0)
    }

    /// Which lane this is.
    pub(crate) fn id(&self) -> u64 {
        self.first >> LANE_SHIFT
    }

    fn find(&self, number: u64) -> Result<usize, usize> {
        match self.blocks.last() {
            Some(last) if last.number == number => Ok(self.blocks.len() - 1),
            Some(last) if last.number < number => Err(self.blocks.len()),
            _ => self.blocks.binary_search_by_key(&number, |block| block.number),
        }
    }

    fn clock(&self) -> u32 {
        self.rare.as_ref().map_or(0, |rare| rare.clock)
    }

    fn may_be_stored(&self, queue: QueueId, number: u64) -> bool {
        (self.stored.0..self.stored.1).contains(&number)
            && !queue.is_transient()
            && self.rare.as_ref().is_none_or(|rare| {
                !rare.emptied.contains(&number) && !rare.deleting.contains(&number)
            })
    }

    /// Lets go of the block that was read back and not used for the longest time, if there are many:
    /// one reader is ahead, another behind, and both come back to theirs.
    fn make_room(&mut self) {
        let tail = self.next / BLOCK_ENTRIES;
        let clock = self.clock();
        let stored = || self.blocks.iter().enumerate().filter(|(_, block)| block.is_stored);
        if self.blocks.len() < RESIDENT_BLOCKS_MAX || stored().count() < RESIDENT_BLOCKS_MAX {
            return;
        }
        let oldest = stored()
            .filter(|(_, block)| block.number != tail)
            .max_by_key(|(_, block)| clock.wrapping_sub(block.used))
            .map(|(at, _)| at);
        if let Some(at) = oldest {
            self.blocks.remove(at);
        }
    }

    /// The place of a block in memory, read from the index if it is there.
    fn load(
        &mut self,
        queue: QueueId,
        number: u64,
        index: &Index,
    ) -> Result<Option<usize>, IndexError> {
        if let Ok(at) = self.find(number) {
            let clock = self.clock();
            if let Some(block) = self.blocks.get_mut(at) {
                block.used = clock;
            }
            return Ok(Some(at));
        }
        if !self.may_be_stored(queue, number) {
            return Ok(None);
        }
        let Some(value) = index.block(queue, number)? else { return Ok(None) };
        let live = value.entries.iter().filter(|entry| !entry.is_hole()).count();
        let live = u16::try_from(live).unwrap_or(u16::MAX);
        let (base, entries) = (within(value.first.0), value.entries);
        // Only where there is more than one block does it matter which was used last.
        if !self.blocks.is_empty() {
            let rare = self.rare.get_or_insert_default();
            rare.clock = rare.clock.wrapping_add(1);
        }
        let (dirty, is_stored, used) = (false, true, self.clock());
        self.make_room();
        let at = self.blocks.partition_point(|block| block.number < number);
        let block = Block { number, base, entries, live, dirty, is_stored, used };
        self.blocks.insert(at, block);
        Ok(Some(at))
    }

    /// Puts a record's place at an offset, which is `next` except where a log whose beginning was
    /// trimmed is replayed: there entries come out of order, and some before they are known to be
    /// over. Returns what was there.
    pub(crate) fn put(
        &mut self,
        queue: QueueId,
        offset: u64,
        place: Place,
        index: &Index,
    ) -> Result<Place, IndexError> {
        if offset < self.first {
            return Ok(Place::HOLE);
        }
        self.next = self.next.max(offset.saturating_add(1));
        let number = offset / BLOCK_ENTRIES;
        let at = match self.load(queue, number, index)? {
            Some(at) => at,
            None => {
                let at = self.blocks.partition_point(|block| block.number < number);
                self.blocks.insert(at, Block::new(number));
                if let Some(rare) = &mut self.rare {
                    rare.emptied.retain(|emptied| *emptied != number);
                }
                at
            }
        };
        let block = self.blocks.get_mut(at);
        Ok(block.map_or(Place::HOLE, |block| block.put(within(offset), place)))
    }

    /// The entry at an offset, from memory or from the index. `None` where there is none any more.
    pub(crate) fn get(
        &mut self,
        queue: QueueId,
        offset: u64,
        index: &Index,
    ) -> Result<Option<Place>, IndexError> {
        if offset < self.first || offset >= self.next {
            return Ok(None);
        }
        let at = self.load(queue, offset / BLOCK_ENTRIES, index)?;
        let block = at.and_then(|at| self.blocks.get(at));
        Ok(block.and_then(|block| block.get(within(offset))))
    }

    /// Makes the entry at an offset a hole, and returns it.
    pub(crate) fn take(
        &mut self,
        queue: QueueId,
        offset: u64,
        index: &Index,
    ) -> Result<Option<Place>, IndexError> {
        if offset < self.first || offset >= self.next {
            return Ok(None);
        }
        let number = offset / BLOCK_ENTRIES;
        let Some(at) = self.load(queue, number, index)? else { return Ok(None) };
        let is_full = number < self.next / BLOCK_ENTRIES;
        let Some(block) = self.blocks.get_mut(at) else { return Ok(None) };
        let Some(taken) = block.take(within(offset)) else { return Ok(None) };
        if block.live == 0 {
            if is_full {
                self.blocks.remove(at);
            }
            if number < self.stored.1 {
                let emptied = &mut self.rare.get_or_insert_default().emptied;
                if emptied.last() != Some(&number) {
                    emptied.push(number);
                }
            }
        }
        Ok(Some(taken))
    }

    /// Forgets everything below `below`, telling of what was still there.
    pub(crate) fn trim(
        &mut self,
        queue: QueueId,
        below: u64,
        index: &Index,
        mut each: impl FnMut(u64, Place),
    ) -> Result<(), IndexError> {
        let below = below.min(self.next);
        let mut at = self.first;
        while at < below {
            let number = at / BLOCK_ENTRIES;
            let end = below.min((number + 1) * BLOCK_ENTRIES);
            if self.load(queue, number, index)?.is_some() {
                for offset in at..end {
                    if let Some(place) = self.take(queue, offset, index)? {
                        each(offset, place);
                    }
                }
            }
            at = end;
        }
        self.pass(below);
        Ok(())
    }

    /// Raises `first` over entries that are holes already.
    pub(crate) fn pass(&mut self, below: u64) {
        self.first = self.first.max(below.min(self.next));
        let number = self.first / BLOCK_ENTRIES;
        let tail = self.next / BLOCK_ENTRIES;
        if let Some(rare) = &mut self.rare {
            rare.emptied.retain(|emptied| *emptied >= number);
        }
        while self.blocks.first().is_some_and(|block| block.number < number && block.number < tail)
        {
            self.blocks.remove(0);
        }
    }

    /// Forgets everything at once, without a look at it.
    pub(crate) fn clear(&mut self) {
        self.first = self.next;
        let tail = self.next / BLOCK_ENTRIES;
        self.blocks.retain(|block| block.number == tail);
        for block in &mut self.blocks {
            block.entries.clear();
            block.live = 0;
            block.change();
        }
        if let Some(rare) = &mut self.rare {
            rare.emptied.clear();
        }
        if (self.stored.0..self.stored.1).contains(&tail) {
            self.rare.get_or_insert_default().emptied.push(tail);
        }
    }

    /// Hands the changed blocks to a batch.
    pub(crate) fn write(&mut self, queue: QueueId, batch: &mut Batch) {
        let from = self.first / BLOCK_ENTRIES;
        if let Some(rare) = &mut self.rare {
            for number in rare.emptied.drain(..).filter(|number| *number >= from) {
                batch.delete_blocks(queue, number, number + 1);
                rare.deleting.push(number);
            }
        }
        for block in &mut self.blocks {
            if !block.dirty {
                continue;
            }
            block.dirty = false;
            if block.live > 0 {
                // Holes at either end are left out, so that what is written says what is there,
                // and not how it came to be.
                let holes = block.entries.iter().take_while(|entry| entry.is_hole()).count();
                let end = block.entries.iter().rposition(|entry| !entry.is_hole());
                let kept = block.entries.get(holes..=end.unwrap_or(holes)).unwrap_or_default();
                let first = block.number * BLOCK_ENTRIES + (block.base + holes) as u64;
                batch.put_block(queue, Offset(first), kept);
                self.stored.1 = self.stored.1.max(block.number + 1);
            }
        }
        if self.stored.0 < from {
            batch.delete_blocks(queue, self.stored.0, from.min(self.stored.1));
            self.stored.0 = from;
            self.stored.1 = self.stored.1.max(from);
        }
    }

    /// What was written is in the index now: lets go of blocks, the lowest ones first, which
    /// readers have passed.
    pub(crate) fn evict(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.deleting.clear();
            if rare.emptied.is_empty() && self.blocks.len() <= 1 {
                self.rare = None;
                // The clock begins anew.
                self.blocks.iter_mut().for_each(|block| block.used = 0);
            }
        }
        let tail = self.next / BLOCK_ENTRIES;
        let mut excess = self.blocks.len().saturating_sub(RESIDENT_BLOCKS_MAX);
        self.blocks.retain(|block| {
            block.is_stored |= !block.dirty;
            let keep = excess == 0 || block.dirty || block.number == tail;
            excess = excess.saturating_sub(usize::from(!keep));
            keep
        });
    }

    /// All entries in memory.
    pub(crate) fn places(&self) -> Vec<(u64, Place)> {
        let mut places = Vec::new();
        for block in &self.blocks {
            let first = block.number * BLOCK_ENTRIES + block.base as u64;
            let entries = (first..).zip(&block.entries);
            places.extend(entries.filter(|(_, e)| !e.is_hole()).map(|(at, e)| (at, *e)));
        }
        places
    }

    /// Bounds as the index keeps them.
    pub(crate) fn bounds(&self) -> (Offset, Offset) {
        (Offset(self.first), Offset(self.next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_is_kept_does_not_look_old_to_a_clock_that_begins_anew() {
        let mut lane = Lane::new(0);
        lane.blocks.push(Block { used: 7, ..Block::new(0) });
        lane.rare.get_or_insert_default().clock = 7;
        lane.evict();
        assert_eq!((lane.clock(), lane.blocks[0].used), (0, 0));
    }
}
