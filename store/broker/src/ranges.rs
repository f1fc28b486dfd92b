//! A set of offsets kept as half-open ranges: what a cursor has settled above its floor.

use std::collections::BTreeMap;

use smallvec::SmallVec;

/// Ranges `from..to`: mostly one, and of very many cursors at a time.
pub(crate) type Spans = SmallVec<[(u64, u64); 1]>;

/// Adds an offset to ranges that are still to be put in order, joining it to the last one if it
/// follows.
pub(crate) fn push_offset(ranges: &mut Spans, offset: u64) {
    match ranges.last_mut() {
        Some((_, to)) if *to == offset => *to += 1,
        _ => ranges.push((offset, offset + 1)),
    }
}

/// Disjoint, non-touching ranges `from..to`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    by_start: BTreeMap<u64, u64>,
}

impl Ranges {
    /// The set of these ranges.
    pub(crate) fn of(ranges: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut set = Self::default();
        for (from, to) in ranges {
            set.insert(from, to);
        }
        set
    }

    /// Adds `from..to`, joining what it meets.
    pub(crate) fn insert(&mut self, mut from: u64, mut to: u64) {
        if from >= to {
            return;
        }
        if let Some((start, end)) = self.at_or_before(from)
            && end >= from
        {
            from = start;
            to = to.max(end);
        }
        while let Some((start, end)) = self.by_start.range(from..=to).next().map(|(s, e)| (*s, *e))
        {
            to = to.max(end);
            self.by_start.remove(&start);
        }
        self.by_start.insert(from, to);
    }

    /// Where the run of members that `at` belongs to ends; `at` itself when it is no member.
    pub(crate) fn skip(&self, at: u64) -> u64 {
        match self.at_or_before(at) {
            Some((_, end)) if end > at => end,
            _ => at,
        }
    }

    /// The parts of `from..to` that are not members.
    pub(crate) fn gaps(&self, from: u64, to: u64) -> SmallVec<[(u64, u64); 2]> {
        let mut gaps = SmallVec::new();
        let mut at = self.skip(from);
        for (start, end) in self.by_start.range(at..to.max(at)) {
            if *start > at {
                gaps.push((at, *start));
            }
            at = *end;
        }
        if at < to {
            gaps.push((at, to));
        }
        gaps
    }

    pub(crate) fn contains(&self, at: u64) -> bool {
        self.skip(at) != at
    }

    /// Takes out the range that begins at `floor`, and returns where it ends; `floor` if there is
    /// none.
    pub(crate) fn raise(&mut self, floor: u64) -> u64 {
        self.by_start.remove(&floor).unwrap_or(floor)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_start.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.by_start.iter().map(|(start, end)| (*start, *end))
    }

    fn at_or_before(&self, at: u64) -> Option<(u64, u64)> {
        self.by_start.range(..=at).next_back().map(|(start, end)| (*start, *end))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ranges_hold_what_a_plain_set_holds() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
            for _ in 0..40 {
                let from = random.u64(0..60);
                let to = from + random.u64(0..6);
                ranges.insert(from, to);
                model.extend(from..to);
            }
            for at in 0..70 {
                assert_eq!(ranges.contains(at), model.contains(&at), "seed {seed} at {at}");
            }
            let from = random.u64(0..70);
            let to = from + random.u64(0..30);
            let outside: Vec<u64> = (from..to).filter(|at| !model.contains(at)).collect();
            let gaps: Vec<u64> =
                ranges.gaps(from, to).into_iter().flat_map(|(from, to)| from..to).collect();
            assert_eq!(gaps, outside, "seed {seed} from {from} to {to}");
            let Some(floor) = ranges.iter().map(|(start, _)| start).nth(1) else { continue };
            let raised = ranges.raise(floor);
            assert_eq!(Some(raised), (floor..).find(|at| !model.contains(at)), "seed {seed}");
            assert!(!ranges.contains(floor));
        }
    }
}
