//! One namespace: its exchanges, its queues by what they are found by, its filters, retained
//! records and sessions.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use mainstem_schemas::{
    ConsumerId, CursorId, Dialect, Filter, Path, Position, QueueId, UnixMillis, filter::Step,
};
use rustc_hash::FxHashMap;

use crate::{
    command::ClientId, exchange::Exchanges, few::Few, meter::Meter, parcel::Parcel, queue::Found,
    rules::Rules, trie::Trie,
};

/// The path of a topic below a topic: its name has `/` between segments.
pub(crate) fn branch(name: &str) -> Option<Path> {
    let (topic, rest) = name.split_once('/')?;
    Some(below(topic, rest))
}

/// A path below a topic, whose name is a segment as it stands: records that are addressed to it have
/// it in their path as it is.
pub(crate) fn below(topic: &str, rest: &str) -> Path {
    let (topic, rest) = (Path::of([topic]), Path::parse(rest.as_bytes(), Dialect::Mqtt));
    Path::from_raw([topic.raw().as_ref(), rest.raw().as_ref()].concat().into())
}

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
    pub(crate) subscriptions: Few<SubscriptionKey, Subscription>,
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
    /// What came to the exchange without a name, and went from it.
    pub(crate) nameless: Meter<2>,
    pub(crate) rules: Arc<Rules>,
    /// Queues in memory by name, and names that are gone although the index may still have them.
    pub(crate) named: FxHashMap<Box<[u8]>, Option<QueueId>>,
    /// Names of queues that the index never has.
    pub(crate) transient: BTreeSet<Box<[u8]>>,
    /// How many named queues there are, once somebody asked.
    pub(crate) queues: Option<u64>,
    pub(crate) topics: FxHashMap<String, QueueId>,
    /// Topics below a topic, by the stored bytes of their paths: there may be a million.
    pub(crate) branches: BTreeMap<Box<[u8]>, QueueId>,
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
            nameless: Meter::default(),
            rules: Arc::default(),
            named: FxHashMap::default(),
            transient: BTreeSet::new(),
            queues: None,
            topics: FxHashMap::default(),
            branches: BTreeMap::new(),
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
                if id.is_transient() {
                    self.transient.insert(name.as_bytes().into());
                }
                self.queues = self.queues.map(|count| count + 1);
            }
            Found::ByFilter(filter) => {
                let key = ((**filter).clone(), id.is_transient());
                if self.filters.insert(key, id) != Some(id) {
                    self.readers.insert(filter.steps(), Reader::Queue(id));
                }
            }
            Found::AsTopic if let Some(path) = branch(name) => {
                self.branches.insert(path.raw().as_ref().into(), id);
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
                    self.transient.remove(name.as_bytes());
                } else {
                    self.named.insert(name.as_bytes().into(), None);
                }
            }
            Found::ByFilter(filter) => {
                self.filters.remove(&((**filter).clone(), id.is_transient()));
                self.readers.remove(filter.steps(), is_it);
            }
            Found::AsTopic if let Some(path) = branch(name) => {
                self.branches.remove(path.raw().as_ref());
            }
            Found::AsTopic => {
                self.topics.remove(name);
                self.readers.remove(Filter::below(name.as_bytes()).steps(), is_it);
            }
        }
    }

    /// The queue of a topic, or of one below a topic.
    pub(crate) fn topic(&self, name: &str) -> Option<QueueId> {
        match branch(name) {
            Some(path) => self.branches.get(path.raw().as_ref()).copied(),
            None => self.topics.get(name).copied(),
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

    /// Walks on among the retained records, to those whose addresses a filter wants, looking at up
    /// to `looks_max` addresses. True when there may be more.
    pub(crate) fn find_retained(
        &self,
        filter: &Filter,
        now: UnixMillis,
        walk: &mut RetainedWalk,
        looks_max: usize,
    ) -> bool {
        let mut looks = 0;
        while let Some(from) = walk.from.take() {
            let mut seen = None;
            let mut seek = None;
            for (path, retained) in self.retained.range((from.clone(), Bound::Unbounded)) {
                if looks == looks_max {
                    walk.from =
                        Some(seen.map_or(from, |path: &Path| Bound::Excluded(path.clone())));
                    return true;
                }
                looks += 1;
                seen = Some(path);
                match compare(filter.steps(), path.raw()) {
                    Place::Wanted => {
                        if !retained.expiry.reached(now) {
                            walk.found.push((retained.position, retained.size));
                        }
                    }
                    Place::Between => {}
                    Place::SeekTo(raw) => {
                        seek = Some(raw);
                        break;
                    }
                    Place::Behind => break,
                }
            }
            walk.from = seek.map(|raw| Bound::Included(Path::from_raw(raw.into())));
        }
        false
    }
}

/// How far a search among retained records is.
pub(crate) struct RetainedWalk {
    /// Where it goes on; nowhere when it is over.
    from: Option<Bound<Path>>,
    found: Vec<(Position, u32)>,
}

impl RetainedWalk {
    pub(crate) fn new(filter: &Filter) -> Self {
        let leading = filter.steps().iter().map_while(|step| match step {
            Step::Exact(segment) => Some(segment),
            Step::One | Step::Rest => None,
        });
        Self { from: Some(Bound::Included(Path::of(leading))), found: Vec::new() }
    }

    /// The places of what was found, in the order of the addresses.
    pub(crate) fn into_found(self) -> Vec<(Position, u32)> {
        self.found
    }
}

/// Where an address stands among those a filter wants, in the order of their stored bytes.
enum Place {
    Wanted,
    /// It is not wanted, and the next one may be.
    Between,
    /// No address before these bytes is wanted.
    SeekTo(Vec<u8>),
    /// No further one is.
    Behind,
}

/// Addresses below one stand together, since each segment is stored behind its length.
fn compare(steps: &[Step], path: &[u8]) -> Place {
    let mut at = 0;
    for (place, step) in steps.iter().enumerate() {
        let (above, rest) = path.split_at_checked(at).unwrap_or((path, &[]));
        let Some(segment) = first_segment(rest) else {
            let is_wanted = matches!(step, Step::Rest);
            return if is_wanted { Place::Wanted } else { Place::Between };
        };
        let is_hidden = place == 0 && segment.get(2) == Some(&b'$');
        match step {
            // A wildcard at the start does not match `$`.
            Step::One | Step::Rest if is_hidden => return past(segment),
            Step::Rest => return Place::Wanted,
            Step::One => {}
            Step::Exact(wanted) => {
                let wanted = Path::of([wanted]);
                match segment.cmp(wanted.raw()) {
                    Ordering::Equal => {}
                    Ordering::Less => return Place::SeekTo([above, wanted.raw()].concat()),
                    Ordering::Greater => return past(above),
                }
            }
        }
        at += segment.len();
    }
    match path.split_at_checked(at) {
        Some((_, [])) | None => Place::Wanted,
        Some((above, _)) => past(above),
    }
}

/// A stored segment with its length.
fn first_segment(raw: &[u8]) -> Option<&[u8]> {
    let len = raw.first_chunk::<2>()?;
    raw.get(..2 + usize::from(u16::from_le_bytes(*len)))
}

/// Past everything that begins with these bytes.
fn past(prefix: &[u8]) -> Place {
    let mut next = prefix.to_vec();
    while let Some(last) = next.pop() {
        if let Some(more) = last.checked_add(1) {
            next.push(more);
            return Place::SeekTo(next);
        }
    }
    Place::Behind
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(paths: &[Path]) -> Namespace {
        let mut space = Namespace::new("/".into());
        for (at, path) in paths.iter().enumerate() {
            let position = Position(at as u64);
            let retained = Retained { position, size: 1, expiry: UnixMillis::NONE };
            space.retained.insert(path.clone(), retained);
        }
        space
    }

    /// What is found in pieces of some size, and in how many.
    fn find(space: &Namespace, filter: &Filter, looks_max: usize) -> (Vec<Position>, usize) {
        let mut walk = RetainedWalk::new(filter);
        let mut pieces = 1;
        while space.find_retained(filter, UnixMillis(1), &mut walk, looks_max) {
            pieces += 1;
        }
        (walk.into_found().into_iter().map(|(position, _)| position).collect(), pieces)
    }

    #[test]
    fn a_walk_finds_what_the_filter_matches() {
        const SEGMENTS: [&str; 9] = ["a", "b", "c", "", "aa", "$", "$x", "\u{ff}\u{ff}", "zzz"];
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut segments = |count| -> Vec<&str> {
                (0..count).map(|_| SEGMENTS[random.usize(..SEGMENTS.len())]).collect()
            };
            let paths: Vec<Path> = (0..60).map(|at| Path::of(segments(1 + at % 4))).collect();
            let space = with(&paths);
            for looks_max in [1, 3, 1000] {
                let mut words: Vec<&str> = (0..random.usize(1..4))
                    .map(|_| match random.usize(..2 * SEGMENTS.len()) {
                        at if at < SEGMENTS.len() => SEGMENTS[at],
                        _ => "+",
                    })
                    .collect();
                if random.bool() {
                    words.push("#");
                }
                let text = words.join("/");
                if text.is_empty() {
                    continue;
                }
                let filter = Filter::parse(&text).unwrap();
                let all = space.retained.iter().filter(|(path, _)| filter.matches(path));
                let wanted: Vec<Position> = all.map(|(_, retained)| retained.position).collect();
                assert_eq!(find(&space, &filter, looks_max).0, wanted, "seed {seed}: {text}");
            }
        }
    }

    #[test]
    fn a_walk_passes_over_what_cannot_match() {
        let paths = (0..300).flat_map(|a| (0..300).map(move |b| [a.to_string(), b.to_string()]));
        let space = with(&paths.map(Path::of).collect::<Vec<_>>());
        for (filter, found, looks) in
            [("+/7", 300, 1000), ("5/+", 300, 310), ("5/5", 1, 3), ("$x/#", 0, 2), ("+/x", 0, 1000)]
        {
            let filter = Filter::parse(filter).unwrap();
            let (all, pieces) = find(&space, &filter, 1);
            assert_eq!(all.len(), found, "{filter:?}");
            assert!(pieces <= looks, "{filter:?} looks at {pieces} of 90,000");
        }
    }
}
