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

/// Clients remembered; among more, those that have been quiet are forgotten first, and then all.
const CLIENTS_MAX: usize = 65_536;

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
                clients.clear();
            }
        }
        let fresh = Record { since: now, times: 0, banned_until: None };
        let record = clients.entry(key).or_insert(fresh);
        if record.is_over(window, now) {
            *record = fresh;
        }
        record.times += 1;
        if record.times >= limits.flaps_max {
            record.banned_until = Some(now + Duration::from_secs(limits.flap_ban_s));
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
