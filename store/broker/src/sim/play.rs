//! One run: things are done to the store by the seed, it crashes, and what must be true is looked
//! at.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use fastrand::Rng;
use mainstem_log::sim::SimDisk;
use mainstem_schemas::{ConsumerId, DeliveryId, Settlement, UnixMillis, Verdict};
use tokio::sync::{Semaphore, oneshot};

use super::{
    check,
    model::{Done, Kind, Model},
    world::{World, now, set_now},
};
use crate::{
    client::ReadBack,
    command::{
        ClientId, Command, Declared, GroupRef, Published, QueueDef, SessionOpened, Subscribed,
    },
    config::Config,
    error::Refusal,
    inbox::{Delivery, Inbox, Notice},
    open::read,
};

mod answer;
mod ask;
mod crash;
mod places;
mod rule;
mod sessions;
mod terms;

const EPOCHS: u32 = 3;
const STEPS: u32 = 160;

/// Somebody connected.
pub(super) struct Peer {
    id: ClientId,
    inbox: Inbox,
    /// When all was taken that had come.
    taken: UnixMillis,
    /// Consumers and the readers they are on.
    consumers: Vec<(ConsumerId, usize)>,
    session: Option<String>,
}

/// A delivery that somebody has.
#[derive(Clone, Debug)]
struct Hand {
    client: ClientId,
    reader: usize,
    id: DeliveryId,
    number: u64,
    attempt: u32,
    /// It ends by itself then.
    deadline: UnixMillis,
}

/// An answer that is waited for.
enum Wait {
    Publish(Vec<u64>, oneshot::Receiver<Vec<Published>>),
    Settle(Vec<(Hand, Verdict)>, oneshot::Receiver<Vec<bool>>),
    Declare(usize, oneshot::Receiver<Result<Declared<QueueDef>, Refusal>>),
    Gone(usize, oneshot::Receiver<Result<u64, Refusal>>),
    Group(usize, oneshot::Receiver<Result<GroupRef, Refusal>>),
    Fetch(usize, ClientId, u64, oneshot::Receiver<Vec<Delivery>>),
    Get(usize, ClientId, oneshot::Receiver<Result<Option<(Delivery, crate::QueueStats)>, Refusal>>),
    Session(ClientId, oneshot::Receiver<Result<SessionOpened, Refusal>>),
    Subscribe(usize, ClientId, oneshot::Receiver<Result<Subscribed, Refusal>>),
    Bind((String, Bytes, String), oneshot::Receiver<Result<(), Refusal>>),
    Decide(u64, bool, oneshot::Receiver<bool>),
    Consume(ClientId, ConsumerId, oneshot::Receiver<Result<(), Refusal>>),
    Lookup(terms::Wanted, oneshot::Receiver<terms::Found>),
    Place(places::Asked, places::Answer),
}

pub(super) struct Game {
    rng: Rng,
    tells: bool,
    disk: SimDisk,
    config: Config,
    dir: PathBuf,
    /// Numbers the directories of one run.
    dirs: u32,
    world: Option<World>,
    model: Model,
    peers: Vec<Peer>,
    waits: Vec<Wait>,
    hands: Vec<Hand>,
    /// What consumers of streams have come to.
    readings: BTreeMap<(ClientId, ConsumerId), terms::Reading>,
    clients: u64,
    consumers: u64,
    numbers: u64,
    permits: Arc<Semaphore>,
    /// The disk takes no more calls after some: nothing read is to be believed.
    is_dying: bool,
}

