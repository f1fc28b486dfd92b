//! Writers that number what they publish, so that nothing is taken twice.

use std::sync::Arc;

use mainstem_schemas::UnixMillis;
use tokio::sync::OwnedSemaphorePermit;

use super::Commit;
use crate::{
    command::{ClientId, Reply, Terms},
    entry::Entry,
    error::Refusal,
};

/// Silent writers that are forgotten in one turn.
const SILENT_PER_TURN: usize = 1024;
/// The part of a segment that forgetting writers may take while the disk is full: what room there is
/// left is for settlements, which give space back.
const FULL_PART: u64 = 64;

impl Commit {
    /// Whether its writer published this before.
    pub(super) fn is_again(
        &mut self,
        namespace: &Arc<str>,
        terms: &Terms,
    ) -> Result<bool, Refusal> {
        let Some((writer, sequence)) = &terms.once else { return Ok(false) };
        let known = self.state.writers.get(&(namespace.clone(), writer.clone())).copied();
        match known {
            Some(known) => {
                let is_again = *sequence <= known.sequence;
                // What is told to be taken must be as durable as the first time.
                self.open.needs_sync |= is_again && known.home >= self.written;
                Ok(is_again)
            }
            None if self.state.writers.len() >= self.config.writers_max => {
                Err(Refusal::Limit { name: "writers_max", max: self.config.writers_max as u64 })
            }
            None => Ok(*sequence == 0),
        }
    }

    /// Forgets writers, and tells which of them were known. Nobody is answered who asks for more
    /// than there is room for while the disk is full; who is not sure asks again.
    pub(super) fn forget(
        &mut self,
        client: ClientId,
        writers: Vec<String>,
        permit: OwnedSemaphorePermit,
        reply: Reply<Vec<bool>>,
    ) {
        let Some(namespace) = self.namespace_of(client) else { return };
        let writers: Vec<_> = writers.into_iter().map(|name| (namespace.clone(), name)).collect();
        let outcomes: Vec<bool> =
            writers.iter().map(|of| self.state.writers.contains_key(of)).collect();
        let is_spent = self.forgot_when_full >= self.config.segment_bytes / FULL_PART;
        if self.is_full && is_spent && outcomes.contains(&true) {
            return;
        }
        for (of, _) in writers.into_iter().zip(&outcomes).filter(|(_, is_known)| **is_known) {
            self.open.needs_sync = true;
            self.forget_writer(of);
        }
        self.open.permits.push(permit);
        self.answer_durably(Some(reply), outcomes);
    }

    pub(super) fn forget_writer(&mut self, (namespace, writer): (Arc<str>, String)) {
        let (namespace, seen) = ((*namespace).to_owned(), UnixMillis::NONE);
        let forgotten = Entry::Writer { namespace, writer, sequence: 0, seen };
        let (_, size) = self.log_sized(forgotten);
        if self.is_full {
            self.forgot_when_full += u64::from(size);
        }
    }

    /// Forgets writers of sessions that ended: some of them in each turn. While the disk is full,
    /// their silence is waited for instead; no other session takes their names.
    pub(super) fn go_on_forgetting(&mut self) {
        for _ in 0..SILENT_PER_TURN {
            let Some(of) = self.chores.left_writers.pop_front() else { return };
            if !self.is_full && self.state.writers.contains_key(&of) {
                self.forget_writer(of);
            }
        }
    }

    /// Forgets the numbers of writers that have been silent for long: some of them, when there is
    /// room.
    pub(super) fn forget_silent_writers(&mut self) {
        if self.is_full {
            return;
        }
        let oldest = self.now.0.saturating_sub(self.config.writer_idle_ms);
        let silent = self.state.writers.iter().filter(|(_, value)| value.seen.0 < oldest);
        let silent: Vec<_> = silent.map(|(of, _)| of.clone()).take(SILENT_PER_TURN).collect();
        silent.into_iter().for_each(|of| self.forget_writer(of));
    }
}
