//! Messages to the client: packet identifiers, the client's receive maximum, and what was sent
//! and not acknowledged.
//!
//! How a message of QoS 2 keeps its identifier over a restart of the server: mostly by its place in
//! a run ([`super::runs`]), else by a note of its own ([`Note`]).
//!
//! ```text
//! QoS 1:  Published --PUBACK--> done
//! QoS 2:  Published --PUBREC--> Released --PUBCOMP--> done      (settled at PUBREC)
//!             '--PUBREC >= 0x80--> done
//! ```

use std::collections::VecDeque;

use mainstem_schemas::{Address, DeliveryId, Offset, Record, RecordId};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use super::runs::{Noted, Runs};
use crate::codec::{Qos, Reason};

/// The deliveries one packet stands for: several when subscriptions overlap.
pub type DeliveryIds = SmallVec<[DeliveryId; 1]>;
/// The subscription identifiers one packet carries.
pub type SubscriptionIds = SmallVec<[u32; 2]>;

/// One message for the client.
#[derive(Clone, Debug)]
pub struct Copy {
    pub record: Record,
    /// Of a dead letter, what it was published to again; what it would have expired at has no
    /// effect any more.
    pub again: Option<Address>,
    pub qos: Qos,
    pub retain: bool,
    pub subscription_ids: SubscriptionIds,
    /// What to settle when it is done; empty for a live or a retained copy.
    pub deliveries: DeliveryIds,
    /// Whether the broker gives it to somebody else when this connection ends: shared
    /// subscriptions and queues.
    pub competing: bool,
}

/// How far a message got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// PUBLISH was sent.
    Published,
    /// PUBREL was sent.
    Released,
}

/// How far a message of QoS 2 got under its packet identifier: what a session that is kept remembers
/// over restarts of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    pub packet_id: u16,
    pub record: RecordId,
    pub stage: Stage,
    /// Nothing comes again for it, or what does is not known by its record alone: retained copies
    /// and dead letters.
    pub is_loose: bool,
}

/// What keeps the packet identifier of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Nothing,
    /// A note that says so, to be taken back when the message is done.
    Note(Stage),
    /// The place in a run.
    Run,
    /// The same, and whether the client has it under way is not known: PUBREL is sent once, since
    /// some end the connection at one that they do not expect.
    Guess,
}

/// A message under way.
#[derive(Clone, Debug)]
pub struct InFlight {
    pub packet_id: u16,
    pub stage: Stage,
    /// Nothing once it is released: the client has it.
    pub copy: Option<Copy>,
    record: RecordId,
    kept: Kept,
    /// See [`Note::is_loose`].
    is_loose: bool,
    order: u64,
    /// Whether it takes a place of this connection's receive maximum.
    counted: bool,
}

/// What the acknowledgement of a message meant.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// The message is done: settle these.
    Done(DeliveryIds),
    /// The client has it: settle these, then send PUBREL.
    Release(DeliveryIds),
    /// Nothing under this identifier is under way on this connection.
    Unknown,
    /// The message under this identifier waits for another packet ([MQTT-4.3.2-3],
    /// [MQTT-4.3.3-3], [MQTT-4.3.3-5]).
    Wrong,
}

/// What a session keeps besides its messages: its runs, and notes that are still to be taken back.
#[derive(Debug, Default)]
pub struct KeptAside {
    over: Vec<Note>,
    runs: Option<Box<Runs>>,
}

/// The sending half of a session.
#[derive(Debug)]
pub struct Outbound {
    flights: FxHashMap<u16, InFlight>,
    /// Messages of the last connection to be sent again before anything new, in their first order
    /// ([MQTT-4.6.0-1]).
    again: VecDeque<u16>,
    /// Messages above QoS 0 that wait for a place.
    waiting: VecDeque<Copy>,
    /// Identifiers under which messages were sent before the server was started, until they come
    /// again: a client may have one of them and must know it by its identifier.
    owed: FxHashMap<RecordId, Vec<u16>>,
    reserved: FxHashSet<u16>,
    /// What clients had before the server was started; should it come again, it is settled.
    had: FxHashSet<RecordId>,
    /// Notes of what is done.
    over: Vec<Note>,
    /// Aside, since most sessions have none.
    runs: Option<Box<Runs>>,
    /// Whether the session is kept, and what is under way noted.
    keeps: bool,
    quota: u16,
    last_id: u16,
    sent: u64,
}