/// Runs a seed; `dir` is for its index.
pub(super) fn run(seed: u64, dir: &Path, tells: bool) {
    let mut rng = Rng::with_seed(seed);
    set_now(UnixMillis(1_700_000_000_000));
    let mut config = Config::new(dir.to_owned());
    config.segment_bytes = rng.choice([8 << 10, 16 << 10, 64 << 10]).unwrap();
    config.message_bytes_max = 2 << 10;
    config.checkpoint_bytes = rng.choice([2 << 10, 16 << 10, 64 << 10]).unwrap();
    config.queues_resident_max = rng.usize(2..8);
    config.tail_cache_bytes = rng.choice([0, 1 << 10, 64 << 10]).unwrap();
    config.inbox_deliveries_max = rng.choice([3, 1000]).unwrap();
    config.parked_per_cursor_max = rng.choice([2, 1000]).unwrap();
    config.undecided_max = 10;
    fs::create_dir_all(dir).unwrap();
    let mut game = Game {
        disk: SimDisk::new(rng.u64(..)),
        rng,
        tells,
        config,
        dir: dir.to_owned(),
        dirs: 0,
        world: None,
        model: Model::default(),
        peers: Vec::new(),
        waits: Vec::new(),
        hands: Vec::new(),
        readings: BTreeMap::new(),
        clients: 0,
        consumers: 0,
        numbers: 0,
        permits: Arc::new(Semaphore::new(1 << 20)),
        is_dying: false,
    };
    game.play();
}

impl Game {
    fn tell(&self, what: impl FnOnce() -> String) {
        if self.tells {
            println!("{} {}", now().0 - 1_700_000_000_000, what());
        }
    }

    fn world(&mut self) -> &mut World {
        self.world.as_mut().expect("the store is open")
    }

    fn play(&mut self) {
        let first = self.index_dir();
        let world = World::start(&self.disk, &self.config, &first).expect("a new log opens");
        self.world = Some(world.expect("it begins"));
        self.reattach();
        for _ in 0..EPOCHS {
            let steps = self.rng.u32(STEPS / 4..STEPS);
            let mut failed = false;
            for _ in 0..steps {
                self.ask();
                if self.step().is_err() {
                    failed = true;
                    break;
                }
            }
            if !self.crash(failed) {
                return;
            }
        }
        self.finish();
    }

    fn index_dir(&mut self) -> PathBuf {
        self.dirs += 1;
        self.dir.join(self.dirs.to_string())
    }

    /// Some of the threads get on, in some order.
    fn step(&mut self) -> Result<(), ()> {
        let moved = self.advance();
        if let Err(error) = moved {
            self.tell(|| format!("the store stops: {error}"));
            assert!(self.is_dying, "the store stops by itself: {error}");
            return Err(());
        }
        self.take_answers();
        self.take_notices();
        Ok(())
    }

    fn advance(&mut self) -> Result<(), crate::commit::Fatal> {
        let (works, hears) = (self.rng.u8(..10), self.rng.u8(..10));
        let world = self.world.as_mut().expect("the store is open");
        if works < 6 {
            while world.work()? {
                if works < 2 || world.is_stuck() {
                    break;
                }
            }
        }
        if hears < 6 {
            world.hear_of_index()?;
        }
        let ms = match self.rng.u8(..20) {
            0 => self.rng.u64(..3000),
            1 => self.rng.u64(..400),
            _ => self.rng.u64(..6),
        };
        set_now(now().plus(ms));
        let turns = self.rng.u8(..4);
        let world = self.world.as_mut().expect("the store is open");
        for _ in 0..turns {
            world.turn()?;
        }
        if turns > 0 {
            world.check_wakes()?;
        }
        Ok(())
    }

    /// Everything that can be done without time passing is done, and some time passes.
    fn settle_down(&mut self, rounds: u32) -> Result<(), ()> {
        for _ in 0..rounds {
            let world = self.world.as_mut().expect("the store is open");
            let moved = (|| {
                world.turn()?;
                while world.work()? {
                    if world.is_stuck() {
                        break;
                    }
                }
                world.hear_of_index()?;
                world.turn()
            })();
            if let Err(error) = moved {
                self.tell(|| format!("the store stops: {error}"));
                assert!(self.is_dying, "the store stops by itself: {error}");
                return Err(());
            }
            self.take_answers();
            self.take_notices();
            set_now(now().plus(20));
        }
        Ok(())
    }

