//! The transactions that wait for a decision, and those that were decided of late.

use std::collections::{HashMap, HashSet, VecDeque};

use mainstem_broker::HeldId;
use mainstem_schemas::UnixMillis;
use tokio::sync::watch;

use crate::codec::status::Fault;

/// Transactions remembered as ended, so that ending one again is no error.
const ENDED_MAX: usize = 1024;
/// How often one message may be there, sent again by a producer that got no answer.
const COPIES_MAX: usize = 16;

/// Which transaction of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) topic: String,
    pub(super) id: String,
}

/// What an ending came to, for whoever asked for it.
pub(super) type Outcome = Result<(), Fault>;
/// The outcome of an ending in progress, once there is one.
pub(super) type Awaited = watch::Receiver<Option<Outcome>>;

/// One that waits for its producer's decision.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    /// More than one when a producer sent its message again; at most one is published.
    pub(super) held: Vec<HeldId>,
    /// When the first one came.
    pub(super) since: UnixMillis,
    /// How often a producer was asked.
    pub(super) asked: u32,
    /// When one is asked next.
    ask_at: UnixMillis,
    ending: Option<Awaited>,
}

impl Waiting {
    fn is_ending(&self) -> bool {
        // One whose task is gone ended nothing.
        self.ending.as_ref().is_some_and(|ending| ending.has_changed().is_ok())
    }
}

/// How it stands with a transaction that somebody wants to end.
pub(super) enum Ending {
    /// It does not wait, and did not of late.
    Unknown,
    /// It was ended.
    Ended,
    /// Somebody was first.
    Going(Awaited),
    /// It is the caller's to end.
    Begun(watch::Sender<Option<Outcome>>, Awaited),
}

/// What becomes of a transaction when all its copies were gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// To end it again is no error.
    Remember,
    /// To end it again is to end what does not exist.
    Forget,
    /// It could not be ended.
    Wait,
}

#[derive(Debug, Default)]
pub(super) struct Known {
    /// By namespace; none is empty.
    waiting: HashMap<String, HashMap<Key, Waiting>>,
    ended: VecDeque<(String, Key)>,
    /// Namespaces whose transactions of before the start are known.
    found: HashSet<String>,
}

impl Known {
    pub(super) fn is_found(&self, namespace: &str) -> bool {
        self.found.contains(namespace)
    }

    /// What waits in a namespace since before the start is known from now on.
    pub(super) fn note_found(&mut self, namespace: &str, names_max: usize) {
        if self.found.len() < names_max {
            self.found.insert(namespace.to_owned());
        }
    }

    /// Notes a message. False for a copy too many, or one that comes after its transaction ended,
    /// which is to be forgotten.
    pub(super) fn add(
        &mut self,
        namespace: &str,
        key: Key,
        held: HeldId,
        since: UnixMillis,
        patience_ms: u64,
    ) -> bool {
        if self.has_ended(namespace, &key) {
            return false;
        }
        let ask_at = since.plus(patience_ms);
        let new = Waiting { held: Vec::new(), since, asked: 0, ask_at, ending: None };
        let space = self.waiting.entry(namespace.to_owned()).or_default();
        let waiting = space.entry(key).or_insert(new);
        if waiting.held.contains(&held) {
            return true;
        }
        let is_room = waiting.held.len() < COPIES_MAX;
        if is_room {
            waiting.held.push(held);
        }
        is_room
    }

    fn has_ended(&self, namespace: &str, key: &Key) -> bool {
        self.ended.iter().any(|(space, ended)| space == namespace && ended == key)
    }

    /// How it stands with a transaction, which `begins` to be ended if it is nobody's yet.
    pub(super) fn ending(&mut self, namespace: &str, key: &Key, begins: bool) -> Ending {
        let Some(waiting) = self.get(namespace, key) else {
            let has_ended = self.has_ended(namespace, key);
            return if has_ended { Ending::Ended } else { Ending::Unknown };
        };
        if waiting.is_ending()
            && let Some(ending) = &waiting.ending
        {
            return Ending::Going(ending.clone());
        }
        let (sender, ending) = watch::channel(None);
        if begins {
            waiting.ending = Some(ending.clone());
        }
        Ending::Begun(sender, ending)
    }

    /// The copy of a transaction that comes after the `done` ones. When there is none, all were
    /// gone through, those too that came meanwhile: the ending is over.
    pub(super) fn next_copy(
        &mut self,
        namespace: &str,
        key: &Key,
        done: usize,
        then: Then,
    ) -> Option<HeldId> {
        let waiting = self.get(namespace, key)?;
        if let Some(held) = waiting.held.get(done) {
            return Some(*held);
        }
        if then == Then::Wait {
            waiting.ending = None;
            return None;
        }
        self.remove(namespace, key);
        if then == Then::Remember {
            if self.ended.len() >= ENDED_MAX {
                self.ended.pop_front();
            }
            self.ended.push_back((namespace.to_owned(), key.clone()));
        }
        None
    }

    /// A copy that is not held any more.
    pub(super) fn lose_copy(&mut self, namespace: &str, key: &Key, held: HeldId) {
        let Some(waiting) = self.get(namespace, key) else { return };
        if !waiting.is_ending() {
            waiting.held.retain(|other| *other != held);
            if waiting.held.is_empty() {
                self.remove(namespace, key);
            }
        }
    }

