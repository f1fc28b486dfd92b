//! What a cursor has in hand, by offset.
//!
//! Offsets are handed out in order and mostly come back in order, so they lie in a window that
//! moves along. What stays behind, or comes from elsewhere, is kept apart.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
};

/// Empty slots that the window grows by to reach an offset.
const GAP_MAX: u64 = 8;
/// A window of at most so many slots may be as empty as it likes.
const SPARSE_MIN: usize = 64;

#[derive(Debug)]
pub(crate) struct Hands<T> {
    /// The offset of the first slot.
    base: u64,
    slots: VecDeque<Option<T>>,
    /// How many slots are taken.
    taken: usize,
    apart: BTreeMap<u64, T>,
}

impl<T> Default for Hands<T> {
    fn default() -> Self {
        Self { base: 0, slots: VecDeque::new(), taken: 0, apart: BTreeMap::new() }
    }
}

impl<T> Hands<T> {
    pub(crate) fn len(&self) -> usize {
        self.taken + self.apart.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Looks at the oldest, and answers anything.
    pub(crate) fn near(&self) -> u64 {
        self.slots.front().map_or(0, |slot| u64::from(slot.is_some()))
    }

    fn slot(&self, offset: u64) -> Option<usize> {
        usize::try_from(offset.checked_sub(self.base)?).ok()
    }

    pub(crate) fn get(&self, offset: u64) -> Option<&T> {
        let found = self.slot(offset).and_then(|at| self.slots.get(at)?.as_ref());
        found.or_else(|| self.apart.get(&offset))
    }

    pub(crate) fn get_mut(&mut self, offset: u64) -> Option<&mut T> {
        let at = self.slot(offset);
        match at.and_then(|at| self.slots.get_mut(at)?.as_mut()) {
            Some(found) => Some(found),
            None => self.apart.get_mut(&offset),
        }
    }

    pub(crate) fn insert(&mut self, offset: u64, hand: T) {
        if self.slots.is_empty() {
            self.base = offset;
        }
        let end = self.base + self.slots.len() as u64;
        if offset < self.base || offset - self.base >= self.slots.len() as u64 + GAP_MAX {
            self.apart.insert(offset, hand);
            return;
        }
        if !self.apart.is_empty() {
            self.apart.remove(&offset);
        }
        if offset >= end {
            self.slots.extend((end..offset).map(|_| None));
            self.slots.push_back(Some(hand));
            self.taken += 1;
        } else if let Some(slot) = self.slot(offset).and_then(|at| self.slots.get_mut(at)) {
            self.taken += usize::from(slot.is_none());
            *slot = Some(hand);
        }
    }

    pub(crate) fn remove(&mut self, offset: u64) -> Option<T> {
        let at = self.slot(offset);
        let Some(hand) = at.and_then(|at| self.slots.get_mut(at)?.take()) else {
            return self.apart.remove(&offset);
        };
        self.taken -= 1;
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.base += 1;
        }
        if self.slots.len() > SPARSE_MIN && self.taken < self.slots.len() / 4 {
            // Those at the front stay for long: the window goes on without them.
            let slots = mem::take(&mut self.slots);
            let left = (self.base..).zip(slots).filter_map(|(at, slot)| Some((at, slot?)));
            self.apart.extend(left);
            self.taken = 0;
        }
        Some(hand)
    }

    /// All, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        let slots = (self.base..).zip(&self.slots);
        let within = slots.filter_map(|(at, slot)| Some((at, slot.as_ref()?)));
        within.chain(self.apart.iter().map(|(at, hand)| (*at, hand)))
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().flatten().chain(self.apart.values_mut())
    }

    /// Takes everything out, ascending.
    pub(crate) fn take_all(&mut self) -> Vec<(u64, T)> {
        let Self { base, slots, apart, .. } = mem::take(self);
        let within = (base..).zip(slots).filter_map(|(at, slot)| Some((at, slot?)));
        let mut all: Vec<(u64, T)> = within.chain(apart).collect();
        all.sort_unstable_by_key(|(offset, _)| *offset);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_hold_what_a_plain_map_holds() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut hands, mut model) = (Hands::default(), BTreeMap::new());
            let mut next = random.u64(..1 << 50);
            for step in 0..600 {
                match random.u8(..10) {
                    0..=4 => {
                        next += if random.u8(..20) == 0 { random.u64(..90) } else { 1 };
                        hands.insert(next, step);
                        model.insert(next, step);
                    }
                    5 => {
                        let back = next.saturating_sub(random.u64(..200));
                        hands.insert(back, step);
                        model.insert(back, step);
                    }
                    6..=8 => {
                        // Mostly the oldest ones, but for the very first.
                        let skipped = usize::from(seed % 2 == 0);
                        let Some(offset) = model.keys().nth(skipped).copied() else { continue };
                        assert_eq!(hands.remove(offset), model.remove(&offset));
                        assert_eq!(hands.remove(offset), None);
                    }
                    _ => {
                        let offset = next.saturating_sub(random.u64(..100));
                        assert_eq!(hands.get(offset), model.get(&offset), "seed {seed}");
                        assert_eq!(hands.get_mut(offset), model.get_mut(&offset), "seed {seed}");
                    }
                }
                assert_eq!(hands.len(), model.len(), "seed {seed}");
                assert!(hands.slots.len() <= SPARSE_MIN + 9 * (hands.taken + 1));
            }
            let all: BTreeMap<_, _> = hands.iter().map(|(at, hand)| (at, *hand)).collect();
            assert_eq!(all, model, "seed {seed}");
            assert_eq!(hands.values_mut().count(), model.len());
            assert_eq!(hands.take_all(), model.into_iter().collect::<Vec<_>>(), "seed {seed}");
            assert!(hands.is_empty());
        }
    }
}
