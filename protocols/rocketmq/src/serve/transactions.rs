//! Transactions: messages that nobody sees until their producer decides, and what becomes of
//! those whose producer does not.
//!
//! The store holds the messages; what is here is found again in the store after a restart. A
//! transaction's id is its message's, which is what every client compares it with.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use mainstem_broker::{HeldId, HeldPlace, Refusal};
use mainstem_schemas::{Position, Record, UnixMillis};
use tonic::Request;

use super::{Front, calls::name, members::Member};
use crate::{
    codec::{
        names,
        proto::{
            Code, EndTransactionRequest, EndTransactionResponse, MessageType, Resource,
            SystemProperties, TransactionResolution,
        },
        status::{self, Fault},
    },
    limits::Limits,
    normalize::{self, Native},
    session::{self, settings::duration_ms},
};

/// Transactions remembered as ended, so that ending one again is no error.
const ENDED_MAX: usize = 1024;
/// Transactions that are asked about at one look; more wait for the next one.
const ASKS_PER_LOOK: usize = 128;
/// Records read at a time while a namespace's transactions are looked up.
const READ_BATCH: usize = 128;

/// Which transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    namespace: String,
    topic: String,
    id: String,
}

/// One that waits for its producer's decision.
#[derive(Clone, Debug)]
struct Waiting {
    /// More than one when a producer sent its message again; at most the first one is published.
    held: Vec<HeldId>,
    /// How often a producer was asked.
    asked: u32,
    /// When one is asked next.
    ask_at: UnixMillis,
}

/// The transactions that are known.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    waiting: HashMap<Key, Waiting>,
    ended: VecDeque<Key>,
    /// Namespaces whose transactions of before the start are known.
    found: HashSet<String>,
}

impl Known {
    fn add(&mut self, key: Key, held: HeldId, ask_at: UnixMillis) {
        let new = Waiting { held: Vec::new(), asked: 0, ask_at };
        let waiting = self.waiting.entry(key).or_insert(new);
        if !waiting.held.contains(&held) {
            waiting.held.push(held);
        }
    }

    fn end(&mut self, key: &Key) {
        if self.waiting.remove(key).is_some() {
            if self.ended.len() >= ENDED_MAX {
                self.ended.pop_front();
            }
            self.ended.push_back(key.clone());
        }
    }

    /// Those of a namespace whose producers should have decided by now, longest overdue first.
    fn overdue(&self, namespace: &str, now: UnixMillis) -> Vec<(Key, Waiting)> {
        let overdue = self
            .waiting
            .iter()
            .filter(|(key, waiting)| key.namespace == namespace && waiting.ask_at.reached(now));
        let mut overdue: Vec<_> =
            overdue.map(|(key, waiting)| (key.clone(), waiting.clone())).collect();
        overdue.sort_by_key(|(_, waiting)| waiting.ask_at);
        overdue
    }
}

impl Transactions {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no holder of this lock panics")
    }
}

/// How long a producer may take to decide before it is asked, in milliseconds.
pub(super) fn patience_ms(system: &SystemProperties, limits: &Limits) -> u64 {
    let asked = system.orphaned_transaction_recovery_duration.as_ref().and_then(duration_ms);
    asked.filter(|ms| *ms > 0).unwrap_or(limits.transaction_patience_ms)
}

impl Front {
    /// Notes what a producer sent and may decide about from now on.
    pub(super) fn begin(
        &self,
        member: &Member,
        topic: &str,
        id: &str,
        held: HeldId,
        patience_ms: u64,
    ) {
        let (namespace, topic, id) = (member.namespace.clone(), topic.to_owned(), id.to_owned());
        let ask_at = self.broker.now().plus(patience_ms);
        self.transactions.lock().add(Key { namespace, topic, id }, held, ask_at);
    }

    /// Ends a transaction. The first decision counts; a later one is no error.
    pub(super) async fn on_end_transaction(
        &self,
        request: Request<EndTransactionRequest>,
    ) -> Result<EndTransactionResponse, Fault> {
        let call = self.call(&request, request.get_ref().topic.as_ref()).await?;
        let request = request.into_inner();
        let topic = name(request.topic.as_ref()).to_owned();
        names::check_topic(&topic, &self.limits)?;
        if request.transaction_id.trim().is_empty() {
            let text = "transaction id cannot be empty";
            return Err(Fault::new(Code::InvalidTransactionId, text));
        }
        let publish = match request.resolution() {
            TransactionResolution::Commit => Some(true),
            TransactionResolution::Rollback => Some(false),
            TransactionResolution::Unspecified => None,
        };
        let namespace = call.member.namespace.clone();
        let key = Key { namespace, topic, id: request.transaction_id };
        self.find_transactions(&call.member).await?;
        let waiting = self.transactions.lock().waiting.get(&key).cloned();
        match (waiting, publish) {
            (Some(waiting), Some(publish)) => {
                self.decide(&call.member, &waiting, publish).await?;
                self.transactions.lock().end(&key);
            }
            (Some(_), None) => {}
            (None, _) if self.transactions.lock().ended.contains(&key) => {}
            (None, _) => {
                let text = "no such transaction waits for a decision";
                return Err(Fault::new(Code::InvalidTransactionId, text));
            }
        }
        Ok(EndTransactionResponse { status: Some(status::ok()) })
    }

    async fn decide(
        &self,
        member: &Member,
        waiting: &Waiting,
        publish: bool,
    ) -> Result<(), Refusal> {
        let mut publish = publish;
        for held in &waiting.held {
            member.client.decide(*held, publish).await?;
            publish = false;
        }
        Ok(())
    }

