//! Handing batches to the disk, keeping promises when they are down, and checkpoints.

use std::mem;

use mainstem_index::IndexError;
use mainstem_schemas::{Position, QueueId};
use tokio::sync::mpsc;

use super::{Commit, Fatal, Timer, Waiting, send};
use crate::{
    command::{ClientId, Reply},
    config::Durability,
    entry::Entry,
    inbox::Notice,
    pipeline::{Done, Job},
    stages::Moment,
    state::{Checkpoint, warm::AHEAD},
};

/// Queues that one turn writes to a checkpoint, or lets go of after one: about a millisecond.
const QUEUES_PER_TURN: usize = 1024;

/// A place in the log, and how many entries lie before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reached {
    pub(super) position: Position,
    pub(super) entries: u64,
}

/// How far a checkpoint is.
pub(super) enum Checkpointing {
    None,
    /// Changed queues are being written to the batch, which says what was true at `applied`.
    Gathering {
        applied: Reached,
        begun: Moment,
        replies: Vec<Reply<u64>>,
    },
    /// It waits for the log to be synced up to what it says, so that the index never knows more
    /// than the log.
    Gathered {
        checkpoint: Checkpoint,
        applied: Reached,
        begun: Moment,
        replies: Vec<Reply<u64>>,
    },
    /// A thread of its own writes it to the index.
    Writing {
        replies: Vec<Reply<u64>>,
    },
}

/// What became of a checkpoint.
pub(crate) struct Indexed {
    queues: Vec<QueueId>,
    /// How far the index on the disk is for sure, and the hash of everything in it if somebody
    /// asked.
    outcome: Result<(Reached, Option<u64>), IndexError>,
}

/// How long what nobody was promised (settlements above all) may stay unsynced.
const LAZY_SYNC_MS: u64 = 1000;
/// How long settlements may wait for something more urgent to be written with, and how many
/// bytes of them.
const HELD_MS_MAX: u64 = 5;
const HELD_BYTES_MAX: u64 = 256 << 10;

/// So many entries are applied again by a restart at most, whatever their size, before those that come
/// while a checkpoint is written: some seconds.
const REPLAYED_MAX: u64 = 1 << 20;

/// So many queues wait for a checkpoint at most, since what is written of them is gathered in memory.
const CHANGED_QUEUES_MAX: usize = 1 << 18;
/// So many do while nothing else is to be done: what is written down can leave memory.
const CHANGED_QUEUES_WHEN_QUIET: usize = 1 << 12;

impl Commit {
    /// Hands the open batch to the disk, if it is free and there is one.
    pub(super) fn ship(&mut self) -> Result<(), Fatal> {
        self.ask_to_trim()?;
        if self.writing.is_some() {
            return Ok(());
        }
        self.begin_checkpoint();
        let checkpoint_waits = matches!(self.checkpoint, Checkpointing::Gathered { .. });
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
        let sync = promised || self.sync_due || checkpoint_waits;
        self.sync_due = false;
        if sync {
            self.is_unsynced = false;
        } else if let (false, Some(ms)) = (self.is_unsynced, delay_ms) {
            self.is_unsynced = true;
            self.set_timer(self.now.plus(ms), Timer::Sync);
        }
        if let Some(since) = waiting.since {
            since.lap(&self.stages.append);
        }
        #[expect(clippy::cast_precision_loss, reason = "histograms are floating point")]
        self.stages.batch_bytes.record(batch.end().0.saturating_sub(self.written.0) as f64);
        self.writing = Some(waiting);
        self.jobs.send(Job::Write { batch, sync }).map_err(|_| Fatal::WriterGone)
    }

