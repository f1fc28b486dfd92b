//! What the server tells of itself under `$SYS/broker/`: to each subscriber at once, and again
//! every `sys_interval_s`. None of it is published or stored; every connection writes its own.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use mainstem_broker::SessionOpened;
use mainstem_schemas::{Address, Filter};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Interval, MissedTickBehavior},
};

use super::connection::Connection;
use crate::{
    codec::{Outgoing, OutgoingProperties, Qos, subscribe::is_of_the_server},
    session::{Options, SubscriptionIds, aliases::Naming},
};

/// A longer time is no different: ten years.
const INTERVAL_MAX_S: u64 = 10 * 365 * 24 * 3600;

/// Counts of all connections since the start.
#[derive(Debug)]
pub(super) struct Statistics {
    started: Instant,
    pub(super) connected: AtomicU64,
    connected_most: AtomicU64,
    pub(super) bytes_received: AtomicU64,
    pub(super) bytes_sent: AtomicU64,
    pub(super) publishes_received: AtomicU64,
    pub(super) publishes_sent: AtomicU64,
    /// Those that their clients could not take.
    pub(super) publishes_dropped: AtomicU64,
}

/// Adds to a count.
pub(super) fn count(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}

impl Statistics {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            connected: AtomicU64::new(0),
            connected_most: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            publishes_received: AtomicU64::new(0),
            publishes_sent: AtomicU64::new(0),
            publishes_dropped: AtomicU64::new(0),
        }
    }

    pub(super) fn connect(&self) {
        let now = self.connected.fetch_add(1, Ordering::Relaxed) + 1;
        self.connected_most.fetch_max(now, Ordering::Relaxed);
    }

    pub(super) fn disconnect(&self) {
        self.connected.fetch_sub(1, Ordering::Relaxed);
    }

    /// Every topic with its value, under the names that Mosquitto gave them.
    fn all(&self) -> [(&'static str, String); 10] {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed).to_string();
        let version = concat!("mainstem version ", env!("CARGO_PKG_VERSION")).to_owned();
        [
            ("$SYS/broker/version", version),
            ("$SYS/broker/uptime", format!("{} seconds", self.started.elapsed().as_secs())),
            ("$SYS/broker/clients/connected", read(&self.connected)),
            ("$SYS/broker/clients/active", read(&self.connected)),
            ("$SYS/broker/clients/maximum", read(&self.connected_most)),
            ("$SYS/broker/bytes/received", read(&self.bytes_received)),
            ("$SYS/broker/bytes/sent", read(&self.bytes_sent)),
            ("$SYS/broker/publish/messages/received", read(&self.publishes_received)),
            ("$SYS/broker/publish/messages/sent", read(&self.publishes_sent)),
            ("$SYS/broker/publish/messages/dropped", read(&self.publishes_dropped)),
        ]
    }
}

/// A connection's subscriptions to statistics.
#[derive(Debug, Default)]
pub(super) struct Watching {
    filters: HashMap<Filter, Options>,
    /// Those whose subscriber is to be told for the first time.
    fresh: HashSet<Filter>,
    ticks: Option<Interval>,
}

impl Watching {
    /// Goes on with what the session subscribed to.
    pub(super) fn resume(found: &SessionOpened, interval_s: u64) -> Self {
        let mut watching = Self::default();
        for held in found.subscriptions.iter().filter(|held| held.subscribe.share.is_none()) {
            let options = Options::unpack(held.subscribe.options);
            watching.add(&held.subscribe.filter, options, interval_s);
        }
        watching
    }

    /// Tells whether the filter is one for statistics.
    pub(super) fn add(&mut self, filter: &Filter, options: Options, interval_s: u64) -> bool {
        if interval_s == 0 || !is_of_the_server(filter) {
            return false;
        }
        self.filters.insert(filter.clone(), options);
        let interval = Duration::from_secs(interval_s.min(INTERVAL_MAX_S));
        self.ticks.get_or_insert_with(|| {
            let mut ticks = tokio::time::interval_at(Instant::now() + interval, interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        true
    }

    /// Its subscriber is to be told at once, however often it asks before it is.
    pub(super) fn greet(&mut self, filter: &Filter) {
        self.fresh.insert(filter.clone());
    }

    pub(super) fn remove(&mut self, filter: &Filter) {
        self.filters.remove(filter);
        self.fresh.remove(filter);
        if self.filters.is_empty() {
            self.ticks = None;
        }
    }

    /// Returns when it is time to tell. Cancel-safe, as a tick is.
    pub(super) async fn due(&mut self) {
        match &mut self.ticks {
            Some(_) if !self.fresh.is_empty() => {}
            Some(ticks) => drop(ticks.tick().await),
            None => std::future::pending().await,
        }
    }
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<R, W> {
    /// Tells what is new to its subscribers for the first time, or if nothing is, all again.
    pub(super) fn tell_statistics(&mut self) {
        let fresh = std::mem::take(&mut self.watching.fresh);
        for (topic, value) in self.server.statistics.all() {
            let path = Address::mqtt(topic.into()).path();
            let (mut ids, mut wanted, mut retain) = (SubscriptionIds::new(), false, false);
            for (filter, options) in &self.watching.filters {
                if filter.matches(&path) && (fresh.is_empty() || fresh.contains(filter)) {
                    wanted = true;
                    retain |= !fresh.is_empty() || options.retain_as_published;
                    ids.extend(options.subscription_id);
                }
            }
            if !wanted {
                continue;
            }
            let naming = self.aliases.name(topic.as_bytes());
            let (name, topic_alias): (&[u8], _) = match naming {
                Naming::Full => (topic.as_bytes(), None),
                Naming::First(alias) => (topic.as_bytes(), Some(alias)),
                Naming::Alias(alias) => (&[], Some(alias)),
            };
            let outgoing = Outgoing {
                dup: false,
                qos: Qos::AtMostOnce,
                retain,
                topic: name,
                packet_id: 0,
                properties: OutgoingProperties {
                    topic_alias,
                    subscription_ids: &ids,
                    ..OutgoingProperties::default()
                },
                payload: value.as_bytes(),
            };
            let ears = &self.ears;
            let written = outgoing.encode(ears.version, ears.packet_bytes_max, &mut self.output);
            if written.is_ok() {
                self.aliases.sent(topic.as_bytes(), naming);
            }
        }
    }
}
