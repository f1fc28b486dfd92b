//! What a front-end calls. Every call is a command to the commit thread and a future of its
//! answer; no call holds a lock across an await.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use mainstem_log::FRAME_HEADER_BYTES;
use mainstem_schemas::{
    ConsumerId, Credentials, DeliveryId, Filter, Offset, Position, Principal, Record, RecordId,
    Settlement, UnixMillis, View, Views,
};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::{
    command::{
        Bind, Claim, ClientId, Command, Consume, DeclareExchange, DeclareQueue, Declared,
        ExchangeDef, Fetch, HeldId, HeldPlace, OpenSession, Publish, Published, QueueDef,
        QueueStats, SessionOpened, Source, Stamp, Subscribe, Subscribed,
    },
    config::Config,
    error::{LoginError, Refusal},
    inbox::{self, Delivery, Inbox, Notice},
    meter::Spoken,
    parcel::Parcel,
    passage::Passage,
    usage::Usage,
};

mod authenticator;
mod reading;
mod receipt;
mod rights;
mod sending;
mod settling;

pub(crate) use authenticator::Hashing;
pub use authenticator::{Authenticator, Challenge, Office};
pub use receipt::Receipt;
use rights::Known;
pub use rights::{Act, AllRights, Rights};
use sending::Fetching;
pub use settling::Unsettled;

/// A record read from the log, and how it came where it is if it was not published there.
pub(crate) type ReadBack = (Record, Option<Arc<Passage>>);

/// Reads records that left the tail cache.
pub(crate) type ReadFn = dyn Fn(Position, u32) -> Result<ReadBack, Refusal> + Send + Sync;

/// How often a record is looked for that was moved while it was being read.
const READS_MAX: usize = 4;

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) uncommitted: Arc<Semaphore>,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) hashing: Hashing,
    pub(crate) views: Views,
    pub(crate) read: Box<ReadFn>,
    pub(crate) clients: AtomicU64,
    pub(crate) usage: Arc<Usage>,
    /// How often a namespace was taken away.
    pub(crate) emptied: AtomicU64,
    pub(crate) now: fn() -> UnixMillis,
    /// Why the store had to stop, once it had to.
    pub(crate) failure: watch::Receiver<Option<String>>,
    /// Last, so that the way to the commit thread is closed before it is waited for.
    pub(crate) _threads: Threads,
}

/// The store's threads. The last handle waits for them, since a process that ended under them
/// would take the index's memory away in the middle of a write.
pub(crate) struct Threads(pub(crate) Vec<JoinHandle<()>>);

/// How long the last handle waits, and between two looks. A bound, because a task that still has
/// something to say to the store may need the very thread that waits here.
const THREADS_WAIT: Duration = Duration::from_secs(5);
const THREADS_LOOK: Duration = Duration::from_millis(2);

impl Drop for Threads {
    fn drop(&mut self) {
        let mut waited = Duration::ZERO;
        while waited < THREADS_WAIT && !self.0.iter().all(JoinHandle::is_finished) {
            thread::sleep(THREADS_LOOK);
            waited += THREADS_LOOK;
        }
    }
}

/// The store of one process. Cheap to clone.
#[derive(Clone)]
pub struct Broker {
    pub(crate) shared: Arc<Shared>,
}

impl Broker {
    /// Lets a peer in. The client and its inbox end together: dropping the client releases what
    /// it had in hand, ends its consumers and deletes its exclusive queues.
    pub async fn login(&self, credentials: &Credentials) -> Result<(Client, Inbox), LoginError> {
        let principal = self.identify(credentials).await?;
        self.admit(principal, false).await.map_err(|_| LoginError::Closed)
    }

    async fn admit(&self, principal: Principal, is_own: bool) -> Result<(Client, Inbox), Refusal> {
        let id = ClientId(self.shared.clients.fetch_add(1, Ordering::Relaxed));
        let config = &self.shared.config;
        let (outbox, inbox) = inbox::pair(config.inbox_deliveries_max, config.inbox_bytes_max);
        let attach = Command::Attach { client: id, namespace: principal.namespace.clone(), outbox };
        self.shared.room().await?.send(attach);
        let rights = Known::new((0, Arc::new(AllRights)));
        let shared = self.shared.clone();
        Ok((
            Client {
                shared,
                id,
                principal,
                rights,
                client_id: OnceLock::new(),
                spoken: OnceLock::new(),
                has_published: AtomicBool::new(false),
                is_own,
                detached: false,
            },
            inbox,
        ))
    }

    /// The CloudEvents reading of any record.
    #[must_use]
    pub fn view(&self, record: &Record) -> View {
        self.shared.views.of(record)
    }

