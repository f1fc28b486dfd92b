//! Places in topics: what stands there, read without taking it, and groups that go on elsewhere.

use mainstem_schemas::{Offset, QueueId, UnixMillis};
use tokio::sync::oneshot;

use super::{Game, Wait};
use crate::{
    command::{ClientId, Command, Moved, Pull, Sought, Start, TopicCommand},
    error::Refusal,
    inbox::Delivery,
    policy::DeliveryPolicy,
    sim::{
        audit::number_of,
        model::{Hold, Kind, Reader},
        world::now,
    },
};

/// Further than any topic gets.
const FAR: u64 = 1 << 40;
/// How long ago a place may be that is looked for by its time.
const AGO_MS: u64 = 4000;

/// What was asked of a topic's places.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    Seek(usize, Start),
    Move(usize, Start),
    Pull(ClientId, QueueId, u64),
}

pub(super) enum Answer {
    Sought(oneshot::Receiver<Result<Sought, Refusal>>),
    Moved(oneshot::Receiver<Result<Moved, Refusal>>),
    Pulled(oneshot::Receiver<Vec<Delivery>>),
}

impl Game {
    /// A group that is known, and a place in its topic.
    fn some_place(&mut self) -> Option<(usize, Start)> {
        let readers = self.model.readers.iter().enumerate();
        let groups: Vec<usize> = readers
            .filter(|(_, reader)| {
                matches!(reader.kind, Kind::Group(..)) && !reader.is_gone && reader.place.is_some()
            })
            .map(|(at, _)| at)
            .collect();
        let at = self.rng.choice(groups)?;
        let end = self.model.readers[at].numbers.last_key_value().map_or(0, |(at, _)| at + 1);
        let start = match self.rng.u8(..8) {
            0 => Start::First,
            1 => Start::Next,
            2 => Start::Last,
            3 => Start::Offset(Offset(FAR)),
            4 => Start::Time(UnixMillis(now().0 - self.rng.u64(..AGO_MS))),
            _ => Start::Offset(Offset(self.rng.u64(..end + 2))),
        };
        Some((at, start))
    }

    pub(super) fn move_group(&mut self) {
        let client = self.client();
        let Some((at, to)) = self.some_place() else { return };
        let before = &mut self.model.readers[at];
        let Kind::Group(topic, group) = before.kind.clone() else { return };
        let moves = self.rng.u8(..3) > 0;
        if !moves {
            let (reply, answer) = oneshot::channel();
            let ask = TopicCommand::Seek { topic, to, reply };
            self.world().commands.push(Command::Topic { client, ask });
            self.waits.push(Wait::Place(Asked::Seek(at, to), Answer::Sought(answer)));
            return;
        }
        // From here on it is another one, which has read nothing.
        before.is_gone = true;
        let mut fresh = Reader::new(before.kind.clone(), before.policy.clone(), true, now());
        fresh.numbers.clone_from(&before.numbers);
        self.hands.retain(|hand| hand.reader != at);
        self.tell(|| format!("{:?} moves to {to:?}", fresh.kind));
        self.model.readers.push(fresh);
        let at = self.model.readers.len() - 1;
        let (reply, answer) = oneshot::channel();
        let policy = DeliveryPolicy::default();
        let ask = TopicCommand::MoveGroup { topic, group, to, policy, reply };
        self.world().commands.push(Command::Topic { client, ask });
        self.waits.push(Wait::Place(Asked::Move(at, to), Answer::Moved(answer)));
    }

    pub(super) fn pull(&mut self) {
        let client = self.client();
        let Some((at, _)) = self.some_place() else { return };
        let reader = &self.model.readers[at];
        let Some((queue, _)) = reader.place else { return };
        let end = reader.numbers.last_key_value().map_or(0, |(at, _)| at + 1);
        let from = self.rng.u64(..=end);
        let (max, wait_ms) = (self.rng.usize(1..8), self.rng.u64(..500));
        let (reply, answer) = oneshot::channel();
        let pull = Pull { queue, from: Offset(from), max, wait_ms };
        self.world()
            .commands
            .push(Command::Topic { client, ask: TopicCommand::Pull { pull, reply } });
        self.waits.push(Wait::Place(Asked::Pull(client, queue, from), Answer::Pulled(answer)));
    }

    /// Whether the answer has come, or never will.
    pub(super) fn take_place(&mut self, asked: &Asked, answer: &mut Answer) -> bool {
        use oneshot::error::TryRecvError::Empty;
        match (asked, answer) {
            (Asked::Seek(at, to), Answer::Sought(answer)) => match answer.try_recv() {
                Ok(Ok(sought)) => {
                    assert!((sought.first..=sought.next).contains(&sought.at), "{sought:?}");
                    self.check_place(*at, *to, sought.at.0);
                }
                Ok(Err(_)) => {}
                Err(error) => return error != Empty,
            },
            (Asked::Move(at, to), Answer::Moved(answer)) => match answer.try_recv() {
                Ok(Ok(moved)) => self.moved_group(*at, *to, moved),
                Ok(Err(_)) => {}
                Err(error) => return error != Empty,
            },
            (Asked::Pull(client, queue, from), Answer::Pulled(answer)) => match answer.try_recv() {
                Ok(pulled) => self.pulled(*client, *queue, *from, pulled),
                Err(error) => return error != Empty,
            },
            _ => unreachable!("each has its answer"),
        }
        true
    }

