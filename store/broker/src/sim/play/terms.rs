//! What only some ask for: numbers of a writer's own, keys to be found by, places in streams.

use bytes::Bytes;
use mainstem_index::{Index, LookupKey, QueueName};
use mainstem_schemas::{Address, ConsumerId, Entrance, Offset, Position, Record, UnixMillis};
use tokio::sync::oneshot;

use super::{Game, Wait};
use crate::{
    command::{ClientId, Command, Source, Start},
    error::Refusal,
    inbox::Delivery,
    open::read,
    sim::{
        audit::{Contents, number_of},
        model::{Hold, Kind},
        world::now,
    },
    state::{BUCKET_BITS, POINTER, key_hash},
};

/// How long a stream keeps its records.
pub(super) const AGE_MAX_MS: u64 = 2000;
/// Further than any stream gets.
const FAR: u64 = 1 << 40;
const WRITERS: [&str; 3] = ["w0", "w1", "w2"];

/// What a look-up found.
pub(super) type Found = Result<Vec<(Offset, Position, u32)>, Refusal>;

/// What was looked for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    key: Bytes,
    number: u64,
    /// It must be found.
    is_there: bool,
}

/// A consumer's way through a stream.
#[derive(Debug)]
pub(super) struct Reading {
    start: Start,
    /// The stream went at least so far when the consumer came; 0 for an empty one.
    known_end: u64,
    last: Option<u64>,
}

impl Game {
    // Numbers of a writer's own.

    /// A writer's number for a record that exchanges have no part in: bindings may change between two
    /// tries.
    pub(super) fn once(&mut self, address: &Address) -> Option<(String, u64)> {
        let is_bound =
            matches!(address.entrance(), Entrance::Exchange { name, .. } if !name.is_empty());
        if is_bound || self.rng.u8(..5) > 0 {
            return None;
        }
        let writer = self.rng.choice(WRITERS).unwrap().to_owned();
        let last = self.model.writers.get(&writer);
        let last = last.and_then(|(number, _)| self.model.sent[number].once.clone());
        Some((writer, last.map_or(1, |(_, sequence)| sequence + 1)))
    }

    /// A writer sends its newest record again, as it does when it got no answer, or lost it.
    pub(super) fn retry(&mut self) {
        let client = self.client();
        let all: Vec<_> = self.model.writers.values().cloned().collect();
        let Some((number, publish)) = self.rng.choice(all) else { return };
        let is_on_its_way =
            |wait: &Wait| matches!(wait, Wait::Publish(all, _) if all.contains(&number));
        if self.waits.iter().any(is_on_its_way) {
            return;
        }
        self.tell(|| format!("send {number} again"));
        let address = self.model.sent[&number].address.clone();
        for at in self.model.route(&address) {
            // It may be taken only now.
            self.model.readers[at].owed.entry(number).or_insert(false);
        }
        let permit = self.permits.clone().try_acquire_many_owned(1).unwrap();
        let (reply, answer) = oneshot::channel();
        let batch = vec![publish];
        self.world().commands.push(Command::Publish { client, batch, permit, reply });
        self.waits.push(Wait::Publish(vec![number], answer));
    }

    /// What no durable queue got was never promised to be known again after a crash.
    pub(super) fn forget_brief(&mut self) {
        for (number, sent) in &mut self.model.sent {
            let is_kept = (self.model.readers.iter())
                .any(|reader| reader.is_durable && reader.owed.contains_key(number));
            if !is_kept {
                sent.times_taken = 0;
            }
        }
    }

    /// No queue has what a writer sent twice.
    pub(super) fn check_once(&self, contents: &Contents) {
        for stored in contents.queues.values() {
            let mut seen = std::collections::BTreeSet::new();
            for (number, place) in stored.entries.values() {
                let is_once = self.model.sent.get(number).is_some_and(|sent| sent.once.is_some());
                let is_new = place.flags & POINTER != 0 || !is_once || seen.insert(*number);
                assert!(is_new, "{number} is twice in {:?}", stored.name);
            }
        }
    }

    // Keys.

    pub(super) fn keys(&mut self, number: u64) -> Vec<Bytes> {
        match self.rng.u8(..3) {
            0 => vec![format!("own {number}").into(), format!("one of {}", number % 5).into()],
            _ => Vec::new(),
        }
    }

    pub(super) fn look_up(&mut self) {
        let client = self.client();
        let keyed: Vec<u64> = (self.model.sent.iter())
            .filter(|(_, sent)| !sent.keys.is_empty())
            .map(|(number, _)| *number)
            .collect();
        let Some(number) = self.rng.choice(keyed) else { return };
        let sent = &self.model.sent[&number];
        let is_there = sent.is_confirmed && sent.is_durable && sent.hold == Hold::No;
        let path = sent.address.path();
        let Some(topic) = path.segments().next() else { return };
        let topic = String::from_utf8_lossy(topic).into_owned();
        let key = sent.keys[usize::from(self.rng.bool())].clone();
        let wanted = Wanted { key: key.clone(), number, is_there };
        let (reply, answer) = oneshot::channel();
        let max = usize::MAX;
        self.world().commands.push(Command::Lookup { client, topic, key, max, reply });
        self.waits.push(Wait::Lookup(wanted, answer));
    }

