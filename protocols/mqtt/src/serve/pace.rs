//! How fast clients and namespaces may publish. Who is too fast is not read for a while, so that it
//! finds its socket full; nothing is dropped.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

use crate::Limits;

/// What may come at once after a quiet time: as much as in this time.
const BURST: Duration = Duration::from_secs(1);
/// No pause is longer, whatever came at once.
const PAUSE_MAX: Duration = Duration::from_secs(3600);

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
        self.due = rested.checked_add(worth).unwrap_or(now + PAUSE_MAX).min(now + PAUSE_MAX);
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
}

/// What is shared by the connections of a namespace. The mutex is std's: it is held for one sum.
type Shared = Arc<Mutex<Meters>>;

/// The meters of all namespaces.
#[derive(Debug, Default)]
pub(super) struct Paces {
    namespaces: Mutex<HashMap<Arc<str>, Shared>>,
}

impl Paces {
    /// The pace of a connection that begins; `None` where there is no bound.
    pub(super) fn of(
        &self,
        namespace: &Arc<str>,
        limits: &Limits,
        now: Instant,
    ) -> Option<Box<Pace>> {
        let all = (limits.namespace_messages_per_s_max, limits.namespace_bytes_per_s_max);
        let namespace = Meters::new(all.0, all.1, now).map(|fresh| {
            let mut namespaces = self.namespaces.lock().expect("no holder of this lock panics");
            let place = namespaces.entry(namespace.clone());
            place.or_insert_with(|| Arc::new(Mutex::new(fresh))).clone()
        });
        let one = (limits.client_messages_per_s_max, limits.client_bytes_per_s_max);
        let client = Meters::new(one.0, one.1, now);
        let is_bounded = client.is_some() || namespace.is_some();
        is_bounded.then(|| Box::new(Pace { client, namespace }))
    }
}

/// The pace of one connection.
#[derive(Debug)]
pub(super) struct Pace {
    client: Option<Meters>,
    namespace: Option<Shared>,
}

impl Pace {
    /// The client published so much; tells until when it is not to be read, if at all.
    pub(super) fn spend(&mut self, messages: usize, bytes: usize, now: Instant) -> Option<Instant> {
        let own = self.client.as_mut().and_then(|meters| meters.spend(messages, bytes, now));
        let shared = self.namespace.as_ref().and_then(|shared| {
            let mut meters = shared.lock().expect("no holder of this lock panics");
            meters.spend(messages, bytes, now)
        });
        own.max(shared).filter(|due| *due > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    async fn what_is_worth_ages_is_waited_for_an_hour() {
        let now = Instant::now();
        let mut meter = Meter::new(1, now).unwrap();
        assert_eq!(meter.spend(usize::MAX, now), now + PAUSE_MAX);
    }

    #[tokio::test]
    async fn a_namespaces_clients_share_its_rate() {
        let limits = Limits {
            namespace_messages_per_s_max: 10,
            client_bytes_per_s_max: 1000,
            ..Limits::default()
        };
        let (paces, now, name) = (Paces::default(), Instant::now(), Arc::<str>::from("/"));
        let mut one = paces.of(&name, &limits, now).unwrap();
        let mut two = paces.of(&name, &limits, now).unwrap();
        let mut elsewhere = paces.of(&"other".into(), &limits, now).unwrap();
        assert_eq!(one.spend(10, 0, now), None);
        assert_eq!(two.spend(5, 0, now), Some(now + Duration::from_millis(500)));
        assert_eq!(elsewhere.spend(5, 1000, now), None);
        assert_eq!(elsewhere.spend(0, 1000, now), Some(now + Duration::from_secs(1)));
        assert!(paces.of(&name, &Limits::default(), now).is_none());
    }
}
