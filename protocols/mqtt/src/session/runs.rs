//! Runs of packet identifiers: as many places of a cursor, from one on, have as many identifiers,
//! from one on. That is noted once for all of them, so that after a restart each message of QoS 2
//! comes again under its identifier ([MQTT-4.4.0-1]), without a note of its own. How many of the
//! first ones are completed is noted in passing.

use mainstem_schemas::{CursorId, DeliveryId, Offset, QueueId};

/// Identifiers in a run, and places.
pub const RUN_IDS: u16 = 512;
/// Where runs may begin: at 1, and so on; what is left above goes to no run.
const SLOTS: u16 = u16::MAX / RUN_IDS;
/// Runs that a session has at most; their identifiers are a quarter of all.
const RUNS_MAX: usize = 32;
/// So many messages may be sent of a new run before more is noted; then four times as many, and so on:
/// what may have been sent is released after a restart.
const FIRST_LIMIT: u16 = 8;
const WORDS: usize = RUN_IDS as usize / 64;

/// Which places have which identifiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub queue: QueueId,
    pub cursor: CursorId,
    /// The offset of the first place.
    pub from: u64,
    /// Its identifier.
    pub first_id: u16,
}

impl Run {
    /// The last identifier.
    #[must_use]
    pub fn last_id(&self) -> u16 {
        self.first_id + (RUN_IDS - 1)
    }

    /// The offset behind the last place.
    #[must_use]
    pub fn below(&self) -> u64 {
        self.from.saturating_add(u64::from(RUN_IDS))
    }

    fn place_of(&self, id: &DeliveryId) -> Option<u16> {
        let is_its = self.queue == id.queue && self.cursor == id.cursor;
        let place = id.offset.0.checked_sub(self.from).filter(|_| is_its)?;
        u16::try_from(place).ok().filter(|place| *place < RUN_IDS)
    }

    fn place_at(&self, packet_id: u16) -> Option<u16> {
        packet_id.checked_sub(self.first_id).filter(|place| *place < RUN_IDS)
    }

    /// Whether a place is in both.
    fn meets(&self, other: &Self) -> bool {
        (self.queue, self.cursor) == (other.queue, other.cursor)
            && self.from < other.below()
            && other.from < self.below()
    }

    fn slot(&self) -> u16 {
        self.first_id / RUN_IDS
    }
}

/// What is noted of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    pub run: Run,
    /// So many of the first places were completed.
    pub completed: u16,
    /// No message was sent from this place on.
    pub limit: u16,
}

/// A run, and which of its identifiers are not free: their messages were sent, or may have been
/// before the server was started, and are not completed.
#[derive(Clone, Debug)]
pub struct Held {
    run: Run,
    open: [u64; WORDS],
    /// No message was sent under an identifier from this place on.
    used: u16,
    /// No message has come in this connection from this place on. They come in order.
    reached: u16,
    /// How many were completed when it was noted last.
    noted: u16,
    /// The place that was noted as the limit.
    limit: u16,
}

impl Held {
    fn new(run: Run, limit: u16) -> Self {
        Self { run, open: [0; WORDS], used: 0, reached: 0, noted: 0, limit }
    }

    fn note(&self) -> Noted {
        Noted { run: self.run, completed: self.noted, limit: self.limit }
    }

    fn is_of(&self, other: &Self) -> bool {
        (self.run.queue, self.run.cursor) == (other.run.queue, other.run.cursor)
    }

    /// The first places, of which all that was sent is completed.
    fn completed(&self) -> u16 {
        self.open_places().next().unwrap_or(self.used)
    }

    fn is_idle(&self) -> bool {
        self.open.iter().all(|word| *word == 0)
    }

    fn is_open(&self, place: u16) -> bool {
        self.open.get(usize::from(place / 64)).is_some_and(|word| word & 1 << (place % 64) != 0)
    }

    fn set(&mut self, place: u16, is_open: bool) {
        let Some(word) = self.open.get_mut(usize::from(place / 64)) else { return };
        let bit = 1 << (place % 64);
        *word = if is_open { *word | bit } else { *word & !bit };
        if is_open {
            self.used = self.used.max(place + 1);
        }
        self.reached = self.reached.max(place + 1);
    }

