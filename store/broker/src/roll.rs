//! The roll of connections: who is connected now, by which socket, and a way to have a word with each.
//!
//! A front-end enters a connection as it lets it in and holds what it gets for it as long as the
//! connection lives. Nothing here is asked on the way of a message: a front-end counts what goes through
//! its socket, and is woken when somebody wants a word.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use mainstem_schemas::{
    ConsumerId, Principal, Table, UnixMillis,
    value::{decode_table, encode_table},
};
use tokio::sync::{Notify, oneshot};

use crate::{
    client::Broker,
    command::{ClientId, Command},
    error::Refusal,
    meter::{Count, KINDS_OF_CHANNELS},
};

/// Looks at one connection that may wait for it.
const LOOKS_MAX: usize = 64;
/// Connections whose consumers are listed in one turn of the commit thread.
const CLIENTS_MAX: usize = 1024;

/// A socket: its two ends, and what went through it.
#[derive(Debug)]
pub struct Line {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub is_encrypted: bool,
    pub received: Tally,
    pub sent: Tally,
    /// Bytes that wait until the socket takes them, where the front-end knows.
    waiting: AtomicU64,
}

/// Bytes, and in how many pieces they went through the socket.
#[derive(Debug, Default)]
pub struct Tally {
    pieces: AtomicU64,
    bytes: AtomicU64,
}

/// What a front-end says of a connection as it lets it in.
#[derive(Debug)]
pub struct Introduction {
    pub line: Arc<Line>,
    /// What it speaks, in the words that people know it by.
    pub protocol: &'static str,
    /// How it proved who it is.
    pub mechanism: &'static str,
    /// Empty where there is none.
    pub client_id: String,
    /// What it says of itself.
    pub properties: Table,
    /// Largest frame; 0 where there is no such bound.
    pub frame_bytes_max: u32,
    /// The interval in which both show that they live; 0 for none.
    pub heartbeat_s: u16,
    /// Channels it may have; 0 where there are no channels.
    pub channels_max: u16,
}

/// A connection on the roll.
#[derive(Debug)]
pub struct Standing {
    number: u64,
    principal: Principal,
    since: UnixMillis,
    protocol: &'static str,
    mechanism: &'static str,
    client_id: Box<str>,
    /// As a table is stored, since there may be very many.
    properties: Box<[u8]>,
    frame_bytes_max: u32,
    heartbeat_s: u16,
    channels_max: u16,
    channels: AtomicU32,
    line: Mutex<Arc<Line>>,
    calls: Mutex<Calls>,
    called: Notify,
}

#[derive(Debug, Default)]
struct Calls {
    reason: Option<Box<str>>,
    looks: Vec<Look>,
    is_ending: bool,
    is_gone: bool,
}

/// Where a connection tells what stands on its channels.
pub type Look = oneshot::Sender<Vec<Channel>>;

/// What is wanted of a connection.
#[derive(Debug)]
pub enum Call {
    /// That it ends, for this reason.
    End(String),
    /// That it tells of its channels. One that has none need not answer.
    Look(Look),
}

/// A channel, as its connection tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Channel {
    pub number: u16,
    /// Deliveries that it has not settled.
    pub unsettled: u64,
    /// For each consumer that comes; 0 for no limit.
    pub prefetch: u16,
    /// For all its consumers together; 0 for no limit.
    pub shared_prefetch: u16,
    pub confirms: bool,
    pub is_transactional: bool,
    /// Publishes and settlements that wait for a commit.
    pub uncommitted: u64,
    pub settlements_uncommitted: u64,
    /// Publishes whose confirms are still to come.
    pub unconfirmed: u64,
    /// What happened on it, by the first kinds of [`crate::Did`].
    pub counts: Option<[Count; KINDS_OF_CHANNELS]>,
    pub consumers: Vec<Named>,
}

/// A consumer, as its connection knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub consumer: ConsumerId,
    pub name: String,
    /// How long its deliveries may stay unsettled, in milliseconds; 0 for any time.
    pub settle_max_ms: u64,
}