    /// Finds what waits in a member's namespace since before the start, once.
    async fn find_transactions(&self, member: &Member) -> Result<(), Refusal> {
        if self.transactions.lock().found.contains(&member.namespace) {
            return Ok(());
        }
        let (mut held, mut next) = (Vec::new(), Some(Position::default()));
        while let Some(from) = next {
            let (some, then) = member.client.undecided(from, READ_BATCH).await?;
            held.extend(some);
            next = then;
        }
        let mut moved = false;
        for batch in held.chunks(READ_BATCH) {
            let places = batch.iter().map(|(_, position, size)| (*position, *size)).collect();
            let records = member.client.read(places).await?;
            for ((id, ..), record) in batch.iter().zip(records) {
                moved |= matches!(record, Err(Refusal::Stale));
                let Ok(record) = record else { continue };
                let Some(system) = transactional(&record) else { continue };
                let patience_ms = patience_ms(&system, &self.limits);
                let topic = String::from_utf8_lossy(&record.address().first).into_owned();
                let namespace = member.namespace.clone();
                let key = Key { namespace, topic, id: system.message_id };
                self.transactions.lock().add(key, *id, record.appended().plus(patience_ms));
            }
        }
        let mut known = self.transactions.lock();
        if !moved && known.found.len() < self.limits.names_max {
            known.found.insert(member.namespace.clone());
        }
        Ok(())
    }

    /// Asks producers about transactions they should have decided by now, and rolls those back
    /// that they were asked about often enough.
    pub(super) async fn look_after_transactions(&self, members: &[Arc<Member>], now: UnixMillis) {
        let mut namespaces: BTreeMap<&str, Vec<&Arc<Member>>> = BTreeMap::new();
        for member in members.iter().filter(|member| member.is_publishing()) {
            namespaces.entry(&member.namespace).or_default().push(member);
        }
        for (namespace, producers) in namespaces {
            if let Err(error) = self.ask_producers(namespace, &producers, now).await {
                tracing::warn!(%error, "cannot look after transactions");
            }
        }
    }

    async fn ask_producers(
        &self,
        namespace: &str,
        producers: &[&Arc<Member>],
        now: UnixMillis,
    ) -> Result<(), Refusal> {
        let Some(first) = producers.first() else { return Ok(()) };
        self.find_transactions(first).await?;
        let overdue = self.transactions.lock().overdue(namespace, now);
        let mut asks = Vec::new();
        for (key, waiting) in overdue {
            let mut able: Vec<_> = producers
                .iter()
                .filter_map(|producer| Some((*producer, producer.publishes(&key.topic)?)))
                .collect();
            if able.is_empty() {
                continue;
            }
            if waiting.asked >= self.limits.transaction_asks_max {
                self.give_up(first, &key, &waiting).await?;
                continue;
            }
            // Another one each time: one that never answers does not decide alone.
            let turn = usize::try_from(waiting.asked).unwrap_or_default() % able.len();
            let (producer, topic) = able.swap_remove(turn);
            asks.push((key, waiting, producer, topic));
            if asks.len() >= ASKS_PER_LOOK {
                break;
            }
        }
        if asks.is_empty() {
            return Ok(());
        }
        let ids = asks.iter().filter_map(|(_, waiting, ..)| waiting.held.first().copied());
        let places = places(first.client.find_undecided(ids.collect()).await?);
        for (key, waiting, producer, topic) in asks {
            let place = waiting.held.first().and_then(|held| places.get(held));
            let Some(place) = place else {
                // Decided since.
                self.transactions.lock().waiting.remove(&key);
                continue;
            };
            let record = producer.client.read(vec![*place]).await?.into_iter().next();
            let Some(Ok(record)) = record else { continue };
            self.ask_producer(&key, producer, topic, &record, now);
        }
        Ok(())
    }

    /// Asks one producer. One whose stream is full is not asked, and so not counted.
    fn ask_producer(
        &self,
        key: &Key,
        producer: &Member,
        topic: Resource,
        record: &Record,
        now: UnixMillis,
    ) {
        let message = normalize::message(record, topic, |record| self.broker.view(record));
        if !producer.tell(session::recover(message, &key.id)) {
            return;
        }
        if let Some(waiting) = self.transactions.lock().waiting.get_mut(key) {
            waiting.asked += 1;
            waiting.ask_at = now.plus(self.limits.transaction_ask_interval_ms);
        }
    }

    async fn give_up(&self, member: &Member, key: &Key, waiting: &Waiting) -> Result<(), Refusal> {
        self.decide(member, waiting, false).await?;
        // Not remembered as ended: a producer that commits it now must hear that it is too late.
        self.transactions.lock().waiting.remove(key);
        tracing::warn!(
            event = "transaction_rolled_back",
            namespace = key.namespace,
            topic = key.topic,
            id = key.id,
            asked = waiting.asked,
            "no producer decided about a transaction"
        );
        Ok(())
    }
}

fn places(held: Vec<HeldPlace>) -> HashMap<HeldId, (Position, u32)> {
    held.into_iter().map(|(id, position, size)| (id, (position, size))).collect()
}

/// What the sender of a transactional message said; `None` for any other record.
fn transactional(record: &Record) -> Option<SystemProperties> {
    let system = Native::of(record).system?;
    (system.message_type() == MessageType::Transaction).then_some(system)
}
