//! One namespace: its exchanges, its queues by what they are found by, its filters, retained
//! records and sessions.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use mainstem_schemas::{
    ConsumerId, CursorId, Filter, Path, Position, QueueId, UnixMillis, filter::Step,
};
use rustc_hash::FxHashMap;

use crate::{
    command::{ClientId, Parcel},
    exchange::Exchanges,
    queue::Found,
    rules::Rules,
    trie::Trie,
};

/// Who gets the records that a filter wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    Queue(QueueId),
    /// A connected reader that nothing is kept for.
    Live {
        client: ClientId,
        consumer: ConsumerId,
        options: u64,
    },
}

/// The place of the last retained record of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retained {
    pub(crate) position: Position,
    pub(crate) size: u32,
    pub(crate) expiry: UnixMillis,
}

/// What identifies a subscription within its session.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SubscriptionKey {
    pub(crate) share: Option<String>,
    pub(crate) filter: Filter,
}

/// One subscription of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub(crate) options: u64,
    pub(crate) live: bool,
    /// Where its records wait; zero for a live one.
    pub(crate) queue: QueueId,
    pub(crate) cursor: CursorId,
    /// Its name towards the session's holder.
    pub(crate) consumer: ConsumerId,
    /// The log entry that states it; 0 if it is not durable.
    pub(crate) home: Position,
}

/// Somebody's subscriptions, kept while they are away.
#[derive(Debug, Default)]
pub(crate) struct Session {
    pub(crate) expiry_s: u32,
    /// When the holder left; unset while there is one, or if it left by our own crash.
    pub(crate) detached: UnixMillis,
    pub(crate) subscriptions: BTreeMap<SubscriptionKey, Subscription>,
    pub(crate) holder: Option<ClientId>,
    pub(crate) parcel: Option<Parcel>,
    /// It outlives its connection, so it is in the log.
    pub(crate) is_durable: bool,
    pub(crate) consumers: u64,
    /// The log entry that states it; 0 if it is not durable.
    pub(crate) home: Position,
}

/// Consumers of subscriptions have this bit, so that they never meet a client's own numbers.
const SUBSCRIPTION_BIT: u64 = 1 << 63;

impl Session {
    /// A name for a new subscription's consumer.
    pub(crate) fn next_consumer(&mut self) -> ConsumerId {
        self.consumers += 1;
        ConsumerId(SUBSCRIPTION_BIT | self.consumers)
    }

    /// When it ends, if it is asleep; unset for never.
    pub(crate) fn ends(&self) -> UnixMillis {
        if self.holder.is_some() || self.expiry_s == u32::MAX || !self.detached.is_set() {
            return UnixMillis::NONE;
        }
        self.detached.plus(u64::from(self.expiry_s).saturating_mul(1000))
    }
}

#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) name: Arc<str>,
    pub(crate) exchanges: Exchanges,
    pub(crate) rules: Arc<Rules>,
    /// Queues in memory by name, and names that are gone although the index may still have them.
    pub(crate) named: FxHashMap<Box<[u8]>, Option<QueueId>>,
    /// How many named queues there are, once somebody asked.
    pub(crate) queues: Option<u64>,
    pub(crate) topics: FxHashMap<String, QueueId>,
    /// Durable and transient queues of filters; the flag says transient.
    pub(crate) filters: FxHashMap<(Filter, bool), QueueId>,
    pub(crate) readers: Trie<Reader>,
    pub(crate) retained: BTreeMap<Path, Retained>,
    pub(crate) sessions: BTreeMap<String, Session>,
    /// Shared subscriptions with how many sessions hold each.
    pub(crate) shares: FxHashMap<SubscriptionKey, Share>,
}

/// The cursor that the members of a shared subscription compete on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) queue: QueueId,
    pub(crate) cursor: CursorId,
    pub(crate) members: usize,
}

impl Namespace {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            exchanges: Exchanges::default(),
            rules: Arc::default(),
            named: FxHashMap::default(),
            queues: None,
            topics: FxHashMap::default(),
            filters: FxHashMap::default(),
            readers: Trie::default(),
            retained: BTreeMap::new(),
            sessions: BTreeMap::new(),
            shares: FxHashMap::default(),
        }
    }

    /// Makes a queue findable.
    pub(crate) fn add_queue(&mut self, id: QueueId, found: &Found, name: &str) {
        match found {
            Found::ByName => {
                self.named.insert(name.as_bytes().into(), Some(id));
                self.queues = self.queues.map(|count| count + 1);
            }
            Found::ByFilter(filter) => {
                let key = ((**filter).clone(), id.is_transient());
                if self.filters.insert(key, id) != Some(id) {
                    self.readers.insert(filter.steps(), Reader::Queue(id));
                }
            }
            Found::AsTopic => {
                if self.topics.insert(name.to_owned(), id) != Some(id) {
                    let filter = Filter::below(name.as_bytes());
                    self.readers.insert(filter.steps(), Reader::Queue(id));
                }
            }
        }
    }

    /// Makes a queue unfindable.
    pub(crate) fn remove_queue(&mut self, id: QueueId, found: &Found, name: &str) {
        let is_it = |reader: &Reader| *reader == Reader::Queue(id);
        match found {
            Found::ByName => {
                self.queues = self.queues.map(|count| count.saturating_sub(1));
                if id.is_transient() {
                    self.named.remove(name.as_bytes());
                } else {
                    self.named.insert(name.as_bytes().into(), None);
                }
            }
            Found::ByFilter(filter) => {
                self.filters.remove(&((**filter).clone(), id.is_transient()));
                self.readers.remove(filter.steps(), is_it);
            }
            Found::AsTopic => {
                self.topics.remove(name);
                self.readers.remove(Filter::below(name.as_bytes()).steps(), is_it);
            }
        }
    }

    /// A session joined a shared subscription.
    pub(crate) fn join_share(&mut self, key: &SubscriptionKey, queue: QueueId, cursor: CursorId) {
        if key.share.is_some() {
            let fresh = Share { queue, cursor, members: 0 };
            self.shares.entry(key.clone()).or_insert(fresh).members += 1;
        }
    }

    /// A session left a shared subscription; the last one forgets it.
    pub(crate) fn leave_share(&mut self, key: &SubscriptionKey) {
        if let Some(share) = self.shares.get_mut(key) {
            share.members = share.members.saturating_sub(1);
            if share.members == 0 {
                self.shares.remove(key);
            }
        }
    }

    /// The retained records whose addresses a filter wants. Only addresses that begin with the
    /// filter's leading exact segments are looked at.
    pub(crate) fn find_retained(&self, filter: &Filter, now: UnixMillis) -> Vec<Retained> {
        let leading = filter.steps().iter().map_while(|step| match step {
            Step::Exact(segment) => Some(segment),
            Step::One | Step::Rest => None,
        });
        let start = Path::of(leading);
        self.retained
            .range((Bound::Included(&start), Bound::Unbounded))
            .take_while(|(path, _)| path.raw().starts_with(start.raw()))
            .filter(|(path, retained)| filter.matches(path) && !retained.expiry.reached(now))
            .map(|(_, retained)| *retained)
            .collect()
    }
}
