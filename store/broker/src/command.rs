//! What a client asks of the commit thread.

use std::sync::Arc;

use bytes::Bytes;
use mainstem_index::ParameterKey;
use mainstem_schemas::{
    ConsumerId, CursorId, DeliveryId, Filter, Offset, Position, QueueId, Record, RecordId,
    Settlement, Table, UnixMillis,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    client::Unsettled,
    error::Refusal,
    inbox::{Delivery, Outbox},
    parcel::Parcel,
    policy::{DeliveryPolicy, Policy},
    roll::{ConsumersFrom, Consuming},
    state::key_hash,
};

mod listing;
mod topic;

pub(crate) use listing::ListCommand;
pub use listing::Ruled;
pub(crate) use topic::TopicCommand;
pub use topic::{BranchTerms, Keeps, Moved, Pull, Sought, TopicTerms};

/// A time and a fresh record id, for a record about to be made.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    pub now: UnixMillis,
    pub id: RecordId,
}

/// One record to publish.
#[derive(Clone, Debug)]
pub struct Publish {
    pub record: Record,
    /// Further routing keys at the record's own exchange (further copies the sender asks for).
    pub extra_keys: Vec<Bytes>,
    /// What only some senders ask for.
    pub terms: Option<Box<Terms>>,
}

/// What a sender may ask for besides a record's being published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The sender's own name and growing number for the record, at least 1: a record whose number
    /// is not above the last one under this name was taken before, and is not taken again.
    pub once: Option<(String, u64)>,
    /// Keys that the record can be looked up by in topics that keep it.
    pub keys: Vec<Bytes>,
    /// Nobody sees the record until [`crate::Client::decide`] says so.
    pub undecided: bool,
}

/// A name for [`Terms::once`] that belongs to a session of the sender's namespace: the store forgets
/// it when the session ends.
#[must_use]
pub fn session_writer(session: &str, name: &str) -> String {
    format!("session {:016x} {name}", key_hash(session.as_bytes()))
}

impl Publish {
    /// A publish by the record's own address alone.
    #[must_use]
    pub fn new(record: Record) -> Self {
        Self { record, extra_keys: Vec::new(), terms: None }
    }

    /// The same on special terms.
    #[must_use]
    pub fn on(self, terms: Terms) -> Self {
        Self { terms: Some(Box::new(terms)), ..self }
    }
}

/// A record that nobody sees yet: it waits for its time, or for a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeldId {
    /// When it is due; [`HeldId::UNDECIDED`] for one that waits for a decision.
    pub due: UnixMillis,
    /// Where it was stored first.
    pub origin: Position,
}

impl HeldId {
    /// The time of what waits for a decision.
    pub const UNDECIDED: UnixMillis = crate::state::UNDECIDED;
}

/// What became of one published record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// Taken. `readers` counts the queues and live readers it reached; zero means nobody wanted
    /// it. `offset` is its place in the topic's queue, when a topic keeps it.
    Taken { readers: u32, offset: Option<Offset> },
    /// Taken, and held back until its time or until a decision.
    Held(HeldId),
    /// Taken before, under the same number of the same writer.
    Again,
    /// Not taken.
    Refused(Refusal),
}

/// An exchange's routing rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ExchangeKind {
    Direct = 0,
    Fanout = 1,
    Topic = 2,
    Headers = 3,
    /// To one destination, by a hash; the binding's key is its weight.
    ConsistentHash = 4,
    /// To one destination, by chance.
    Random = 5,
    /// As fanout; what is bound later gets the last records.
    RecentHistory = 6,
    /// To one destination, by a hash of the keys.
    ModulusHash = 7,
    /// As random: every queue is on this machine.
    LocalRandom = 8,
}

/// An exchange as declared.
#[derive(Clone, Debug, PartialEq)]
pub struct ExchangeDef {
    pub name: String,
    pub kind: ExchangeKind,
    pub durable: bool,
    pub auto_delete: bool,
    /// Only other exchanges may publish to it.
    pub internal: bool,
    /// As declared. The store acts on `alternate-exchange` (text), `x-address` (`"none"`), and what
    /// the kind asks for: `hash-header`, `hash-property`, `x-recent-history-length`.
    pub arguments: Table,
}

