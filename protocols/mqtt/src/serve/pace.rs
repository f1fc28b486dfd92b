//! How fast clients and namespaces may publish. From who is too fast no message is taken for a while, so
//! that it finds its socket full; nothing is dropped.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

use crate::Limits;

/// What may come at once after a quiet time: as much as in this time.
const BURST: Duration = Duration::from_secs(1);
/// Nobody owes more, whatever came at once.
const DEBT_MAX: Duration = Duration::from_secs(3600);
/// All clients of a namespace wait for no more than this together; who was over it waits for the rest
/// alone.
const SHARED_DEBT_MAX: Duration = Duration::from_secs(1);
/// Clients remembered that left before they were due.
const LEFT_MAX: usize = 65_536;

/// A namespace and a client identifier.
type Key = (Arc<str>, String);

/// A rate, and until when what came so far is worth at that rate.
#[derive(Debug)]
struct Meter {
    per_s: u64,
    due: Instant,
}

impl Meter {
    /// `None` for a rate of 0, which is no bound.
    fn new(per_s: u64, now: Instant) -> Option<Self> {
        (per_s > 0).then_some(Self { per_s, due: now.checked_sub(BURST).unwrap_or(now) })
    }

    /// So much came; tells when the next may.
    fn spend(&mut self, amount: usize, now: Instant) -> Instant {
        let nanos = (amount as u128 * 1_000_000_000) / u128::from(self.per_s);
        let worth = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let rested = now.checked_sub(BURST).map_or(self.due, |earliest| self.due.max(earliest));
        self.due = rested.checked_add(worth).unwrap_or(now + DEBT_MAX).min(now + DEBT_MAX);
        self.due
    }
}

/// The meters of messages and of bytes of payload.
#[derive(Debug)]
struct Meters {
    messages: Option<Meter>,
    bytes: Option<Meter>,
}

impl Meters {
    fn new(messages_per_s: u64, bytes_per_s: u64, now: Instant) -> Option<Self> {
        let meters =
            Self { messages: Meter::new(messages_per_s, now), bytes: Meter::new(bytes_per_s, now) };
        (meters.messages.is_some() || meters.bytes.is_some()).then_some(meters)
    }

    fn spend(&mut self, messages: usize, bytes: usize, now: Instant) -> Option<Instant> {
        let messages = self.messages.as_mut().map(|meter| meter.spend(messages, now));
        messages.max(self.bytes.as_mut().map(|meter| meter.spend(bytes, now)))
    }

    /// Forgives what is due later than that.
    fn forgive(&mut self, latest: Instant) {
        for meter in [&mut self.messages, &mut self.bytes].into_iter().flatten() {
            meter.due = meter.due.min(latest);
        }
    }

    /// Whether they are as new ones are.
    fn is_rested(&self, now: Instant) -> bool {
        let mut meters = [&self.messages, &self.bytes].into_iter().flatten();
        meters.all(|meter| meter.due + BURST <= now)
    }
}

/// What is shared by the connections of a namespace. The mutex is std's: it is held for one sum.
type Shared = Arc<Mutex<Meters>>;

/// The meters of all namespaces, and of clients that left before they were due.
#[derive(Debug, Default)]
pub(super) struct Paces {
    namespaces: Mutex<HashMap<Arc<str>, Shared>>,
    left: Mutex<HashMap<Key, Own>>,
}

impl Paces {
    /// The pace of a connection that begins; `None` where there is no bound.
    pub(super) fn of(&self, key: &Key, limits: &Limits, now: Instant) -> Option<Box<Pace>> {
        let all = (limits.namespace_messages_per_s_max, limits.namespace_bytes_per_s_max);
        let namespace = Meters::new(all.0, all.1, now).map(|fresh| {
            let mut namespaces = self.namespaces.lock().expect("no holder of this lock panics");
            let place = namespaces.entry(key.0.clone());
            place.or_insert_with(|| Arc::new(Mutex::new(fresh))).clone()
        });
        let one = (limits.client_messages_per_s_max, limits.client_bytes_per_s_max);
        let meters = Meters::new(one.0, one.1, now);
        if meters.is_none() && namespace.is_none() {
            return None;
        }
        let left = self.left.lock().expect("no holder of this lock panics").remove(key);
        let own = left.unwrap_or(Own { meters, due: now });
        Some(Box::new(Pace { own, namespace }))
    }

    /// A connection ended: its client's next one goes on at its pace.
    pub(super) fn leave(&self, key: Key, pace: Pace, now: Instant) {
        if pace.own.is_rested(now) {
            return;
        }
        let mut left = self.left.lock().expect("no holder of this lock panics");
        if left.len() >= LEFT_MAX {
            left.retain(|_, own| !own.is_rested(now));
        }
        if left.len() < LEFT_MAX {
            left.insert(key, pace.own);
        }
    }
}

/// What one client owes.
#[derive(Debug)]
struct Own {
    meters: Option<Meters>,
    /// Until when it waits for what it was over its namespace's rate.
    due: Instant,
}

impl Own {
    fn is_rested(&self, now: Instant) -> bool {
        self.due <= now && self.meters.as_ref().is_none_or(|meters| meters.is_rested(now))
    }
}

/// The pace of one connection.
#[derive(Debug)]
pub(super) struct Pace {
    own: Own,
    namespace: Option<Shared>,
}

