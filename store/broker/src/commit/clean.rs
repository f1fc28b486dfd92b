//! Cleaning: the log's oldest segment goes when nothing in it is needed.
//!
//! Where something is, and the segment is mostly dead or the log much larger than what lives in it,
//! the survivors move: records to the log's end, definitions are stated again. What stands in the
//! log then says all that is true without the segment, which is trimmed as soon as that is synced
//! and the index on the disk is beyond it.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, mpsc::TrySendError},
};

use mainstem_log::{Frame, LogError};
use mainstem_schemas::{Position, QueueId, Record, UnixMillis};
use rustc_hash::FxHashMap;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

use super::{Commit, Fatal, dead::ReadError, outgrow::Pressure};
use crate::{
    entry::{
        Carried, Entry, EntryError, Head, KIND_MOVE, KIND_PLACE, Placed, carries_record,
        decode_carried, names_writer,
    },
    pipeline::Job,
    state::{HOME_BYTES, SEEN},
};

mod restate;

pub(super) use restate::cursor_entries;

/// Frames that are looked at in one turn, and bytes of them.
const FRAMES_PER_BATCH: usize = if cfg!(test) { 8 } else { 256 };
const BYTES_PER_BATCH: usize = 1 << 20;
/// Batches that may wait for the commit thread; in tests a whole segment's, since the scan is done
/// there before anybody looks.
const BATCHES_MAX: usize = if cfg!(test) { 4096 } else { 16 };
/// Bytes of the batches that wait.
const AHEAD_BYTES_MAX: usize = if cfg!(test) { Semaphore::MAX_PERMITS } else { 8 << 20 };
/// Batches that are looked at in one turn, and how many moved records end it: about a millisecond.
const BATCHES_PER_TURN: usize = 16;
const MOVES_PER_TURN: u64 = 256;
/// Bytes of moved records that go to the disk at once; more wait until it has taken them.
const MOVED_BYTES_MAX: u64 = if cfg!(test) { 8 << 10 } else { 4 << 20 };
/// How long what is left of a segment must stay as it is while little is written.
const LOOK_MS: u64 = 900;
/// Segments that are looked at.
const LOOKED_AT: u64 = 64;
/// What the thread that reads a segment found.
enum Scanned {
    /// With the room they take of what may wait.
    Frames(Vec<(Position, Found)>, Option<OwnedSemaphorePermit>),
    End(Result<(), LogError>),
}

/// What is in a frame.
type Found = Result<Stated, EntryError>;

enum Stated {
    Record(Carried),
    Other(Entry),
}

/// Waits until so many bytes more may wait for the commit thread; those that are too many by
/// themselves take all the room there is.
fn take_room(room: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let bytes = u32::try_from(bytes.min(AHEAD_BYTES_MAX)).unwrap_or(u32::MAX);
    let free = room.clone().try_acquire_many_owned(bytes);
    let wait = || Handle::current().block_on(room.clone().acquire_many_owned(bytes));
    free.ok().or_else(|| wait().ok())
}

fn decode(frame: Frame) -> Found {
    if carries_record(frame.kind) {
        return decode_carried(frame.body).map(Stated::Record);
    }
    // A copy, since keys and filters keep slices of it and the frame shares a large buffer.
    let body = bytes::Bytes::copy_from_slice(&frame.body);
    Entry::decode(frame.kind, body).map(Stated::Other)
}

/// A look at the oldest segments.
#[derive(Default)]
struct Look {
    first: u64,
    /// What was needed of each.
    refs: Vec<u64>,
    /// What was written by then.
    written: Position,
    at: UnixMillis,
    /// Of the segments before this one, little had gone since the look before.
    settled_below: u64,
}

impl Look {
    /// Whether what was needed of a segment is needed now that so much is.
    fn stays(&self, number: u64, refs: u64) -> bool {
        let at = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let then = at.and_then(|at| self.refs.get(at));
        then.is_some_and(|then| refs.saturating_mul(100) >= then.saturating_mul(99))
    }
}

