//! What one scrape tells, gathered once for all who name it in their own way.

use std::{collections::BTreeMap, fs};

use mainstem_broker::{Did, Traffic};

use crate::http::{
    Gate,
    management::{
        Failure, Totals, descriptors, disk_free_bytes, machine_bytes, memory_bytes, threads,
    },
};

pub(super) struct Facts {
    pub(super) totals: Totals,
    /// By the first word of the protocol, in small letters.
    pub(super) spoken: BTreeMap<String, Traffic>,
    /// Of all protocols together.
    pub(super) all: Traffic,
    pub(super) connections: u64,
    pub(super) channels: u64,
    pub(super) counts: [u64; Did::ALL.len()],
    pub(super) is_out_of_room: bool,
    pub(super) memory_bytes: u64,
    pub(super) machine_bytes: u64,
    pub(super) disk_free_bytes: u64,
    /// Open, and as many as may be.
    pub(super) descriptors: (u64, u64),
    pub(super) threads: u64,
    pub(super) cpu_seconds: f64,
    /// Unix time, in seconds.
    pub(super) started_s: u64,
    pub(super) uptime_s: u64,
}

impl Facts {
    pub(super) async fn gather(gate: &Gate) -> Result<Self, Failure> {
        let namespaces: Vec<String> =
            gate.registry.directory().namespaces.keys().cloned().collect();
        let (totals, _) = gate.node.totals(gate, &namespaces).await?;
        let mut spoken = BTreeMap::<String, Traffic>::new();
        let mut all = Traffic::default();
        for (protocol, traffic) in gate.broker.traffic() {
            let word = protocol.split(' ').next().unwrap_or_default().to_lowercase();
            spoken.entry(word).or_default().add(&traffic);
            all.add(&traffic);
        }
        let (connections, channels) = gate.broker.occupancy();
        let started = gate.node.started();
        Ok(Self {
            totals,
            spoken,
            all,
            connections,
            channels,
            counts: Did::ALL.map(|did| gate.broker.count(did)),
            is_out_of_room: gate.broker.is_out_of_room(),
            memory_bytes: memory_bytes(),
            machine_bytes: machine_bytes(),
            disk_free_bytes: disk_free_bytes(&gate.config.data_dir),
            descriptors: descriptors(),
            threads: threads(),
            cpu_seconds: cpu_seconds(),
            started_s: started.0 / 1000,
            uptime_s: gate.broker.now().since(started) / 1000,
        })
    }

    pub(super) fn count(&self, did: Did) -> u64 {
        self.counts.get(did as usize).copied().unwrap_or(0)
    }

    /// Records that were handed out in these ways.
    pub(super) fn counted(&self, all: &[Did]) -> u64 {
        all.iter().map(|did| self.count(*did)).sum()
    }
}

/// Processor time that the process took.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name may have spaces; it stands in parentheses.
    let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
    let ticks = behind.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    super::page::number(ticks) / super::page::number(rustix::param::clock_ticks_per_second())
}
