//! What happens by itself when its time has come.

use std::{cmp::Reverse, mem};

use mainstem_schemas::UnixMillis;

use super::{Commit, Fatal, TICK_MS, Timer};
use crate::pipeline::Job;

impl Commit {
    pub(super) fn next_timer(&self) -> UnixMillis {
        self.timers.peek().map_or(self.now, |Reverse((at, _))| *at)
    }

    pub(super) fn set_timer(&mut self, at: UnixMillis, timer: Timer) {
        self.timers.push(Reverse((at, timer)));
    }

    pub(super) fn fire_timers(&mut self) -> Result<(), Fatal> {
        while let Some(Reverse((at, timer))) = self.timers.peek().copied() {
            if at > self.now {
                break;
            }
            self.timers.pop();
            match timer {
                Timer::Lease { queue, cursor, offset, epoch } => {
                    self.end_lease(queue, cursor, offset, epoch);
                }
                Timer::Fetch { queue, cursor, id } => self.end_fetch(queue, cursor, id),
                // The turn that fires it ships.
                Timer::Ship => {}
                Timer::Sync => self.sync_due = self.is_unsynced,
                Timer::Tick => self.tick()?,
            }
        }
        Ok(())
    }

    pub(super) fn tick(&mut self) -> Result<(), Fatal> {
        self.set_timer(self.now.plus(TICK_MS), Timer::Tick);
        self.end_sessions();
        self.trim_topics()?;
        self.export_counts();
        if self.is_full && self.writing.is_none() {
            self.jobs.send(Job::CheckSpace).map_err(|_| Fatal::WriterGone)?;
        }
        Ok(())
    }

    pub(super) fn export_counts(&mut self) {
        let counts = mem::take(&mut self.counts);
        metrics::counter!("mainstem_published_total").increment(counts.published);
        metrics::counter!("mainstem_delivered_total").increment(counts.delivered);
        metrics::counter!("mainstem_settled_total").increment(counts.settled);
        metrics::counter!("mainstem_expired_total").increment(counts.expired);
        metrics::counter!("mainstem_unroutable_total").increment(counts.unroutable);
        metrics::counter!("mainstem_dropped_total", "reason" => "slow_reader")
            .increment(counts.dropped);
        #[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
        let gauge = |value: u64| value as f64;
        metrics::gauge!("mainstem_log_end_bytes").set(gauge(self.planner.end().0));
        metrics::gauge!("mainstem_clients").set(gauge(self.members.len() as u64));
        metrics::gauge!("mainstem_queues").set(gauge(self.state.queues.len() as u64));
    }
}
