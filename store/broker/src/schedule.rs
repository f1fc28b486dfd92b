//! What is to happen at a time: the near future in memory, the rest in the index.
//!
//! The index holds every item beyond the horizon, under a key that begins with its time. What was
//! added or removed since the last checkpoint is remembered here until the index knows of it.

use std::{collections::BTreeSet, mem};

use mainstem_schemas::UnixMillis;

/// How far the near future reaches.
const HORIZON_MS: u64 = 10 * 60 * 1000;

/// Items by the time they are due.
#[derive(Debug)]
pub(crate) struct Schedule<K> {
    near: BTreeSet<(UnixMillis, K)>,
    /// Beyond the horizon, and in no checkpoint yet.
    far: BTreeSet<(UnixMillis, K)>,
    /// The same, in the checkpoint that is being made.
    gathered: BTreeSet<(UnixMillis, K)>,
    /// Removed beyond the horizon, but the index may still have them.
    gone: BTreeSet<(UnixMillis, K)>,
    gone_gathered: BTreeSet<(UnixMillis, K)>,
    horizon: UnixMillis,
}

impl<K> Default for Schedule<K> {
    fn default() -> Self {
        Self {
            near: BTreeSet::new(),
            far: BTreeSet::new(),
            gathered: BTreeSet::new(),
            gone: BTreeSet::new(),
            gone_gathered: BTreeSet::new(),
            horizon: UnixMillis::NONE,
        }
    }
}

impl<K: Ord + Copy> Schedule<K> {
    pub(crate) fn insert(&mut self, at: UnixMillis, item: K) {
        if at < self.horizon {
            self.near.insert((at, item));
        } else {
            self.gone.remove(&(at, item));
            self.gone_gathered.remove(&(at, item));
            self.far.insert((at, item));
        }
    }

    pub(crate) fn remove(&mut self, at: UnixMillis, item: K) {
        let key = (at, item);
        if at < self.horizon {
            self.near.remove(&key);
        } else {
            self.far.remove(&key);
            self.gathered.remove(&key);
            self.gone.insert(key);
        }
    }

    /// When the first item is due, or the horizon must be moved, whichever comes first.
    pub(crate) fn next(&self) -> UnixMillis {
        let look = UnixMillis(self.horizon.0.saturating_sub(HORIZON_MS / 2));
        self.near.first().map_or(look, |(at, _)| (*at).min(look))
    }

    /// The first item at a time from `from` on that `is_it` says is meant. The outer `None` says that
    /// only the index knows.
    pub(crate) fn find(
        &self,
        at: UnixMillis,
        from: K,
        is_it: impl Fn(&K) -> bool,
    ) -> Option<Option<K>> {
        let first = |set: &BTreeSet<(UnixMillis, K)>| {
            let (found, item) = set.range((at, from)..).next()?;
            (*found == at && is_it(item)).then_some(*item)
        };
        let known = first(&self.near).or_else(|| first(&self.far));
        if let Some(item) = known.or_else(|| first(&self.gathered)) {
            return Some(Some(item));
        }
        let is_gone = first(&self.gone).or_else(|| first(&self.gone_gathered)).is_some();
        (at < self.horizon || is_gone).then_some(None)
    }

    /// Takes the first item that is due.
    pub(crate) fn pop(&mut self, now: UnixMillis) -> Option<(UnixMillis, K)> {
        let first = self.near.first().copied().filter(|(at, _)| *at <= now)?;
        self.near.remove(&first);
        Some(first)
    }

    /// Puts an item back that was taken too early to be dealt with.
    pub(crate) fn put_back(&mut self, at: UnixMillis, item: K) {
        self.near.insert((at, item));
    }

    /// The times that are to be read from the index now, half open.
    pub(crate) fn wanted(&self, now: UnixMillis) -> Option<(UnixMillis, UnixMillis)> {
        let is_close = now.plus(HORIZON_MS / 2) >= self.horizon;
        is_close.then(|| (self.horizon, now.plus(HORIZON_MS)))
    }

    /// Moves the horizon to `to`, given what the index has between the old one and it.
    pub(crate) fn extend(&mut self, to: UnixMillis, stored: Vec<(UnixMillis, K)>) {
        let is_gone =
            |key: &(UnixMillis, K)| self.gone.contains(key) || self.gone_gathered.contains(key);
        let known: Vec<_> = stored.into_iter().filter(|key| !is_gone(key)).collect();
        self.near.extend(known);
        for far in [&mut self.far, &mut self.gathered] {
            while let Some(first) = far.first().copied().filter(|(at, _)| *at < to) {
                far.remove(&first);
                self.near.insert(first);
            }
        }
        self.horizon = self.horizon.max(to);
    }

    /// A checkpoint takes what was changed so far.
    pub(crate) fn begin_checkpoint(&mut self) {
        self.gathered.append(&mut self.far);
        self.gone_gathered.append(&mut self.gone);
    }

    /// The index knows what the checkpoint took.
    pub(crate) fn end_checkpoint(&mut self) {
        mem::take(&mut self.gathered);
        mem::take(&mut self.gone_gathered);
    }

    /// Items in memory.
    pub(crate) fn len(&self) -> usize {
        self.near.len() + self.far.len() + self.gathered.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A schedule with an index of its own fires what a plain map fires, in the same order.
    #[test]
    fn what_is_due_comes_once_in_order_and_nothing_that_was_removed() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut schedule = Schedule::default();
            let mut model: BTreeMap<(UnixMillis, u32), ()> = BTreeMap::new();
            let mut index: BTreeSet<(UnixMillis, u32)> = BTreeSet::new();
            let mut changes: Vec<(bool, (UnixMillis, u32))> = Vec::new();
            let mut gathered: Option<Vec<_>> = None;
            let mut now = UnixMillis(1_000_000);
            for item in 0..300 {
                match rng.u8(..10) {
                    0..5 => {
                        let at = now.plus(rng.u64(1..3 * HORIZON_MS));
                        schedule.insert(at, item);
                        model.insert((at, item), ());
                        changes.push((true, (at, item)));
                    }
                    5 => {
                        let keys: Vec<_> = model.keys().copied().collect();
                        let Some((at, item)) = rng.choice(keys) else { continue };
                        schedule.remove(at, item);
                        model.remove(&(at, item));
                        changes.push((false, (at, item)));
                    }
                    6 => match gathered.take() {
                        None => {
                            schedule.begin_checkpoint();
                            gathered = Some(mem::take(&mut changes));
                        }
                        Some(written) => {
                            for (is_put, key) in written {
                                if is_put {
                                    index.insert(key)
                                } else {
                                    index.remove(&key)
                                };
                            }
                            schedule.end_checkpoint();
                        }
                    },
                    _ => now = now.plus(rng.u64(..HORIZON_MS / 3)),
                }
                if let Some((from, to)) = schedule.wanted(now) {
                    let stored = index.iter().filter(|(at, _)| (from..to).contains(at));
                    schedule.extend(to, stored.copied().collect());
                }
                while let Some(due) = schedule.pop(now) {
                    let first = model.pop_first().map(|(key, ())| key);
                    assert_eq!(Some(due), first, "seed {seed}");
                    changes.push((false, due));
                }
                let late = model.keys().next().is_some_and(|(at, _)| *at <= now);
                assert!(!late, "seed {seed}: something is late at {now:?}");
            }
        }
    }
}