/// A request to declare an exchange. An exchange of that name that exists already is returned as
/// it is; comparing is the caller's business.
#[derive(Clone, Debug)]
pub struct DeclareExchange {
    pub def: ExchangeDef,
}

/// What a queue keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Retention {
    /// What its one cursor has not settled.
    Unsettled = 0,
    /// What some cursor of it has not settled.
    Cursors = 1,
    /// Everything, for as long as its limits say; cursors never trim.
    Time = 2,
}

/// A named queue as declared.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueDef {
    pub id: QueueId,
    pub name: String,
    pub durable: bool,
    /// Only the declaring connection may use it, and it goes with that connection. Never durable.
    pub exclusive: bool,
    /// It goes when its last consumer goes, once it has had one.
    pub auto_delete: bool,
    pub retention: Retention,
    /// What it does besides keeping records in order.
    pub policy: Arc<Policy>,
    /// As declared; the store does not act on them.
    pub arguments: Table,
}

/// A request to declare a named queue. A queue of that name that exists already is returned as it
/// is; comparing is the caller's business. `id` of the definition is ignored.
#[derive(Clone, Debug)]
pub struct DeclareQueue {
    pub def: QueueDef,
}

/// What a declaration found or made.
#[derive(Clone, Debug)]
pub struct Declared<D> {
    pub created: bool,
    pub def: Arc<D>,
    pub stats: QueueStats,
}

/// Counts of a queue, now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Records that could be delivered.
    pub ready: u64,
    /// Records delivered and not settled.
    pub unsettled: u64,
    pub consumers: u32,
}

/// A binding from an exchange to a queue or to another exchange.
#[derive(Clone, Debug, PartialEq)]
pub struct Bind {
    pub source: String,
    /// A queue's name, or with `to_exchange` an exchange's.
    pub destination: String,
    pub to_exchange: bool,
    pub key: Bytes,
    pub arguments: Table,
}

/// Which records a consumer gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A named queue's own cursor, shared with its other consumers.
    Queue(String),
    /// A cursor of its own over a named queue that keeps everything; it lasts as long as the
    /// consumer.
    Stream(String, Start),
}

/// Where a new cursor begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    First,
    Last,
    /// After everything that is there now.
    Next,
    Offset(Offset),
    Time(UnixMillis),
}

/// A request to consume.
#[derive(Clone, Debug)]
pub struct Consume {
    pub source: Source,
    /// Chosen by the client, unique among its consumers.
    pub consumer: ConsumerId,
    /// Handed back with every delivery.
    pub options: u64,
    /// The pool whose limit it shares (see [`crate::Client::set_pool`]).
    pub pool: u16,
    /// Deliveries it may have unsettled; 0 for no limit but the inbox's.
    pub limit: u32,
    /// Every delivery is settled as it is handed out.
    pub settle_at_once: bool,
    /// Refuse if the queue has a consumer, and refuse others while this one lasts.
    pub exclusive: bool,
    /// Higher ones are served first, as long as they have room.
    pub priority: i32,
}

/// A topic subscription's durable cursor or live reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    pub filter: Filter,
    /// The shared group's name: its members compete.
    pub share: Option<String>,
    /// Handed back with every delivery, and stored with the session.
    pub options: u64,
    /// Served from memory while connected, nothing kept (quality of service 0).
    pub live: bool,
}

/// What a subscribe did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// The session had this filter (and group) already; its options were replaced.
    pub existed: bool,
    pub consumer: ConsumerId,
}

/// One subscription of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    pub subscribe: Subscribe,
    pub consumer: ConsumerId,
}

/// A request to open a session. Another connection that has it is told [`crate::Notice::TakenOver`].
#[derive(Clone, Debug)]
pub struct OpenSession {
    pub id: String,
    /// Forget what was kept under this id.
    pub clean: bool,
    /// Keep it this long after the connection ends, in seconds; 0 ends it with the connection,
    /// `u32::MAX` keeps it for ever. A kept session and its cursors are durable.
    pub expiry_s: u32,
    /// Deliveries its subscriptions together may have unsettled (its pool is number 0).
    pub limit: u32,
}

