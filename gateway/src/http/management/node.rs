//! The one node there is: what it is called, how fast it goes, and what it takes of the machine.

use std::{
    collections::VecDeque,
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mainstem_broker::{Broker, Count, Did, meter::KINDS};
use mainstem_schemas::UnixMillis;
use serde_json::{Map, Value as Json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    answer::Failure,
    rates::{Rates, growth},
    statistics::{self, put, put_rate},
};
use crate::http::Gate;

/// Between two looks at the counters; rates are of that time.
const LOOK: Duration = Duration::from_secs(5);
/// How long what all queues hold together is told again before it is counted anew.
const TOTALS_MS: u64 = 5000;
/// Of all time, the part that may go into counting it is one in so many.
const TOTALS_PART: u64 = 20;
/// Callers see different namespaces: so many such sets are told apart.
const TOTALS_MAX: usize = 16;

/// RabbitMQ's names of what comes and goes.
const CHURN: [(&str, Did); 5] = [
    ("queue_declared", Did::DeclareQueue),
    ("queue_created", Did::CreateQueue),
    ("queue_deleted", Did::DeleteQueue),
    ("channel_created", Did::OpenChannel),
    ("channel_closed", Did::CloseChannel),
];

/// What all queues hold together.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::http) struct Totals {
    at: UnixMillis,
    /// How long it took to count.
    took_ms: u64,
    pub(in crate::http) queues: u64,
    pub(in crate::http) exchanges: u64,
    pub(in crate::http) consumers: u64,
    pub(in crate::http) ready: u64,
    pub(in crate::http) unsettled: u64,
}

/// What is looked at together.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    counts: [u64; KINDS],
    connections: [u64; 2],
    machine: [u64; 3],
}

/// The server as tools see it.
pub struct Node {
    pub(in crate::http) name: String,
    pub(super) started: UnixMillis,
    /// The last two looks.
    looks: Mutex<[Look; 2]>,
    /// What was counted at the last two times, by the namespaces that it was counted in.
    totals: Mutex<VecDeque<(Vec<String>, [Totals; 2])>>,
    /// Held while they are counted, so that one caller at a time does it.
    counting: Semaphore,
    /// Bytes that came and went by each connection.
    pub(in crate::http) lines: Rates<2>,
}

impl Node {
    #[must_use]
    pub fn new(started: UnixMillis) -> Self {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = host.trim().split('.').next().filter(|host| !host.is_empty());
        let name = format!("rabbit@{}", host.unwrap_or("localhost"));
        let (looks, totals, lines) = (Mutex::default(), Mutex::default(), Rates::default());
        Self { name, started, looks, totals, counting: Semaphore::new(1), lines }
    }

    /// Looks at the counters until the shutdown.
    pub async fn watch(self: Arc<Self>, broker: Broker, shutdown: CancellationToken) {
        let data_dir = broker.config().data_dir.clone();
        let mut ticks = tokio::time::interval(LOOK);
        *self.looks.lock().unwrap_or_else(PoisonError::into_inner) = [look(&broker, &data_dir); 2];
        // Cancel-safe: a tick that is lost is made up by the next one.
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            let new = look(&broker, &data_dir);
            let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
            let [_, last] = *looks;
            *looks = [last, new];
        }
    }

    fn looks(&self) -> [Look; 2] {
        *self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts of messages, and by the second.
    pub(super) fn message_stats(&self, broker: &Broker) -> Json {
        let counts = self.counts(broker);
        let mut stats = statistics::of(&counts);
        if let Some(stats) = stats.as_object_mut() {
            for (name, did) in [("publish_in", Did::Publish), ("publish_out", Did::Route)] {
                let count = counts.get(did as usize).copied().unwrap_or_default();
                put(stats, name, count.total, count.per_second());
            }
        }
        stats
    }

    fn counts(&self, broker: &Broker) -> [Count; KINDS] {
        let [before, last] = self.looks().map(|look| look.counts);
        let mut grown = last.iter().zip(before).map(|(last, before)| last.saturating_sub(before));
        Did::ALL.map(|did| {
            let lately = i64::try_from(grown.next().unwrap_or(0)).unwrap_or(i64::MAX);
            Count { total: broker.count(did), lately }
        })
    }

    /// What came and went, and by the second.
    pub(super) fn put_churn(&self, broker: &Broker, fields: &mut Map<String, Json>) {
        let counts = self.counts(broker);
        for (name, did) in CHURN {
            let count = counts.get(did as usize).copied().unwrap_or_default();
            put(fields, name, count.total, count.per_second());
        }
        let [before, last] = self.looks().map(|look| look.connections);
        let names = ["connection_created", "connection_closed"];
        let now = connections(broker);
        for (name, ((old, new), total)) in names.iter().zip(before.iter().zip(last).zip(now)) {
            put(fields, name, total, growth(*old, new, LOOK.as_secs() * 1000));
        }
    }

    /// How fast what it takes of the machine grows.
    pub(super) fn put_machine_rates(&self, fields: &mut Map<String, Json>) {
        let [before, last] = self.looks().map(|look| look.machine);
        let names = ["mem_used", "disk_free", "proc_used"];
        for (name, (old, new)) in names.iter().zip(before.iter().zip(last)) {
            put_rate(fields, name, growth(*old, new, LOOK.as_secs() * 1000));
        }
    }

    fn known_totals(&self, of: &[String]) -> [Totals; 2] {
        let all = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.iter().find(|(namespaces, _)| namespaces == of);
        known.map(|(_, totals)| *totals).unwrap_or_default()
    }

    /// When the server started.
    pub(in crate::http) fn started(&self) -> UnixMillis {
        self.started
    }

    /// What all queues hold together, counted now or a little while ago, and by how much that grows by the
    /// second: what is ready, and what is not settled.
    pub(in crate::http) async fn totals(
        &self,
        gate: &Gate,
        of: &[String],
    ) -> Result<(Totals, [f64; 2]), Failure> {
        // It is never closed.
        let _turn = self.counting.acquire().await;
        let [before, known] = self.known_totals(of);
        let age_max = TOTALS_MS.max(known.took_ms.saturating_mul(TOTALS_PART));
        if known.at.is_set() && gate.broker.now().since(known.at) < age_max {
            return Ok((known, growths(&before, &known)));
        }
        let begun = gate.broker.now();
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
        totals.took_ms = totals.at.since(begun);
        let mut all = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(namespaces, _)| namespaces != of);
        all.push_back((of.to_vec(), [known, totals]));
        if all.len() > TOTALS_MAX {
            all.pop_front();
        }
        Ok((totals, growths(&known, &totals)))
    }
}

