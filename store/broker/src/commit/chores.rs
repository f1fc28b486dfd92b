//! Chores: work that may be more than one turn's, done a piece in each, so that everybody else is
//! served in between.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
    sync::Arc,
};

use mainstem_schemas::{CursorId, Filter, Offset, Position, QueueId};
use smallvec::SmallVec;

use super::{Commit, Fatal, away::RECORDS_PER_TURN, doomed::Round, parameters::Search, send};
use crate::{
    command::{ClientId, Command, Reply, Retention},
    entry::Entry,
    error::Refusal,
    namespace::RetainedWalk,
    wanted::Wanted,
};

/// Records that one turn passes over on the way to those it hands out: expired ones above all,
/// each of which may be read to be dead-lettered.
const PASSED_PER_TURN: usize = 512;
/// Records that one turn drops from queues over their bounds, for publishes to them and as many
/// besides: each of them may be read to be dead-lettered.
const DROPPED_PER_TURN: usize = 1024;
/// Dead records that one turn tries again to place.
const BURIED_PER_TURN: usize = 256;
/// Bytes of the records that one turn may read for each of these, whatever their number; the one
/// that goes beyond them is the last.
pub(super) const BYTES_PER_TURN: u64 = 8 << 20;
/// Cursors of one queue that one turn looks at when something comes to it.
const SERVED_PER_TURN: usize = 1024;
/// Records that one turn purges, or lets go of behind the slowest reader of a queue.
const PURGED_PER_TURN: u64 = 8192;
/// Addresses that one turn looks at for a filter.
const RETAINED_PER_TURN: usize = 2048;

/// What may still be done in a turn of something that reads a record each time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Budget {
    records: usize,
    bytes: u64,
}

impl Budget {
    pub(super) fn new(records: usize) -> Self {
        Self { records, bytes: BYTES_PER_TURN }
    }

    pub(super) fn is_spent(&self) -> bool {
        self.records == 0 || self.bytes == 0
    }

    /// One more record, of so many bytes.
    pub(super) fn spend(&mut self, bytes: u32) {
        self.records = self.records.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(u64::from(bytes));
    }
}

#[derive(Default)]
pub(super) struct Chores {
    /// Records that may still be passed over in this turn.
    pub(super) passes: Budget,
    /// Records that may still be dropped in this turn from queues over their bounds.
    pub(super) drops: Budget,
    /// The same, for what publishes drop beyond what each of them may.
    pub(super) publish_drops: Budget,
    /// Where among queues over their bounds the next look begins.
    pub(super) bounds_from: QueueId,
    /// Dead records that may still be tried again in this turn.
    pub(super) burials: Budget,
    pub(super) rounds: VecDeque<Round>,
    /// Cursors that had more to pass over.
    late: BTreeSet<(QueueId, CursorId)>,
    /// Queues that more cursors wait at than one turn looks at.
    circles: BTreeMap<QueueId, Circle>,
    /// Gets that met such a cursor.
    gets: Vec<Command>,
    purges: VecDeque<Purge>,
    lookups: VecDeque<Lookup>,
    pub(super) searches: VecDeque<Search>,
    /// What is to be forgotten of sessions that ended.
    pub(super) left_writers: VecDeque<(Arc<str>, String)>,
}

/// A round along the cursors that wait at a queue.
#[derive(Default)]
struct Circle {
    /// The last one that was looked at.
    last: CursorId,
    left: usize,
}

/// What is left of a purge.
struct Purge {
    queue: QueueId,
    rest: Rest,
    /// What there was to purge.
    count: u64,
    reply: Reply<Result<u64, Refusal>>,
}

enum Rest {
    /// Ranges that nobody gets any more and that are still to be settled.
    /// `may_empty` until it is known whether the last of them is all that is left in the queue.
    Settle { ranges: VecDeque<(u64, u64)>, may_empty: bool },
    /// Everything below is to be forgotten.
    Trim(u64),
}

/// A look for retained records.
struct Lookup {
    namespace: Arc<str>,
    filter: Filter,
    walk: RetainedWalk,
    reply: Reply<Vec<(Position, u32)>>,
}

impl Chores {
    /// A cursor came to more than this turn passes over.
    pub(super) fn note_late(&mut self, queue: QueueId, cursor: CursorId) {
        self.late.insert((queue, cursor));
    }

    /// Whether one had.
    pub(super) fn is_late(&self, queue: QueueId, cursor: CursorId) -> bool {
        self.late.contains(&(queue, cursor))
    }

