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
use crate::{config::Drops, cursor::Cursor, queue::Queue};

/// Cursors that one turn looks at.
const CURSORS_PER_TURN: usize = 1024;
/// Records that one turn weighs and drops; the others wait for the next ones.
pub(super) const RECORDS_PER_TURN: u64 = 65_536;
/// Records that are dropped for a cursor at one look, which is one entry.
const DROPPED_AT_ONCE: u64 = 8192;
/// Time between two lines that tell of what was dropped.
const TOLD_MS: u64 = 10_000;

/// Records that together are within the bound of bytes: the newest ones of a queue, or the oldest that
/// wait for a cursor.
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
    /// What is kept for cursors whose newest records are dropped.
    kept: BTreeMap<QueueId, BTreeMap<CursorId, Weighed>>,
    /// Records that may still be weighed or dropped in this turn.
    pub(super) left: u64,
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
        let mut cursors_left = CURSORS_PER_TURN;
        while cursors_left > 0
            && self.crowds.left > 0
            && let Some((id, from)) = self.crowds.looked_at.pop_first()
        {
            let Some(queue) = self.state.queues.get(id) else {
                self.crowds.weighed.remove(&id);
                self.crowds.kept.remove(&id);
                continue;
            };
            let cursors: Vec<CursorId> = queue.cursors_from(from).take(cursors_left).collect();
            let next = cursors.last().map(|last| CursorId(last.0.saturating_add(1)));
            let next = next.filter(|_| cursors.len() == cursors_left);
            cursors_left -= cursors.len();
            let unfinished = if self.weigh(id) {
                cursors.into_iter().find(|cursor| !self.drop_excess(id, *cursor))
            } else {
                Some(from)
            };
            match unfinished.or(next) {
                Some(next) => drop(self.crowds.looked_at.insert(id, next)),
                None => self.forget_kept(id),
            }
            if unfinished.is_some() {
                break;
            }
        }
        self.flush_settled();
    }

    /// A holder comes back: what is over the bounds is not handed out, as far as one turn finds it.
    pub(super) fn keep_away_bounds(&mut self, id: QueueId, cursor: CursorId) {
        if !self.config.away.bounds_a_queue() {
            return;
        }
        // An index that fails is never done; the turn's end stops the store over it.
        while self.crowds.left > 0 && self.state.queues.failed.is_none() {
            let is_done = self.weigh(id) && self.drop_excess(id, cursor);
            self.flush_settled();
            if is_done {
                return;
            }
        }
    }

    /// What is known of cursors that are gone, or whose holders are back.
    fn forget_kept(&mut self, id: QueueId) {
        let Some(queue) = self.state.queues.get(id) else { return };
        if let Entry::Occupied(mut kept) = self.crowds.kept.entry(id) {
            let is_away = |cursor: &Cursor| cursor.seats.is_empty();
            kept.get_mut().retain(|cursor, _| queue.cursor(*cursor).is_some_and(is_away));
            if kept.get().is_empty() {
                kept.remove();
            }
        }
    }

    /// Drops what waits beyond the bounds for a cursor that nobody consumes from; `false` when there
    /// may be more than this turn does. What is in hand, or came back since the server started, is not
    /// counted, and stays.
    fn drop_excess(&mut self, id: QueueId, cursor_id: CursorId) -> bool {
        let bounds = self.config.away;
        let Self { state, crowds, .. } = self;
        let Some(queue) = state.queues.get(id) else { return true };
        let Some(cursor) = queue.cursor(cursor_id).filter(|cursor| cursor.seats.is_empty()) else {
            return true;
        };
        let (mut rest, mut excess) = (cursor.waiting(queue.next()), [Vec::new(), Vec::new()]);
        let [records, bytes] = &mut excess;
        if let Some(max) = bounds.records_max() {
            let over = count(&rest).saturating_sub(max);
            (*records, rest) = match bounds.drops {
                Drops::Oldest => split(rest, over),
                Drops::Newest => {
                    let kept = count(&rest) - over;
                    let (kept, over) = split(rest, kept);
                    (over, kept)
                }
            };
        }
        let mut is_weighed = true;
        if let Some(max) = bounds.bytes_max().filter(|max| queue.bytes > *max) {
            let found = match bounds.drops {
                Drops::Oldest => {
                    let from = crowds.weighed.get(&id).map_or(0, |weighed| weighed.from);
                    Ok(Some(below(&rest, from)))
                }
                Drops::Newest => {
                    let kept = crowds.kept.entry(id).or_default().entry(cursor_id).or_default();
                    heavier((queue, &state.index), &rest, max, kept, &mut crowds.left)
                }
            };
            let found = self.state.sound(found);
            is_weighed = found.is_some();
            *bytes = found.unwrap_or_default();
        }
        let mut is_all = is_weighed;
        for (bound, ranges) in [Bound::Records, Bound::Bytes].into_iter().zip(excess) {
            let (now, later) = split(ranges, DROPPED_AT_ONCE.min(self.crowds.left));
            is_all &= later.is_empty();
            self.crowds.left = self.crowds.left.saturating_sub(count(&now));
            self.drop_waiting((id, cursor_id), bound, now);
        }
        is_all
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

    /// Finds out from where on a queue's newest records are within the bound of bytes together, if that
    /// is asked; `false` when there is more to be weighed than this turn does.
    fn weigh(&mut self, id: QueueId) -> bool {
        let bounds = self.config.away;
        let Self { state, crowds, .. } = self;
        let Some(max) = bounds.bytes_max().filter(|_| bounds.drops == Drops::Oldest) else {
            return true;
        };
        let Some(queue) = state.queues.get(id).filter(|queue| queue.bytes > max) else {
            crowds.weighed.remove(&id);
            return true;
        };
        let weighed = crowds.weighed.entry(id).or_default();
        let found = lightest((queue, &state.index), max, weighed, &mut crowds.left);
        self.state.sound(found)
    }
}

