//! What is asked of the store, by the seed, and what its answers mean.

use std::sync::Arc;

use bytes::Bytes;
use mainstem_schemas::{
    Address, ConsumerId, QueueId, RecordDraft, RecordId, Table, UnixMillis, Verdict, flags,
};
use tokio::sync::oneshot;

use super::{Game, Hand, Peer, Wait};
use crate::{
    command::{
        Bind, BranchTerms, Claim, ClientId, Command, Consume, DeclareExchange, DeclareQueue,
        ExchangeDef, ExchangeKind, Fetch, Publish, QueueDef, Retention, Terms, TopicCommand,
    },
    inbox,
    policy::{DeadLetter, DeliveryPolicy, Overflow, Policy},
    sim::{
        check,
        model::{Hold, Kind, Reader, Sent},
        world::now,
    },
};

const QUEUES: [&str; 6] = ["q0", "q1", "q2", "q3", "q4", "q5"];
const TOPICS: [&str; 2] = ["t0", "t1"];
const BRANCH: &str = "t0/a";

impl Game {
    /// Something is asked.
    pub(super) fn ask(&mut self) {
        match self.rng.u8(..105) {
            0..5 => self.attach(),
            5..7 => self.lose_client(),
            7..12 => self.declare(),
            12 => self.delete(),
            13..17 => self.bind(),
            17..47 => self.publish(),
            47..55 => self.consume(),
            55..57 => self.cancel(),
            57..61 => self.get(),
            61..80 => self.settle_some(),
            80..83 => self.open_group(),
            83..87 => self.fetch(),
            87..90 => self.open_session(),
            90..93 => self.subscribe(),
            93..95 => self.decide(),
            95 => self.renew(),
            96 => {
                let (reply, _) = oneshot::channel();
                self.world().commands.push(Command::Checkpoint { reply });
            }
            97 => self.break_disk(),
            98 => self.retry(),
            99 => self.look_up(),
            100 => self.set_rule(),
            101 => self.move_group(),
            102..104 => self.pull(),
            _ => {}
        }
    }

    /// After a start, what every run needs.
    pub(super) fn reattach(&mut self) {
        self.attach();
        let client = self.peers[0].id;
        for (name, kind) in [("x0", ExchangeKind::Fanout), ("x1", ExchangeKind::Direct)] {
            let def = ExchangeDef {
                name: name.to_owned(),
                kind,
                durable: true,
                auto_delete: false,
                internal: false,
                arguments: Table::new(),
            };
            let (reply, _) = oneshot::channel();
            let request = DeclareExchange { def };
            self.world().commands.push(Command::DeclareExchange { client, request, reply });
        }
        for topic in TOPICS {
            let (reply, _) = oneshot::channel();
            let topic = topic.to_owned();
            self.world().commands.push(Command::OpenTopic { client, topic, create: true, reply });
        }
        let (reply, _) = oneshot::channel();
        let terms = BranchTerms { idle_ms: None, max: 1 };
        let ask = TopicCommand::OpenBranch { name: BRANCH.to_owned(), terms, reply };
        self.world().commands.push(Command::Topic { client, ask });
    }

    fn attach(&mut self) {
        if self.peers.len() >= 5 {
            return;
        }
        self.clients += 1;
        let id = ClientId(self.clients);
        let (outbox, inbox) = inbox::pair(self.config.inbox_deliveries_max, 1 << 20);
        self.peers.push(Peer { id, inbox, taken: now(), consumers: Vec::new(), session: None });
        let namespace: Arc<str> = "/".into();
        self.world().commands.push(Command::Attach { client: id, namespace, outbox });
    }

    pub(super) fn client(&mut self) -> ClientId {
        if self.peers.is_empty() {
            self.attach();
        }
        let at = self.rng.usize(..self.peers.len());
        self.peers[at].id
    }