impl InFlight {
    /// What is to be remembered of it.
    #[must_use]
    pub fn note(&self) -> Note {
        let Self { packet_id, stage, record, is_loose, .. } = *self;
        Note { packet_id, record, stage, is_loose }
    }

    fn is_in_run(&self) -> bool {
        matches!(self.kept, Kept::Run | Kept::Guess)
    }

    /// Whether somebody else gets it when the connection ends.
    fn is_others(&self) -> bool {
        self.copy.as_ref().is_some_and(|copy| copy.competing)
    }

    fn qos(&self) -> Qos {
        self.copy.as_ref().map_or(Qos::ExactlyOnce, |copy| copy.qos)
    }
}

impl Outbound {
    #[must_use]
    pub fn new(receive_max: u16, keeps: bool) -> Self {
        Self {
            flights: FxHashMap::default(),
            again: VecDeque::new(),
            waiting: VecDeque::new(),
            owed: FxHashMap::default(),
            reserved: FxHashSet::default(),
            had: FxHashSet::default(),
            over: Vec::new(),
            runs: None,
            keeps,
            quota: receive_max,
            last_id: 0,
            sent: 0,
        }
    }

    /// Goes on with what the session's last connection had under way, in its order.
    pub fn resume(&mut self, flights: Vec<InFlight>, kept: KeptAside, last_id: u16) {
        self.last_id = last_id;
        (self.over, self.runs) = (kept.over, kept.runs);
        if let Some(runs) = &mut self.runs {
            runs.resume();
        }
        for mut flight in flights {
            flight.order = self.sent;
            flight.counted = false;
            self.sent += 1;
            self.again.push_back(flight.packet_id);
            self.flights.insert(flight.packet_id, flight);
        }
    }

    /// Goes on with what was noted and is not among what was resumed: the server was started since.
    /// At most `reserved_max` identifiers go on waiting for what may come again.
    pub fn remember(&mut self, notes: impl IntoIterator<Item = Note>, reserved_max: usize) {
        for note in notes {
            let Note { packet_id, record, stage, is_loose } = note;
            if self.over.iter().any(|over| (over.packet_id, over.record) == (packet_id, record)) {
                continue;
            }
            if stage == Stage::Released && !is_loose {
                self.had.insert(record);
            }
            if self.flights.contains_key(&packet_id) {
                continue;
            }
            if stage == Stage::Published && !is_loose {
                self.owed.entry(record).or_default().push(packet_id);
                self.reserved.insert(packet_id);
            } else {
                self.release(note);
            }
        }
        self.release_oldest(reserved_max);
    }

    /// Sends PUBREL for a message that the client has, or for one that will not come again: the
    /// answer, whichever it is, says that the identifier is free on both sides.
    fn release(&mut self, note: Note) {
        let Note { packet_id, record, stage, is_loose } = note;
        self.send_release(packet_id, Kept::Note(stage), (record, is_loose));
    }

    fn send_release(&mut self, packet_id: u16, kept: Kept, (record, is_loose): (RecordId, bool)) {
        let (copy, order, counted) = (None, self.sent, false);
        self.sent += 1;
        let stage = Stage::Released;
        let flight = InFlight { packet_id, stage, copy, record, kept, is_loose, order, counted };
        self.flights.insert(packet_id, flight);
        self.again.push_back(packet_id);
    }

    /// Goes on with a run that was noted: what is open of it and settled will not come again, and is
    /// released. No message had an offset from `next` on yet.
    pub fn remember_run(&mut self, noted: Noted, unsettled: &[(Offset, Offset)], next: Offset) {
        let runs = self.runs.get_or_insert_default();
        runs.remember(noted, next);
        for (packet_id, offset) in runs.open_of(&noted.run) {
            let is_settled = !unsettled.iter().any(|(a, b)| (a.0..b.0).contains(&offset));
            if is_settled && !self.flights.contains_key(&packet_id) {
                self.send_release(packet_id, Kept::Guess, (RecordId::default(), true));
            }
        }
    }