impl Pace {
    /// The client published so much; tells until when no more is to be taken from it, if at all.
    pub(super) fn spend(&mut self, messages: usize, bytes: usize, now: Instant) -> Option<Instant> {
        let own = self.own.meters.as_mut().and_then(|meters| meters.spend(messages, bytes, now));
        let shared = self.namespace.as_ref().and_then(|shared| {
            let mut meters = shared.lock().expect("no holder of this lock panics");
            let due = meters.spend(messages, bytes, now);
            meters.forgive(now + SHARED_DEBT_MAX);
            due
        });
        let latest = now + SHARED_DEBT_MAX;
        if let Some(over) = shared.and_then(|due| due.checked_duration_since(latest)) {
            self.own.due = (self.own.due.max(latest) + over).min(now + DEBT_MAX);
        }
        own.max(shared).max(Some(self.own.due)).filter(|due| *due > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(namespace: &str, id: &str) -> Key {
        (namespace.into(), id.to_owned())
    }

    #[tokio::test]
    async fn a_second_may_come_at_once_and_the_rest_takes_its_time() {
        let now = Instant::now();
        let mut meter = Meter::new(100, now).unwrap();
        assert_eq!(meter.spend(100, now), now);
        assert_eq!(meter.spend(50, now), now + Duration::from_millis(500));
        // Paid back, and a second of quiet besides; more is not saved up.
        let later = now + Duration::from_secs(3600);
        assert_eq!(meter.spend(100, later), later);
        assert_eq!(meter.spend(1, later), later + Duration::from_millis(10));
        assert!(Meter::new(0, now).is_none());
    }

    #[tokio::test]
    async fn what_is_worth_ages_is_owed_for_an_hour() {
        let now = Instant::now();
        let mut meter = Meter::new(1, now).unwrap();
        assert_eq!(meter.spend(usize::MAX, now), now + DEBT_MAX);
    }

    #[tokio::test]
    async fn a_namespaces_clients_share_its_rate() {
        let limits = Limits {
            namespace_messages_per_s_max: 10,
            client_bytes_per_s_max: 1000,
            ..Limits::default()
        };
        let (paces, now) = (Paces::default(), Instant::now());
        let mut one = paces.of(&key("/", "one"), &limits, now).unwrap();
        let mut two = paces.of(&key("/", "two"), &limits, now).unwrap();
        let mut elsewhere = paces.of(&key("other", "one"), &limits, now).unwrap();
        assert_eq!(one.spend(10, 0, now), None);
        assert_eq!(two.spend(5, 0, now), Some(now + Duration::from_millis(500)));
        assert_eq!(elsewhere.spend(5, 1000, now), None);
        assert_eq!(elsewhere.spend(0, 1000, now), Some(now + Duration::from_secs(1)));
        assert!(paces.of(&key("/", "one"), &Limits::default(), now).is_none());
    }

    #[tokio::test]
    async fn who_is_far_over_a_namespaces_rate_waits_alone() {
        let limits = Limits { namespace_messages_per_s_max: 10, ..Limits::default() };
        let (paces, now) = (Paces::default(), Instant::now());
        let mut one = paces.of(&key("/", "one"), &limits, now).unwrap();
        let mut two = paces.of(&key("/", "two"), &limits, now).unwrap();
        assert_eq!(one.spend(610, 0, now), Some(now + Duration::from_secs(60)));
        assert_eq!(two.spend(1, 0, now), Some(now + Duration::from_millis(1100)));
        // What it owes is its own, whenever it comes back.
        let later = now + Duration::from_secs(30);
        paces.leave(key("/", "one"), *one, later);
        let mut one = paces.of(&key("/", "one"), &limits, later).unwrap();
        assert_eq!(one.spend(1, 0, later), Some(now + Duration::from_secs(60)));
        assert_eq!(two.spend(1, 0, later), None);
    }

    #[tokio::test]
    async fn a_client_that_comes_back_goes_on_at_its_pace() {
        let limits = Limits { client_messages_per_s_max: 10, ..Limits::default() };
        let (paces, now) = (Paces::default(), Instant::now());
        let mut first = paces.of(&key("/", "a"), &limits, now).unwrap();
        assert_eq!(first.spend(10, 0, now), None);
        paces.leave(key("/", "a"), *first, now);
        let mut second = paces.of(&key("/", "a"), &limits, now).unwrap();
        assert_eq!(second.spend(1, 0, now), Some(now + Duration::from_millis(100)));
        // One that owes nothing is not remembered, and of too many those go that are rested.
        let later = now + Duration::from_secs(2);
        paces.leave(key("/", "a"), *second, later);
        assert!(paces.left.lock().unwrap().is_empty());
        for id in 0..=LEFT_MAX {
            let mut pace = paces.of(&key("/", &id.to_string()), &limits, now).unwrap();
            pace.spend(10, 0, now);
            paces.leave(key("/", &id.to_string()), *pace, now);
        }
        assert_eq!(paces.left.lock().unwrap().len(), LEFT_MAX);
        let mut last = paces.of(&key("/", "last"), &limits, later).unwrap();
        last.spend(10, 0, later);
        paces.leave(key("/", "last"), *last, later);
        assert_eq!(paces.left.lock().unwrap().len(), 1);
    }
}
