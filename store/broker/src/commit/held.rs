//! Records that nobody sees yet, and what happens to a queue at a time of its own.

use bytes::Bytes;
use mainstem_index::{Entry as Place, Index, IndexError};
use mainstem_schemas::{CursorId, Offset, Position, QueueId, RecordId, UnixMillis};
use smallvec::SmallVec;

use super::{Commit, chores::Budget};
use crate::{
    command::{ClientId, HeldId, HeldPlace, Retention},
    entry::{Entry, Placed},
    error::Refusal,
    queue::{Found, Queue},
    state::{HeldBody, State, UNDECIDED, key_hash},
};

/// Held records that are let go in one turn; more wait for the next one.
const RELEASES_PER_TURN: usize = 512;
/// Records that wait for a decision and are looked at in one turn: what is in memory of them.
const UNDECIDED_PER_TURN: usize = 4096;
/// Queues that are looked at by themselves in one turn.
const WAKES_PER_TURN: usize = 256;
/// Records that a queue which keeps everything forgets at one look.
const ENDS_PER_LOOK: u64 = 8192;
/// A queue that has more to do at its time is looked at again so soon.
const SOON_MS: u64 = 1;

impl Commit {
    /// Publishes a held record now, or forgets it. Tells whether it was held.
    pub(super) fn decide(
        &mut self,
        client: ClientId,
        id: HeldId,
        record: Option<RecordId>,
        publish: bool,
    ) -> bool {
        let HeldId { due, origin } = id;
        let Some(namespace) = self.namespace_of(client) else { return false };
        let Some(body) = self.state.held(due, origin) else { return false };
        let Ok(found) = self.read_place(body.position, body.size) else {
            // What is to be forgotten unseen need not be read, if it is known whose it is.
            let of = self.state.undecided.get(&origin).filter(|_| due == UNDECIDED);
            let is_its = of.is_some_and(|(_, of)| *of == namespace);
            let forgets = is_its && !publish && record.is_none();
            if forgets {
                self.open.needs_sync = true;
                self.forget_held(due, body);
            }
            return forgets;
        };
        let is_it = record.is_none_or(|record| found.record.id() == record);
        if found.record.namespace() != &*namespace || !is_it {
            return false;
        }
        self.open.needs_sync = true;
        if publish {
            return self.publish_held(due, body).is_ok();
        }
        self.forget_held(due, body);
        true
    }

    fn forget_held(&mut self, due: UnixMillis, body: HeldBody) {
        let placed = Placed {
            source: body.position,
            size: body.size,
            expiry: UnixMillis::NONE,
            appended: self.now,
            flags: 0,
            group: 0,
            body: 0,
            held: due,
            origin: body.origin,
            passage: Bytes::new(),
            keys: Vec::new(),
            targets: Vec::new(),
        };
        self.log_lazily(Entry::Place(placed));
    }

    /// Up to `max` records of the client's namespace that wait for a decision, the oldest first, as
    /// far as one turn looks, and where the next look begins.
    pub(super) fn list_undecided(
        &self,
        client: ClientId,
        from: Position,
        max: usize,
    ) -> (Vec<HeldPlace>, Option<Position>) {
        let mut found = Vec::new();
        let Some(namespace) = self.namespace_of(client) else { return (found, None) };
        let mut left = UNDECIDED_PER_TURN;
        for (origin, (body, whose)) in self.state.undecided.range(from..) {
            if left == 0 || found.len() >= max {
                return (found, Some(*origin));
            }
            left -= 1;
            if *whose == namespace {
                found.push(place_of(body));
            }
        }
        (found, None)
    }

    /// Those of the records that wait for a decision in the client's namespace.
    pub(super) fn find_undecided(&self, client: ClientId, ids: &[HeldId]) -> Vec<HeldPlace> {
        let Some(namespace) = self.namespace_of(client) else { return Vec::new() };
        let waiting = ids.iter().filter(|id| id.due == UNDECIDED).filter_map(|id| {
            let (body, whose) = self.state.undecided.get(&id.origin)?;
            (*whose == namespace).then(|| place_of(body))
        });
        waiting.collect()
    }

    /// Places of a topic's records with a key, the oldest first.
    pub(super) fn look_up(
        &mut self,
        client: ClientId,
        topic: &str,
        key: &Bytes,
        max: usize,
    ) -> Result<Vec<(Offset, Position, u32)>, Refusal> {
        let id = self.open_topic(client, topic, false)?;
        let offsets = self.state.find_key(id, key_hash(key));
        let mut places = Vec::new();
        for offset in offsets.into_iter().take(max) {
            let Some(queue) = self.state.queues.get(id) else { break };
            let place = queue.get(offset, &self.state.index);
            if let Some(place) = self.state.sound(place) {
                places.push((Offset(offset), place.position, place.size));
            }
        }
        Ok(places)
    }