    /// The next cursors of a queue to look at; all of them have their turn after something came.
    pub(super) fn go_round(
        &mut self,
        queue: QueueId,
        wanted: &Wanted,
        is_fresh: bool,
    ) -> SmallVec<[CursorId; 4]> {
        if wanted.len() <= SERVED_PER_TURN && !self.circles.contains_key(&queue) {
            return wanted.iter().collect();
        }
        let circle = self.circles.entry(queue).or_default();
        if is_fresh {
            circle.left = wanted.len();
        }
        let next: SmallVec<[CursorId; 4]> =
            wanted.behind(circle.last).take(circle.left.min(SERVED_PER_TURN)).collect();
        circle.left -= next.len();
        match next.last() {
            Some(last) if circle.left > 0 => circle.last = *last,
            _ => drop(self.circles.remove(&queue)),
        }
        next
    }

    /// Whether some that wait at a queue are still to be looked at.
    #[cfg(test)]
    pub(super) fn goes_round(&self, queue: QueueId) -> bool {
        self.circles.contains_key(&queue)
    }

    fn is_empty(&self) -> bool {
        self.late.is_empty()
            && self.circles.is_empty()
            && self.gets.is_empty()
            && self.purges.is_empty()
            && self.lookups.is_empty()
            && self.searches.is_empty()
            && self.left_writers.is_empty()
            && self.rounds.is_empty()
    }
}

impl Commit {
    /// Whether a turn should follow for what is left of the last one's work.
    pub(super) fn has_chores(&self) -> bool {
        let has_any =
            !self.chores.is_empty() || !self.over_bounds.is_empty() || self.crowds.is_looking();
        has_any && !self.is_backed_up()
    }

    /// Whether more is planned than the disk takes at once: chores wait for it.
    fn is_backed_up(&self) -> bool {
        self.writing.is_some() && self.has_planned_much()
    }

    /// Whether as much is planned as the disk takes at once.
    pub(super) fn has_planned_much(&self) -> bool {
        self.unwritten_bytes() >= self.config.uncommitted_bytes_max() as u64
    }

    /// Bytes that are planned and not down yet.
    pub(crate) fn unwritten_bytes(&self) -> u64 {
        self.planner.end().0.saturating_sub(self.written.0)
    }

    /// A turn begins: what the last one left goes on.
    pub(super) fn begin_chores(&mut self) -> Result<(), Fatal> {
        if self.is_backed_up() {
            (self.chores.passes, self.chores.drops) = (Budget::default(), Budget::default());
            self.chores.publish_drops = Budget::default();
            self.chores.burials = Budget::default();
            self.crowds.left = 0;
            return Ok(());
        }
        self.chores.passes = Budget::new(PASSED_PER_TURN);
        self.chores.drops = Budget::new(DROPPED_PER_TURN);
        self.chores.publish_drops = Budget::new(DROPPED_PER_TURN);
        self.chores.burials = Budget::new(BURIED_PER_TURN);
        self.crowds.left = RECORDS_PER_TURN;
        for (queue, cursor) in mem::take(&mut self.chores.late) {
            self.touch_cursor(queue, cursor);
        }
        let circles: Vec<QueueId> = self.chores.circles.keys().copied().collect();
        for id in circles {
            let Some(queue) = self.state.queues.get(id) else {
                self.chores.circles.remove(&id);
                continue;
            };
            for cursor in self.chores.go_round(id, &queue.wanted, false) {
                self.touch_cursor(id, cursor);
            }
        }
        for command in mem::take(&mut self.chores.gets) {
            self.handle(command)?;
        }
        Ok(())
    }

    /// Does a piece of a purge, a look-up and a search that began in an earlier turn, and forgets.
    pub(super) fn go_on_with_chores(&mut self) {
        if self.is_backed_up() {
            return;
        }
        if let Some(purge) = self.chores.purges.pop_front() {
            self.go_on_purging(purge);
        }
        if let Some(lookup) = self.chores.lookups.pop_front() {
            self.go_on_looking(lookup);
        }
        if let Some(search) = self.chores.searches.pop_front() {
            self.go_on_searching(search);
        }
        self.go_on_forgetting();
        if self.crowds.is_looking() {
            self.go_on_with_crowds();
        }
    }

    // Gets.

    /// Whether what a get did not find may be behind what this turn did not come to.
    pub(super) fn is_late(&mut self, client: ClientId, queue: &str) -> bool {
        !self.chores.late.is_empty()
            && self
                .usable_queue(client, queue)
                .is_ok_and(|id| self.chores.is_late(id, CursorId::MAIN))
    }

    pub(super) fn get_later(&mut self, get: Command) {
        self.chores.gets.push(get);
    }