    /// The settings it runs with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// The server's clock.
    #[must_use]
    pub fn now(&self) -> UnixMillis {
        (self.shared.now)()
    }

    /// Writes the index down to the newest entry and answers the hash of everything in it. Two
    /// stores that applied the same log answer the same.
    pub async fn checkpoint(&self) -> Result<u64, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.shared.room().await?.send(Command::Checkpoint { reply });
        answer.await.map_err(|_| Refusal::Closed)
    }

    /// Resolves when the store had to stop by itself, with the reason: a failed write or sync, or
    /// a record that cannot be read back. The process should end with it.
    pub async fn failed(&self) -> String {
        let mut failure = self.shared.failure.clone();
        match failure.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            // The sender is gone: the store was stopped in good order and can fail no more.
            Err(_) => std::future::pending().await,
        }
    }

    /// Commits what waits, tells every client [`Notice::Closing`], closes the files. Later calls
    /// are refused as [`Refusal::Closed`].
    pub async fn stop(&self) {
        let (reply, answer) = oneshot::channel();
        if let Ok(room) = self.shared.room().await {
            room.send(Command::Stop { reply });
            // An error here means that the commit thread has ended already, which is what we want.
            let _ended = answer.await;
        }
    }
}

impl Shared {
    /// Waits until the commit thread takes another command, which is best made only then: what waits keeps
    /// room for it otherwise, and an idle connection for all that it may ever wait for.
    pub(crate) async fn room(&self) -> Result<mpsc::Permit<'_, Command>, Refusal> {
        self.commands.reserve().await.map_err(|_| Refusal::Closed)
    }
}

/// A verified peer's way in.
pub struct Client {
    shared: Arc<Shared>,
    id: ClientId,
    principal: Principal,
    rights: Known,
    client_id: OnceLock<Box<str>>,
    /// What is counted of its protocol.
    spoken: OnceLock<Arc<Spoken>>,
    has_published: AtomicBool,
    /// It is the server's, which may do everything.
    is_own: bool,
    detached: bool,
}

impl Client {
    /// Who this is, and in which namespace it works.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The broker it logged in to.
    #[must_use]
    pub fn broker(&self) -> Broker {
        Broker { shared: self.shared.clone() }
    }

