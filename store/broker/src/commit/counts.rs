//! What the commit thread counts, and how it is handed on.

use std::mem;

use mainstem_schemas::{QueueId, UnixMillis};

use super::Commit;
use crate::{
    command::{ClientId, QueueStats},
    listing::QueueCounts,
    meter::{Did, KINDS, KINDS_OF_QUEUES},
    passage::Reason,
    queue::{Found, Queue},
};

/// Counts since they were last handed to the metrics.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) published: u64,
    pub(super) delivered: u64,
    pub(super) settled: u64,
    pub(super) expired: u64,
    pub(super) unroutable: u64,
    pub(super) dropped: u64,
    pub(super) outgrown: u64,
    pub(super) rejected: u64,
    pub(super) overflowed: u64,
    pub(super) exhausted: u64,
    pub(super) away_records: u64,
    pub(super) away_bytes: u64,
    pub(super) away_age: u64,
    pub(super) unreadable: u64,
    pub(super) moved: u64,
    /// What RabbitMQ counts as well.
    did: [u64; KINDS],
    /// Records of this batch that named their queue, and how many queues took one.
    pub(super) direct: (u64, u64),
    /// Dead records that somebody took, by why they died.
    taken_dead: [u64; Reason::ALL.len()],
    /// How long a record waited that was handed out in this turn, in milliseconds.
    pub(super) waited: Option<u64>,
}

impl Counts {
    pub(super) fn died(&mut self, reason: Reason) {
        match reason {
            Reason::Rejected => self.rejected += 1,
            Reason::Expired => self.expired += 1,
            Reason::Overflow => self.overflowed += 1,
            Reason::Attempts => self.exhausted += 1,
        }
    }

    pub(super) fn note(&mut self, did: Did, count: u64) {
        if let Some(total) = self.did.get_mut(did as usize) {
            *total += count;
        }
    }

    /// A consumer got so many records of a queue, of which some came again.
    pub(super) fn handed_out(
        &mut self,
        queue: &mut Queue,
        now: UnixMillis,
        settled_at_once: bool,
        (given, again): (u32, u32),
    ) {
        let (given, again) = (u64::from(given), u64::from(again));
        let did = if settled_at_once { Did::DeliverNoAck } else { Did::Deliver };
        self.delivered += given;
        for (did, count) in [(did, given), (Did::Redeliver, again)] {
            self.note(did, count);
            queue.note(now, did, count);
        }
    }

    /// A record named its queue, which is there or not.
    pub(super) fn note_direct(&mut self, queues: usize) {
        self.direct.0 += 1;
        self.direct.1 += queues as u64;
    }

    /// A dead record was put where its queue's policy says.
    pub(super) fn took_dead(&mut self, reason: Reason) {
        let at = Reason::ALL.iter().position(|other| *other == reason);
        if let Some(count) = at.and_then(|at| self.taken_dead.get_mut(at)) {
            *count += 1;
        }
    }
}

/// Where a queue's meter keeps how much is ready, and how much is in somebody's hand.
const READY: usize = KINDS_OF_QUEUES;
const UNSETTLED: usize = KINDS_OF_QUEUES + 1;

impl Queue {
    /// Counts for a queue that operators know by name; there may be a million others.
    pub(super) fn note(&mut self, now: UnixMillis, did: Did, count: u64) {
        if self.found == Found::ByName && count > 0 {
            if self.meter.get().is_none_or(|meter| meter.is_behind(now)) {
                self.begin_slot(now);
            }
            self.meter.add(now, did, count);
        }
    }

    /// Keeps how much there is before something happens, if it is the first in its slot.
    pub(super) fn note_levels(&mut self, now: UnixMillis) {
        if self.meter.get().is_some_and(|meter| meter.is_behind(now)) {
            self.begin_slot(now);
        }
    }

    #[cold]
    fn begin_slot(&mut self, now: UnixMillis) {
        let (ready, unsettled) =
            (self.ready().0, self.main().map_or(0, |main| main.in_hand.len() as u64));
        let meter = self.meter.meter();
        meter.set(READY, ready);
        meter.set(UNSETTLED, unsettled);
        meter.turn(now);
    }