/// Where the cleaning is.
#[derive(Default)]
pub(super) struct Cleaning {
    /// The segment whose survivors are being moved.
    segment: Option<u64>,
    /// Records in it are needed, too.
    has_records: bool,
    /// Where the log ended when the scan began.
    began_at: Position,
    /// Something in it could not be moved, so it stays as it is.
    is_damaged: bool,
    scanned: Option<mpsc::Receiver<Scanned>>,
    /// Frames that wait, since what they hang on is not written yet.
    waiting: Vec<(Position, Found)>,
    /// Placings of bodies in the segment.
    pointers: BTreeMap<Position, Vec<(Position, u32)>>,
    /// Entries of transient queues that lie in the segment.
    transient: FxHashMap<Position, Vec<(QueueId, u64)>>,
    /// A segment that could not be emptied; it is tried again when the log has grown.
    stuck: Option<(u64, u64)>,
    /// Entries of transient queues that point to placings.
    transient_pointers: FxHashMap<Position, Vec<(QueueId, u64)>>,
    look: Look,
    pub(super) pressure: Pressure,
    /// What goes of queues that keep records for a time, up to these offsets.
    pub(super) outgrown: BTreeMap<QueueId, u64>,
    /// The log needs nothing before this.
    needed_from: Position,
    /// Everything that makes that true stands before this.
    proven_at: Position,
    /// What was asked of the log already.
    asked: Position,
}

impl Cleaning {
    /// Whether there are frames to be looked at.
    pub(super) fn has_more_to_do(&self) -> bool {
        self.scanned.is_some() && self.waiting.is_empty()
    }
}

impl Commit {
    /// Bytes of the log's files.
    pub(super) fn log_bytes(&self) -> u64 {
        self.reader.files().saturating_mul(self.config.segment_bytes)
    }

    /// Records that were moved since the counts were told last.
    #[cfg(test)]
    pub(crate) fn moved(&self) -> u64 {
        self.counts.moved
    }

    /// Lets the oldest segments go that nobody needs. Returns the oldest one that stays, and the
    /// one being written.
    fn let_go_of_empty(&mut self) -> (u64, u64) {
        let segments = &self.state.segments;
        let first = self.reader.first().max(self.clean.needed_from);
        let end = segments.number(self.written);
        let oldest = segments.number(first);
        let mut number = oldest;
        while number < end && segments.usage(number).0.refs == 0 && segments.usage(number).1 == 0 {
            number += 1;
        }
        if number > oldest {
            self.let_go_below(self.state.segments.base(number));
        }
        self.note_pressure(number, end);
        (number, end)
    }

    /// Whether what is left of the oldest segment is likely to stay. While it is being consumed, to
    /// move it would be a waste. Looked at each time an eighth of a segment was written, or some
    /// time has passed.
    fn is_settled_down(&mut self, oldest: u64, end: u64) -> bool {
        let before = &self.clean.look;
        let next = Position(before.written.0 + self.config.segment_bytes / 8);
        if self.written >= next || before.at.plus(LOOK_MS).reached(self.now) {
            let numbers = oldest..end.min(oldest + LOOKED_AT);
            let refs: Vec<u64> =
                numbers.map(|number| self.state.segments.usage(number).0.refs).collect();
            let stays = |(refs, number): &(&u64, u64)| before.stays(*number, **refs);
            let settled = refs.iter().zip(oldest..).take_while(stays).count();
            self.clean.look = Look {
                first: oldest,
                settled_below: oldest + settled as u64,
                refs,
                written: self.written,
                at: self.now,
            };
        }
        // Since the look, a reader may have come to it.
        let (look, refs) = (&self.clean.look, self.state.segments.usage(oldest).0.refs);
        oldest < look.settled_below && look.stays(oldest, refs)
    }

    /// Begins to empty the oldest segment if what is left of it does not go by itself.
    pub(super) fn look_at_oldest(&mut self) {
        if self.clean.segment.is_some() {
            return;
        }
        let (oldest, end) = self.let_go_of_empty();
        let is_pressed = self.clean.pressure.reaches(oldest);
        if oldest < end && (is_pressed || self.is_settled_down(oldest, end)) {
            self.begin_cleaning(oldest, end);
        }
    }

    /// Does so if that is worth it.
    fn begin_cleaning(&mut self, number: u64, end: u64) {
        if self.clean.stuck.is_some_and(|(at, when)| at == number && when == end) {
            return;
        }
        let (durable, transient) = self.state.segments.usage(number);
        let sealed = (end - number).saturating_mul(self.config.segment_bytes);
        let live = self.state.segments.live_bytes();
        // Where the log turns over fast, some come free at once, since a definition that stays would
        // else be moved from each segment to the next.
        let is_due = end - number > self.spares / 2;
        let is_mostly_dead = is_due && durable.bytes < self.config.segment_bytes / 4;
        let is_pressed = self.clean.pressure.reaches(number);
        if !is_pressed && !is_mostly_dead && sealed <= live.saturating_mul(2) {
            return;
        }
        let room = self.config.segment_bytes - self.written.0 % self.config.segment_bytes;
        if self.is_full && durable.bytes > room / 2 {
            return;
        }
        // Where only definitions are needed, records are passed over.
        let has_records = durable.bytes != durable.refs.saturating_mul(HOME_BYTES.into());
        self.begin_scan(number, has_records || transient > 0);
    }

