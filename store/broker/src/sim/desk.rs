//! One client at a store whose threads are taken apart, for tests of what single turns do.

use std::{
    path::PathBuf,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use mainstem_log::sim::{Faults, SimDisk};
use mainstem_schemas::{
    Address, DeliveryId, Position, QueueId, RecordDraft, Settlement, Table, UnixMillis, Verdict,
    flags,
};
use tempfile::TempDir;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{
    audit::difference,
    world::{World, now, set_now},
};
use crate::{
    command::{
        ClientId, Command, DeclareQueue, Publish, Published, QueueDef, QueueStats, Reply, Retention,
    },
    config::Config,
    error::Refusal,
    inbox::{self, Delivery, Inbox, Notice},
    policy::Policy,
};

/// Turns that anything may take.
const PATIENCE: usize = 100_000;

pub(super) struct Desk {
    pub(super) world: World,
    pub(super) disk: SimDisk,
    pub(super) client: ClientId,
    inbox: Inbox,
    permits: Arc<Semaphore>,
    config: Config,
    dir: TempDir,
    index: PathBuf,
}

impl Desk {
    pub(super) fn new(set: impl FnOnce(&mut Config)) -> Self {
        set_now(UnixMillis(1_700_000_000_000));
        let dir = super::scratch();
        let mut config = Config::new(dir.path().to_owned());
        config.segment_bytes = 64 << 10;
        config.message_bytes_max = 8 << 10;
        set(&mut config);
        let disk = SimDisk::new(1);
        let index = dir.path().join("index");
        let world = World::start(&disk, &config, &index);
        let world = world.expect("a new log opens").expect("it begins");
        let client = ClientId(1);
        let (outbox, inbox) = inbox::pair(1 << 20, 1 << 30);
        let mut desk = Self {
            world,
            disk,
            client,
            inbox,
            permits: Arc::new(Semaphore::new(1 << 20)),
            config,
            dir,
            index,
        };
        desk.attach(outbox);
        desk
    }

    fn attach(&mut self, outbox: inbox::Outbox) {
        let (client, namespace) = (self.client, "/".into());
        self.world.commands.push(Command::Attach { client, namespace, outbox });
        self.turn();
    }

    /// The power goes and comes back; with a lost index it is made anew.
    pub(super) fn crash(mut self, loses_index: bool) -> Self {
        let before = self.index.clone();
        if loses_index {
            self.index.as_mut_os_string().push("-anew");
        }
        self.reopened(|world, disk| {
            drop(world);
            disk.crash();
            if loses_index {
                // Whoever still looks into it may have it write a file meanwhile, which goes with
                // the rest.
                let _removed = std::fs::remove_dir_all(&before);
            }
        })
    }

    /// The store after a stop in good order.
    pub(super) fn restart(self) -> Self {
        self.reopened(|world, _| world.close().expect("it closes"))
    }

    fn reopened(self, end: impl FnOnce(World, &SimDisk)) -> Self {
        let Self { world, disk, client, permits, config, dir, index, .. } = self;
        end(world, &disk);
        let world = World::start(&disk, &config, &index);
        let world = world.expect("the log opens").expect("it begins");
        let (outbox, inbox) = inbox::pair(1 << 20, 1 << 30);
        let mut desk = Self { world, disk, client, inbox, permits, config, dir, index };
        desk.attach(outbox);
        desk
    }

    /// Nothing more happens by itself.
    pub(super) fn settle_down(&mut self) {
        let mut before = Position(0);
        for round in 0.. {
            if before == self.world.reader.end() {
                return;
            }
            assert!(round < 200, "the log grows by itself");
            before = self.world.reader.end();
            for _ in 0..20 {
                self.pass(200);
                self.turns(5);
            }
        }
    }

    /// So much comes and goes that all there was before was moved.
    pub(super) fn turn_over(&mut self) {
        self.declare("traffic", Policy::default());
        let before = self.world.reader.end();
        for _ in 0..100 {
            self.fill("traffic", 20, 7000);
            while let Some((delivery, _)) = self.try_get("traffic", false) {
                self.give_back(delivery.id, Verdict::Accept);
            }
            self.settle_down();
            if self.world.reader.first() > before {
                return;
            }
        }
        panic!("the log keeps its beginning");
    }

    /// Records that were moved to the log's end since the counts were told last.
    pub(super) fn moved(&self) -> u64 {
        self.world.commit.moved()
    }

    /// The store after a crash that lost the index, which the log alone gives back as it was.
    pub(super) fn rebuilt(mut self) -> Self {
        self.settle_down();
        let hash = self.checkpoint();
        let index = self.world.commit.state.index.clone();
        let mut desk = self.crash(true);
        if desk.checkpoint() != hash {
            let difference = difference(&index, &desk.world.commit.state.index);
            panic!("the log does not tell what the index had: {difference}");
        }
        desk
    }

    /// One turn, and what the other threads have to do then.
    pub(super) fn turn(&mut self) {
        self.world.turn().unwrap_or_else(|error| panic!("the store stops: {error}"));
        while self.world.work().unwrap_or_else(|error| panic!("the store stops: {error}")) {
            if self.world.is_stuck() {
                break;
            }
        }
        while self.world.hear_of_index().unwrap() {}
    }

    pub(super) fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.turn();
        }
    }

    pub(super) fn pass(&mut self, ms: u64) {
        set_now(now().plus(ms));
    }

    /// Asks something whose answer is not waited for.
    pub(super) fn begin<T>(
        &mut self,
        ask: impl FnOnce(ClientId, Reply<T>) -> Command,
    ) -> oneshot::Receiver<T> {
        let (reply, answer) = oneshot::channel();
        self.world.commands.push(ask(self.client, reply));
        answer
    }

    /// Asks, and says how many turns the answer took.
    pub(super) fn count_turns<T>(
        &mut self,
        ask: impl FnOnce(ClientId, Reply<T>) -> Command,
    ) -> (T, usize) {
        let answer = self.begin(ask);
        self.wait_for(answer)
    }

    pub(super) fn wait_for<T>(&mut self, mut answer: oneshot::Receiver<T>) -> (T, usize) {
        for turns in 1..PATIENCE {
            self.turn();
            match answer.try_recv() {
                Ok(answer) => return (answer, turns),
                Err(oneshot::error::TryRecvError::Empty) => self.pass(1),
                Err(gone) => panic!("nobody answers: {gone}"),
            }
        }
        panic!("there is no answer");
    }

    pub(super) fn ask<T>(&mut self, ask: impl FnOnce(ClientId, Reply<T>) -> Command) -> T {
        self.count_turns(ask).0
    }

    /// A durable queue, to be declared.
    pub(super) fn queue(name: &str, policy: Policy) -> QueueDef {
        QueueDef {
            id: QueueId::default(),
            name: name.to_owned(),
            durable: true,
            exclusive: false,
            auto_delete: false,
            retention: Retention::Unsettled,
            policy: Arc::new(policy),
            arguments: Table::new(),
        }
    }

    pub(super) fn declare(&mut self, name: &str, policy: Policy) -> QueueId {
        self.declare_as(name, policy, Retention::Unsettled, true)
    }

    pub(super) fn declare_as(
        &mut self,
        name: &str,
        policy: Policy,
        retention: Retention,
        durable: bool,
    ) -> QueueId {
        let def = QueueDef { durable, retention, ..Self::queue(name, policy) };
        let request = DeclareQueue { def };
        let declared =
            self.ask(|client, reply| Command::DeclareQueue { client, request, reply }).unwrap();
        declared.def.id
    }

    pub(super) fn draft<'a>(&self, address: &'a Address, body: &'a [u8]) -> RecordDraft<'a> {
        let mut draft = RecordDraft::new(address, "/", b"", body);
        draft.flags = flags::DURABLE;
        draft.now = now();
        draft
    }

    pub(super) fn direct(&self, queue: &str, body: &[u8]) -> Publish {
        let address = Address::amqp(Bytes::new(), Bytes::copy_from_slice(queue.as_bytes()));
        Publish::new(self.draft(&address, body).encode().unwrap())
    }

    pub(super) fn permit(&self) -> OwnedSemaphorePermit {
        self.permits.clone().try_acquire_many_owned(1).unwrap()
    }

    pub(super) fn publish(&mut self, batch: Vec<Publish>) -> Vec<Published> {
        let permit = self.permit();
        self.ask(|client, reply| Command::Publish { client, batch, permit, reply })
    }

    /// Publishes records of some bytes to a queue.
    pub(super) fn fill(&mut self, queue: &str, count: usize, bytes: usize) {
        let body = vec![7; bytes];
        let mut left = count;
        while left > 0 {
            let some = left.min(1000);
            let batch = (0..some).map(|_| self.direct(queue, &body)).collect();
            for published in self.publish(batch) {
                assert!(matches!(published, Published::Taken { .. }), "{published:?}");
            }
            left -= some;
        }
    }

    pub(super) fn try_get(
        &mut self,
        queue: &str,
        settle_at_once: bool,
    ) -> Option<(Delivery, QueueStats)> {
        let queue = queue.to_owned();
        let got = self.ask(|client, reply| Command::Get { client, queue, settle_at_once, reply });
        got.unwrap()
    }

    pub(super) fn get(&mut self, queue: &str) -> Delivery {
        self.try_get(queue, false).expect("there is a record").0
    }

    pub(super) fn settle(&mut self, id: DeliveryId, verdict: Verdict) -> bool {
        let batch = vec![Settlement { id, verdict }];
        let reply = |client, reply| Command::Settle { client, batch, reply: Some(reply) };
        self.ask(reply) == [true]
    }

    /// As [`Desk::settle`], with no wait.
    pub(super) fn give_back(&mut self, id: DeliveryId, verdict: Verdict) {
        let (client, batch) = (self.client, vec![Settlement { id, verdict }]);
        self.world.commands.push(Command::Settle { client, batch, reply: None });
    }

    pub(super) fn ready(&mut self, queue: &str) -> u64 {
        let name = queue.to_owned();
        let found = self.ask(|client, reply| Command::FindQueue { client, name, reply });
        found.map_or(0, |found| found.stats.ready)
    }

    pub(super) fn checkpoint(&mut self) -> u64 {
        self.ask(|_, reply| Command::Checkpoint { reply })
    }

    /// Everything that came.
    pub(super) fn notices(&mut self) -> Vec<Notice> {
        let mut notices = Vec::new();
        let mut taking = Box::pin(self.inbox.take_all(&mut notices));
        let polled = taking.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        drop(taking);
        if matches!(polled, Poll::Ready(true)) {
            let client = self.client;
            self.world.commands.push(Command::Room { client });
        }
        notices
    }

    /// The disk takes no further file.
    pub(super) fn fill_disk(&mut self) {
        let space_bytes = Some(0);
        self.disk.set_faults(Faults { space_bytes, ..Faults::default() });
    }

    pub(super) fn free_disk(&mut self) {
        self.disk.set_faults(Faults::default());
    }

    /// Whether publishes are refused for want of space.
    pub(super) fn refuses(&mut self, queue: &str) -> bool {
        let publish = self.direct(queue, b"x");
        self.publish(vec![publish]) == [Published::Refused(Refusal::DiskFull)]
    }
}