    /// Lets go of held records and looks at queues whose time has come.
    pub(super) fn fire_schedules(&mut self) -> Result<(), IndexError> {
        let now = self.now;
        if let Some((from, to)) = self.state.delayed.wanted(now) {
            let mut stored = Vec::new();
            for found in self.state.index.held(from, to) {
                let (key, value) = found?;
                let (position, size) = (value.position, value.size);
                stored.push((key.due, HeldBody { origin: key.origin, position, size }));
            }
            self.state.delayed.extend(to, stored);
        }
        if let Some((from, to)) = self.state.wakes.wanted(now) {
            let mut stored = Vec::new();
            for found in self.state.index.wakes(from, to) {
                let (key, ()) = found?;
                stored.push((key.at, key.queue));
            }
            self.state.wakes.extend(to, stored);
        }
        let mut left = Budget::new(RELEASES_PER_TURN);
        while !left.is_spent() {
            let Some((due, body)) = self.state.delayed.pop(now) else { break };
            left.spend(body.size);
            // It is let go by the entry; until then it is as if it had not been taken.
            self.state.delayed.put_back(due, body);
            if let Err(error) = self.publish_held(due, body) {
                let position = body.position.0;
                tracing::error!(
                    event = "record_unreadable",
                    position,
                    "a held record cannot be published: {error}"
                );
                self.counts.unreadable += 1;
                self.forget_held(due, body);
            }
        }
        for _ in 0..WAKES_PER_TURN {
            let Some((at, id)) = self.state.wakes.pop(now) else { break };
            self.state.note_woken(id, at);
            self.look_at(id)?;
        }
        Ok(())
    }

    /// Does what a queue's time has come for.
    fn look_at(&mut self, id: QueueId) -> Result<(), IndexError> {
        let now = self.now;
        if self.branch_end(id)?.is_some_and(|end| end.reached(now)) {
            self.remove_queue(id);
            return Ok(());
        }
        let Some(queue) = self.state.queues.get(id) else { return Ok(()) };
        let is_branch = queue.found == Found::AsTopic;
        if !queue.used.is_set() && !is_branch {
            // Whoever used it before the restart has as long to come back.
            queue.used = now;
        }
        if let Some(expires_ms) = queue.def.policy.expires_ms
            && !is_branch
            && queue.consumers() == 0
            && queue.used.plus(expires_ms).reached(now)
        {
            self.remove_queue(id);
            return Ok(());
        }
        match queue.def.retention {
            Retention::Time => self.trim_old(id)?,
            Retention::Unsettled => self.end_expired(id)?,
            Retention::Cursors => {
                if let Some(below) = queue.unneeded_below() {
                    self.forget_before(id, below);
                }
                self.end_expired(id)?;
            }
        }
        self.note_due_unknown(id);
        Ok(())
    }

    /// Ends the records at the heads of a queue's cursors whose time is over.
    fn end_expired(&mut self, id: QueueId) -> Result<(), IndexError> {
        let now = self.now;
        let Some(queue) = self.state.queues.get(id) else { return Ok(()) };
        let cursors: Vec<CursorId> = queue.cursors().map(|(cursor, _)| cursor).collect();
        for cursor_id in cursors {
            while !self.chores.passes.is_spent() {
                let Some(queue) = self.state.queues.get(id) else { return Ok(()) };
                let Some((cursor, lanes)) = queue.cursor_and_lanes(cursor_id) else { break };
                let Some(offset) = cursor.peek(lanes) else { break };
                let Some(place) = queue.get(offset, &self.state.index)? else { break };
                let handed_out_yet = place.position < self.written.min(self.fresh);
                if !place.expiry.reached(now) || !handed_out_yet {
                    break;
                }
                if let Some(cursor) = queue.cursor_mut(cursor_id) {
                    cursor.advance(offset);
                }
                self.chores.passes.spend(place.body);
                self.expired.push((id, cursor_id, offset, place));
            }
        }
        self.bury_expired();
        self.flush_settled();
        Ok(())
    }

