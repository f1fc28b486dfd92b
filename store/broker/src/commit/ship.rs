//! Handing batches to the disk, keeping promises when they are down, and checkpoints.

use std::mem;

use mainstem_schemas::Position;
use tokio::sync::mpsc;

use super::{Commit, Fatal, Timer, Waiting, send};
use crate::{
    command::{ClientId, Reply},
    config::Durability,
    entry::Entry,
    inbox::Notice,
    pipeline::{Done, Job},
};

/// How long what nobody was promised (settlements above all) may stay unsynced.
const LAZY_SYNC_MS: u64 = 1000;
/// How long settlements may wait for something more urgent to be written with, and how many
/// bytes of them.
const HELD_MS_MAX: u64 = 5;
const HELD_BYTES_MAX: u64 = 256 << 10;

impl Commit {
    /// Hands the open batch to the disk, if it is free and there is one.
    pub(super) fn ship(&mut self) -> Result<(), Fatal> {
        if self.writing.is_some() {
            return Ok(());
        }
        self.begin_checkpoint();
        if self.planner_is_empty() && !self.sync_due {
            // Nothing was planned, so what was promised holds already.
            let waiting = mem::take(&mut self.open);
            self.keep_promises(waiting);
            return Ok(());
        }
        if self.may_wait() {
            return Ok(());
        }
        self.held_since = None;
        let batch = self.planner.finish();
        let waiting = mem::take(&mut self.open);
        let (promised, delay_ms) = match self.config.durability {
            Durability::Fsync => (waiting.needs_sync, Some(LAZY_SYNC_MS)),
            Durability::Interval { ms } => (false, Some(ms)),
            Durability::None => (false, None),
        };
        let sync = promised || self.sync_due || self.checkpoint.is_some();
        self.sync_due = false;
        if sync {
            self.is_unsynced = false;
        } else if let (false, Some(ms)) = (self.is_unsynced, delay_ms) {
            self.is_unsynced = true;
            self.set_timer(self.now.plus(ms), Timer::Sync);
        }
        self.writing = Some(waiting);
        self.jobs.send(Job::Write { batch, sync }).map_err(|_| Fatal::WriterGone)
    }

    /// Settlements that nobody waits for stay in the open batch for a moment: the next publish
    /// takes them along, instead of waiting for a write of their own to end.
    pub(super) fn may_wait(&mut self) -> bool {
        let open = &self.open;
        let promises = open.needs_sync
            || self.sync_due
            || self.checkpoint.is_some()
            || !open.published.is_empty()
            || !open.replies.is_empty()
            || !open.touched.is_empty()
            || !open.permits.is_empty();
        let bytes = self.planner.end().0.saturating_sub(self.written.0);
        if promises || self.stopping.is_some() || bytes >= HELD_BYTES_MAX {
            return false;
        }
        let now = self.now;
        match self.held_since {
            Some(since) => now.since(since) < HELD_MS_MAX,
            None => {
                self.held_since = Some(now);
                self.set_timer(now.plus(HELD_MS_MAX), Timer::Ship);
                true
            }
        }
    }

    pub(super) fn on_done(&mut self, done: Done) -> Result<(), Fatal> {
        match done {
            Done::Failed(error) => return Err(error.into()),
            Done::Space { is_full } => self.set_full(is_full),
            Done::Closed => {}
            Done::Written { end, synced } => {
                self.written = end;
                if synced {
                    self.planner.begin(end);
                    self.end_checkpoint(end)?;
                }
                if let Some(waiting) = self.writing.take() {
                    self.keep_promises(waiting);
                }
                for command in mem::take(&mut self.deferred) {
                    self.handle(command)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn keep_promises(&mut self, waiting: Waiting) {
        for (reply, published) in waiting.published {
            send(reply, published);
        }
        for reply in waiting.replies {
            reply();
        }
        for queue in waiting.touched {
            self.touch(queue);
        }
    }

    pub(super) fn set_full(&mut self, is_full: bool) {
        if is_full == self.is_full {
            return;
        }
        self.is_full = is_full;
        let word = if is_full { "refused" } else { "taken again" };
        tracing::warn!(event = "disk_space", is_full, "the disk is low; publishes are {word}");
        let clients: Vec<ClientId> = self.members.keys().copied().collect();
        for client in clients {
            self.notify(client, if is_full { Notice::Blocked } else { Notice::Unblocked });
        }
    }

    /// Prepares a checkpoint when enough was logged or somebody asked. It is committed to the
    /// index when the log is synced up to it, so that the index never knows more than the log.
    pub(super) fn begin_checkpoint(&mut self) {
        let grown = self.planner.end().0.saturating_sub(self.checkpointed.0);
        let is_due = grown >= self.config.checkpoint_bytes || !self.checkpoint_wanted.is_empty();
        if self.checkpoint.is_some() || !is_due {
            return;
        }
        if self.planner_is_empty() {
            // Nothing new: what is down is what the checkpoint says. An empty settlement makes
            // the batch that carries the sync.
            self.log_lazily(Entry::Settle(Vec::new()));
        }
        let applied = self.planner.end();
        self.checkpointed = applied;
        let prepared = self.state.prepare_checkpoint(applied);
        self.checkpoint = Some((prepared, mem::take(&mut self.checkpoint_wanted)));
    }

    pub(super) fn end_checkpoint(&mut self, synced: Position) -> Result<(), Fatal> {
        let ready = self.checkpoint.as_ref().is_some_and(|(at, _)| at.applied <= synced);
        if !ready {
            return Ok(());
        }
        let Some((checkpoint, replies)) = self.checkpoint.take() else { return Ok(()) };
        let applied = checkpoint.applied;
        self.state.commit_checkpoint(checkpoint)?;
        for reply in replies {
            send(reply, self.state.index.state_hash()?);
        }
        if applied.0.saturating_sub(self.flushed.0) >= self.config.checkpoint_bytes * 4 {
            self.flushed = applied;
            let index = self.state.index.clone();
            tokio::task::spawn_blocking(move || {
                if let Err(error) = index.flush() {
                    tracing::error!(event = "index_flush_failed", "{error}");
                }
            });
        }
        Ok(())
    }

    /// Everything is down: write the index, say the log's last word.
    pub(super) async fn close(
        mut self,
        done: &mut mpsc::Receiver<Done>,
    ) -> Result<Option<Reply<()>>, Fatal> {
        while self.writing.is_some() || !self.planner_is_empty() {
            self.sync_due = true;
            self.ship()?;
            self.on_done(done.recv().await.ok_or(Fatal::WriterGone)?)?;
        }
        let applied = self.planner.end();
        let checkpoint = self.state.prepare_checkpoint(applied);
        let planner = Box::new(self.planner);
        self.jobs.send(Job::Close { planner }).map_err(|_| Fatal::WriterGone)?;
        match done.recv().await.ok_or(Fatal::WriterGone)? {
            Done::Failed(error) => return Err(error.into()),
            Done::Written { .. } | Done::Space { .. } | Done::Closed => {}
        }
        self.state.commit_checkpoint(checkpoint)?;
        self.state.index.flush()?;
        Ok(self.stopping)
    }
}