/// What opening a session found.
#[derive(Debug)]
pub struct SessionOpened {
    /// Whether there was something under this id.
    pub present: bool,
    /// Its subscriptions; their consumers are attached already.
    pub subscriptions: Vec<Subscription>,
    /// What the front-end left at the last detach, while the server kept running.
    pub parcel: Option<Parcel>,
}

/// A group's cursor on a topic's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupRef {
    pub queue: QueueId,
    pub cursor: CursorId,
}

/// How long fetched deliveries stay with their fetcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Released when this many milliseconds have passed.
    Lease { ms: u64 },
    /// Released when the client goes.
    Client,
}

/// A request for the next deliveries of a group.
#[derive(Clone, Copy, Debug)]
pub struct Fetch {
    pub group: GroupRef,
    /// At most this many; 0 for an empty answer as soon as there is something to be fetched.
    pub max: usize,
    pub claim: Claim,
    /// Wait this long for the first one, in milliseconds.
    pub wait_ms: u64,
}

/// A record found by a key: its offset in the topic, its place, and the bytes of its entry there.
pub type LookedUp = (Offset, Position, u32);

/// A held record, its place, and the bytes of its entry there.
pub type HeldPlace = (HeldId, Position, u32);

/// Where an answer goes.
pub(crate) type Reply<T> = oneshot::Sender<T>;

/// A client, as the commit thread knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClientId(pub(crate) u64);

impl ClientId {
    pub(crate) const NOBODY: Self = Self(0);
}