    /// Settlements that nobody waits for stay in the open batch for a moment: the next publish
    /// takes them along, instead of waiting for a write of their own to end.
    pub(super) fn may_wait(&mut self) -> bool {
        let open = &self.open;
        let promises = open.needs_sync
            || self.sync_due
            || matches!(self.checkpoint, Checkpointing::Gathered { .. })
            || !open.published.is_empty()
            || !open.replies.is_empty()
            || !open.touched.is_empty()
            || !self.gated.is_empty()
            || !open.permits.is_empty();
        if promises || self.stopping.is_some() || self.unwritten_bytes() >= HELD_BYTES_MAX {
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

    pub(crate) fn on_done(&mut self, done: Done) -> Result<(), Fatal> {
        match done {
            Done::Failed(error) => return Err(error.into()),
            Done::Space { is_full } => self.note_space(is_full, self.is_over),
            Done::Closed => {}
            Done::Written { batch, synced } => {
                let end = batch.end();
                self.planner.recycle(batch);
                self.fresh = self.fresh.min(self.written);
                self.written = end;
                self.unwritten_keys = self.unwritten_keys.split_off(&end);
                if synced {
                    self.planner.begin(end);
                    self.synced = end;
                    self.write_checkpoint()?;
                }
                if let Some(waiting) = self.writing.take() {
                    self.keep_promises(waiting);
                }
                for (queue, cursor) in mem::take(&mut self.gated) {
                    self.touch_cursor(queue, cursor);
                }
                for command in mem::take(&mut self.deferred) {
                    self.handle(command)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn keep_promises(&mut self, waiting: Waiting) {
        let confirms = !waiting.published.is_empty();
        for (reply, published) in waiting.published {
            send(reply, published);
        }
        if let Some(since) = waiting.since.filter(|_| confirms) {
            since.lap(&self.stages.confirm);
        }
        for reply in waiting.replies {
            reply();
        }
        for some in waiting.touched.chunks(AHEAD) {
            self.state.queues.warm(some.iter().copied());
            for queue in some {
                self.touch(*queue);
            }
        }
    }

    /// Publishes are refused while the disk is full, or the log larger than it may be.
    pub(super) fn note_space(&mut self, is_full: bool, is_over: bool) {
        let (refused, refuses) = (self.is_full || self.is_over, is_full || is_over);
        (self.is_full, self.is_over) = (is_full, is_over);
        if !is_full {
            self.forgot_when_full = 0;
            self.say_returned();
        }
        if refused == refuses {
            return;
        }
        self.state.usage.note_room(refuses);
        let word = if refuses { "refused" } else { "taken again" };
        tracing::warn!(event = "disk_space", is_full, is_over, "publishes are {word}");
        let clients: Vec<ClientId> = self.members.keys().copied().collect();
        for client in clients {
            self.notify(client, if refuses { Notice::Blocked } else { Notice::Unblocked });
        }
    }

    /// Begins a checkpoint when enough was logged or changed, somebody asked, or the log wants to let go of
    /// what the index does not know yet.
    fn begin_checkpoint(&mut self) {
        let is_due = self.is_far_from(self.checkpointed)
            || self.state.queues.changed() >= self.changed_max()
            || !self.checkpoint_wanted.is_empty()
            || self.index_holds_the_log();
        let is_free = matches!(self.checkpoint, Checkpointing::None);
        if !is_free || !is_due || self.state.queues.is_evicting() {
            return;
        }
        self.say_returned();
        let applied = self.reached();
        self.checkpointed = applied;
        self.state.begin_checkpoint();
        let replies = mem::take(&mut self.checkpoint_wanted);
        self.checkpoint = Checkpointing::Gathering { applied, begun: Moment::now(), replies };
    }

    fn changed_max(&self) -> usize {
        if self.is_quiet { CHANGED_QUEUES_WHEN_QUIET } else { CHANGED_QUEUES_MAX }
    }

    /// Where the log ends.
    fn reached(&self) -> Reached {
        Reached { position: self.planner.end(), entries: self.sequence }
    }

    /// Whether to apply the log again from there would take long.
    fn is_far_from(&self, from: Reached) -> bool {
        let Reached { position, entries } = self.reached();
        position.0.saturating_sub(from.position.0) >= self.config.checkpoint_bytes
            || entries.saturating_sub(from.entries) >= REPLAYED_MAX
    }

    #[cfg(test)]
    pub(crate) fn flushed(&self) -> Position {
        self.flushed.position
    }

    /// Whether a turn should follow although nobody asks for anything.
    pub(super) fn has_more_to_do(&self) -> bool {
        matches!(self.checkpoint, Checkpointing::Gathering { .. })
            || self.state.queues.is_evicting()
            || (self.clean.has_more_to_do() && !self.has_moved_much())
    }

    /// Does a little of what a checkpoint needs done.
    pub(super) fn go_on_with_checkpoint(&mut self) -> Result<(), Fatal> {
        if self.state.queues.is_evicting() {
            self.state.evict(QUEUES_PER_TURN);
        }
        if matches!(self.checkpoint, Checkpointing::Gathering { .. })
            && self.state.gather(QUEUES_PER_TURN)
        {
            self.finish_gathering();
            self.write_checkpoint()?;
            if matches!(self.checkpoint, Checkpointing::Gathered { .. })
                && self.planner_is_empty()
                && self.writing.is_none()
            {
                // What it says is written, but not synced: an empty settlement makes the batch
                // that carries the sync.
                self.log_lazily(Entry::Settle(Vec::new()));
                self.ship()?;
            }
        }
        Ok(())
    }

    fn finish_gathering(&mut self) {
        let (applied, begun, replies) =
            match mem::replace(&mut self.checkpoint, Checkpointing::None) {
                Checkpointing::Gathering { applied, begun, replies } => (applied, begun, replies),
                // What was gathered before is in no other checkpoint.
                other => return self.checkpoint = other,
            };
        if let Some(checkpoint) = self.state.finish_gathering() {
            self.checkpoint = Checkpointing::Gathered { checkpoint, applied, begun, replies };
        }
    }

    /// Hands a gathered checkpoint to a thread that writes it, if the log is synced up to it.
    fn write_checkpoint(&mut self) -> Result<(), Fatal> {
        let waiting = mem::replace(&mut self.checkpoint, Checkpointing::None);
        let (checkpoint, applied, begun, replies) = match waiting {
            Checkpointing::Gathered { checkpoint, applied, begun, replies }
                if applied.position <= self.synced =>
            {
                (checkpoint, applied, begun, replies)
            }
            other => {
                self.checkpoint = other;
                return Ok(());
            }
        };
        let hashes = !replies.is_empty();
        let index = self.state.index.clone();
        let indexed = self.indexed.clone();
        let flushes = self.is_far_from(self.flushed) || self.index_holds_the_log();
        let flushed = self.flushed;
        let stages = self.stages.clone();
        let (batch, queues) = checkpoint.split();
        self.checkpoint = Checkpointing::Writing { replies };
        self.aside.run(move || {
            let write = || {
                index.commit(batch, applied.position)?;
                let committed = begun.lap(&stages.checkpoint);
                if flushes {
                    index.flush()?;
                    committed.lap(&stages.flush);
                }
                let flushed = if flushes { applied } else { flushed };
                let hash = if hashes { Some(index.state_hash()?) } else { None };
                Ok((flushed, hash))
            };
            // If the commit thread is gone, nobody wants to know.
            let _told = indexed.blocking_send(Indexed { queues, outcome: write() });
        });
        Ok(())
    }

    pub(crate) fn on_indexed(&mut self, indexed: Indexed) -> Result<(), Fatal> {
        let Indexed { queues, outcome } = indexed;
        let (flushed, hash) = outcome?;
        self.flushed = flushed;
        self.state.end_checkpoint(queues);
        if let Checkpointing::Writing { replies } =
            mem::replace(&mut self.checkpoint, Checkpointing::None)
        {
            for reply in replies {
                send(reply, hash.unwrap_or_default());
            }
        }
        Ok(())
    }

    /// Everything is down: write the index, say the log's last word.
    pub(crate) async fn close(
        mut self,
        done: &mut mpsc::Receiver<Done>,
        indexed: &mut mpsc::Receiver<Indexed>,
    ) -> Result<Option<Reply<()>>, Fatal> {
        self.say_returned();
        // What comes back may be word of the disk's space instead. The index must not be told of
        // more than is synced, or it would say so without the entries.
        while self.writing.is_some() || self.synced < self.planner.end() {
            if self.writing.is_none() && self.planner_is_empty() {
                self.log_lazily(Entry::Settle(Vec::new()));
            }
            self.sync_due = true;
            self.ship()?;
            self.on_done(done.recv().await.ok_or(Fatal::WriterGone)?)?;
        }
        while !self.state.gather(QUEUES_PER_TURN) {}
        self.finish_gathering();
        self.write_checkpoint()?;
        if let Checkpointing::Writing { .. } = self.checkpoint
            && let Some(indexed) = indexed.recv().await
        {
            self.on_indexed(indexed)?;
        }
        let applied = self.planner.end();
        while self.state.queues.is_evicting() {
            self.state.evict(QUEUES_PER_TURN);
        }
        self.state.begin_checkpoint();
        while !self.state.gather(QUEUES_PER_TURN) {}
        let checkpoint = self.state.finish_gathering();
        let planner = Box::new(self.planner);
        self.jobs.send(Job::Close { planner }).map_err(|_| Fatal::WriterGone)?;
        match done.recv().await.ok_or(Fatal::WriterGone)? {
            Done::Failed(error) => return Err(error.into()),
            Done::Written { .. } | Done::Space { .. } | Done::Closed => {}
        }
        if let Some(checkpoint) = checkpoint {
            let (batch, _) = checkpoint.split();
            self.state.index.commit(batch, applied)?;
        }
        self.state.index.flush()?;
        Ok(self.stopping)
    }
}
