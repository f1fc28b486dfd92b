//! What must be true of the store, said as plainly as it can be.
//!
//! A [`Reader`] is one party that records are kept for: a queue's own cursor, a group, a
//! subscription. What a record is owed to is known when it is published; it is owed for certain
//! when that was confirmed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mainstem_index::Progress;
use mainstem_schemas::{Address, CursorId, Entrance, Filter, QueueId, UnixMillis};

use crate::{
    command::{HeldId, Publish},
    policy::{DeadLetter, Overflow, Policy},
};

/// Who sees a record, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    No,
    Due(UnixMillis),
    Undecided,
    /// Somebody said whether it is to be published.
    Decided(bool),
}

#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) address: Address,
    pub(super) len: usize,
    pub(super) priority: u8,
    pub(super) at: UnixMillis,
    pub(super) expiry: UnixMillis,
    pub(super) hold: Hold,
    pub(super) is_durable: bool,
    pub(super) is_confirmed: bool,
    pub(super) held: Option<HeldId>,
    /// Its writer's own number for it.
    pub(super) once: Option<(String, u64)>,
    /// How often it was taken by somebody.
    pub(super) times_taken: u32,
    pub(super) keys: Vec<Bytes>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Queue(String),
    Group(String, String),
    Subscription { session: String, share: Option<String>, filter: String },
}

/// How far the end of a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// It may have been too late.
    Maybe,
    Asked,
    Acked,
}

#[derive(Clone, Debug)]
pub(super) struct Reader {
    pub(super) kind: Kind,
    pub(super) is_durable: bool,
    /// Its making was confirmed.
    pub(super) is_confirmed: bool,
    pub(super) is_gone: bool,
    pub(super) is_confirmed_gone: bool,
    pub(super) is_exclusive: bool,
    /// It may lose records, or itself, in ways that are not followed.
    pub(super) is_loose: bool,
    pub(super) policy: Policy,
    pub(super) place: Option<(QueueId, CursorId)>,
    pub(super) made: UnixMillis,
    /// Numbers of records that it is owed; true for certain.
    pub(super) owed: BTreeMap<u64, bool>,
    pub(super) done: BTreeMap<u64, Done>,
    pub(super) was_purged: bool,
    /// Records that a purge may have ended.
    pub(super) purged: BTreeSet<u64>,
    /// Offsets that were settled in this run of the store.
    pub(super) ended: BTreeSet<u64>,
    /// What was settled when this run of the store began.
    pub(super) over: Progress,
    /// Offsets that were settled for certain.
    pub(super) acked: BTreeSet<u64>,
    /// Records that were refused for good, and go where the policy says.
    pub(super) rejected: BTreeSet<u64>,
    /// Records that came back once, so that attempts may end them.
    pub(super) returned: BTreeSet<u64>,
    /// In this run of the store.
    pub(super) seen: BTreeSet<u64>,
    /// The last new offset by client, consumer, lane and group.
    pub(super) last: BTreeMap<(u64, u64, u64, u64), u64>,
    /// What was sent to it was not seen: until the next start nobody knows what it has.
    pub(super) is_blind: bool,
    /// It gets nothing before this offset.
    pub(super) begins: u64,
    /// Deliveries came back that nobody saw, so what is new comes in no order any more.
    pub(super) is_order_off: bool,
    pub(super) numbers: BTreeMap<u64, u64>,
    /// Deliveries that are out.
    pub(super) out: BTreeSet<u64>,
    /// No earlier than this it may come again.
    pub(super) rests: BTreeMap<u64, UnixMillis>,
}

#[derive(Default)]
pub(super) struct Model {
    pub(super) sent: BTreeMap<u64, Sent>,
    pub(super) readers: Vec<Reader>,
    /// Exchange, key, queue.
    pub(super) bindings: BTreeSet<(String, Bytes, String)>,
    /// Bindings that may or may not be there.
    pub(super) unsure: BTreeSet<(String, Bytes, String)>,
    /// The newest record of each writer, as it was sent.
    pub(super) writers: BTreeMap<String, (u64, Publish)>,
    /// Syncs were lied about: the next crash may lose anything.
    pub(super) is_lied_to: bool,
}