    /// Its counts, if there are any, with what is in it now.
    pub(super) fn told(&self, now: UnixMillis, stats: &QueueStats) -> Option<QueueCounts> {
        let mut meter = *self.meter.get()?;
        meter.set(READY, stats.ready);
        meter.set(UNSETTLED, stats.unsettled);
        let all = meter.read(now);
        let (did, levels) = all.split_first_chunk::<KINDS_OF_QUEUES>()?;
        let [ready, unsettled] = *levels.first_chunk::<2>()?;
        Some(QueueCounts { did: *did, ready, unsettled })
    }
}

impl Commit {
    /// Something happened to records of a queue.
    pub(super) fn note(&mut self, id: QueueId, did: Did, count: u64) {
        self.counts.note(did, count);
        if let Some(queue) = self.state.queues.get(id) {
            queue.note(self.now, did, count);
        }
    }

    /// A get found nothing.
    pub(super) fn note_empty(&mut self, client: ClientId, queue: &str) {
        if let Ok(id) = self.usable_queue(client, queue) {
            self.note(id, Did::GetEmpty, 1);
        }
    }

    /// Records went straight to queues by their names: how many came, and how many queues took one.
    pub(super) fn note_direct(&mut self, namespace: &str) {
        let (came, went) = mem::take(&mut self.counts.direct);
        if came > 0
            && let Some(space) = self.state.namespaces.get_mut(namespace)
        {
            space.nameless.add(self.now, 0, came);
            space.nameless.add(self.now, 1, went);
        }
    }

    pub(super) fn export_counts(&mut self) {
        let mut counts = mem::take(&mut self.counts);
        counts.note(Did::Publish, counts.published);
        self.state.usage.totals.add_all(&counts.did);
        for (reason, count) in Reason::ALL.into_iter().zip(counts.taken_dead) {
            metrics::counter!("mainstem_dead_lettered_total", "reason" => reason.word())
                .increment(count);
        }
        metrics::counter!("mainstem_published_total").increment(counts.published);
        metrics::counter!("mainstem_delivered_total").increment(counts.delivered);
        metrics::counter!("mainstem_settled_total").increment(counts.settled);
        metrics::counter!("mainstem_expired_total").increment(counts.expired);
        metrics::counter!("mainstem_unroutable_total").increment(counts.unroutable);
        metrics::counter!("mainstem_rejected_total").increment(counts.rejected);
        metrics::counter!("mainstem_unreadable_total").increment(counts.unreadable);
        metrics::counter!("mainstem_moved_total").increment(counts.moved);
        for (reason, count) in [
            ("slow_reader", counts.dropped),
            ("log_bytes_max", counts.outgrown),
            ("overflow", counts.overflowed),
            ("attempts", counts.exhausted),
            ("away_messages", counts.away_records),
            ("away_bytes", counts.away_bytes),
            ("away_age", counts.away_age),
        ] {
            metrics::counter!("mainstem_dropped_total", "reason" => reason).increment(count);
        }
        #[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
        let gauge = |value: u64| value as f64;
        metrics::gauge!("mainstem_log_end_bytes").set(gauge(self.planner.end().0));
        metrics::gauge!("mainstem_log_bytes").set(gauge(self.log_bytes()));
        metrics::gauge!("mainstem_log_live_bytes").set(gauge(self.state.segments.live_bytes()));
        metrics::gauge!("mainstem_clients").set(gauge(self.members.len() as u64));
        metrics::gauge!("mainstem_queues_resident").set(gauge(self.state.queues.len() as u64));
        metrics::gauge!("mainstem_delayed_near").set(gauge(self.state.delayed.len() as u64));
        metrics::gauge!("mainstem_undecided").set(gauge(self.state.undecided.len() as u64));
        let spaces = || self.state.namespaces.values();
        let sessions: usize = spaces().map(|space| space.sessions.len()).sum();
        metrics::gauge!("mainstem_sessions").set(gauge(sessions as u64));
        let retained: usize = spaces().map(|space| space.retained.len()).sum();
        metrics::gauge!("mainstem_retained_messages").set(gauge(retained as u64));
        let filters: usize = spaces().map(|space| space.filters.len()).sum();
        metrics::gauge!("mainstem_filters").set(gauge(filters as u64));
    }
}
