//! The one node there is: what it is called, how fast it goes, and what it takes of the machine.

use std::{
    fs,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mainstem_schemas::UnixMillis;
use serde_json::{Map, Value as Json, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::answer::Failure;
use crate::{http::Gate, metrics};

/// Between two looks at the counters.
const LOOK: Duration = Duration::from_secs(5);
/// How long what all queues hold together is told again before it is counted anew.
const TOTALS_MS: u64 = 5000;

/// RabbitMQ's names of our counters.
const COUNTERS: [(&str, &str); 4] = [
    ("publish", "mainstem_published_total"),
    ("deliver_get", "mainstem_delivered_total"),
    ("ack", "mainstem_settled_total"),
    ("drop_unroutable", "mainstem_unroutable_total"),
];

/// What all queues hold together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    pub(super) at: UnixMillis,
    pub(super) queues: u64,
    pub(super) exchanges: u64,
    pub(super) consumers: u64,
    pub(super) ready: u64,
    pub(super) unsettled: u64,
}

pub(in crate::http) struct Node {
    pub(in crate::http) name: String,
    pub(super) started: UnixMillis,
    /// The counters at the last two looks.
    looks: Mutex<[[u64; COUNTERS.len()]; 2]>,
    totals: Mutex<Totals>,
    /// Held while they are counted, so that one caller at a time does it.
    counting: Semaphore,
}

impl Node {
    pub(in crate::http) fn new(started: UnixMillis) -> Self {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = host.trim().split('.').next().filter(|host| !host.is_empty());
        let name = format!("rabbit@{}", host.unwrap_or("localhost"));
        let (looks, totals) = (Mutex::new([counters(); 2]), Mutex::default());
        Self { name, started, looks, totals, counting: Semaphore::new(1) }
    }

    /// Looks at the counters until the shutdown.
    pub(in crate::http) async fn watch(self: Arc<Self>, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK);
        // Cancel-safe: a tick that is lost is made up by the next one.
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
            let [_, last] = *looks;
            *looks = [last, counters()];
        }
    }

    /// Counts of messages, and by the second.
    pub(super) fn message_stats(&self) -> Json {
        let [before, last] = *self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stats = Map::new();
        for (((name, _), before), last) in COUNTERS.iter().zip(before).zip(last) {
            #[expect(clippy::cast_precision_loss, reason = "rates are floating point")]
            let rate = last.saturating_sub(before) as f64 / LOOK.as_secs_f64();
            stats.insert((*name).to_owned(), json!(last));
            stats.insert(format!("{name}_details"), json!({ "rate": rate }));
        }
        Json::Object(stats)
    }

    /// What all queues hold together, counted now or a little while ago.
    pub(super) async fn totals(&self, gate: &Gate, of: &[String]) -> Result<Totals, Failure> {
        // It is never closed.
        let _turn = self.counting.acquire().await;
        let known = *self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        if known.at.is_set() && gate.broker.now().since(known.at) < TOTALS_MS {
            return Ok(known);
        }
        let mut totals = Totals::default();
        for namespace in of {
            let mut after = None;
            loop {
                let page = gate.broker.list_queues(namespace, after).await?;
                totals.queues += page.items.len() as u64;
                for queue in &page.items {
                    totals.ready += queue.stats.ready;
                    totals.unsettled += queue.stats.unsettled;
                    totals.consumers += u64::from(queue.stats.consumers);
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            // The default one.
            totals.exchanges += 1;
            let mut after = None;
            loop {
                let page = gate.broker.list_exchanges(namespace, after).await?;
                totals.exchanges += page.items.len() as u64;
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        totals.at = gate.broker.now();
        *self.totals.lock().unwrap_or_else(PoisonError::into_inner) = totals;
        Ok(totals)
    }
}

fn counters() -> [u64; COUNTERS.len()] {
    let page = metrics::render();
    COUNTERS.map(|(_, name)| metrics::counter(&page, name))
}

/// Bytes of memory that the process has.
pub(super) fn memory_bytes() -> u64 {
    status_kib("/proc/self/status", "VmRSS:").saturating_mul(1024)
}

/// Bytes of memory that the machine has.
pub(super) fn machine_bytes() -> u64 {
    status_kib("/proc/meminfo", "MemTotal:").saturating_mul(1024)
}

fn status_kib(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Descriptors that are open, and that may be.
pub(super) fn descriptors() -> (usize, u64) {
    let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let most = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    (open, most.unwrap_or(0))
}

/// Threads of the process.
pub(super) fn threads() -> u64 {
    status_kib("/proc/self/status", "Threads:")
}