    fn open_places(&self) -> impl Iterator<Item = u16> + '_ {
        (0..RUN_IDS).filter(|place| self.is_open(*place))
    }
}

/// The runs of a session, in the order in which they were begun.
#[derive(Debug, Default)]
pub struct Runs {
    all: Vec<Held>,
    /// Begun, or about to go over their limits, and that is not noted yet.
    begun: Vec<Noted>,
    /// Over, and their notes not taken back yet.
    over: Vec<Run>,
    /// Something was completed since that was noted.
    has_news: bool,
}

impl Runs {
    /// The identifier of a place, and whether a message was sent under it and is not completed. A
    /// place that was noted as completed has none.
    #[must_use]
    pub fn find(&self, id: &DeliveryId) -> Option<(u16, bool)> {
        self.all.iter().find_map(|held| {
            let place = held.run.place_of(id)?;
            let is_open = held.is_open(place);
            (is_open || place >= held.noted).then_some((held.run.first_id + place, is_open))
        })
    }

    /// Whether an identifier belongs to a run.
    #[must_use]
    pub fn has(&self, packet_id: u16) -> bool {
        self.all.iter().any(|held| held.run.place_at(packet_id).is_some())
    }

    /// How many identifiers belong to runs.
    #[must_use]
    pub fn ids(&self) -> usize {
        self.all.len() * usize::from(RUN_IDS)
    }

    /// Begins a run with the place of a delivery, of the first identifiers behind `last_id` of which
    /// none is taken. `None` when there are as many as may be, or one of them has a place that this
    /// would have.
    pub fn begin(
        &mut self,
        id: &DeliveryId,
        taken: impl Iterator<Item = u16>,
        last_id: u16,
    ) -> Option<Run> {
        let mut before = self.all.iter().rev();
        let before = before.find(|held| (held.run.queue, held.run.cursor) == (id.queue, id.cursor));
        // Whoever needed a whole run needs the next one, too.
        let is_busy = before.is_some_and(|held| held.used == RUN_IDS);
        let limit = if is_busy { RUN_IDS } else { FIRST_LIMIT };
        self.end_idle(|run| run.queue == id.queue && run.cursor == id.cursor);
        if self.all.len() >= RUNS_MAX {
            self.end_idle(|_| true);
        }
        let DeliveryId { queue, cursor, offset, .. } = *id;
        let run = Run { queue, cursor, from: offset.0, first_id: 0 };
        if self.all.len() >= RUNS_MAX || self.all.iter().any(|held| held.run.meets(&run)) {
            return None;
        }
        let mut is_taken = [false; SLOTS as usize];
        let mine = self.all.iter().map(|held| held.run.slot());
        // Identifier 0 is none, so that slots begin at 1.
        for slot in mine.chain(taken.map(|packet_id| packet_id.saturating_sub(1) / RUN_IDS)) {
            if let Some(is_taken) = is_taken.get_mut(usize::from(slot)) {
                *is_taken = true;
            }
        }
        let next_slot = last_id.div_ceil(RUN_IDS).min(SLOTS);
        let mut slots = (next_slot..SLOTS).chain(0..next_slot);
        let slot = slots.find(|slot| is_taken.get(usize::from(*slot)) == Some(&false))?;
        let run = Run { first_id: slot * RUN_IDS + 1, ..run };
        let held = Held::new(run, limit);
        self.begun.push(held.note());
        self.all.push(held);
        Some(run)
    }

    /// A message is sent under an identifier of a run.
    pub fn open(&mut self, packet_id: u16) {
        self.set(packet_id, true);
        for held in &mut self.all {
            if held.used > held.limit {
                while held.limit < held.used {
                    held.limit = (held.limit * 4).min(RUN_IDS);
                }
                self.begun.push(held.note());
            }
        }
    }

