//! From PUBLISH packets to the store, and from its receipts to PUBACK and PUBREC.

use mainstem_broker::{Publish as Offer, Published, Refusal};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    connection::{Connection, End},
    statistics,
};
use crate::{
    codec::{Publish, Qos, Reason, Version},
    normalize::{Message, Sender, message::Refused},
};

/// The publishes of one read, in order.
#[derive(Debug, Default)]
pub(super) struct Batch {
    offers: Vec<Offer>,
    owed: Vec<Owed>,
}

/// What one message of a batch gets for an answer.
#[derive(Debug)]
pub(super) struct Owed {
    qos: Qos,
    packet_id: u16,
    /// It was refused before the store saw it.
    refused: Option<Refused>,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<R, W> {
    pub(super) fn start_batch(&self) -> Batch {
        Batch::default()
    }

    pub(super) fn sender(&self) -> Sender<'_> {
        Sender {
            version: self.ears.version,
            namespace: &self.identity.namespace,
            publisher: self.identity.publisher,
            topic_levels_max: self.server.limits.topic_levels_max,
            delay_max_s: self.server.limits.delay_max_s,
        }
    }

    pub(super) fn add_to_batch(&self, publish: Publish, batch: &mut Batch) {
        statistics::count(&self.server.statistics.publishes_received, 1);
        let (qos, packet_id) = (publish.qos, publish.packet_id);
        let record = Message::from(publish).record(&self.sender(), self.client.stamp());
        let refused = match record {
            Ok(record) => {
                let offer = Offer::new(record);
                let terms = self.exactly.terms(qos, packet_id);
                batch.offers.push(match terms {
                    Some(terms) => offer.on(terms),
                    None => offer,
                });
                None
            }
            Err(refused) => Some(refused),
        };
        batch.owed.push(Owed { qos, packet_id, refused });
    }

    /// Hands a batch to the store. Waits only while the store cannot take more.
    pub(super) async fn publish(&mut self, batch: Batch) -> Result<(), End> {
        if batch.owed.is_empty() {
            return Ok(());
        }
        let receipt = self.client.publish(batch.offers).await.map_err(|_| End::Closing)?;
        // Nobody waits for the answer to messages of QoS 0.
        if batch.owed.iter().any(|owed| owed.qos != Qos::AtMostOnce) {
            self.receipts.push_back((receipt, batch.owed));
        }
        Ok(())
    }

    /// The oldest batch is as durable as it gets: acknowledge it.
    pub(super) fn on_receipt(
        &mut self,
        outcome: Result<Vec<Published>, Refusal>,
    ) -> Result<(), End> {
        let Some((_, owed)) = self.receipts.pop_front() else { return Ok(()) };
        let mut outcomes = outcome.map_err(|_| End::Closing)?.into_iter();
        for owed in owed {
            // [MQTT-3.3.5-2] of 3.1.1: who may not publish gets an acknowledgement all the same.
            let is_swallowed = self.ears.version != Version::V5
                && owed.refused.is_some_and(|refused| refused.reason == Reason::NOT_AUTHORIZED);
            let (reason, text) = match owed.refused.filter(|_| !is_swallowed) {
                Some(refused) => (refused.reason, Some(refused.text.to_owned())),
                None if is_swallowed => (Reason::SUCCESS, None),
                None => match outcomes.next() {
                    Some(Published::Taken { readers: 0, .. }) => {
                        (Reason::NO_MATCHING_SUBSCRIBERS, None)
                    }
                    Some(Published::Taken { .. } | Published::Held(_) | Published::Again) => {
                        (Reason::SUCCESS, None)
                    }
                    Some(Published::Refused(refusal)) => {
                        (reason_of(&refusal), Some(refusal.to_string()))
                    }
                    None => return Err(End::Closing),
                },
            };
            if reason.is_failure() {
                tracing::info!(
                    client = self.identity.client_id,
                    ?reason,
                    ?text,
                    "refused a publish"
                );
            }
            if reason.is_failure()
                && self.ears.version != Version::V5
                && owed.qos != Qos::AtMostOnce
            {
                // [MQTT-3.3.5-2] of 3.1.1: an acknowledgement would say that it was taken.
                return Err(End::Lost);
            }
            if let Some(reply) = self.session.stored(owed.qos, owed.packet_id, reason, text) {
                self.send(&reply);
            }
        }
        Ok(())
    }
}

/// The nearest of the codes that PUBACK and PUBREC may carry.
fn reason_of(refusal: &Refusal) -> Reason {
    match refusal {
        Refusal::DiskFull | Refusal::QueueFull(_) | Refusal::Limit { .. } => Reason::QUOTA_EXCEEDED,
        Refusal::Locked(_) | Refusal::Internal(_) | Refusal::Denied { .. } => {
            Reason::NOT_AUTHORIZED
        }
        Refusal::NoExchange(_) | Refusal::NoQueue(_) | Refusal::NoTopic(_) => Reason::TOPIC_INVALID,
        Refusal::TooLarge { .. }
        | Refusal::InUse(_)
        | Refusal::NotEmpty(_)
        | Refusal::ExclusiveConsumer(_)
        | Refusal::ConsumerExists(_)
        | Refusal::DefaultExchange
        | Refusal::Predeclared(_)
        | Refusal::BadArguments(_)
        | Refusal::Ranked(_)
        | Refusal::Stale
        | Refusal::Unreadable(_)
        | Refusal::Closed => Reason::IMPLEMENTATION_SPECIFIC,
    }
}