    /// A producer was asked, or with `counts` false could not be.
    pub(super) fn asked(&mut self, namespace: &str, key: &Key, next: UnixMillis, counts: bool) {
        if let Some(waiting) = self.get(namespace, key) {
            waiting.asked = waiting.asked.saturating_add(u32::from(counts));
            waiting.ask_at = next;
        }
    }

    /// Up to `max` of those that `wanted` wants and whose time to ask has come, the longest
    /// overdue first.
    pub(super) fn overdue(
        &self,
        namespace: &str,
        now: UnixMillis,
        max: usize,
        wanted: impl Fn(&Key, &Waiting) -> bool,
    ) -> Vec<(Key, Waiting)> {
        let Some(space) = self.waiting.get(namespace) else { return Vec::new() };
        let is_overdue = |(key, waiting): &(&Key, &Waiting)| {
            waiting.ask_at.reached(now) && !waiting.is_ending() && wanted(key, waiting)
        };
        let mut overdue: Vec<_> = space.iter().filter(is_overdue).collect();
        overdue.sort_unstable_by_key(|(_, waiting)| waiting.ask_at);
        overdue.truncate(max);
        overdue.into_iter().map(|(key, waiting)| (key.clone(), waiting.clone())).collect()
    }

    fn get(&mut self, namespace: &str, key: &Key) -> Option<&mut Waiting> {
        self.waiting.get_mut(namespace)?.get_mut(key)
    }

    fn remove(&mut self, namespace: &str, key: &Key) {
        if let Some(space) = self.waiting.get_mut(namespace) {
            space.remove(key);
            if space.is_empty() {
                self.waiting.remove(namespace);
            }
        }
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting.values().map(HashMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use mainstem_schemas::Position;

    use super::*;

    fn key() -> Key {
        Key { topic: "T".to_owned(), id: "1".to_owned() }
    }

    fn held(origin: u64) -> HeldId {
        HeldId { due: HeldId::UNDECIDED, origin: Position(origin) }
    }

    #[test]
    fn a_copy_that_comes_during_the_ending_is_ended_too() {
        let mut known = Known::default();
        let now = UnixMillis(1_000);
        assert!(known.add("/", key(), held(1), now, 10));
        let Ending::Begun(..) = known.ending("/", &key(), true) else { panic!("it is nobody's") };
        assert_eq!(known.next_copy("/", &key(), 0, Then::Forget), Some(held(1)));
        assert!(known.add("/", key(), held(2), now, 10));
        assert_eq!(known.next_copy("/", &key(), 1, Then::Remember), Some(held(2)));
        assert_eq!(known.next_copy("/", &key(), 2, Then::Remember), None);
        assert_eq!(known.len(), 0);
        assert!(matches!(known.ending("/", &key(), true), Ending::Ended));
        assert!(!known.add("/", key(), held(3), now, 10), "one that comes later begins nothing");
        assert!(matches!(known.ending("/", &key(), true), Ending::Ended));
    }

    #[test]
    fn one_ends_it_and_what_could_not_be_ended_waits_on() {
        let mut known = Known::default();
        known.add("/", key(), held(1), UnixMillis(1_000), 10);
        let Ending::Begun(sender, _) = known.ending("/", &key(), true) else { panic!() };
        assert!(matches!(known.ending("/", &key(), true), Ending::Going(_)));
        assert!(known.overdue("/", UnixMillis(5_000), 9, |_, _| true).is_empty());
        assert_eq!(known.next_copy("/", &key(), 1, Then::Wait), None);
        drop(sender);
        assert_eq!(known.overdue("/", UnixMillis(5_000), 9, |_, _| true).len(), 1);
        // So does one whose task went away in the middle.
        let Ending::Begun(..) = known.ending("/", &key(), true) else { panic!() };
        assert!(matches!(known.ending("/", &key(), true), Ending::Begun(..)));
    }

    #[test]
    fn copies_of_one_message_are_bounded() {
        let mut known = Known::default();
        for origin in 0..100 {
            let is_kept = known.add("/", key(), held(origin), UnixMillis(1_000), 10);
            assert_eq!(is_kept, origin < 16, "{origin}");
        }
        assert!(known.add("/", key(), held(3), UnixMillis(1_000), 10), "known already");
        for origin in 0..16 {
            assert_eq!(known.len(), 1);
            known.lose_copy("/", &key(), held(origin));
        }
        assert_eq!(known.len(), 0);
    }

    #[test]
    fn the_longest_overdue_come_first() {
        let mut known = Known::default();
        for (id, ask_at) in [("b", 20), ("c", 30), ("a", 10), ("later", 99)] {
            let key = Key { topic: "T".to_owned(), id: id.to_owned() };
            known.add("/", key, held(ask_at), UnixMillis(1_000), ask_at);
        }
        let overdue = |max| {
            let found = known.overdue("/", UnixMillis(1_040), max, |key, _| key.topic == "T");
            found.into_iter().map(|(key, _)| key.id).collect::<Vec<_>>()
        };
        assert_eq!(overdue(9), ["a", "b", "c"]);
        assert_eq!(overdue(2), ["a", "b"]);
        assert!(known.overdue("other", UnixMillis(1_040), 9, |_, _| true).is_empty());
    }
}