    pub(super) fn looked_up(&mut self, wanted: &Wanted, found: Found) {
        let mut numbers = Vec::new();
        let Ok(found) = found else {
            assert!(!wanted.is_there, "there is no topic for {wanted:?}");
            return;
        };
        for (_, position, size) in found {
            match read(&self.world().reader, position, size) {
                Ok((record, _)) => numbers.push(number_of(&record)),
                // It moved on before it was read.
                Err(Refusal::Stale) => return,
                Err(error) => {
                    assert!(self.is_dying, "what {wanted:?} led to cannot be read: {error}");
                    return;
                }
            }
        }
        for number in &numbers {
            let sent = &self.model.sent[number];
            assert!(sent.keys.contains(&wanted.key), "{wanted:?} led to {number}: {sent:?}");
        }
        let is_found = numbers.contains(&wanted.number);
        assert!(!wanted.is_there || is_found, "{wanted:?} led to {numbers:?}");
    }

    /// Every record of a topic can be found by its keys.
    pub(super) fn check_keys(&self, index: &Index, contents: &Contents) {
        for (queue, stored) in &contents.queues {
            if !matches!(stored.name, QueueName::Topic(_)) {
                continue;
            }
            for (offset, (number, place)) in &stored.entries {
                let sent = self.model.sent.get(number).filter(|_| place.flags & POINTER == 0);
                for key in sent.into_iter().flat_map(|sent| &sent.keys) {
                    let key = LookupKey {
                        queue: *queue,
                        bucket: offset >> BUCKET_BITS,
                        hash: key_hash(key),
                        offset: Offset(*offset),
                    };
                    let is_there = index.get(&key).unwrap().is_some();
                    assert!(is_there, "{number} in {:?} is not found: {sent:?}", stored.name);
                }
            }
        }
    }

    // Streams.

    /// What a consumer reads, a stream from some place.
    pub(super) fn source(
        &mut self,
        client: ClientId,
        consumer: ConsumerId,
        reader: usize,
        name: String,
    ) -> Source {
        let known = &self.model.readers[reader];
        if known.policy.age_max_ms.is_none() {
            return Source::Queue(name);
        }
        let known_end = known.numbers.last_key_value().map_or(0, |(offset, _)| offset + 1);
        let start = match self.rng.u8(..6) {
            0 => Start::First,
            1 => Start::Next,
            2 => Start::Last,
            3 => Start::Offset(Offset(self.rng.u64(..known_end + 3))),
            4 => Start::Offset(Offset(FAR)),
            _ => Start::Time(UnixMillis(now().0 - self.rng.u64(..2 * AGE_MAX_MS))),
        };
        self.readings.insert((client, consumer), Reading { start, known_end, last: None });
        Source::Stream(name, start)
    }

    /// The stream's offsets follow each other, from where the consumer wanted to begin.
    pub(super) fn check_reading(
        &mut self,
        client: ClientId,
        at: usize,
        delivery: &Delivery,
        record: &Record,
    ) {
        let (number, offset) = (number_of(record), delivery.id.offset.0);
        let reader = &mut self.model.readers[at];
        let known = *reader.numbers.entry(offset).or_insert(number);
        assert_eq!(known, number, "another record stood at {offset} of {:?}", reader.kind);
        let Some(reading) = self.readings.get_mut(&(client, delivery.consumer)) else { return };
        let last = reading.last.replace(offset);
        assert!(last.is_none_or(|last| last < offset), "{reading:?} goes back from {last:?}");
        // The first offset that it must get, if that is still kept.
        let from = match (last, reading.start) {
            (Some(last), _) => last + 1,
            (None, Start::First) => 0,
            (None, Start::Next) => reading.known_end,
            (None, Start::Last) => reading.known_end.saturating_sub(1),
            (None, Start::Offset(from)) if from.0 <= reading.known_end => from.0,
            (None, Start::Offset(_)) => reading.known_end,
            (None, Start::Time(time)) => {
                let sent = &self.model.sent[&number];
                // What may have been sent again came later.
                let is_plain =
                    sent.hold == Hold::No && sent.once.is_none() && delivery.passage.is_none();
                assert!(!is_plain || sent.at >= time, "{number} is older than {reading:?}");
                return;
            }
        };
        let whom = format!("{number} at {offset} of {:?} to {reading:?}", reader.kind);
        assert!(offset >= from, "before its beginning: {whom}");
        if reader.was_purged {
            return;
        }
        // At the end, more may have come before the consumer than was known.
        let is_open = last.is_none()
            && match reading.start {
                Start::Next | Start::Last => true,
                Start::Offset(from) => from.0 > reading.known_end,
                Start::First | Start::Time(_) => false,
            };
        for (skipped, number) in reader.numbers.range(from..offset) {
            let sent = &self.model.sent[number];
            let ends = sent.at.plus(AGE_MAX_MS);
            let is_over = ends.reached(now()) || sent.expiry.reached(now());
            let is_kept = sent.hold == Hold::No && !is_over;
            // With what is new or last, more may have come than was known.
            assert!(!is_kept || is_open, "{number} at {skipped} was passed over: {whom}");
        }
    }

    /// A record was taken by a stream, at an offset.
    pub(super) fn note_offset(&mut self, number: u64, offset: Offset) {
        let sent = &self.model.sent[&number];
        let Entrance::Exchange { name, key } = sent.address.entrance() else { return };
        if !name.is_empty() {
            return;
        }
        let kind = Kind::Queue(String::from_utf8_lossy(&key).into_owned());
        let Some(at) = self.model.find(&kind) else { return };
        let reader = &mut self.model.readers[at];
        if reader.policy.age_max_ms.is_some() && reader.made < sent.at {
            let known = *reader.numbers.entry(offset.0).or_insert(number);
            assert_eq!(known, number, "two records have the offset {offset:?} of {kind:?}");
        }
    }
}