    /// Whether the log must wait for the index: what it lets go of, the index on the disk must
    /// know, or a start would have to make the index anew. Of a short log that is quickly done.
    pub(super) fn index_holds_the_log(&self) -> bool {
        self.clean.needed_from > self.flushed.position
            && self.log_bytes() > self.config.checkpoint_bytes
    }

    fn let_go_below(&mut self, below: Position) {
        self.log_lazily(Entry::Trimmed { below });
        self.clean.needed_from = below;
        self.clean.proven_at = self.planner.end();
    }

    fn begin_scan(&mut self, number: u64, has_records: bool) {
        let (from, upto) = self.reader.segment_bounds(number);
        let pointers = self.state.pointers_in(from, upto);
        self.clean.transient_pointers = if pointers.is_empty() {
            FxHashMap::default()
        } else {
            self.state.transient_pointers()
        };
        let has_records = has_records || !pointers.is_empty();
        self.clean.has_records = has_records;
        self.clean.pointers = pointers;
        self.clean.transient = self.state.transient_places_in(number);
        self.clean.segment = Some(number);
        self.clean.is_damaged = false;
        self.clean.pressure.is_dropping = self.clean.pressure.reaches(number);
        self.clean.began_at = self.planner.end();
        let (scanned, receiver) = mpsc::channel(BATCHES_MAX);
        let room = Arc::new(Semaphore::new(AHEAD_BYTES_MAX));
        self.clean.scanned = Some(receiver);
        let reader = self.reader.clone();
        self.aside.run(move || {
            let (mut batch, mut bytes) = (Vec::new(), 0);
            let hand_over = |batch: Vec<_>, bytes: usize| {
                let frames = Scanned::Frames(batch, take_room(&room, bytes));
                scanned.blocking_send(frames).is_ok()
            };
            let ended = reader.scan(from, upto, &mut |position, frame| {
                if !has_records && carries_record(frame.kind) && !names_writer(&frame.body) {
                    return true;
                }
                bytes += frame.size();
                batch.push((position, decode(frame)));
                if batch.len() < FRAMES_PER_BATCH && bytes < BYTES_PER_BATCH {
                    return true;
                }
                hand_over(mem::take(&mut batch), mem::take(&mut bytes))
            });
            if !batch.is_empty() && !hand_over(batch, bytes) {
                return;
            }
            // Nobody left to tell is fine: the commit thread has gone first.
            let _told = scanned.blocking_send(Scanned::End(ended));
        });
    }

    /// Looks at what the scan found since the last turn.
    pub(super) fn go_on_cleaning(&mut self) -> Result<(), Fatal> {
        let Some(number) = self.clean.segment else {
            self.look_at_oldest();
            return Ok(());
        };
        if self.has_moved_much() {
            return Ok(());
        }
        if !self.clean.waiting.is_empty() {
            let waiting = mem::take(&mut self.clean.waiting);
            self.clean_frames(waiting);
            return Ok(());
        }
        let enough = self.counts.moved + MOVES_PER_TURN;
        for _ in 0..BATCHES_PER_TURN {
            let Some(scanned) = &mut self.clean.scanned else { break };
            match scanned.try_recv() {
                Ok(Scanned::Frames(frames, _room)) => self.clean_frames(frames),
                Ok(Scanned::End(ended)) => self.end_scan(number, ended),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => self.end_scan(number, Ok(())),
            }
            if self.counts.moved >= enough
                || self.has_moved_much()
                || !self.clean.waiting.is_empty()
                || self.clean.segment != Some(number)
            {
                break;
            }
        }
        Ok(())
    }

    /// Whether the disk must first take what was moved.
    pub(super) fn has_moved_much(&self) -> bool {
        self.open.moved_bytes >= MOVED_BYTES_MAX
    }

