//! What waits for subscriptions whose holders are away, and how much of it may: the rest is dropped,
//! counted and told.
//!
//! A queue is shared by all who asked for its filter, and there may be a hundred thousand of them. So a
//! publish only notes the queue; the bounds are kept every tick, for so many cursors in a turn, and for
//! a holder who comes back before anything is handed out.

use std::collections::{BTreeMap, btree_map::Entry};

use mainstem_index::{CursorName, Index, IndexError};
use mainstem_schemas::{CursorId, QueueId, UnixMillis};

use super::Commit;
use crate::{
    config::{AwayBounds, Drops},
    cursor::Cursor,
    queue::Queue,
};

/// Cursors that one turn looks at.
const CURSORS_PER_TURN: usize = 1024;
/// Records that are weighed for a queue at one look; more are weighed at the next ones.
const WEIGHED_PER_LOOK: u64 = 65_536;
/// Time between two lines that tell of what was dropped.
const TOLD_MS: u64 = 10_000;

/// Where a queue's newest records begin that together are within the bound of bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Weighed {
    from: u64,
    to: u64,
    bytes: u64,
}

/// What is known of queues that others read while their holders are away.
#[derive(Debug, Default)]
pub(super) struct Crowds {
    /// Queues that got records, or whose holders left, since they were looked at.
    noted: BTreeMap<QueueId, CursorId>,
    /// Those that are being looked at, and from which cursor on.
    looked_at: BTreeMap<QueueId, CursorId>,
    weighed: BTreeMap<QueueId, Weighed>,
    /// Dropped and not told yet, and one of those it was dropped for.
    untold: u64,
    example: String,
    told: UnixMillis,
}

impl Crowds {
    pub(super) fn is_looking(&self) -> bool {
        !self.looked_at.is_empty()
    }
}

/// Half-open, ascending.
type Ranges = Vec<(u64, u64)>;

/// Why records were dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    Records,
    Bytes,
}

impl Commit {
    /// A queue got a record, or somebody left it.
    pub(super) fn note_crowd(&mut self, id: QueueId) {
        if self.config.away.bounds_a_queue() {
            self.crowds.noted.insert(id, CursorId::MAIN);
        }
    }

    /// Every tick: what was noted is looked at from now on, and what was dropped is told.
    pub(super) fn look_at_crowds(&mut self) {
        let noted = std::mem::take(&mut self.crowds.noted);
        for (id, from) in noted {
            // One that is being looked at still is looked at from its beginning once more.
            match self.crowds.looked_at.entry(id) {
                Entry::Vacant(place) => drop(place.insert(from)),
                Entry::Occupied(_) => drop(self.crowds.noted.insert(id, from)),
            }
        }
        let is_time =
            !self.crowds.told.is_set() || self.crowds.told.plus(TOLD_MS).reached(self.now);
        if self.crowds.untold > 0 && is_time {
            let dropped = std::mem::take(&mut self.crowds.untold);
            let example = std::mem::take(&mut self.crowds.example);
            tracing::warn!(
                event = "away_dropped",
                dropped,
                example,
                "more waited than may for subscriptions whose holders are away"
            );
            self.crowds.told = self.now;
        }
    }

    /// A piece of the looking.
    pub(super) fn go_on_with_crowds(&mut self) {
        let mut left = CURSORS_PER_TURN;
        while left > 0
            && let Some((id, from)) = self.crowds.looked_at.pop_first()
        {
            let Some(queue) = self.state.queues.get(id) else {
                self.crowds.weighed.remove(&id);
                continue;
            };
            let cursors: Vec<CursorId> = queue.cursors_from(from).take(left).collect();
            left -= cursors.len();
            if left == 0
                && let Some(last) = cursors.last()
            {
                self.crowds.looked_at.insert(id, CursorId(last.0.saturating_add(1)));
            }
            for cursor in cursors {
                self.drop_excess(id, cursor);
            }
        }
        self.flush_settled();
    }

    /// A holder comes back: nothing is handed out that is over the bounds.
    pub(super) fn keep_away_bounds(&mut self, id: QueueId, cursor: CursorId) {
        if self.config.away.bounds_a_queue() {
            self.drop_excess(id, cursor);
            self.flush_settled();
        }
    }