    fn lose_client(&mut self) {
        if self.peers.len() < 2 {
            return;
        }
        let at = self.rng.usize(..self.peers.len());
        let id = self.peers[at].id;
        self.take_notices_of(false, |client| client == id);
        self.take_answers();
        let Some(at) = self.peers.iter().position(|peer| peer.id == id) else { return };
        let peer = self.peers.remove(at);
        self.tell(|| format!("client {:?} goes", peer.id));
        for (_, reader) in &peer.consumers {
            self.model.forgive_returns(*reader);
        }
        for wait in &self.waits {
            if let Wait::Fetch(at, client, ..) | Wait::Get(at, client, ..) = wait
                && *client == peer.id
            {
                self.model.readers[*at].is_order_off = true;
                self.model.readers[*at].is_blind = true;
                self.model.forgive_returns(*at);
            }
        }
        self.forget_hands(|hand| hand.client == peer.id);
        self.waits.retain(|wait| !matches!(wait, Wait::Fetch(_, client, ..) | Wait::Get(_, client, ..) if *client == peer.id));
        if peer.session.as_deref() == Some("s2") {
            self.end_short_session();
        }
        self.world().commands.push(Command::Detach { client: peer.id, reply: None });
    }

    /// Hands that come back by themselves.
    pub(super) fn forget_hands(&mut self, is_it: impl Fn(&Hand) -> bool) {
        let (over, kept): (Vec<Hand>, Vec<Hand>) = self.hands.drain(..).partition(is_it);
        self.hands = kept;
        for hand in over {
            check::over(&mut self.model, hand.reader, hand.id.offset.0);
            self.note_return(&hand);
        }
    }

    fn policy(&mut self) -> (Policy, bool) {
        let rng = &mut self.rng;
        let mut policy = Policy::default();
        match rng.u8(..8) {
            0 => policy.ttl_ms = Some(rng.u64(50..3000)),
            1 => policy.len_max = Some(rng.u64(2..12)),
            2 => policy.bytes_max = Some(rng.u64(400..4000)),
            3 => policy.priority_max = rng.u8(1..4),
            _ => {}
        }
        if policy.is_bounded() {
            let all = [Overflow::DropHead, Overflow::Refuse, Overflow::RefuseDeadLetter];
            policy.overflow = rng.choice(all).unwrap();
        }
        let expires = rng.u8(..16) == 0;
        if expires {
            policy.expires_ms = Some(rng.u64(100..3000));
        }
        let delivery = &mut policy.delivery;
        match rng.u8(..8) {
            0..3 => {
                let key = Bytes::from(rng.choice(QUEUES).unwrap());
                let dead = DeadLetter::Exchange { name: String::new(), key: Some(key) };
                delivery.dead_letter = Some(dead);
            }
            3 => {
                let dead = DeadLetter::Exchange { name: "x0".to_owned(), key: None };
                delivery.dead_letter = Some(dead);
            }
            4 => delivery.dead_letter = Some(DeadLetter::Topic("t1".to_owned())),
            _ => {}
        }
        if rng.u8(..4) == 0 {
            delivery.attempts_max = Some(rng.u32(1..4));
        }
        delivery.single_active = rng.u8(..6) == 0;
        delivery.ordered = rng.u8(..5) == 0;
        if rng.u8(..5) == 0 {
            delivery.backoff_ms = vec![rng.u64(1..200), rng.u64(1..3000)];
        }
        (policy, expires)
    }

    fn declare(&mut self) {
        let client = self.client();
        let name = self.rng.choice(QUEUES).unwrap().to_owned();
        let (mut policy, expires) = self.policy();
        let durable = self.rng.u8(..5) != 0;
        let streams = self.rng.u8(..8) == 0;
        let auto_delete = !streams && self.rng.u8(..16) == 0;
        let exclusive = !streams && self.rng.u8(..24) == 0;
        if streams {
            policy = Policy { age_max_ms: Some(super::terms::AGE_MAX_MS), ..Policy::default() };
        }
        let kind = Kind::Queue(name.clone());
        let def = QueueDef {
            id: QueueId::default(),
            name,
            durable,
            exclusive,
            auto_delete,
            retention: if streams { Retention::Time } else { Retention::Unsettled },
            policy: Arc::new(policy.clone()),
            arguments: Table::new(),
        };
        let at = match self.model.find(&kind) {
            Some(at) => at,
            None => {
                self.tell(|| format!("declare {def:?}"));
                let mut reader = Reader::new(kind, policy, durable && !exclusive, now());
                reader.is_loose = expires || auto_delete || exclusive || streams;
                reader.is_exclusive = exclusive;
                self.model.readers.push(reader);
                self.model.readers.len() - 1
            }
        };
        let (reply, answer) = oneshot::channel();
        let request = DeclareQueue { def };
        self.world().commands.push(Command::DeclareQueue { client, request, reply });
        self.waits.push(Wait::Declare(at, answer));
    }

