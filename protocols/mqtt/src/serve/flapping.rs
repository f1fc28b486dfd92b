//! Clients that come and go too often, and are kept away for a while.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

use crate::Limits;

/// A namespace and a client identifier.
type Key = (Arc<str>, String);

/// Clients remembered; among more, those that have been quiet are forgotten first, and then all
/// that are not kept away.
const CLIENTS_MAX: usize = 65_536;
/// A longer time is no different: ten years.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How often a client went lately.
#[derive(Clone, Copy, Debug)]
struct Record {
    since: Instant,
    times: u32,
    banned_until: Option<Instant>,
}

/// Who went how often. The mutex is std's: it is held for one look into the map.
#[derive(Debug, Default)]
pub(super) struct Flapping {
    clients: Mutex<HashMap<Key, Record>>,
}

impl Flapping {
    /// A client's connection ended by its own doing.
    pub(super) fn note(&self, key: Key, limits: &Limits, now: Instant) {
        if limits.flaps_max == 0 {
            return;
        }
        let window = Duration::from_secs(limits.flap_window_s);
        let mut clients = self.clients.lock().expect("no holder of this lock panics");
        if clients.len() >= CLIENTS_MAX {
            clients.retain(|_, record| !record.is_over(window, now));
            if clients.len() >= CLIENTS_MAX {
                clients.retain(|_, record| record.banned_until.is_some());
            }
            if clients.len() >= CLIENTS_MAX {
                return;
            }
        }
        let fresh = Record { since: now, times: 0, banned_until: None };
        let record = clients.entry(key).or_insert(fresh);
        if record.is_over(window, now) {
            *record = fresh;
        }
        record.times += 1;
        if record.times >= limits.flaps_max {
            let ban = Duration::from_secs(limits.flap_ban_s).min(FOR_EVER);
            record.banned_until = Some(now + ban);
        }
    }

    /// Whether a client is kept away.
    pub(super) fn is_banned(&self, key: &Key, limits: &Limits, now: Instant) -> bool {
        if limits.flaps_max == 0 {
            return false;
        }
        let clients = self.clients.lock().expect("no holder of this lock panics");
        let until = clients.get(key).and_then(|record| record.banned_until);
        until.is_some_and(|until| now < until)
    }
}

impl Record {
    fn is_over(&self, window: Duration, now: Instant) -> bool {
        match self.banned_until {
            Some(until) => now >= until,
            None => now.duration_since(self.since) > window,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> Key {
        ("/".into(), id.to_owned())
    }

    const LIMITS: fn() -> Limits =
        || Limits { flaps_max: 2, flap_window_s: 60, flap_ban_s: u64::MAX, ..Limits::default() };

    #[test]
    fn a_ban_may_be_for_ever() {
        let (flapping, limits, now) = (Flapping::default(), LIMITS(), Instant::now());
        flapping.note(key("a"), &limits, now);
        assert!(!flapping.is_banned(&key("a"), &limits, now));
        flapping.note(key("a"), &limits, now);
        assert!(flapping.is_banned(&key("a"), &limits, now + Duration::from_secs(1 << 28)));
    }

    #[test]
    fn who_goes_seldom_is_welcome() {
        let (flapping, limits, start) = (Flapping::default(), LIMITS(), Instant::now());
        for minute in 0..10 {
            let now = start + Duration::from_secs(minute * 61);
            flapping.note(key("a"), &limits, now);
            assert!(!flapping.is_banned(&key("a"), &limits, now));
        }
    }

    #[test]
    fn many_others_do_not_lift_a_ban() {
        let (flapping, now) = (Flapping::default(), Instant::now());
        let limits = Limits { flap_ban_s: 300, ..LIMITS() };
        for _ in 0..2 {
            flapping.note(key("bad"), &limits, now);
        }
        for id in 0..=CLIENTS_MAX {
            flapping.note(key(&id.to_string()), &limits, now);
        }
        assert!(flapping.is_banned(&key("bad"), &limits, now));
        assert!(flapping.clients.lock().unwrap().len() <= CLIENTS_MAX);
    }
}