/// Nothing where there is nothing to compare with.
fn growths(old: &Totals, new: &Totals) -> [f64; 2] {
    if !old.at.is_set() {
        return [0.0; 2];
    }
    let passed = new.at.since(old.at);
    [growth(old.ready, new.ready, passed), growth(old.unsettled, new.unsettled, passed)]
}

fn look(broker: &Broker, data_dir: &Path) -> Look {
    let machine = [memory_bytes(), disk_free_bytes(data_dir), threads()];
    Look {
        counts: Did::ALL.map(|did| broker.count(did)),
        connections: connections(broker),
        machine,
    }
}

/// Connections that were let in, and of these those that have gone.
fn connections(broker: &Broker) -> [u64; 2] {
    let traffic = broker.traffic();
    let sum = |of: fn(&mainstem_broker::Traffic) -> u64| traffic.iter().map(|(_, it)| of(it)).sum();
    [sum(|it| it.opened), sum(|it| it.closed)]
}

/// Bytes of memory that the process has.
pub(in crate::http) fn memory_bytes() -> u64 {
    status_kib("/proc/self/status", "VmRSS:").saturating_mul(1024)
}

/// Bytes of memory that the machine has.
pub(in crate::http) fn machine_bytes() -> u64 {
    status_kib("/proc/meminfo", "MemTotal:").saturating_mul(1024)
}

/// Bytes that may still be written where the data is; 0 where that cannot be told.
pub(in crate::http) fn disk_free_bytes(data_dir: &Path) -> u64 {
    rustix::fs::statvfs(data_dir).map_or(0, |told| told.f_bavail.saturating_mul(told.f_frsize))
}

fn status_kib(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Descriptors that are open, and that may be.
pub(in crate::http) fn descriptors() -> (u64, u64) {
    // Linux tells how many there are; older ones have them counted.
    let told = fs::metadata("/proc/self/fd").map_or(0, |told| told.len());
    let count = || fs::read_dir("/proc/self/fd").map_or(0, |all| all.count() as u64);
    (if told > 0 { told } else { count() }, limit("Max open files"))
}

/// Threads that the process may have; 0 where there is no bound.
pub(super) fn threads_max() -> u64 {
    limit("Max processes")
}

fn limit(name: &str) -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Threads of the process.
pub(in crate::http) fn threads() -> u64 {
    status_kib("/proc/self/status", "Threads:")
}

/// Threads of the machine that run or could, but for the one that looks.
pub(super) fn runnable() -> u64 {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let running =
        load.split_whitespace().nth(3).and_then(|part| part.split_once('/')?.0.parse().ok());
    running.map_or(0, |running: u64| running.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_tells_what_it_has() {
        let (used, most) = descriptors();
        assert!(used > 2 && most >= used, "{used} of {most}");
        assert!(disk_free_bytes(Path::new("/")) > 0 && machine_bytes() > memory_bytes());
        assert!(memory_bytes() > 0 && threads() > 0);
    }
}