    fn delete(&mut self) {
        let client = self.client();
        let name = self.rng.choice(QUEUES).unwrap().to_owned();
        let Some(at) = self.model.find(&Kind::Queue(name.clone())) else { return };
        let purges = self.rng.u8(..3) == 0;
        self.tell(|| format!("delete {name} (purge only: {purges})"));
        let (reply, answer) = oneshot::channel();
        if purges {
            // What of it was ready is not followed.
            let reader = &mut self.model.readers[at];
            reader.was_purged = true;
            let all: Vec<u64> = reader.owed.keys().copied().collect();
            reader.purged.extend(all);
            self.model.readers[at].rejected.clear();
            self.world().commands.push(Command::PurgeQueue { client, name, reply });
        } else {
            if self.model.readers[at].is_exclusive {
                return;
            }
            self.model.readers[at].is_gone = true;
            self.hands.retain(|hand| hand.reader != at);
            self.model.forget_bindings(&name);
            let delete =
                Command::DeleteQueue { client, name, if_unused: false, if_empty: false, reply };
            self.world().commands.push(delete);
            self.waits.push(Wait::Gone(at, answer));
        }
    }

    fn bind(&mut self) {
        let client = self.client();
        let source = self.rng.choice(["x0", "x1"]).unwrap().to_owned();
        let destination = self.rng.choice(QUEUES).unwrap().to_owned();
        let key = Bytes::from(self.rng.choice(["a", "b"]).unwrap());
        let binding = (source.clone(), key.clone(), destination.clone());
        let (reply, answer) = oneshot::channel();
        let arguments = Table::new();
        let bind = Bind { source, destination, to_exchange: false, key, arguments };
        if self.rng.u8(..4) == 0 {
            self.tell(|| format!("unbind {binding:?}"));
            self.model.bindings.remove(&binding);
            self.waits.retain(|wait| !matches!(wait, Wait::Bind(other, _) if *other == binding));
            self.model.unsure.insert(binding);
            self.world().commands.push(Command::Unbind { client, bind, reply });
        } else {
            self.tell(|| format!("bind {binding:?}"));
            // What is sent before the answer may come or not.
            self.model.unsure.insert(binding.clone());
            self.world().commands.push(Command::Bind { client, bind, reply });
            self.waits.push(Wait::Bind(binding, answer));
        }
    }

    fn address(&mut self) -> Address {
        match self.rng.u8(..8) {
            0..4 => Address::amqp(Bytes::new(), Bytes::from(self.rng.choice(QUEUES).unwrap())),
            4 => Address::amqp(Bytes::from("x0"), Bytes::from("a")),
            5 => {
                Address::amqp(Bytes::from("x1"), Bytes::from(self.rng.choice(["a", "b"]).unwrap()))
            }
            _ => {
                let topics = ["t0/a", "t0/b", "t1/a", "t1/b"];
                Address::http(Bytes::from(self.rng.choice(topics).unwrap()))
            }
        }
    }

    fn publish(&mut self) {
        let client = self.client();
        let count = if self.rng.u8(..4) == 0 { self.rng.usize(2..10) } else { 1 };
        let mut batch = Vec::new();
        let mut numbers = Vec::new();
        for _ in 0..count {
            let (number, publish) = self.draft();
            numbers.push(number);
            batch.push(publish);
        }
        let permit = self.permits.clone().try_acquire_many_owned(1).unwrap();
        let (reply, answer) = oneshot::channel();
        self.world().commands.push(Command::Publish { client, batch, permit, reply });
        self.waits.push(Wait::Publish(numbers, answer));
    }

    /// Some records are seen later, or when somebody says so.
    fn hold_back(&mut self, draft: &mut RecordDraft<'_>, terms: &mut Terms) -> Hold {
        let mut hold = Hold::No;
        if draft.flags & flags::RETAIN == 0 && draft.expiry == UnixMillis::NONE {
            match self.rng.u8(..16) {
                0 => {
                    let ms = if self.rng.bool() {
                        self.rng.u64(1..3000)
                    } else {
                        self.rng.u64(..3_000_000)
                    };
                    draft.deliver_at = now().plus(ms);
                    if ms > 0 {
                        hold = Hold::Due(draft.deliver_at);
                    }
                }
                1 => {
                    terms.undecided = true;
                    hold = Hold::Undecided;
                }
                _ => {}
            }
        }
        hold
    }