/// A consumer, as the commit thread knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consuming {
    /// The number of its connection.
    pub connection: u64,
    pub consumer: ConsumerId,
    /// The name of its queue; of a queue without a name of its own, its filter.
    pub queue: String,
    /// The pool whose limit it shares.
    pub pool: u16,
    /// Deliveries it may have unsettled; 0 for no limit.
    pub limit: u32,
    pub priority: i32,
    pub exclusive: bool,
    pub settles_at_once: bool,
    /// Of the consumers of its queue only one is active at a time.
    pub takes_turns: bool,
    /// It would get the next record. Others wait until those before them are gone.
    pub is_active: bool,
}

/// Where a page of consumers goes on: behind this consumer of this connection.
pub type ConsumersFrom = (u64, ConsumerId);

impl Line {
    #[must_use]
    pub fn new(peer: SocketAddr, local: SocketAddr, is_encrypted: bool) -> Arc<Self> {
        let (received, sent, waiting) = (Tally::default(), Tally::default(), AtomicU64::new(0));
        Arc::new(Self { peer, local, is_encrypted, received, sent, waiting })
    }

    /// So many bytes wait for the socket now.
    pub fn waits(&self, bytes: usize) {
        self.waiting.store(bytes as u64, Ordering::Relaxed);
    }

    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// The name that people know a connection by.
impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.peer, self.local)
    }
}