    /// The place is what was meant, as far as the topic's records are known.
    fn check_place(&self, at: usize, to: Start, found: u64) {
        let reader = &self.model.readers[at];
        let end = reader.numbers.last_key_value().map_or(0, |(at, _)| at + 1);
        let whom = format!("{to:?} of {:?} is {found}, known to {end}", reader.kind);
        match to {
            Start::First => assert!(found == 0, "{whom}"),
            Start::Next => assert!(found >= end, "{whom}"),
            Start::Last => assert!(found + 1 >= end, "{whom}"),
            Start::Offset(offset) if offset.0 <= end => assert!(found == offset.0, "{whom}"),
            Start::Offset(offset) => assert!((end..=offset.0).contains(&found), "{whom}"),
            Start::Time(time) => {
                for (offset, number) in &reader.numbers {
                    let sent = &self.model.sent[number];
                    // Others were taken at another time than they were sent.
                    if sent.hold == Hold::No && sent.once.is_none() && !self.died(*number) {
                        let is_behind = *offset >= found;
                        assert_eq!(is_behind, sent.at >= time, "{number} at {offset}: {whom}");
                    }
                }
            }
        }
    }

    /// Nothing more of a batched group was out when this was handed out.
    pub(super) fn check_batch(&mut self, at: usize, fetched: &[Delivery]) {
        self.end_leases();
        let reader = &self.model.readers[at];
        let is_batched = reader.policy.delivery.batched && !reader.is_gone && !reader.is_blind;
        if is_batched && !fetched.is_empty() {
            assert!(reader.out.is_empty(), "{:?} of {:?} is out", reader.out, reader.kind);
        }
    }

    /// Whether a record may have come to a topic as a dead letter.
    fn died(&self, number: u64) -> bool {
        let dead = |reader: &Reader| {
            reader.policy.delivery.dead_letter.is_some() && reader.owed.contains_key(&number)
        };
        self.model.readers.iter().any(dead)
    }

    fn moved_group(&mut self, at: usize, to: Start, moved: Moved) {
        self.check_place(at, to, moved.at.0);
        let reader = &mut self.model.readers[at];
        reader.is_confirmed = true;
        reader.place = Some((moved.group.queue, moved.group.cursor));
        reader.begins = moved.at.0;
        let kind = reader.kind.clone();
        let behind: Vec<u64> =
            reader.numbers.range(moved.at.0..).map(|(_, number)| *number).collect();
        for number in behind {
            // It comes again, unless that has happened already.
            if self.model.sent[&number].is_durable && self.model.sent[&number].hold == Hold::No {
                self.model.readers[at].owed.entry(number).or_insert(true);
            }
        }
        for before in self.model.readers.iter_mut().filter(|reader| reader.kind == kind) {
            before.is_confirmed_gone |= before.is_gone;
        }
    }

    /// What stands in a topic from a place on: all that is kept, in order.
    fn pulled(&mut self, client: ClientId, queue: QueueId, from: u64, pulled: Vec<Delivery>) {
        let mut last = None;
        let mut found = Vec::new();
        for delivery in pulled {
            let offset = delivery.id.offset.0;
            assert!(last.is_none_or(|last| last < offset), "{offset} after {last:?}");
            last = Some(offset);
            assert!(offset >= from, "{offset} before {from} for {client:?}");
            let record = match &delivery.record {
                Some(record) => record.clone(),
                None => match self.read_moved(&delivery) {
                    Some((record, _)) => record,
                    None => return assert!(self.is_dying, "cannot be read: {delivery:?}"),
                },
            };
            let number = number_of(&record);
            let hold = self.model.sent[&number].hold;
            assert!(!matches!(hold, Hold::Undecided | Hold::Decided(false)), "{number}: {hold:?}");
            found.push((offset, number));
        }
        let Some(last) = last else { return };
        for reader in self.model.readers.iter().filter(|reader| {
            !reader.is_gone && reader.place.is_some_and(|(place, _)| place == queue)
        }) {
            for (offset, number) in reader.numbers.range(from..last) {
                let sent = &self.model.sent[number];
                let is_over = sent.expiry.reached(now());
                let is_found = found.contains(&(*offset, *number));
                let whom = (&reader.kind, offset, number, &found);
                assert!(is_found || is_over, "passed over: {whom:?} of {sent:?}");
            }
        }
    }
}