    fn draft(&mut self) -> (u64, Publish) {
        self.numbers += 1;
        let number = self.numbers;
        let address = self.address();
        let len = match self.rng.u8(..12) {
            0 => self.rng.usize(..1900),
            _ => self.rng.usize(..120),
        };
        let data = check::payload(number, len);
        let mut draft = RecordDraft::new(&address, "/", b"native", &data);
        let is_durable = self.rng.u8(..10) != 0;
        draft.flags = if is_durable { flags::DURABLE } else { 0 };
        draft.id = RecordId::new(now(), u128::from(number));
        draft.now = now();
        draft.priority = self.rng.u8(..5);
        draft.partition = number % 5;
        let is_path = address.origin == mainstem_schemas::Origin::Http;
        if is_path && self.rng.u8(..4) == 0 {
            draft.flags |= flags::RETAIN;
        }
        if self.rng.u8(..8) == 0 {
            draft.expiry = now().plus(self.rng.u64(1..5000));
        }
        let mut terms = Terms::default();
        let hold = self.hold_back(&mut draft, &mut terms);
        if is_durable && hold == Hold::No {
            terms.once = self.once(&address);
        }
        if is_path {
            terms.keys = self.keys(number);
        }
        let record = draft.encode().unwrap();
        let sent = Sent {
            address: address.clone(),
            len,
            priority: record.priority(),
            at: now(),
            expiry: record.expiry(),
            hold,
            is_durable,
            is_confirmed: false,
            held: None,
            once: terms.once.clone(),
            times_taken: 0,
            keys: terms.keys.clone(),
        };
        self.tell(|| format!("send {number}: {sent:?}"));
        self.model.sent.insert(number, sent);
        if hold == Hold::No {
            for at in self.model.route(&address) {
                self.model.readers[at].owed.insert(number, false);
            }
        }
        let publish = Publish::new(record);
        let once = terms.once.clone();
        let publish = if terms == Terms::default() { publish } else { publish.on(terms) };
        if let Some((writer, _)) = once {
            self.model.writers.insert(writer, (number, publish.clone()));
        }
        (number, publish)
    }

    fn consume(&mut self) {
        let client = self.client();
        let name = self.rng.choice(QUEUES).unwrap().to_owned();
        let Some(reader) = self.model.find(&Kind::Queue(name.clone())) else { return };
        self.consumers += 1;
        let consumer = ConsumerId(self.consumers);
        let source = self.source(client, consumer, reader, name);
        let consume = Consume {
            source,
            consumer,
            options: 0,
            pool: 1,
            limit: self.rng.u32(..5),
            settle_at_once: self.rng.u8(..6) == 0,
            exclusive: false,
            priority: self.rng.i32(-1..2),
        };
        self.tell(|| format!("{client:?} {consume:?}"));
        let (reply, answer) = oneshot::channel();
        let peer = self.peers.iter_mut().find(|peer| peer.id == client).unwrap();
        peer.consumers.push((consumer, reader));
        self.world().commands.push(Command::Consume { client, consume, reply });
        self.waits.push(Wait::Consume(client, consumer, answer));
    }

    fn cancel(&mut self) {
        let client = self.client();
        let peer = self.peers.iter_mut().find(|peer| peer.id == client).unwrap();
        let own: Vec<_> =
            peer.consumers.iter().filter(|(id, _)| id.0 >> 63 == 0).copied().collect();
        let Some((consumer, _)) = self.rng.choice(own) else { return };
        let (reply, _) = oneshot::channel();
        self.world().commands.push(Command::Cancel { client, consumer, reply });
    }

    fn get(&mut self) {
        let client = self.client();
        let queue = self.rng.choice(QUEUES).unwrap().to_owned();
        let Some(reader) = self.model.find(&Kind::Queue(queue.clone())) else { return };
        let settle_at_once = self.rng.bool();
        let (reply, answer) = oneshot::channel();
        self.world().commands.push(Command::Get { client, queue, settle_at_once, reply });
        self.waits.push(Wait::Get(reader, client, answer));
    }

