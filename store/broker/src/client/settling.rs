//! The end of deliveries.

use mainstem_schemas::{Filter, Offset, Settlement};
use tokio::sync::oneshot;

use super::{Client, Receipt};
use crate::{
    command::{Command, GroupRef, Subscribe},
    error::Refusal,
};

/// What is not settled among some offsets of a cursor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unsettled {
    /// Ranges `from..to`, ascending. One may have places of which the record is gone already.
    pub ranges: Vec<(Offset, Offset)>,
    /// The first offset that no record has yet.
    pub next: Offset,
}

impl Client {
    /// Ends deliveries. Those of another connection, or ended already, are passed over.
    pub async fn settle(&self, batch: Vec<Settlement>) -> Result<(), Refusal> {
        self.shared.room().await?.send(Command::Settle { client: self.id, batch, reply: None });
        Ok(())
    }

    /// Ends deliveries, waits until that is durable, and tells for each whether it was
    /// outstanding under this id.
    pub async fn settle_durably(&self, batch: Vec<Settlement>) -> Result<Vec<bool>, Refusal> {
        self.ask(|reply| Command::Settle { client: self.id, batch, reply: Some(reply) }).await
    }

    /// As [`Client::settle_durably`], but does not wait: the receipt does.
    pub async fn settle_with_receipt(
        &self,
        batch: Vec<Settlement>,
    ) -> Result<Receipt<bool>, Refusal> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Settle { client: self.id, batch, reply: Some(reply) };
        self.shared.room().await?.send(command);
        Ok(Receipt { answer, unsent: Vec::new() })
    }

    /// Subscribes and unsubscribes as a session does that keeps something as subscriptions which
    /// bring nothing, and waits for no answer.
    pub async fn subscribe_unheard(
        &self,
        asks: Vec<Subscribe>,
        over: Vec<Filter>,
    ) -> Result<(), Refusal> {
        let client = self.id;
        for subscribe in asks {
            let (reply, _) = oneshot::channel();
            self.shared.room().await?.send(Command::Subscribe { client, subscribe, reply });
        }
        for filter in over {
            let (reply, _) = oneshot::channel();
            let command = Command::Unsubscribe { client, filter, share: None, reply };
            self.shared.room().await?.send(command);
        }
        Ok(())
    }

    /// What is not settled of a cursor's offsets `from..below`, both in one lane, when that is as
    /// durable as it gets. Of a queue or a cursor that is gone, everything is settled.
    pub async fn unsettled(
        &self,
        cursor: GroupRef,
        offsets: (Offset, Offset),
    ) -> Result<Unsettled, Refusal> {
        self.ask(|reply| Command::Unsettled { cursor, offsets, reply }).await
    }
}