    fn end_scan(&mut self, number: u64, ended: Result<(), LogError>) {
        let end = self.state.segments.number(self.written);
        self.clean.segment = None;
        self.clean.scanned = None;
        self.clean.pointers.clear();
        self.clean.transient.clear();
        self.clean.transient_pointers.clear();
        if let Err(error) = ended {
            // Nothing around the damage goes: the segment stays as it is.
            tracing::error!(event = "log_damaged", "a segment cannot be emptied: {error}");
            self.clean.stuck = Some((number, end));
            return;
        }
        if self.clean.is_damaged {
            self.clean.stuck = Some((number, end));
            return;
        }
        let (from, upto) = (self.state.segments.base(number), self.state.segments.base(number + 1));
        let began_at = self.clean.began_at;
        let pointers = self.state.pointers_in(from, upto);
        if pointers.values().flatten().any(|(frame, _)| *frame >= began_at) {
            // A body was placed again after it had been looked at.
            self.begin_scan(number, true);
            return;
        }
        self.state.forget_pointers_of(number);
        let (durable, transient) = self.state.segments.usage(number);
        if (durable.refs > 0 || transient > 0) && !self.clean.has_records {
            // It looked as if there were only definitions.
            self.begin_scan(number, true);
            return;
        }
        if durable.refs > 0 || transient > 0 {
            // What came to be referred to while it was read: a dead letter of an old body.
            let refs = durable.refs + transient;
            tracing::warn!(event = "segment_in_use", number, refs, "a segment is still needed");
            self.clean.stuck = Some((number, end));
            return;
        }
        self.clean.stuck = None;
        self.let_go_below(self.state.segments.base(number + 1));
        self.look_at_oldest();
    }

    fn clean_frames(&mut self, frames: Vec<(Position, Found)>) {
        let mut frames = frames.into_iter();
        while let Some((position, found)) = frames.next() {
            let is_early = self
                .clean
                .pointers
                .get(&position)
                .is_some_and(|all| all.iter().any(|(at, _)| *at >= self.written));
            if is_early {
                self.clean.waiting.push((position, found));
                self.clean.waiting.extend(frames);
                break;
            }
            if let Err(error) = self.clean_frame(position, found) {
                let position = position.0;
                tracing::error!(event = "log_damaged", position, "an entry stays: {error}");
                self.clean.is_damaged = true;
            }
        }
        self.drop_outgrown();
    }