impl Tally {
    /// One more piece went through.
    pub fn add(&self, bytes: usize) {
        self.pieces.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    #[must_use]
    pub fn pieces(&self) -> u64 {
        self.pieces.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here can panic half way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Standing {
    fn new(
        number: u64,
        principal: Principal,
        introduction: Introduction,
        since: UnixMillis,
    ) -> Self {
        let mut properties = Vec::new();
        encode_table(&introduction.properties, &mut properties);
        Self {
            number,
            principal,
            since,
            protocol: introduction.protocol,
            mechanism: introduction.mechanism,
            client_id: introduction.client_id.into(),
            properties: properties.into(),
            frame_bytes_max: introduction.frame_bytes_max,
            heartbeat_s: introduction.heartbeat_s,
            channels_max: introduction.channels_max,
            channels: AtomicU32::new(0),
            line: Mutex::new(introduction.line),
            calls: Mutex::default(),
            called: Notify::new(),
        }
    }

    /// Its number among all connections since the start.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// When it was let in.
    #[must_use]
    pub fn since(&self) -> UnixMillis {
        self.since
    }

    #[must_use]
    pub fn protocol(&self) -> &'static str {
        self.protocol
    }

    #[must_use]
    pub fn mechanism(&self) -> &'static str {
        self.mechanism
    }

    /// Empty where there is none.
    #[must_use]
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    #[must_use]
    pub fn properties(&self) -> Table {
        // It was made by `encode_table`.
        decode_table(Bytes::copy_from_slice(&self.properties)).unwrap_or_default()
    }

    /// 0 where there is no such bound.
    #[must_use]
    pub fn frame_bytes_max(&self) -> u32 {
        self.frame_bytes_max
    }

    /// 0 for none.
    #[must_use]
    pub fn heartbeat_s(&self) -> u16 {
        self.heartbeat_s
    }

    /// 0 where there are no channels.
    #[must_use]
    pub fn channels_max(&self) -> u16 {
        self.channels_max
    }

    /// Channels that are open.
    #[must_use]
    pub fn channels(&self) -> u32 {
        self.channels.load(Ordering::Relaxed)
    }

    pub(crate) fn keep_channels(&self, open: u64) {
        self.channels.store(u32::try_from(open).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// The socket it has now.
    #[must_use]
    pub fn line(&self) -> Arc<Line> {
        lock(&self.line).clone()
    }

    /// The client came back by another socket.
    pub fn moves(&self, line: &Arc<Line>) {
        let mut held = lock(&self.line);
        if !Arc::ptr_eq(&held, line) {
            *held = line.clone();
        }
    }

    /// Asks it to end. The first reason counts.
    pub fn end(&self, reason: &str) {
        let mut calls = lock(&self.calls);
        if !calls.is_ending {
            calls.is_ending = true;
            calls.reason = Some(reason.into());
        }
        drop(calls);
        self.called.notify_one();
    }

    /// Whether it was asked to end.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        lock(&self.calls).is_ending
    }

    /// Asks it for its channels. The answer fails when the connection has ended, or when very many
    /// wait for theirs.
    #[must_use]
    pub fn look(&self) -> oneshot::Receiver<Vec<Channel>> {
        let (look, answer) = oneshot::channel();
        let mut calls = lock(&self.calls);
        if !calls.is_gone && calls.looks.len() < LOOKS_MAX {
            calls.looks.push(look);
        }
        drop(calls);
        self.called.notify_one();
        answer
    }

    /// Waits until something is wanted. For one who waits at a time. Cancel-safe.
    pub async fn called(&self) -> Call {
        loop {
            self.called.notified().await;
            let mut calls = lock(&self.calls);
            let reason = calls.reason.take();
            let call = match reason {
                Some(reason) => Some(Call::End(reason.into())),
                None => calls.looks.pop().map(Call::Look),
            };
            let more = !calls.looks.is_empty();
            drop(calls);
            if more {
                self.called.notify_one();
            }
            if let Some(call) = call {
                return call;
            }
        }
    }

    fn leave(&self) {
        let mut calls = lock(&self.calls);
        calls.is_gone = true;
        // Nobody answers them any more.
        calls.looks = Vec::new();
    }
}

/// All connections, by number.
#[derive(Debug, Default)]
pub(crate) struct Roll {
    /// Never held over anything that waits.
    standing: Mutex<BTreeMap<u64, Arc<Standing>>>,
}

impl Roll {
    pub(crate) fn enter(
        &self,
        number: u64,
        principal: &Principal,
        introduction: Introduction,
        now: UnixMillis,
    ) -> Arc<Standing> {
        let standing = Arc::new(Standing::new(number, principal.clone(), introduction, now));
        lock(&self.standing).insert(number, standing.clone());
        standing
    }

    pub(crate) fn leave(&self, standing: &Standing) {
        lock(&self.standing).remove(&standing.number);
        standing.leave();
    }

    fn all(&self) -> Vec<Arc<Standing>> {
        lock(&self.standing).values().cloned().collect()
    }

    /// Up to `max` connections of a namespace from this number on, and whether there may be more.
    fn some(&self, namespace: &str, from: u64, max: usize) -> (Vec<u64>, Option<u64>) {
        let standing = lock(&self.standing);
        let mut found = standing
            .range(from..)
            .filter(|(_, standing)| *standing.principal.namespace == *namespace)
            .map(|(number, _)| *number);
        let some: Vec<u64> = found.by_ref().take(max).collect();
        let next = found.next();
        (some, next)
    }
}

impl Broker {
    /// All connections that stand on the roll, by number.
    #[must_use]
    pub fn connections(&self) -> Vec<Arc<Standing>> {
        self.shared.usage.roll.all()
    }

    /// Some of the consumers in a namespace, at most `max`, from a place on, and where the next page
    /// begins. A page may be empty though there are more.
    pub async fn consumers(
        &self,
        namespace: &str,
        from: Option<ConsumersFrom>,
        max: usize,
    ) -> Result<(Vec<Consuming>, Option<ConsumersFrom>), Refusal> {
        let (first, after) = from.unwrap_or_default();
        let (clients, next) = self.shared.usage.roll.some(namespace, first, CLIENTS_MAX);
        // Whoever the page was to begin behind may have gone.
        let after = if clients.first() == Some(&first) { after } else { ConsumerId(0) };
        if clients.is_empty() {
            return Ok((Vec::new(), None));
        }
        let (clients, max) = (clients.into_iter().map(ClientId).collect(), max.max(1));
        let (reply, answer) = oneshot::channel();
        self.shared.room().await?.send(Command::Consumers { clients, after, max, reply });
        let (page, full) = answer.await.map_err(|_| Refusal::Closed)?;
        Ok((page, full.or_else(|| next.map(|number| (number, ConsumerId(0))))))
    }
}

#[cfg(test)]
mod tests;