/// Everything that can be asked. One variant per verb of [`crate::Client`].
#[derive(Debug)]
pub(crate) enum Command {
    Attach {
        client: ClientId,
        namespace: Arc<str>,
        outbox: Outbox,
    },
    Detach {
        client: ClientId,
        reply: Option<Reply<()>>,
    },
    /// The client took what waited in its inbox.
    Room {
        client: ClientId,
    },
    Publish {
        client: ClientId,
        batch: Vec<Publish>,
        permit: OwnedSemaphorePermit,
        reply: Reply<Vec<Published>>,
    },
    Forget {
        client: ClientId,
        writers: Vec<String>,
        permit: OwnedSemaphorePermit,
        reply: Reply<Vec<bool>>,
    },
    Settle {
        client: ClientId,
        batch: Vec<Settlement>,
        reply: Option<Reply<Vec<bool>>>,
    },
    DeclareExchange {
        client: ClientId,
        request: DeclareExchange,
        reply: Reply<Result<Declared<ExchangeDef>, Refusal>>,
    },
    FindExchange {
        client: ClientId,
        name: String,
        reply: Reply<Option<Arc<ExchangeDef>>>,
    },
    DeleteExchange {
        client: ClientId,
        name: String,
        if_unused: bool,
        reply: Reply<Result<(), Refusal>>,
    },
    DeclareQueue {
        client: ClientId,
        request: DeclareQueue,
        reply: Reply<Result<Declared<QueueDef>, Refusal>>,
    },
    FindQueue {
        client: ClientId,
        name: String,
        reply: Reply<Result<Declared<QueueDef>, Refusal>>,
    },
    DeleteQueue {
        client: ClientId,
        name: String,
        if_unused: bool,
        if_empty: bool,
        reply: Reply<Result<u64, Refusal>>,
    },
    PurgeQueue {
        client: ClientId,
        name: String,
        reply: Reply<Result<u64, Refusal>>,
    },
    Bind {
        client: ClientId,
        bind: Bind,
        reply: Reply<Result<(), Refusal>>,
    },
    Unbind {
        client: ClientId,
        bind: Bind,
        reply: Reply<Result<(), Refusal>>,
    },
    SetPool {
        client: ClientId,
        pool: u16,
        limit: u32,
    },
    Consume {
        client: ClientId,
        consume: Consume,
        reply: Reply<Result<(), Refusal>>,
    },
    Cancel {
        client: ClientId,
        consumer: ConsumerId,
        reply: Reply<bool>,
    },
    Get {
        client: ClientId,
        queue: String,
        settle_at_once: bool,
        reply: Reply<Result<Option<(Delivery, QueueStats)>, Refusal>>,
    },
    OpenSession {
        client: ClientId,
        open: OpenSession,
        reply: Reply<Result<SessionOpened, Refusal>>,
    },
    CloseSession {
        client: ClientId,
        expiry_s: Option<u32>,
        parcel: Option<Parcel>,
        reply: Reply<()>,
    },
    Subscribe {
        client: ClientId,
        subscribe: Subscribe,
        reply: Reply<Result<Subscribed, Refusal>>,
    },
    Unsubscribe {
        client: ClientId,
        filter: Filter,
        share: Option<String>,
        reply: Reply<Result<bool, Refusal>>,
    },
    Retained {
        client: ClientId,
        filter: Filter,
        reply: Reply<Vec<(Position, u32)>>,
    },
    OpenTopic {
        client: ClientId,
        topic: String,
        create: bool,
        reply: Reply<Result<QueueId, Refusal>>,
    },
    OpenGroup {
        client: ClientId,
        topic: String,
        group: String,
        policy: DeliveryPolicy,
        reply: Reply<Result<GroupRef, Refusal>>,
    },
    /// Something about the places in a topic.
    Topic {
        client: ClientId,
        ask: TopicCommand,
    },
    /// Ends the holding of a record, publishing it or not.
    Decide {
        client: ClientId,
        id: HeldId,
        /// Whose id it has to have, where who asks has to know it.
        record: Option<RecordId>,
        publish: bool,
        reply: Reply<bool>,
    },
    /// Some of the records of the client's namespace that wait for a decision, the oldest first,
    /// and where the next ones begin.
    Undecided {
        client: ClientId,
        from: Position,
        max: usize,
        reply: Reply<(Vec<HeldPlace>, Option<Position>)>,
    },
    /// Those of the records that still wait for a decision in the client's namespace.
    FindUndecided {
        client: ClientId,
        ids: Vec<HeldId>,
        reply: Reply<Vec<HeldPlace>>,
    },
    /// Places of a topic's records with this key, the oldest first.
    Lookup {
        client: ClientId,
        topic: String,
        key: Bytes,
        max: usize,
        reply: Reply<Result<Vec<LookedUp>, Refusal>>,
    },
    /// Where the records of deliveries stand now.
    Locate {
        ids: Vec<DeliveryId>,
        reply: Reply<Vec<Option<(Position, u32)>>>,
    },
    /// Which offsets of a cursor are not settled.
    Unsettled {
        cursor: GroupRef,
        offsets: (Offset, Offset),
        reply: Reply<Unsettled>,
    },
    /// A delivery's record cannot be read.
    Unreadable {
        client: ClientId,
        id: DeliveryId,
    },
    Fetch {
        client: ClientId,
        fetch: Fetch,
        reply: Reply<Vec<Delivery>>,
    },
    Renew {
        client: ClientId,
        id: DeliveryId,
        claim: Claim,
        reply: Reply<Result<DeliveryId, Refusal>>,
    },
    SetParameter {
        key: ParameterKey,
        value: Table,
        reply: Reply<()>,
    },
    DeleteParameter {
        key: ParameterKey,
        reply: Reply<bool>,
    },
    /// All settings of one kind in a namespace, by name.
    Parameters {
        namespace: String,
        component: String,
        reply: Reply<Vec<(String, Table)>>,
    },
    /// Ends some of what is in a namespace; tells whether nothing is left.
    Empty {
        namespace: String,
        reply: Reply<bool>,
    },
    /// Consumers of these clients, by client; of the first one those behind a consumer. With them, the
    /// last one if there was no room for more.
    Consumers {
        clients: Vec<ClientId>,
        after: ConsumerId,
        max: usize,
        reply: Reply<(Vec<Consuming>, Option<ConsumersFrom>)>,
    },
    /// Something about what a namespace has.
    List {
        namespace: String,
        ask: ListCommand,
    },
    /// A barrier: answered when everything before it is as durable as it gets, with the state's
    /// hash when asked.
    Checkpoint {
        reply: Reply<u64>,
    },
    Stop {
        reply: Reply<()>,
    },
}