    /// Ends the wait for what is the likeliest to come no more, because it expired, was purged or
    /// unsubscribed: else its identifiers would never be free again.
    fn release_oldest(&mut self, reserved_max: usize) {
        if self.reserved.len() <= reserved_max {
            return;
        }
        let mut records: Vec<RecordId> = self.owed.keys().copied().collect();
        // An id begins with its time.
        records.sort_unstable_by_key(|record| record.0);
        for record in records {
            if self.reserved.len() <= reserved_max {
                return;
            }
            for packet_id in self.owed.remove(&record).unwrap_or_default() {
                self.reserved.remove(&packet_id);
                let (stage, is_loose) = (Stage::Published, true);
                self.release(Note { packet_id, record, stage, is_loose });
            }
        }
    }

    /// Whether a message that is about to be sent is to be noted before; it counts as noted then.
    pub fn take_note(&mut self, packet_id: u16) -> Option<Note> {
        let flight = self.flights.get_mut(&packet_id)?;
        let is_kept = self.keeps && !flight.is_others();
        if !is_kept || flight.kept != Kept::Nothing || flight.qos() != Qos::ExactlyOnce {
            return None;
        }
        flight.kept = Kept::Note(flight.stage);
        Some(flight.note())
    }

    /// The note of a message that the client has, if it is not written yet; it counts as noted then.
    pub fn note_released(&mut self, packet_id: u16) -> Option<Note> {
        let flight = self.flights.get_mut(&packet_id).filter(|flight| !flight.is_in_run())?;
        let kept = std::mem::replace(&mut flight.kept, Kept::Note(Stage::Released));
        (kept != flight.kept).then(|| flight.note())
    }

    /// Whether a message has its identifier by its place: that it is settled says that the client
    /// has it, and needs no note.
    #[must_use]
    pub fn is_in_run(&self, packet_id: u16) -> bool {
        self.flights.get(&packet_id).is_some_and(InFlight::is_in_run)
    }

    /// The runs that are to be noted before what [`Outbound::next_to_send`] gave is sent.
    pub fn take_begun_runs(&mut self) -> Vec<Noted> {
        self.runs.as_mut().map(|runs| runs.take_begun()).unwrap_or_default()
    }

    /// The runs of which more is completed than was noted.
    pub fn take_run_news(&mut self) -> Vec<Noted> {
        self.runs.as_mut().map(|runs| runs.take_news()).unwrap_or_default()
    }

    /// The runs whose notes are to be taken back.
    pub fn take_over_runs(&mut self) -> Vec<super::Run> {
        self.runs.as_mut().map(|runs| runs.take_over()).unwrap_or_default()
    }

    /// A delivery is settled. If its place is open, then because nobody knew better.
    pub fn pass(&mut self, id: &DeliveryId) {
        if let Some((packet_id, is_open)) = self.find_in_runs(id)
            && is_open
            && !self.flights.contains_key(&packet_id)
        {
            self.close_in_run(packet_id);
        }
    }

    fn find_in_runs(&self, id: &DeliveryId) -> Option<(u16, bool)> {
        self.runs.as_ref()?.find(id)
    }

    fn close_in_run(&mut self, packet_id: u16) {
        if let Some(runs) = &mut self.runs {
            runs.close(packet_id);
        }
    }

    /// Whether a delivery may have been sent by itself before the server was started, so that it is
    /// not to be made one message with another.
    #[must_use]
    pub fn was_alone(&self, copy: &Copy) -> bool {
        let mut ids = copy.deliveries.iter();
        ids.any(|id| self.find_in_runs(id).is_some_and(|(_, is_open)| is_open))
            && !self.owed.contains_key(&copy.record.id())
    }

    /// Whether there are notes to be written in passing or to be taken back.
    #[must_use]
    pub fn has_news(&self) -> bool {
        !self.over.is_empty() || self.runs.as_ref().is_some_and(|runs| runs.has_news())
    }