    fn clean_frame(&mut self, position: Position, found: Found) -> Result<(), ReadError> {
        let entry = match found? {
            Stated::Record(carried) => return self.clean_record(position, carried),
            Stated::Other(entry) => entry,
        };
        match entry {
            Entry::DeclareQueue(_) => self.restate_queue(QueueId(position.0), position),
            Entry::QueueImage { queue, .. } => self.restate_queue(queue, position),
            Entry::DeclareExchange { namespace, def } => {
                let found = self.state.namespace(&namespace).exchanges.get(&def.name);
                if found.is_some_and(|found| found.home == position) {
                    let name = def.name.clone();
                    self.log_lazily(Entry::DeclareExchange { namespace: namespace.clone(), def });
                    self.restate_bindings_of_exchange(&namespace, &name);
                }
            }
            Entry::Bind { namespace, bind } => self.restate_binding(namespace, bind, position),
            Entry::Session { namespace, id, .. } => {
                let found = self.state.namespace(&namespace).sessions.get(&id);
                if let Some(found) = found.filter(|found| found.home == position) {
                    let (expiry_s, detached) = (found.expiry_s, found.detached);
                    self.log_lazily(Entry::Session { namespace, id, expiry_s, detached });
                }
            }
            Entry::Subscribe(subscribed) => self.restate_subscription(subscribed, position),
            Entry::SetParameter { key, .. } => self.restate_parameter(key, position),
            Entry::Writer { namespace, writer, .. } => {
                self.restate_writer(namespace, writer, position);
            }
            Entry::Place(placed) if !placed.passage.is_empty() => {
                let targets = self.kept(&placed.targets, position);
                let transient = self.clean.transient.remove(&position).unwrap_or_default();
                if !targets.is_empty() || !transient.is_empty() {
                    self.place_elsewhere(Placed { targets, ..placed }, position, transient);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Those of an entry's targets that still point to it.
    pub(super) fn alive(
        &mut self,
        targets: &[(QueueId, u64)],
        position: Position,
    ) -> Vec<(QueueId, u64)> {
        let mut alive = Vec::new();
        for (id, offset) in targets {
            let Some(queue) = self.state.queues.get(*id) else { continue };
            // Most are, and their blocks are not in memory.
            if queue.main().is_some_and(|main| main.is_settled(*offset)) {
                continue;
            }
            let place = queue.get(*offset, &self.state.index);
            if self.state.sound(place).is_some_and(|place| place.position == position) {
                alive.push((*id, *offset));
            }
        }
        alive
    }

    fn clean_record(&mut self, position: Position, carried: Carried) -> Result<(), ReadError> {
        let Carried { head, targets, record } = carried;
        if let Some(once) = &head.once {
            let namespace = record.namespace().to_owned();
            self.restate_writer(namespace, once.writer.clone(), position);
        }
        let number = self.state.segments.number(position);
        let alive = self.kept(&targets, position);
        let mut placings = Vec::new();
        for (frame, size) in self.clean.pointers.remove(&position).unwrap_or_default() {
            let read = self.reader.read(frame, size as usize)?;
            if read.kind != KIND_PLACE {
                continue;
            }
            let placed = Placed::decode(mainstem_schemas::wire::Reader::new(read.body));
            let placed = placed.map_err(EntryError::from)?;
            let points_to = if placed.passage.is_empty() { position } else { frame };
            // What was placed lately may be the newest of its queue, though its body is old.
            let is_old = self.state.segments.number(frame) == number;
            let targets = if is_old {
                self.kept(&placed.targets, points_to)
            } else {
                self.alive(&placed.targets, points_to)
            };
            let transient = self.clean.transient_pointers.remove(&frame).unwrap_or_default();
            if (!targets.is_empty() || !transient.is_empty()) && placed.source == position {
                placings.push((Placed { targets, ..placed }, frame, transient));
            }
        }
        let origin = if head.origin.0 == 0 { position } else { head.origin };
        let held = self.state.held(head.held, origin).filter(|body| body.position == position);
        let is_held = head.held.is_set() && held.is_some();
        let is_retained = self.is_retained(position, &record);
        let transient = self.clean.transient.remove(&position).unwrap_or_default();
        if alive.is_empty()
            && placings.is_empty()
            && transient.is_empty()
            && !is_held
            && !is_retained
        {
            return Ok(());
        }
        let seen = alive.first().copied().and_then(|(id, offset)| {
            let place = self.state.queues.get(id)?.get(offset, &self.state.index);
            self.state.sound(place).map(|place| place.flags & SEEN != 0)
        });
        let moved = Head {
            from: position,
            held: if is_held { head.held } else { UnixMillis::NONE },
            origin: if is_held { origin } else { Position(0) },
            seen: seen.unwrap_or(false) || position < self.state.started_at,
            retained: is_retained,
            keys: head.keys,
            ..Head::default()
        };
        self.counts.moved += 1;
        let (source, size) = self.plan_carried(KIND_MOVE, &moved, &alive, &record);
        self.open.moved_bytes += u64::from(size);
        // A copy, since the record is a slice of all that was read of the segment at once.
        let record = Record::decode(bytes::Bytes::copy_from_slice(record.bytes()))
            .map_err(EntryError::from)?;
        self.tail.push(source, (record, None), false, self.written);
        for (placed, frame, transient) in placings {
            self.place_elsewhere(Placed { source, size, ..placed }, frame, transient);
        }
        for (id, offset) in transient {
            self.state.move_transient(id, offset, position, source, size);
        }
        Ok(())
    }

    /// States a placing again, and leads the transient queues there that pointed to it.
    fn place_elsewhere(
        &mut self,
        placed: Placed,
        before: Position,
        transient: Vec<(QueueId, u64)>,
    ) {
        let (position, size) = self.log_sized(Entry::Place(placed));
        for (id, offset) in transient {
            self.state.move_transient(id, offset, before, position, size);
        }
    }

    fn is_retained(&mut self, position: Position, record: &Record) -> bool {
        record.is_retain() && {
            let path = record.address().path();
            let known = self.state.namespace(record.namespace()).retained.get(&path);
            known.is_some_and(|known| known.position == position)
        }
    }

    /// Asks for what the log may let go of now, if that was not asked before. A batch that waits
    /// for space does not hold it up: it may be what gives the space.
    pub(super) fn ask_to_trim(&mut self) -> Result<(), Fatal> {
        let Cleaning { needed_from: below, proven_at, asked, .. } = self.clean;
        if below > asked && self.synced >= proven_at && !self.index_holds_the_log() {
            match self.jobs.try_send(Job::Trim { below }) {
                Ok(()) => self.clean.asked = below,
                // In the next turn.
                Err(TrySendError::Full(_)) => {}
                Err(TrySendError::Disconnected(_)) => return Err(Fatal::WriterGone),
            }
        }
        Ok(())
    }
}