    // Purges.

    pub(super) fn purge_queue(
        &mut self,
        client: ClientId,
        name: &str,
        reply: Reply<Result<u64, Refusal>>,
    ) {
        let queue = match self.usable_queue(client, name) {
            Ok(queue) => queue,
            Err(refusal) => return send(reply, Err(refusal)),
        };
        self.flush_settled();
        let ready = self.stats(queue).ready;
        let Some(found) = self.state.queues.get(queue) else { return send(reply, Ok(0)) };
        let (count, rest) = if found.def.retention == Retention::Time {
            (ready, Rest::Trim(found.next()))
        } else {
            let Some((cursor, lanes)) = found.cursor_and_lanes(CursorId::MAIN) else {
                return send(reply, Ok(ready));
            };
            let ranges: VecDeque<_> = lanes.iter().flat_map(|lane| cursor.drain(lane)).collect();
            let count = ranges.iter().map(|range| cursor.unsettled(*range)).sum();
            (count, Rest::Settle { ranges, may_empty: true })
        };
        self.go_on_purging(Purge { queue, rest, count, reply });
    }

    fn go_on_purging(&mut self, mut purge: Purge) {
        let queue = purge.queue;
        let is_over = match &mut purge.rest {
            Rest::Settle { ranges, may_empty } => {
                let mut left = PURGED_PER_TURN;
                if *may_empty && ranges.len() == 1 {
                    *may_empty = false;
                    // A queue of which nothing is left is not counted one by one.
                    self.flush_settled();
                    let found = self.state.queues.get(queue);
                    let found = found.and_then(|found| found.cursor_and_lanes(CursorId::MAIN));
                    let ends =
                        |range| found.is_some_and(|(main, lanes)| main.ends_with(lanes, range));
                    if ranges.front().copied().is_some_and(ends) {
                        left = u64::MAX;
                    }
                }
                let settled = self.settled.entry((queue, CursorId::MAIN)).or_default();
                while left > 0
                    && let Some((from, to)) = ranges.pop_front()
                {
                    let end = to.min(from.saturating_add(left));
                    left -= end - from;
                    settled.push((from, end));
                    if end < to {
                        ranges.push_front((end, to));
                    }
                }
                ranges.is_empty()
            }
            Rest::Trim(end) => {
                let end = *end;
                let first = self.state.queues.get(queue).map_or(end, |found| found.first());
                let below = end.min(first.saturating_add(PURGED_PER_TURN));
                self.forget_before(queue, below);
                below == end
            }
        };
        if is_over {
            self.open.needs_sync |= !queue.is_transient();
            self.answer_durably(Some(purge.reply), Ok(purge.count));
        } else {
            self.chores.purges.push_back(purge);
        }
    }

    /// A queue forgets what is before an offset.
    pub(super) fn forget_before(&mut self, queue: QueueId, below: u64) {
        if queue.is_transient() {
            self.state.trim(queue, below);
        } else {
            self.log_lazily(Entry::Trim { queue, below: Offset(below) });
        }
        // Somebody may have waited for what was in hand of it.
        self.touch(queue);
    }

    // Retained records.

    pub(super) fn look_for_retained(
        &mut self,
        client: ClientId,
        filter: Filter,
        reply: Reply<Vec<(Position, u32)>>,
    ) {
        let Some(namespace) = self.namespace_of(client) else { return };
        let walk = RetainedWalk::new(&filter);
        self.go_on_looking(Lookup { namespace, filter, walk, reply });
    }

    fn go_on_looking(&mut self, mut lookup: Lookup) {
        if lookup.reply.is_closed() {
            return;
        }
        let space = self.state.namespaces.get(&lookup.namespace);
        let goes_on = space.is_some_and(|space| {
            space.find_retained(&lookup.filter, self.now, &mut lookup.walk, RETAINED_PER_TURN)
        });
        if goes_on {
            self.chores.lookups.push_back(lookup);
            return;
        }
        let (reply, found) = (lookup.reply, lookup.walk.into_found());
        let newest = found.iter().map(|(position, _)| *position).max();
        self.answer_when_down(reply, found, newest);
    }

    /// Answers with places in the log when they can be read from it: what was published or moved
    /// just now is not down yet.
    pub(super) fn answer_when_down<T: Send + 'static>(
        &mut self,
        reply: Reply<T>,
        answer: T,
        newest: Option<Position>,
    ) {
        if newest.is_some_and(|newest| newest >= self.written) {
            self.open.replies.push(Box::new(move || send(reply, answer)));
        } else {
            send(reply, answer);
        }
    }
}