    /// Drops what waits beyond the bounds for a cursor that nobody consumes from. What was handed
    /// out before and came back is not counted, and stays.
    fn drop_excess(&mut self, id: QueueId, cursor_id: CursorId) {
        let bounds = self.config.away;
        let oldest_kept = self.weigh(id, &bounds);
        let oldest_kept = self.state.sound(oldest_kept);
        let index = &self.state.index;
        let Some(queue) = self.state.queues.get(id) else { return };
        let Some(cursor) = queue.cursor(cursor_id).filter(|cursor| cursor.seats.is_empty()) else {
            return;
        };
        let waiting = cursor.waiting(queue.next());
        let (mut rest, mut dropped) = (waiting, Vec::new());
        if let Some(max) = bounds.records_max() {
            let excess = count(&rest).saturating_sub(max);
            let parts = match bounds.drops {
                Drops::Oldest => split(rest, excess),
                Drops::Newest => {
                    let kept = count(&rest) - excess;
                    let (kept, excess) = split(rest, kept);
                    (excess, kept)
                }
            };
            dropped.push((Bound::Records, parts.0));
            rest = parts.1;
        }
        if bounds.bytes_max().is_some() {
            let excess = match (bounds.drops, oldest_kept) {
                (_, None) => Ok(Vec::new()),
                (Drops::Oldest, Some(from)) => Ok(below(&rest, from)),
                (Drops::Newest, Some(_)) => heavier(queue, &rest, bounds.bytes_max, index),
            };
            dropped.push((Bound::Bytes, self.state.sound(excess)));
        }
        for (bound, ranges) in dropped {
            self.drop_waiting((id, cursor_id), bound, ranges);
        }
    }

    fn drop_waiting(&mut self, (id, cursor): (QueueId, CursorId), bound: Bound, ranges: Ranges) {
        let dropped = count(&ranges);
        if dropped == 0 {
            return;
        }
        match bound {
            Bound::Records => self.counts.away_records += dropped,
            Bound::Bytes => self.counts.away_bytes += dropped,
        }
        self.crowds.untold += dropped;
        if self.crowds.example.is_empty()
            && let Some(queue) = self.state.queues.get(id)
        {
            let name = queue.cursor(cursor).map(|cursor| cursor.name.clone());
            let whose = match name.as_deref() {
                Some(CursorName::Session(name) | CursorName::Share(name)) => name.as_str(),
                Some(CursorName::Main | CursorName::Group(_)) | None => "",
            };
            self.crowds.example = format!("{whose}: {} of {}", queue.def.name, queue.namespace);
        }
        self.settled.entry((id, cursor)).or_default().extend(ranges);
    }

    /// From which offset on a queue's newest records are within the bound of bytes together; `None`
    /// while all of them are.
    fn weigh(&mut self, id: QueueId, bounds: &AwayBounds) -> Result<Option<u64>, IndexError> {
        let Some(max) = bounds.bytes_max() else { return Ok(None) };
        let index = &self.state.index;
        let Some(queue) = self.state.queues.get(id) else { return Ok(None) };
        if queue.bytes <= max {
            self.crowds.weighed.remove(&id);
            return Ok(None);
        }
        let (first, next) = (queue.first(), queue.next());
        let weighed = self.crowds.weighed.entry(id).or_default();
        if weighed.from < first {
            *weighed = Weighed { from: first, to: first, bytes: 0 };
        }
        let end = next.min(weighed.to.saturating_add(WEIGHED_PER_LOOK));
        let mut body = |offset| {
            let place = queue.get_kept(offset, index)?;
            Ok::<u64, IndexError>(place.map_or(0, |place| u64::from(place.body)))
        };
        while weighed.to < end {
            weighed.bytes += body(weighed.to)?;
            weighed.to += 1;
            while weighed.bytes > max {
                weighed.bytes = weighed.bytes.saturating_sub(body(weighed.from)?);
                weighed.from += 1;
            }
        }
        Ok(Some(weighed.from))
    }
}

fn count(ranges: &[(u64, u64)]) -> u64 {
    ranges.iter().map(|(from, to)| to - from).sum()
}

/// The first so many offsets, and the others.
fn split(ranges: Ranges, mut first: u64) -> (Ranges, Ranges) {
    let (mut before, mut behind) = (Vec::new(), Vec::new());
    for (from, to) in ranges {
        let middle = from + first.min(to - from);
        first -= middle - from;
        before.push((from, middle));
        behind.push((middle, to));
    }
    before.retain(|(from, to)| from < to);
    behind.retain(|(from, to)| from < to);
    (before, behind)
}

/// What lies below an offset.
fn below(ranges: &[(u64, u64)], end: u64) -> Ranges {
    let cut = ranges.iter().map(|(from, to)| (*from, end.min(*to)));
    cut.filter(|(from, to)| from < to).collect()
}

/// The newest of these offsets: those that no more fit into so many bytes behind the others.
fn heavier(
    queue: &mut Queue,
    ranges: &[(u64, u64)],
    max: u64,
    index: &Index,
) -> Result<Ranges, IndexError> {
    let mut bytes = 0;
    for (at, (from, to)) in ranges.iter().enumerate() {
        for offset in *from..*to {
            bytes += queue.get_kept(offset, index)?.map_or(0, |place| u64::from(place.body));
            if bytes > max {
                let behind = ranges.get(at + 1..).unwrap_or_default();
                return Ok([&[(offset, *to)], behind].concat());
            }
        }
    }
    Ok(Vec::new())
}

impl Cursor {
    /// What nobody looked at yet, up to the end of the first lane.
    fn waiting(&self, next: u64) -> Ranges {
        self.settled.gaps(self.first_new(), next).to_vec()
    }
}