/// Weighs on to the queue's end; `false` when so many records as were left were weighed before.
fn lightest(
    (queue, index): (&mut Queue, &Index),
    max: u64,
    weighed: &mut Weighed,
    left: &mut u64,
) -> Result<bool, IndexError> {
    let (first, next) = (queue.first(), queue.next());
    if weighed.from < first {
        *weighed = Weighed { from: first, to: first, bytes: 0 };
    }
    let mut body = |offset| {
        let place = queue.get_kept(offset, index)?;
        Ok::<u64, IndexError>(place.map_or(0, |place| u64::from(place.body)))
    };
    while weighed.to < next {
        if *left == 0 {
            return Ok(false);
        }
        *left -= 1;
        weighed.bytes += body(weighed.to)?;
        weighed.to += 1;
        while weighed.bytes > max {
            weighed.bytes = weighed.bytes.saturating_sub(body(weighed.from)?);
            weighed.from += 1;
        }
    }
    Ok(true)
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

/// The newest of these offsets: those that no more fit into so many bytes behind the others, of which
/// those that `kept` tells of are weighed already. `None` when so many records as were left were weighed
/// before it was found.
fn heavier(
    (queue, index): (&mut Queue, &Index),
    ranges: &[(u64, u64)],
    max: u64,
    kept: &mut Weighed,
    left: &mut u64,
) -> Result<Option<Ranges>, IndexError> {
    let first = ranges.first().map_or(0, |(from, _)| *from);
    if kept.from != first {
        *kept = Weighed { from: first, to: first, bytes: 0 };
    }
    for (at, (from, to)) in ranges.iter().enumerate() {
        for offset in kept.to.max(*from)..*to {
            if *left == 0 {
                return Ok(None);
            }
            *left -= 1;
            let body = queue.get_kept(offset, index)?.map_or(0, |place| u64::from(place.body));
            if kept.bytes + body > max {
                let behind = ranges.get(at + 1..).unwrap_or_default();
                return Ok(Some([&[(offset, *to)], behind].concat()));
            }
            (kept.bytes, kept.to) = (kept.bytes + body, offset + 1);
        }
    }
    Ok(Some(Vec::new()))
}

impl Cursor {
    /// What nobody looked at yet, up to the end of the first lane.
    fn waiting(&self, next: u64) -> Ranges {
        self.settled.gaps(self.first_new(), next).to_vec()
    }
}
