//! Queues brought near ahead of their use.
//!
//! Where there are very many in use, each is far away in memory when its turn comes, and a step that
//! waits for one after the other does little else. A look at several beforehand waits for all of them
//! together.

use std::hint::black_box;

use mainstem_schemas::QueueId;
use smallvec::SmallVec;

use super::{State, queues::Queues};
use crate::{command::Publish, queue::Queue};

/// With fewer queues in memory everything is near enough.
const QUEUES_MIN: usize = if cfg!(test) { 2 } else { 512 };
/// Steps that are looked ahead together: what they need stays near until they come.
pub(crate) const AHEAD: usize = 32;

/// Some queues, and nothing of them yet.
pub(crate) type Ahead = SmallVec<[QueueId; AHEAD]>;

impl Queues {
    /// Whether there are so many that it is worth it to look ahead.
    pub(crate) fn are_many(&self) -> bool {
        self.len() >= QUEUES_MIN
    }

    /// Looks at queues that will be used at once, where there are many.
    pub(crate) fn warm(&self, ids: impl Iterator<Item = QueueId>) -> SmallVec<[&Queue; AHEAD]> {
        if !self.are_many() {
            return SmallVec::new();
        }
        let mut last = None;
        let other = ids.filter(|id| last.replace(*id) != Some(*id));
        let found: SmallVec<[&Queue; AHEAD]> = other.filter_map(|id| self.peek(id)).collect();
        // Each round needs what the one before brought.
        black_box(found.iter().map(|queue| queue.near()).fold(0, u64::wrapping_add));
        black_box(found.iter().map(|queue| queue.far()).fold(0, u64::wrapping_add));
        found
    }
}

impl State {
    /// The queues that records go to by name, as far as they are in memory.
    pub(crate) fn named(&self, namespace: &str, batch: &[Publish]) -> Ahead {
        let Some(space) = self.namespaces.get(namespace) else { return Ahead::new() };
        let mut last = None;
        let names = batch.iter().filter_map(|publish| publish.record.direct_queue());
        let other = names.filter(|name| last.replace(*name) != Some(*name));
        other.filter_map(|name| space.named.get(name).copied().flatten()).collect()
    }
}