    fn settle_some(&mut self) {
        self.end_leases();
        let Some(hand) = self.rng.choice(self.hands.iter()).cloned() else { return };
        let most = self.rng.usize(1..6);
        let verdict = match self.rng.u8(..10) {
            0..6 => Verdict::Accept,
            6 => Verdict::Reject,
            7 | 8 => Verdict::Release,
            _ => Verdict::Unread,
        };
        let mut chosen = Vec::new();
        let durably = self.rng.bool() || hand.deadline.is_set();
        self.hands.retain(|other| {
            let fits = other.client == hand.client
                && other.deadline.is_set() == hand.deadline.is_set()
                && chosen.len() < most;
            if fits {
                chosen.push((other.clone(), verdict));
            }
            !fits
        });
        self.settle_hands(chosen, durably);
    }

    fn open_group(&mut self) {
        let client = self.client();
        let [t0, t1] = TOPICS;
        let topic = self.rng.choice([t0, t1, BRANCH]).unwrap().to_owned();
        let group = self.rng.choice(["g0", "g1", "g2"]).unwrap().to_owned();
        let kind = Kind::Group(topic.clone(), group.clone());
        let policy = DeliveryPolicy {
            attempts_max: (group == "g1").then_some(3),
            ordered: group == "g1",
            batched: group == "g2",
            ..DeliveryPolicy::default()
        };
        let at = self.model.find(&kind).unwrap_or_else(|| {
            let policy = Policy { delivery: policy.clone(), ..Policy::default() };
            let reader = Reader::new(kind, policy, true, now());
            self.model.readers.push(reader);
            self.model.readers.len() - 1
        });
        let (reply, answer) = oneshot::channel();
        self.world().commands.push(Command::OpenGroup { client, topic, group, policy, reply });
        self.waits.push(Wait::Group(at, answer));
    }

    fn fetch(&mut self) {
        let client = self.client();
        let groups: Vec<usize> = (0..self.model.readers.len())
            .filter(|at| matches!(self.model.readers[*at].kind, Kind::Group(..)))
            .collect();
        let Some(at) = self.rng.choice(groups) else { return };
        let Some((queue, cursor)) = self.model.readers[at].place else { return };
        let (max, ms, wait_ms) = (self.rng.usize(..6), self.rng.u64(50..2000), self.rng.u64(..500));
        let fetch = Fetch {
            group: crate::command::GroupRef { queue, cursor },
            max,
            claim: Claim::Lease { ms },
            wait_ms,
        };
        let (reply, answer) = oneshot::channel();
        self.world().commands.push(Command::Fetch { client, fetch, reply });
        self.waits.push(Wait::Fetch(at, client, ms, answer));
    }

    fn decide(&mut self) {
        let client = self.client();
        let waiting: Vec<u64> = (self.model.sent.iter())
            .filter(|(_, sent)| sent.hold == Hold::Undecided && sent.held.is_some())
            .map(|(number, _)| *number)
            .collect();
        let Some(number) = self.rng.choice(waiting) else { return };
        let publish = self.rng.bool();
        let sent = self.model.sent.get_mut(&number).unwrap();
        let Some(id) = sent.held else { return };
        sent.hold = Hold::Decided(publish);
        self.tell(|| format!("decide {number}: {publish}"));
        let (reply, answer) = oneshot::channel();
        self.world().commands.push(Command::Decide { client, id, record: None, publish, reply });
        self.waits.push(Wait::Decide(number, publish, answer));
    }

    fn renew(&mut self) {
        self.end_leases();
        let leased: Vec<usize> =
            (0..self.hands.len()).filter(|at| self.hands[*at].deadline.is_set()).collect();
        let Some(at) = self.rng.choice(leased) else { return };
        let ms = self.rng.u64(50..2000);
        let (reply, mut answer) = oneshot::channel();
        let hand = self.hands[at].clone();
        let (client, id, claim) = (hand.client, hand.id, Claim::Lease { ms });
        let before = now();
        self.world().commands.push(Command::Renew { client, id, claim, reply });
        // At once, since the lease may end meanwhile.
        if self.world().turn().is_err() {
            return;
        }
        if let Ok(Ok(renewed)) = answer.try_recv() {
            self.hands[at].id = renewed;
            self.hands[at].deadline = before.plus(ms);
        }
    }
}
