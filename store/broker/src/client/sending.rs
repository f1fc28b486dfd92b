//! How commands leave: with room for what they bring, and from places that cannot wait.

use mainstem_schemas::{Settlement, Verdict};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::{Client, Shared};
use crate::{command::Command, error::Refusal, inbox::Delivery};

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