    fn take_notices(&mut self) {
        let may_skip = self.config.inbox_deliveries_max < 10;
        self.take_notices_of(may_skip, |_| true);
    }

    fn take_notices_of(&mut self, may_skip: bool, is_it: impl Fn(ClientId) -> bool) {
        let mut all = Vec::new();
        let mut rooms = Vec::new();
        for peer in &mut self.peers {
            if !is_it(peer.id) || (may_skip && self.rng.u8(..3) == 0) {
                continue;
            }
            let mut notices = Vec::new();
            let stalled = {
                let mut taking = Box::pin(peer.inbox.take_all(&mut notices));
                let polled = taking.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                matches!(polled, Poll::Ready(true))
            };
            if stalled {
                rooms.push(Command::Room { client: peer.id });
            }
            all.push((peer.id, notices));
        }
        self.world().commands.extend(rooms);
        for (client, notices) in all {
            for notice in notices {
                self.take_notice(client, notice);
            }
            if let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == client) {
                peer.taken = now();
            }
        }
    }

    fn take_notice(&mut self, client: ClientId, notice: Notice) {
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == client) else { return };
        match notice {
            Notice::Delivery(delivery) => {
                let consumer = delivery.consumer;
                let found = peer.consumers.iter().find(|(id, _)| *id == consumer);
                let Some((_, reader)) = found.copied() else {
                    // It is on its way from a subscription that went on to another.
                    self.give_back_blind(client, &delivery);
                    return;
                };
                self.take_delivery(client, reader, UnixMillis::NONE, delivery);
            }
            Notice::Cancelled(consumer) => peer.consumers.retain(|(id, _)| *id != consumer),
            Notice::TakenOver => {
                peer.session = None;
                let subscription = 1 << 63;
                peer.consumers.retain(|(id, _)| id.0 & subscription == 0);
                let gone = |hand: &Hand, model: &Model| {
                    hand.client == client
                        && matches!(model.readers[hand.reader].kind, Kind::Subscription { .. })
                };
                let model = &self.model;
                self.hands.retain(|hand| !gone(hand, model));
            }
            Notice::Blocked | Notice::Unblocked | Notice::Closing => {}
        }
    }

    fn give_back_blind(&mut self, client: ClientId, delivery: &Delivery) {
        let place = Some((delivery.id.queue, delivery.id.cursor));
        for reader in self.model.readers.iter_mut().filter(|reader| reader.place == place) {
            reader.is_order_off = true;
        }
        if delivery.needs_settle {
            let batch = vec![Settlement { id: delivery.id, verdict: Verdict::Unread }];
            self.world().commands.push(Command::Settle { client, batch, reply: None });
        }
    }

    fn take_delivery(
        &mut self,
        client: ClientId,
        reader: usize,
        deadline: UnixMillis,
        delivery: Delivery,
    ) {
        let peer = self.peers.iter().find(|peer| peer.id == client);
        let since = peer.map_or(UnixMillis::NONE, |peer| peer.taken);
        let mut delivery = delivery;
        let found = match &delivery.record {
            Some(record) => Some((record.clone(), delivery.passage.clone())),
            None => self.read_moved(&delivery),
        };
        let Some((record, passage)) = found else {
            assert!(self.is_dying, "a delivery cannot be read: {delivery:?}");
            self.model.readers[reader].is_blind = true;
            return;
        };
        delivery.passage = passage;
        if self.model.readers[reader].is_gone {
            // It was on its way.
            return;
        }
        self.end_leases();
        let is_stream = delivery.id.cursor.is_transient()
            && matches!(self.model.readers[reader].kind, Kind::Queue(_));
        if is_stream {
            // Every consumer has all of it.
            self.check_reading(client, reader, &delivery, &record);
            let batch = vec![Settlement { id: delivery.id, verdict: Verdict::Accept }];
            self.world().commands.push(Command::Settle { client, batch, reply: None });
            return;
        }
        let number =
            check::delivered(&mut self.model, reader, client.0, &delivery, &record, since, now());
        let kind = &self.model.readers[reader].kind;
        self.tell(|| {
            format!("{number} to {kind:?} {:?} attempt {}", delivery.id, delivery.attempt)
        });
        let offset = delivery.id.offset.0;
        if delivery.needs_settle || delivery.settles_when_read {
            let (id, attempt) = (delivery.id, delivery.attempt);
            let hand = Hand { client, reader, id, number, attempt, deadline };
            if delivery.settles_when_read {
                self.settle_hands(vec![(hand, Verdict::Accept)], false);
            } else {
                self.hands.push(hand);
            }
        } else {
            check::over(&mut self.model, reader, offset);
            check::settled(&mut self.model, reader, number, Done::Asked);
            self.model.readers[reader].ended.insert(offset);
        }
    }

    /// As `Client::resolve` does.
    fn read_moved(&mut self, delivery: &Delivery) -> Option<ReadBack> {
        let (mut position, mut size) = (delivery.position, delivery.size);
        for _ in 0..4 {
            match read(&self.world().reader, position, size) {
                Ok(found) => return Some(found),
                Err(Refusal::Stale) => {
                    let (reply, mut answer) = oneshot::channel();
                    let ids = vec![delivery.id];
                    self.world().commands.push(Command::Locate { ids, reply });
                    if self.world().turn().is_err() {
                        return None;
                    }
                    let places = answer.try_recv().ok()?;
                    (position, size) = places.first().copied().flatten()?;
                }
                Err(_) => return None,
            }
        }
        None
    }

    /// Ends hands, as the model sees it.
    fn settle_hands(&mut self, hands: Vec<(Hand, Verdict)>, durably: bool) {
        let batch: Vec<Settlement> = hands
            .iter()
            .map(|(hand, verdict)| Settlement { id: hand.id, verdict: *verdict })
            .collect();
        let Some(client) = hands.first().map(|(hand, _)| hand.client) else { return };
        self.tell(|| format!("settle {hands:?} durably {durably}"));
        for (hand, verdict) in &hands {
            check::over(&mut self.model, hand.reader, hand.id.offset.0);
            let reader = &mut self.model.readers[hand.reader];
            let done = if hand.deadline.is_set() { Done::Maybe } else { Done::Asked };
            if !hand.deadline.is_set() && matches!(verdict, Verdict::Accept | Verdict::Reject) {
                reader.ended.insert(hand.id.offset.0);
            }
            match verdict {
                Verdict::Accept => {
                    reader.done.entry(hand.number).or_insert(done);
                }
                Verdict::Reject => {
                    reader.done.entry(hand.number).or_insert(done);
                    reader.rejected.insert(hand.number);
                }
                Verdict::Release => self.note_return(hand),
                Verdict::Unread => {}
            }
        }
        let (reply, answer) = oneshot::channel();
        let reply = durably.then_some(reply);
        self.world().commands.push(Command::Settle { client, batch, reply });
        if durably {
            self.waits.push(Wait::Settle(hands, answer));
        }
    }

    /// Leases that are over are so for the model too.
    fn end_leases(&mut self) {
        let (over, kept): (Vec<Hand>, Vec<Hand>) =
            self.hands.drain(..).partition(|hand| hand.deadline.reached(now()));
        self.hands = kept;
        for hand in over {
            check::over(&mut self.model, hand.reader, hand.id.offset.0);
            self.note_return(&Hand { deadline: hand.deadline, ..hand });
        }
    }

    /// A hand comes back and counts an attempt.
    fn note_return(&mut self, hand: &Hand) {
        let reader = &mut self.model.readers[hand.reader];
        reader.returned.insert(hand.number);
        let rest = reader.policy.delivery.rest_ms(hand.attempt);
        if rest > 0 {
            // The turn comes at this time or later.
            reader.rests.insert(hand.id.offset.0, now().plus(rest));
        }
    }
}
