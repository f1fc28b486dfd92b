//! The cursors of a queue that somebody waits on. Most queues have one or none; a topic may have as
//! many as there are readers by place.

use std::{collections::BTreeSet, mem, ops::Bound};

use mainstem_schemas::CursorId;

#[expect(clippy::box_collection, reason = "sixteen bytes: there may be a million queues in memory")]
#[derive(Debug, Default)]
pub(crate) enum Wanted {
    #[default]
    None,
    One(CursorId),
    Many(Box<BTreeSet<CursorId>>),
}

impl Wanted {
    pub(crate) fn insert(&mut self, id: CursorId) {
        match self {
            Self::None => *self = Self::One(id),
            Self::One(one) if *one == id => {}
            Self::One(one) => *self = Self::Many(Box::new(BTreeSet::from([*one, id]))),
            Self::Many(many) => {
                many.insert(id);
            }
        }
    }

    pub(crate) fn remove(&mut self, id: CursorId) {
        match self {
            Self::None => {}
            Self::One(one) => {
                if *one == id {
                    *self = Self::None;
                }
            }
            Self::Many(many) => {
                many.remove(&id);
                if many.len() <= 1 {
                    let last = mem::take(many).pop_first();
                    *self = last.map_or(Self::None, Self::One);
                }
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            Self::Many(many) => many.len(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = CursorId> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(one) => (Some(*one), None),
            Self::Many(many) => (None, Some(many)),
        };
        one.into_iter().chain(many.into_iter().flat_map(|many| many.iter().copied()))
    }

    /// All of them once round, beginning behind `last`.
    pub(crate) fn behind(&self, last: CursorId) -> impl Iterator<Item = CursorId> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(one) => (Some(*one), None),
            Self::Many(many) => (None, Some(many)),
        };
        let round = many.into_iter().flat_map(move |many| {
            let after = many.range((Bound::Excluded(last), Bound::Unbounded));
            after.chain(many.range(..=last)).copied()
        });
        one.into_iter().chain(round)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_each_once_and_goes_round() {
        let mut wanted = Wanted::default();
        for id in [3, 1, 2, 3, 1] {
            wanted.insert(CursorId(id));
        }
        let all = |wanted: &Wanted| wanted.iter().map(|id| id.0).collect::<Vec<_>>();
        assert_eq!((wanted.len(), all(&wanted)), (3, vec![1, 2, 3]));
        let round: Vec<u64> = wanted.behind(CursorId(1)).map(|id| id.0).collect();
        assert_eq!(round, [2, 3, 1]);
        for (gone, left) in [(9, vec![1, 2, 3]), (2, vec![1, 3]), (1, vec![3]), (3, vec![])] {
            wanted.remove(CursorId(gone));
            assert_eq!((wanted.len(), all(&wanted)), (left.len(), left), "{gone}");
        }
        assert!(wanted.is_empty());
    }
}
