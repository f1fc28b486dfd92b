//! How commands leave: with room for what they bring, and from places that cannot wait.

use std::sync::atomic::Ordering;

use mainstem_schemas::{Settlement, Verdict};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::{Client, Shared};
use crate::{
    command::{Command, Publish},
    error::Refusal,
    inbox::{Delivery, Notice},
    meter::Did,
};

impl Shared {
    /// Sends from a place that cannot wait: at once if there is room, else from a task.
    pub(super) fn send_or_spawn(&self, command: Command) {
        let Err(mpsc::error::TrySendError::Full(command)) = self.commands.try_send(command) else {
            return;
        };
        let commands = self.commands.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { commands.send(command).await });
        }
    }

    /// Room for so many bytes on their way to the disk. More than the whole bound go alone.
    pub(super) async fn permit(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let bytes = bytes.min(self.config.uncommitted_bytes_max()).max(1);
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let permit = self.uncommitted.clone().acquire_many_owned(permits).await;
        permit.map_err(|_| Refusal::Closed)
    }
}

impl Client {
    /// Its number among all clients since the start.
    pub(crate) fn number(&self) -> u64 {
        self.id.0
    }

    /// What it does counts for this protocol from now on.
    pub(crate) fn speaks(&self, protocol: &'static str) {
        // Whoever enters again speaks the same.
        let _first = self.spoken.get_or_init(|| self.shared.usage.spoken(protocol));
    }

    /// Something happened that only a front-end knows of.
    pub fn note(&self, did: Did, count: u64) {
        self.shared.usage.totals.add(did, count);
    }

    pub(super) fn note_in(&self, batch: &[Publish]) {
        let Some(spoken) = self.spoken.get() else { return };
        if !self.has_published.load(Ordering::Relaxed) {
            self.has_published.store(true, Ordering::Relaxed);
            spoken.publishers.fetch_add(1, Ordering::Relaxed);
        }
        spoken.note_in(batch.iter().map(|publish| publish.record.bytes().len()));
    }

    pub(super) fn ends_speaking(&mut self) {
        if let Some(spoken) = self.spoken.get().filter(|_| *self.has_published.get_mut()) {
            spoken.publishers.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) fn note_out<'a>(&self, deliveries: impl Iterator<Item = &'a Delivery>) {
        if let Some(spoken) = self.spoken.get() {
            spoken.note_out(deliveries.map(|delivery| delivery.size));
        }
    }

    pub(super) fn note_notices(&self, notices: &[Notice]) {
        self.note_out(notices.iter().filter_map(|notice| match notice {
            Notice::Delivery(delivery) => Some(delivery),
            _ => None,
        }));
    }
}

/// A fetch in progress. Deliveries that arrive for a caller that is gone are released.
pub(super) struct Fetching<'a> {
    pub(super) client: &'a Client,
    pub(super) answer: oneshot::Receiver<Vec<Delivery>>,
}

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        self.answer.close();
        let Ok(unread) = self.answer.try_recv() else { return };
        let verdict = Verdict::Unread;
        let batch = unread.into_iter().map(|d| Settlement { id: d.id, verdict }).collect();
        let client = self.client.id;
        self.client.shared.send_or_spawn(Command::Settle { client, batch, reply: None });
    }
}
