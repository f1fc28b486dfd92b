//! What happens by itself when its time has come.

use std::{mem, sync::mpsc::TrySendError};

use mainstem_schemas::UnixMillis;

use super::{Commit, Fatal, TICK_MS, Timer};
use crate::pipeline::Job;

impl Commit {
    pub(super) fn next_timer(&self) -> UnixMillis {
        let first = self.timers.first().map_or(self.now, |(at, _)| *at);
        first.min(self.state.delayed.next()).min(self.state.wakes.next())
    }

    pub(super) fn set_timer(&mut self, at: UnixMillis, timer: Timer) {
        self.timers.insert((at, timer));
    }

    /// Takes a timer back that has not fired.
    pub(super) fn drop_timer(&mut self, at: UnixMillis, timer: Timer) {
        if at.is_set() {
            self.timers.remove(&(at, timer));
        }
    }

    pub(super) fn fire_timers(&mut self) -> Result<(), Fatal> {
        while let Some((at, timer)) = self.timers.first().copied() {
            if at > self.now {
                break;
            }
            self.timers.pop_first();
            match timer {
                Timer::Lease { queue, cursor, offset, epoch } => {
                    self.end_lease(queue, cursor, offset, epoch);
                }
                Timer::Rest { queue, cursor, offset } => self.end_rest(queue, cursor, offset),
                Timer::Fetch { queue, cursor, id } => self.end_fetch(queue, cursor, id),
                Timer::Bury { queue, cursor } => self.bury_again((queue, cursor)),
                // The turn that fires it ships.
                Timer::Ship => {}
                Timer::Sync => self.sync_due = self.is_unsynced,
                Timer::Tick => self.tick()?,
            }
        }
        Ok(self.fire_schedules()?)
    }

    pub(super) fn tick(&mut self) -> Result<(), Fatal> {
        self.set_timer(self.now.plus(TICK_MS), Timer::Tick);
        self.end_sessions();
        self.forget_silent_writers();
        self.look_at_oldest();
        self.look_at_crowds();
        self.export_counts();
        self.note_pace()?;
        if self.is_full && self.writing.is_none() {
            self.jobs.send(Job::CheckSpace).map_err(|_| Fatal::WriterGone)?;
        }
        Ok(())
    }

    /// A log that turns over fast keeps trimmed segments to be used again: as many as it grew by
    /// between two ticks, but not more than come free by one checkpoint.
    fn note_pace(&mut self) -> Result<(), Fatal> {
        let end = self.planner.end();
        let grown = end.0 - mem::replace(&mut self.ticked_at, end).0;
        self.is_quiet = grown == 0;
        let is_bounded = self.config.log_bytes_max != 0;
        let bytes = if is_bounded { 0 } else { grown.min(self.config.checkpoint_bytes) };
        let spares = bytes / self.config.segment_bytes;
        if spares != self.spares {
            match self.jobs.try_send(Job::KeepSpares(spares)) {
                Ok(()) => self.spares = spares,
                // The next tick tries again.
                Err(TrySendError::Full(_)) => {}
                Err(TrySendError::Disconnected(_)) => return Err(Fatal::WriterGone),
            }
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn spares(&self) -> u64 {
        self.spares
    }
}
