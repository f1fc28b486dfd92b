//! Writing the state down, over many turns, as it was at one position of the log.

use bytes::Bytes;
use mainstem_index::{Batch, WakeKey};
use mainstem_schemas::{QueueId, UnixMillis};

use super::State;

/// What changed up to where it began, ready to be written down.
pub(crate) struct Checkpoint {
    batch: Batch,
    queues: Vec<QueueId>,
}

impl State {
    /// Begins to gather what changed since the last time.
    pub(crate) fn begin_checkpoint(&mut self) {
        self.segments.write(&mut self.batch);
        let batch = std::mem::replace(&mut self.batch, self.index.batch());
        self.queues.begin_checkpoint(batch);
        self.delayed.begin_checkpoint();
        self.wakes.begin_checkpoint();
        self.pointers.begin_checkpoint();
        self.lookups.begin_checkpoint();
        self.renamed.begin_checkpoint();
    }

    /// Gathers from up to `count` more queues; true when all is gathered.
    pub(crate) fn gather(&mut self, count: usize) -> bool {
        self.queues.gather(count)
    }

    /// What was gathered, to be committed to the index once the log is durable up to where it began.
    pub(crate) fn finish_gathering(&mut self) -> Option<Checkpoint> {
        let (batch, queues) = self.queues.take_gathered()?;
        Some(Checkpoint { batch, queues })
    }

    /// The index has a checkpoint: what it holds need not stay in memory.
    pub(crate) fn end_checkpoint(&mut self, queues: Vec<QueueId>) {
        self.delayed.end_checkpoint();
        self.wakes.end_checkpoint();
        self.pointers.end_checkpoint();
        self.lookups.end_checkpoint();
        for (namespace, name) in self.renamed.end_checkpoint() {
            let named = self.namespaces.get_mut(&namespace).map(|space| &mut space.named);
            if let Some(named) = named
                && named.get(&*name) == Some(&None)
            {
                named.remove(&*name);
            }
        }
        self.queues.begin_evicting(queues);
    }

    /// Lets go of what need not stay in memory, of up to `count` queues.
    pub(crate) fn evict(&mut self, count: usize) {
        for (namespace, name) in self.queues.evict(count) {
            self.forget_name(&namespace, &name);
        }
    }

    fn forget_name(&mut self, namespace: &str, name: &Bytes) {
        if let Some(space) = self.namespaces.get_mut(namespace) {
            space.named.remove(&**name);
        }
    }

    /// Sets when a queue is to be looked at by itself.
    pub(crate) fn set_wake(&mut self, id: QueueId, at: UnixMillis) {
        let Some(queue) = self.queues.get(id) else { return };
        let before = std::mem::replace(&mut queue.wake, at);
        if before == at {
            return;
        }
        if before.is_set() {
            self.wakes.remove(before, id);
            if !id.is_transient() {
                self.batch.delete(&WakeKey { at: before, queue: id });
            }
        }
        if at.is_set() {
            self.wakes.insert(at, id);
            if !id.is_transient() {
                self.batch.put(&WakeKey { at, queue: id }, &());
            }
        }
    }

    /// A wake was taken from the schedule: the index need not have it any more.
    pub(crate) fn note_woken(&mut self, id: QueueId, at: UnixMillis) {
        if !id.is_transient() {
            self.batch.delete(&WakeKey { at, queue: id });
        }
        if let Some(queue) = self.queues.get(id)
            && queue.wake == at
        {
            queue.wake = UnixMillis::NONE;
        }
    }
}

impl Checkpoint {
    /// The two halves: what goes to the index, and what [`State::end_checkpoint`] wants.
    pub(crate) fn split(self) -> (Batch, Vec<QueueId>) {
        (self.batch, self.queues)
    }
}