impl Reader {
    pub(super) fn new(kind: Kind, policy: Policy, is_durable: bool, made: UnixMillis) -> Self {
        Self {
            kind,
            is_durable,
            is_confirmed: false,
            is_gone: false,
            is_confirmed_gone: false,
            is_exclusive: false,
            is_loose: false,
            policy,
            place: None,
            made,
            owed: BTreeMap::new(),
            done: BTreeMap::new(),
            was_purged: false,
            purged: BTreeSet::new(),
            ended: BTreeSet::new(),
            over: Progress::default(),
            acked: BTreeSet::new(),
            rejected: BTreeSet::new(),
            returned: BTreeSet::new(),
            seen: BTreeSet::new(),
            last: BTreeMap::new(),
            is_blind: false,
            begins: 0,
            is_order_off: false,
            numbers: BTreeMap::new(),
            out: BTreeSet::new(),
            rests: BTreeMap::new(),
        }
    }

    /// Whether a record that is published to an address comes here.
    fn wants(&self, address: &Address, bindings: &BTreeSet<(String, Bytes, String)>) -> bool {
        let by_filter = |filter: Filter| {
            let is_direct =
                matches!(address.entrance(), Entrance::Exchange { name, .. } if name.is_empty());
            !is_direct && filter.matches(&address.path())
        };
        match &self.kind {
            Kind::Group(topic, _) if topic.contains('/') => {
                by_filter(Filter::parse(topic).unwrap())
            }
            Kind::Group(topic, _) => by_filter(Filter::below(topic.as_bytes())),
            Kind::Subscription { filter, .. } => by_filter(Filter::parse(filter).unwrap()),
            Kind::Queue(name) => match address.entrance() {
                Entrance::Path => false,
                Entrance::Exchange { name: exchange, key } if exchange.is_empty() => {
                    key == name.as_bytes()
                }
                Entrance::Exchange { name: exchange, key } => bindings.iter().any(|bound| {
                    let is_fanout = bound.0 == "x0";
                    bound.0.as_bytes() == exchange
                        && bound.2 == *name
                        && (is_fanout || bound.1 == key)
                }),
            },
        }
    }

    /// When a record's time is over here at the latest... or at the earliest, for what was
    /// published at once.
    pub(super) fn ends(&self, sent: &Sent) -> UnixMillis {
        let ttl = self.policy.ttl_ms.map(|ttl| sent.at.plus(ttl));
        let own = Some(sent.expiry).filter(|expiry| expiry.is_set());
        ttl.into_iter().chain(own).min().unwrap_or(UnixMillis::NONE)
    }

    /// Whether a record may have ended here though nobody settled it.
    fn may_have_ended(&self, number: u64, sent: &Sent, now: UnixMillis) -> bool {
        self.ends(sent).reached(now)
            || self.purged.contains(&number)
            || (self.policy.is_bounded() && self.policy.overflow == Overflow::DropHead)
            || (self.policy.delivery.attempts_max.is_some() && self.returned.contains(&number))
    }
}

impl Model {
    /// Who a record that is published to an address comes to.
    pub(super) fn route(&self, address: &Address) -> Vec<usize> {
        let readers = self.readers.iter().enumerate().filter(|(_, reader)| !reader.is_gone);
        readers
            .filter(|(_, reader)| reader.wants(address, &self.bindings))
            .map(|(at, _)| at)
            .collect()
    }

    pub(super) fn find(&self, kind: &Kind) -> Option<usize> {
        self.readers.iter().position(|reader| !reader.is_gone && reader.kind == *kind)
    }