    /// The notes that are to be taken back.
    pub fn take_over(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.over)
    }

    /// The identifier that was given last.
    #[must_use]
    pub fn last_id(&self) -> u16 {
        self.last_id
    }

    #[must_use]
    pub fn flight(&self, packet_id: u16) -> Option<&InFlight> {
        self.flights.get(&packet_id)
    }

    /// Ends the connection's half: what stays with the session, in order, what is kept with it, and
    /// what was never sent.
    #[must_use]
    pub fn park(mut self) -> (Vec<InFlight>, KeptAside, Vec<Copy>) {
        let again: FxHashSet<u16> = self.again.iter().copied().collect();
        let mut flights = Vec::new();
        for flight in std::mem::take(&mut self.flights).into_values() {
            if flight.kept == Kept::Guess && !again.contains(&flight.packet_id) {
                self.close_in_run(flight.packet_id);
            } else if !flight.is_others() {
                flights.push(flight);
            }
        }
        flights.sort_by_key(|flight| flight.order);
        (flights, KeptAside { over: self.over, runs: self.runs }, self.waiting.into())
    }

    /// Takes a message above QoS 0; it comes out of [`Outbound::next_to_send`] when it may be sent.
    /// What the client has already is to be settled at once.
    pub fn push(&mut self, copy: Copy) -> DeliveryIds {
        debug_assert!(copy.qos != Qos::AtMostOnce);
        // A dead letter is a message of its own.
        let may_come_again = copy.qos == Qos::ExactlyOnce && copy.again.is_none();
        let is_had = may_come_again && self.had.contains(&copy.record.id());
        if is_had && !copy.deliveries.is_empty() {
            return copy.deliveries;
        }
        self.waiting.push_back(copy);
        DeliveryIds::new()
    }

    /// The next message to send, and whether it is sent again. Resent PUBRELs come out here too,
    /// in stage [`Stage::Released`].
    pub fn next_to_send(&mut self) -> Option<(&InFlight, bool)> {
        if let Some(packet_id) = self.again.front().copied() {
            let flight = self.flights.get_mut(&packet_id)?;
            if flight.stage == Stage::Published {
                self.quota = self.quota.checked_sub(1)?;
                flight.counted = true;
            }
            self.again.pop_front();
            return Some((flight, true));
        }
        let record = self.waiting.front()?.record.id();
        let quota = self.quota.checked_sub(1)?;
        let stage = Stage::Published;
        let (packet_id, kept, is_again) = if let Some(packet_id) = self.take_owed(record) {
            (packet_id, Kept::Note(stage), true)
        } else if let Some((packet_id, is_again)) = self.id_in_run() {
            (packet_id, Kept::Run, is_again)
        } else {
            (self.free_id()?, Kept::Nothing, false)
        };
        let copy = self.waiting.pop_front()?;
        let is_loose = copy.again.is_some() || copy.deliveries.is_empty();
        self.quota = quota;
        let order = self.sent;
        self.sent += 1;
        let (copy, counted) = (Some(copy), true);
        let flight = InFlight { packet_id, stage, copy, record, kept, is_loose, order, counted };
        if let (Kept::Run, Some(runs)) = (kept, &mut self.runs) {
            runs.open(packet_id);
        }
        Some((self.flights.entry(packet_id).insert_entry(flight).into_mut(), is_again))
    }

    /// The identifier that the next message has by its place, and whether it may have been sent
    /// under it before.
    fn id_in_run(&mut self) -> Option<(u16, bool)> {
        let next = self
            .waiting
            .front()
            .filter(|next| self.keeps && next.qos == Qos::ExactlyOnce && !next.competing)?;
        let [id] = next.deliveries.as_slice() else { return None };
        // What does not outlive the server needs no more than a note.
        if id.queue.is_transient() || id.cursor.is_transient() {
            return None;
        }
        let id = *id;
        if let Some((packet_id, is_open)) = self.find_in_runs(&id) {
            // It was given up, and released.
            let is_free = !self.flights.contains_key(&packet_id);
            return is_free.then_some((packet_id, is_open));
        }
        let taken = self.flights.keys().chain(&self.reserved).copied();
        let runs = self.runs.get_or_insert_default();
        let begun = runs.begin(&id, taken, self.last_id);
        if begun.is_none() {
            // What came no more, because it expired or was purged, takes no run for ever.
            for packet_id in runs.stale(|id| self.flights.contains_key(&id)) {
                self.send_release(packet_id, Kept::Guess, (RecordId::default(), true));
            }
        }
        let run = begun?;
        // Each identifier is given in its turn.
        self.last_id = run.last_id();
        Some((run.first_id, false))
    }

    /// The identifier under which the next message was sent before, if it was.
    fn take_owed(&mut self, record: RecordId) -> Option<u16> {
        let next = self.waiting.front()?;
        // None of these was noted for this record and comes for the session again.
        let is_another = next.again.is_some() || next.competing || next.deliveries.is_empty();
        if next.qos != Qos::ExactlyOnce || is_another {
            return None;
        }
        let ids = self.owed.get_mut(&record)?;
        let packet_id = ids.pop();
        if ids.is_empty() {
            self.owed.remove(&record);
        }
        packet_id.filter(|id| self.reserved.remove(id))
    }

    /// Takes back a message that cannot be sent at all, as if it were acknowledged.
    pub fn abandon(&mut self, packet_id: u16) -> DeliveryIds {
        self.finish(packet_id).unwrap_or_default()
    }

    /// Messages that could be taken on and sent at once.
    #[must_use]
    pub fn room(&self) -> usize {
        let ahead = self.waiting.len() + self.again.len();
        usize::from(self.quota).saturating_sub(ahead)
    }

    /// Whether messages wait for a place.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty() || !self.again.is_empty()
    }

    pub fn puback(&mut self, packet_id: u16) -> Progress {
        match self.under_way(packet_id) {
            None => Progress::Unknown,
            Some((Qos::AtLeastOnce, _)) => self.done(packet_id),
            Some(_) => Progress::Wrong,
        }
    }

    pub fn pubrec(&mut self, packet_id: u16, reason: Reason) -> Progress {
        match self.under_way(packet_id) {
            // Its PUBLISH will come again, and be answered again.
            None if self.flights.contains_key(&packet_id) => Progress::Done(DeliveryIds::new()),
            None => Progress::Unknown,
            Some((Qos::ExactlyOnce, Stage::Published)) if reason.is_failure() => {
                self.done(packet_id)
            }
            Some((Qos::ExactlyOnce, Stage::Released)) if reason.is_failure() => Progress::Unknown,
            Some((Qos::ExactlyOnce, _)) => {
                let flight = self.flights.get_mut(&packet_id);
                let copy = flight.and_then(|flight| {
                    flight.stage = Stage::Released;
                    flight.copy.take()
                });
                Progress::Release(copy.map(|copy| copy.deliveries).unwrap_or_default())
            }
            Some(_) => Progress::Wrong,
        }
    }

    pub fn pubcomp(&mut self, packet_id: u16) -> Progress {
        // A PUBREL of the last connection may be answered before it was sent again.
        match self.flights.get(&packet_id).map(|flight| flight.stage) {
            Some(Stage::Released) => self.done(packet_id),
            Some(Stage::Published) if !self.is_owed(packet_id) => Progress::Wrong,
            _ => Progress::Unknown,
        }
    }

    /// The message that was sent under this identifier on this connection, and how far it got.
    fn under_way(&self, packet_id: u16) -> Option<(Qos, Stage)> {
        let flight = self.flights.get(&packet_id)?;
        (!self.is_owed(packet_id)).then_some((flight.qos(), flight.stage))
    }

    /// Whether the message was not sent on this connection yet.
    fn is_owed(&self, packet_id: u16) -> bool {
        !self.again.is_empty() && self.again.contains(&packet_id)
    }

    fn done(&mut self, packet_id: u16) -> Progress {
        self.finish(packet_id).map_or(Progress::Unknown, Progress::Done)
    }

    fn finish(&mut self, packet_id: u16) -> Option<DeliveryIds> {
        let flight = self.flights.remove(&packet_id)?;
        if flight.counted {
            self.quota = self.quota.saturating_add(1);
        }
        match flight.kept {
            Kept::Nothing => {}
            Kept::Note(_) => self.over.push(flight.note()),
            Kept::Run | Kept::Guess => self.close_in_run(packet_id),
        }
        Some(flight.copy.map(|copy| copy.deliveries).unwrap_or_default())
    }

    /// The next identifier that is not in flight ([MQTT-2.2.1-4]).
    fn free_id(&mut self) -> Option<u16> {
        let in_runs = self.runs.as_ref().map_or(0, |runs| runs.ids());
        if self.flights.len() + self.reserved.len() + in_runs >= usize::from(u16::MAX) {
            return None;
        }
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            let id = self.last_id;
            let is_free = !self.flights.contains_key(&id) && !self.reserved.contains(&id);
            if is_free && self.runs.as_ref().is_none_or(|runs| !runs.has(id)) {
                return Some(self.last_id);
            }
        }
    }
}