    /// A time and a fresh id for a record about to be made.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        let now = (self.shared.now)();
        let random = u128::from(fastrand::u64(..)) << 64 | u128::from(fastrand::u64(..));
        Stamp { now, id: RecordId::new(now, random) }
    }

    /// Publishes records in order. Waits while too many bytes are on their way to the disk. A
    /// payload over `message_bytes_max` is refused in the receipt, alone, and so is what this client
    /// may not publish ([`Refusal::Denied`]).
    pub async fn publish(&self, mut batch: Vec<Publish>) -> Result<Receipt, Refusal> {
        let denied = self.let_in(&mut batch).into_iter();
        let bytes = batch.iter().map(|publish| publish.record.bytes().len()).sum();
        let permit = self.shared.permit(bytes).await?;
        self.note_in(&batch);
        let (reply, answer) = oneshot::channel();
        self.shared.room().await?.send(Command::Publish { client: self.id, batch, permit, reply });
        let unsent = denied.map(|(at, refusal)| (at, Published::Refused(refusal))).collect();
        Ok(Receipt { answer, unsent })
    }

    /// Forgets writers (see [`crate::Terms::once`]), whose numbers begin anew, and tells which were
    /// known. Waits as a publish does; the receipt fails where a full disk has no more room for it.
    pub async fn forget(&self, writers: Vec<String>) -> Result<Receipt<bool>, Refusal> {
        let bytes = writers.iter().map(|writer| FRAME_HEADER_BYTES + writer.len()).sum();
        let permit = self.shared.permit(bytes).await?;
        let (reply, answer) = oneshot::channel();
        self.shared.room().await?.send(Command::Forget { client: self.id, writers, permit, reply });
        Ok(Receipt { answer, unsent: Vec::new() })
    }

    /// Declares an exchange, or finds the one of that name.
    pub async fn declare_exchange(
        &self,
        request: DeclareExchange,
    ) -> Result<Declared<ExchangeDef>, Refusal> {
        self.check_exchange(&request.def)?;
        self.ask(|reply| Command::DeclareExchange { client: self.id, request, reply }).await?
    }

    /// The exchange of that name.
    pub async fn find_exchange(&self, name: String) -> Result<Option<Arc<ExchangeDef>>, Refusal> {
        self.ask(|reply| Command::FindExchange { client: self.id, name, reply }).await
    }

    /// Deletes an exchange and its bindings. One that does not exist is no error.
    pub async fn delete_exchange(&self, name: String, if_unused: bool) -> Result<(), Refusal> {
        self.check_deletion(&name, true)?;
        self.ask(|reply| Command::DeleteExchange { client: self.id, name, if_unused, reply })
            .await?
    }

    /// Declares a named queue, or finds the one of that name. Errors: [`Refusal::Locked`].
    pub async fn declare_queue(
        &self,
        request: DeclareQueue,
    ) -> Result<Declared<QueueDef>, Refusal> {
        self.check_queue(&request.def)?;
        self.ask(|reply| Command::DeclareQueue { client: self.id, request, reply }).await?
    }

    /// The queue of that name. Errors: [`Refusal::NoQueue`], [`Refusal::Locked`].
    pub async fn find_queue(&self, name: String) -> Result<Declared<QueueDef>, Refusal> {
        self.ask(|reply| Command::FindQueue { client: self.id, name, reply }).await?
    }

    /// Deletes a queue and answers how many records were ready in it. One that does not exist is
    /// no error. Its consumers get [`Notice::Cancelled`].
    pub async fn delete_queue(
        &self,
        name: String,
        if_unused: bool,
        if_empty: bool,
    ) -> Result<u64, Refusal> {
        self.check_deletion(&name, false)?;
        self.ask(|reply| Command::DeleteQueue { client: self.id, name, if_unused, if_empty, reply })
            .await?
    }

    /// Drops what is ready in a queue and answers how many records that was.
    pub async fn purge_queue(&self, name: String) -> Result<u64, Refusal> {
        self.check_reading(&name)?;
        self.ask(|reply| Command::PurgeQueue { client: self.id, name, reply }).await?
    }

    /// Binds; a binding that exists already is no error.
    pub async fn bind(&self, bind: Bind) -> Result<(), Refusal> {
        self.check_bind(&bind)?;
        self.ask(|reply| Command::Bind { client: self.id, bind, reply }).await?
    }

    /// Unbinds; a binding that does not exist is no error.
    pub async fn unbind(&self, bind: Bind) -> Result<(), Refusal> {
        self.check_bind(&bind)?;
        self.ask(|reply| Command::Unbind { client: self.id, bind, reply }).await?
    }

    /// Sets how many deliveries the consumers of a pool may have unsettled together; 0 for no
    /// limit.
    pub async fn set_pool(&self, pool: u16, limit: u32) -> Result<(), Refusal> {
        self.shared.room().await?.send(Command::SetPool { client: self.id, pool, limit });
        Ok(())
    }

    /// Starts a consumer. Its deliveries come through the inbox, never before this answer is sent.
    pub async fn consume(&self, consume: Consume) -> Result<(), Refusal> {
        let (Source::Queue(queue) | Source::Stream(queue, _)) = &consume.source;
        self.check_reading(queue)?;
        self.ask(|reply| Command::Consume { client: self.id, consume, reply }).await?
    }

    /// Ends a consumer; what it has unsettled stays with the client. Tells whether it existed.
    pub async fn cancel(&self, consumer: ConsumerId) -> Result<bool, Refusal> {
        self.ask(|reply| Command::Cancel { client: self.id, consumer, reply }).await
    }

    /// Takes one record from a queue, with the queue's counts after it.
    pub async fn get(
        &self,
        queue: String,
        settle_at_once: bool,
    ) -> Result<Option<(Delivery, QueueStats)>, Refusal> {
        self.check_reading(&queue)?;
        let ask = |reply| Command::Get { client: self.id, queue, settle_at_once, reply };
        let got = self.ask(ask).await?;
        self.note_out(got.iter().flatten().map(|(delivery, _)| delivery));
        got
    }

    /// Makes this client the holder of a session, and attaches the session's subscriptions, of which those
    /// end that it may not have. Call it once, before any subscribe.
    pub async fn open_session(&self, open: OpenSession) -> Result<SessionOpened, Refusal> {
        let opened =
            self.ask(|reply| Command::OpenSession { client: self.id, open, reply }).await?;
        self.give_up_forbidden(opened?).await
    }

    /// Detaches from the session in good order, leaving `parcel` for the next holder; `expiry_s`
    /// replaces the session's expiry. Returns when that is durable.
    pub async fn close_session(
        &self,
        expiry_s: Option<u32>,
        parcel: Option<Parcel>,
    ) -> Result<(), Refusal> {
        self.ask(|reply| Command::CloseSession { client: self.id, expiry_s, parcel, reply }).await
    }

    /// Adds a subscription to the session, or replaces its options. From the answer on, every
    /// matching record is kept or delivered.
    pub async fn subscribe(&self, subscribe: Subscribe) -> Result<Subscribed, Refusal> {
        self.check_filter(&subscribe.filter, subscribe.share.is_some())?;
        self.ask(|reply| Command::Subscribe { client: self.id, subscribe, reply }).await?
    }

    /// Removes a subscription; tells whether the session had it.
    pub async fn unsubscribe(
        &self,
        filter: Filter,
        share: Option<String>,
    ) -> Result<bool, Refusal> {
        self.ask(|reply| Command::Unsubscribe { client: self.id, filter, share, reply }).await?
    }

    /// The retained records of the addresses a filter wants, as places to be read by
    /// [`Client::read`], so that a caller can go through many of them at its own pace.
    pub async fn retained(&self, filter: Filter) -> Result<Vec<(Position, u32)>, Refusal> {
        self.ask(|reply| Command::Retained { client: self.id, filter, reply }).await
    }

    /// Takes the next records of a group, waiting for the first one. Empty when the wait ended.
    /// When this future is dropped, what was on its way to it is released.
    pub async fn fetch(&self, fetch: Fetch) -> Result<Vec<Delivery>, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.shared.room().await?.send(Command::Fetch { client: self.id, fetch, reply });
        let mut fetching = Fetching { client: self, answer };
        let fetched = (&mut fetching.answer).await.map_err(|_| Refusal::Closed)?;
        self.note_out(fetched.iter());
        Ok(fetched)
    }

    /// Gives an outstanding delivery a new claim from now on, and a new id. Errors:
    /// [`Refusal::Stale`].
    pub async fn renew(&self, id: DeliveryId, claim: Claim) -> Result<DeliveryId, Refusal> {
        self.ask(|reply| Command::Renew { client: self.id, id, claim, reply }).await?
    }

    /// Waits for notices and moves all that are there into `out`. Cancel-safe.
    pub async fn recv(&self, inbox: &mut Inbox, out: &mut Vec<Notice>) {
        let before = out.len();
        if inbox.take_all(out).await {
            self.shared.send_or_spawn(Command::Room { client: self.id });
        }
        self.note_notices(out.get(before..).unwrap_or_default());
    }

    /// Reads the records of those deliveries that came without one. A record that the disk does not
    /// give back any more is taken out of `deliveries`, named in the log of events, and kept from
    /// everybody; the rest are unharmed.
    pub async fn resolve(&self, deliveries: &mut Vec<Delivery>) -> Result<(), Refusal> {
        if deliveries.iter().all(|delivery| delivery.record.is_some()) {
            return Ok(());
        }
        for _ in 0..READS_MAX {
            let missing: Vec<_> = deliveries
                .iter()
                .filter(|delivery| delivery.record.is_none())
                .map(|delivery| (delivery.position, delivery.size))
                .collect();
            if missing.is_empty() {
                break;
            }
            let mut read = self.read_all(missing).await?.into_iter();
            let (mut moved, mut lost) = (Vec::new(), Vec::new());
            for delivery in deliveries.iter_mut().filter(|delivery| delivery.record.is_none()) {
                match read.next() {
                    Some(Ok((record, passage))) => {
                        delivery.record = Some(record);
                        delivery.passage = passage;
                    }
                    Some(Err(Refusal::Stale)) => moved.push(delivery.id),
                    _ => lost.push(delivery.id),
                }
            }
            self.give_up(deliveries, &lost).await?;
            if !moved.is_empty() {
                self.locate(deliveries, moved).await?;
            }
        }
        let lost: Vec<DeliveryId> =
            deliveries.iter().filter(|d| d.record.is_none()).map(|d| d.id).collect();
        self.give_up(deliveries, &lost).await?;
        let read: Vec<Settlement> = deliveries
            .iter_mut()
            .filter_map(|delivery| {
                std::mem::take(&mut delivery.settles_when_read).then_some(delivery)
            })
            .map(|d| Settlement { id: d.id, verdict: mainstem_schemas::Verdict::Accept })
            .collect();
        if !read.is_empty() {
            self.settle(read).await?;
        }
        Ok(())
    }

    /// Takes deliveries out whose records cannot be had.
    async fn give_up(
        &self,
        deliveries: &mut Vec<Delivery>,
        lost: &[DeliveryId],
    ) -> Result<(), Refusal> {
        for id in lost {
            deliveries.retain(|delivery| delivery.id != *id);
            self.shared.room().await?.send(Command::Unreadable { client: self.id, id: *id });
        }
        Ok(())
    }

    /// Finds where moved records stand now. One that nobody holds any more keeps its old place.
    async fn locate(
        &self,
        deliveries: &mut [Delivery],
        moved: Vec<DeliveryId>,
    ) -> Result<(), Refusal> {
        let ids = moved.clone();
        let places = self.ask(|reply| Command::Locate { ids, reply }).await?;
        for (id, place) in moved.into_iter().zip(places) {
            let delivery = deliveries.iter_mut().find(|delivery| delivery.id == id);
            if let (Some(delivery), Some((position, size))) = (delivery, place) {
                delivery.position = position;
                delivery.size = size;
            }
        }
        Ok(())
    }

    /// Reads records from the log, in the order asked. One that is not there any more, or that the
    /// disk does not give back, is an error of its own: [`Refusal::Stale`] if the log has let go
    /// of that place, [`Refusal::Unreadable`] if it is damaged.
    pub async fn read(
        &self,
        places: Vec<(Position, u32)>,
    ) -> Result<Vec<Result<Record, Refusal>>, Refusal> {
        let read = self.read_all(places).await?.into_iter();
        Ok(read.map(|found| found.map(|(record, _)| record)).collect())
    }

    async fn read_all(
        &self,
        places: Vec<(Position, u32)>,
    ) -> Result<Vec<Result<ReadBack, Refusal>>, Refusal> {
        let shared = self.shared.clone();
        let read = move || places.into_iter().map(|(at, size)| (shared.read)(at, size)).collect();
        tokio::task::spawn_blocking(read).await.map_err(|_| Refusal::Closed)
    }

    /// Publishes a held record now, or with `publish` false forgets it. Tells whether it was still
    /// held; returns when that is durable.
    pub async fn decide(&self, id: HeldId, publish: bool) -> Result<bool, Refusal> {
        let client = self.id;
        self.ask(|reply| Command::Decide { client, id, record: None, publish, reply }).await
    }

    /// Forgets a held record, if it is the one with this id: who was told it when it was taken can
    /// do that. Tells whether it was still held; returns when that is durable.
    pub async fn recall(&self, id: HeldId, record: RecordId) -> Result<bool, Refusal> {
        let (client, record, publish) = (self.id, Some(record), false);
        self.ask(|reply| Command::Decide { client, id, record, publish, reply }).await
    }

    /// Up to `max` records of the client's namespace that wait for a decision, the oldest first, with
    /// places to be read by [`Client::read`], since what is held long is moved. From the one that
    /// stood first at `from`; and where the next look begins, which may find more though this one
    /// found fewer than `max`.
    pub async fn undecided(
        &self,
        from: Position,
        max: usize,
    ) -> Result<(Vec<HeldPlace>, Option<Position>), Refusal> {
        let (client, max) = (self.id, max.max(1));
        self.ask(|reply| Command::Undecided { client, from, max, reply }).await
    }

    /// Those that still wait for a decision: hundreds may be asked for at once.
    pub async fn find_undecided(&self, ids: Vec<HeldId>) -> Result<Vec<HeldPlace>, Refusal> {
        self.ask(|reply| Command::FindUndecided { client: self.id, ids, reply }).await
    }

    /// Up to `max` records of a topic that were published with this key, the oldest first: their
    /// offsets, and places to be read by [`Client::read`]. Keys are compared by a hash, so a record
    /// of another key may be among them. Errors: [`Refusal::NoTopic`].
    pub async fn look_up(
        &self,
        topic: String,
        key: Bytes,
        max: usize,
    ) -> Result<Vec<(Offset, Position, u32)>, Refusal> {
        self.check_topic(Act::Read, &topic)?;
        self.ask(|reply| Command::Lookup { client: self.id, topic, key, max, reply }).await?
    }

    /// Leaves in good order: returns when the client's consumers and exclusive queues are gone
    /// and what it had in hand is released.
    pub async fn close(mut self) {
        self.detached = true;
        let (reply, answer) = oneshot::channel();
        if let Ok(room) = self.shared.room().await {
            room.send(Command::Detach { client: self.id, reply: Some(reply) });
            // An error means that the commit thread ended, and everything with it.
            let _ended = answer.await;
        }
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Refusal> {
        let room = self.shared.room().await?;
        let (reply, answer) = oneshot::channel();
        room.send(command(reply));
        answer.await.map_err(|_| Refusal::Closed)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.ends_speaking();
        if !self.detached {
            self.shared.send_or_spawn(Command::Detach { client: self.id, reply: None });
        }
    }
}