    /// Whether a dead record of a reader must be somewhere else, and is.
    fn is_buried(
        &self,
        from: usize,
        number: u64,
        present: &dyn Fn(usize, u64) -> bool,
        seen: &mut Vec<usize>,
    ) -> bool {
        let Some(DeadLetter::Exchange { name, key }) =
            &self.readers[from].policy.delivery.dead_letter
        else {
            return true;
        };
        let Some(key) = key.clone().filter(|_| name.is_empty()) else { return true };
        let target = self.find(&Kind::Queue(String::from_utf8_lossy(&key).into_owned()));
        let Some(target) = target else { return true };
        let reader = &self.readers[target];
        let is_old = reader.is_confirmed && reader.made < self.sent[&number].at;
        if !is_old
            || reader.is_loose
            || reader.is_blind
            || !reader.is_durable
            || seen.contains(&target)
        {
            return true;
        }
        seen.push(target);
        let was_there = reader.owed.contains_key(&number)
            || reader.wants(&self.sent[&number].address, &self.bindings);
        let is_bounded = reader.policy.is_bounded();
        present(target, number)
            || reader.done.contains_key(&number)
            || reader.purged.contains(&number)
            || reader.was_purged
            || is_bounded
            // Its time there began when it came there.
            || reader.policy.ttl_ms.is_some()
            // It came from there: it would go round, which ends it unless it was refused.
            || (was_there && !self.readers[from].rejected.contains(&number))
            || (reader.returned.contains(&number) && reader.policy.delivery.attempts_max.is_some())
                && self.is_buried(target, number, present, seen)
    }

    /// What is owed and not there, given what each reader has.
    pub(super) fn missing(
        &self,
        now: UnixMillis,
        present: &dyn Fn(usize, u64) -> bool,
    ) -> Vec<String> {
        let mut missing = Vec::new();
        for (at, reader) in self.readers.iter().enumerate() {
            if reader.is_gone
                || reader.is_loose
                || reader.is_blind
                || !reader.is_durable
                || !reader.is_confirmed
            {
                continue;
            }
            for number in &reader.rejected {
                let is_acked = reader.done.get(number) == Some(&Done::Acked);
                if is_acked && !self.is_buried(at, *number, present, &mut vec![at]) {
                    let sent = &self.sent[number];
                    missing.push(format!(
                        "{number} was refused by {:?} and is nowhere: {sent:?}",
                        reader.kind
                    ));
                }
            }
            for (number, is_sure) in &reader.owed {
                let sent = &self.sent[number];
                if !is_sure
                    || reader.purged.contains(number)
                    || present(at, *number)
                    || reader.done.contains_key(number)
                {
                    continue;
                }
                if !reader.may_have_ended(*number, sent, now) {
                    missing.push(format!("{number} of {:?}: {sent:?}", reader.kind));
                } else if !self.is_buried(at, *number, present, &mut vec![at]) {
                    missing.push(format!(
                        "{number} died in {:?} and is nowhere: {sent:?}",
                        reader.kind
                    ));
                }
            }
        }
        missing
    }
}

impl Model {
    /// Deliveries of a reader came back that nobody saw: attempts may have ended any record.
    pub(super) fn forgive_returns(&mut self, at: usize) {
        let reader = &mut self.readers[at];
        if reader.policy.delivery.attempts_max.is_some() {
            let all: Vec<u64> = reader.owed.keys().copied().collect();
            reader.returned.extend(all);
        }
    }

    /// The readers of a session.
    pub(super) fn subscriptions(&self, id: &str) -> Vec<usize> {
        let its = |reader: &Reader| matches!(&reader.kind, Kind::Subscription { session, .. } if session == id);
        let readers = self.readers.iter().enumerate();
        readers.filter(|(_, reader)| !reader.is_gone && its(reader)).map(|(at, _)| at).collect()
    }

    /// A queue goes, and what leads to it.
    pub(super) fn forget_bindings(&mut self, queue: &str) {
        self.bindings.retain(|(_, _, to)| to != queue);
        self.unsure.retain(|(_, _, to)| to != queue);
    }
}