    /// Forgets what a queue that keeps everything has kept long enough, or too much of.
    fn trim_old(&mut self, id: QueueId) -> Result<(), IndexError> {
        let (oldest, bytes_max) = self.retention_of(id);
        let Some(queue) = self.state.queues.get(id) else { return Ok(()) };
        let excess = queue.bytes.saturating_sub(bytes_max);
        let index = &self.state.index;
        let (mut heads, mut freed) = (heads(queue, index)?, 0);
        for _ in 0..ENDS_PER_LOOK {
            let firsts = heads.iter_mut().filter_map(|head| Some((head.1?, head)));
            let first = firsts.min_by_key(|(place, _)| (place.appended, place.position));
            let Some((place, (below, head))) = first else { break };
            if place.appended.0 >= oldest && freed >= excess {
                break;
            }
            freed += u64::from(place.size);
            *below += 1;
            *head = queue.get(*below, index)?;
        }
        let bounds = queue.bounds();
        for ((below, _), (first, _)) in heads.into_iter().zip(bounds) {
            if below > first {
                self.forget_before(id, below);
            }
        }
        Ok(())
    }

    /// Records appended before the first are too old; and how many bytes may be kept.
    fn retention_of(&mut self, id: QueueId) -> (u64, u64) {
        let Some(queue) = self.state.queues.get(id) else { return (0, u64::MAX) };
        let policy = &queue.def.policy;
        let age = policy.age_max_ms.or_else(|| {
            let is_topic = queue.found == Found::AsTopic;
            is_topic.then_some(self.config.topic_retention_ms)
        });
        let oldest = age.map_or(0, |age| self.now.0.saturating_sub(age));
        (oldest, policy.bytes_max.unwrap_or(self.state.kept_bytes_max))
    }

    /// A queue's time to be looked at is to be found anew.
    pub(super) fn note_due_unknown(&mut self, id: QueueId) {
        let State { queues, due_unknown, .. } = &mut self.state;
        if let Some(queue) = queues.get(id) {
            queue.note_due_unknown(due_unknown);
        }
    }

    /// Finds when queues that changed are to be looked at by themselves.
    pub(super) fn find_due_times(&mut self) {
        for id in std::mem::take(&mut self.state.due_unknown) {
            let found = self.due_time(id);
            let at = self.state.sound(found);
            if let Some(queue) = self.state.queues.get(id) {
                queue.is_due_unknown = false;
            }
            self.state.set_wake(id, at);
        }
    }

    fn due_time(&mut self, id: QueueId) -> Result<UnixMillis, IndexError> {
        let soon = self.now.plus(SOON_MS);
        let (oldest, bytes_max) = self.retention_of(id);
        let mut times = Vec::from_iter(self.branch_end(id)?);
        let index = &self.state.index;
        let Some(queue) = self.state.queues.get(id) else { return Ok(UnixMillis::NONE) };
        if let Some(expires_ms) = queue.def.policy.expires_ms
            && queue.found != Found::AsTopic
            && queue.consumers() == 0
        {
            times.push(queue.used.plus(expires_ms));
        }
        if queue.is_behind {
            times.push(soon);
        }
        if queue.def.retention == Retention::Time {
            if queue.bytes > bytes_max {
                times.push(soon);
            }
            let firsts = heads(queue, index)?.into_iter().filter_map(|(_, place)| place);
            if let Some(place) = firsts.min_by_key(|place| place.appended)
                && oldest > 0
            {
                // So long after it was appended as `oldest` is before now.
                let age = self.now.0 - oldest;
                times.push(place.appended.plus(age + 1));
            }
        } else if queue.may_expire() {
            let cursors: Vec<CursorId> = queue.cursors().map(|(cursor, _)| cursor).collect();
            for cursor_id in cursors {
                let Some((cursor, lanes)) = queue.cursor_and_lanes(cursor_id) else { continue };
                let Some(offset) = cursor.peek(lanes) else { continue };
                if let Some(place) = queue.get(offset, index)?
                    && place.expiry.is_set()
                {
                    times.push(place.expiry);
                }
            }
        }
        let first = times.into_iter().min().unwrap_or(UnixMillis::NONE);
        Ok(if first.is_set() { first.max(soon) } else { first })
    }

    /// Consumers had records in hand that their queue forgot: they have room for others.
    pub(super) fn give_lost_room(&mut self) {
        for hand in std::mem::take(&mut self.state.lost_hands) {
            self.give_room(&hand);
        }
    }
}

/// The oldest place of each priority, and where it is.
type Heads = SmallVec<[(u64, Option<Place>); 1]>;

fn heads(queue: &mut Queue, index: &Index) -> Result<Heads, IndexError> {
    let firsts = queue.bounds().into_iter().map(|(first, _)| first);
    firsts.map(|first| Ok((first, queue.get(first, index)?))).collect()
}

fn place_of(body: &HeldBody) -> HeldPlace {
    (HeldId { due: UNDECIDED, origin: body.origin }, body.position, body.size)
}