    /// An identifier is free again on both sides.
    pub fn close(&mut self, packet_id: u16) {
        let Some(run) = self.set(packet_id, false) else { return };
        self.has_news = true;
        let is_its = |held: &&Held| (held.run.queue, held.run.cursor) == (run.queue, run.cursor);
        // What comes next has its identifiers in the last one.
        if self.all.iter().rev().find(is_its).is_some_and(|last| last.run != run) {
            self.end_idle(|idle| *idle == run);
        }
    }

    fn set(&mut self, packet_id: u16, is_open: bool) -> Option<Run> {
        let mut all = self.all.iter_mut();
        let (held, place) = all.find_map(|held| {
            let place = held.run.place_at(packet_id)?;
            Some((held, place))
        })?;
        held.set(place, is_open);
        Some(held.run)
    }

    fn end_idle(&mut self, wanted: impl Fn(&Run) -> bool) {
        let over = &mut self.over;
        self.all.retain(|held| {
            let is_over = held.is_idle() && wanted(&held.run);
            if is_over {
                over.push(held.run);
            }
            !is_over
        });
    }

    /// Whether something was completed since that was noted, or is over.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.has_news || !self.over.is_empty()
    }

    /// Those that are to be noted before anything is sent under their identifiers.
    pub fn take_begun(&mut self) -> Vec<Noted> {
        std::mem::take(&mut self.begun)
    }

    /// Those whose notes are to be taken back.
    pub fn take_over(&mut self) -> Vec<Run> {
        std::mem::take(&mut self.over)
    }

    /// Those of which more is completed than was noted.
    pub fn take_news(&mut self) -> Vec<Noted> {
        if !std::mem::take(&mut self.has_news) {
            return Vec::new();
        }
        let mut news = Vec::new();
        for held in &mut self.all {
            let completed = held.completed();
            if completed > held.noted {
                held.noted = completed;
                news.push(held.note());
            }
        }
        news
    }

    /// Another connection goes on with the session.
    pub fn resume(&mut self) {
        for held in &mut self.all {
            held.reached = 0;
        }
    }

    /// Goes on with what was noted. Of a run that is not known any identifier may be taken, but of
    /// its completed places, those from its limit on, and those of offsets from `next` on.
    pub fn remember(&mut self, noted: Noted, next: Offset) {
        let Noted { run, completed, limit } = noted;
        if self.over.contains(&run) || self.all.iter().any(|held| held.run == run) {
            return;
        }
        let mut held = Held::new(run, limit.min(RUN_IDS));
        let used = u16::try_from(next.0.saturating_sub(run.from)).unwrap_or(RUN_IDS);
        for place in completed..used.min(held.limit) {
            held.set(place, true);
        }
        held.noted = completed;
        held.used = held.used.max(completed);
        held.reached = 0;
        self.all.push(held);
        // Notes are in no order.
        self.all.sort_by_key(|held| held.run.from);
    }

    /// The identifiers of a run that are not free, and the offsets of their places.
    #[must_use]
    pub fn open_of(&self, run: &Run) -> Vec<(u16, u64)> {
        let held = self.all.iter().find(|held| held.run == *run);
        let places = held.into_iter().flat_map(Held::open_places);
        places.map(|place| (run.first_id + place, run.from + u64::from(place))).collect()
    }

    /// The identifiers whose messages are not under way and will not come again, since later ones of
    /// their cursor came; empty while there is room for more runs.
    #[must_use]
    pub fn stale(&self, is_under_way: impl Fn(u16) -> bool) -> Vec<u16> {
        let mut stale = Vec::new();
        if self.all.len() < RUNS_MAX {
            return stale;
        }
        for (at, held) in self.all.iter().enumerate() {
            let mut later = self.all.iter().skip(at + 1);
            let is_passed = later.any(|later| later.is_of(held) && later.reached > 0);
            let below = if is_passed { RUN_IDS } else { held.reached };
            let ids = held.open_places().take_while(|place| *place < below);
            stale.extend(ids.map(|at| held.run.first_id + at).filter(|id| !is_under_way(*id)));
        }
        stale
    }
}
