//! What the store sends: notices and deliveries, on their way to the socket.

use mainstem_broker::Notice;

use super::{Attached, Connection};
use crate::serve::deliver;

impl Connection {
    /// Takes what is in the inbox, without waiting.
    pub(super) async fn take_ready_notices(&mut self) {
        let Some(Attached { client, inbox }) = &mut self.attached else { return };
        tokio::select! {
            biased;
            () = client.recv(inbox, &mut self.notices) => {}
            () = std::future::ready(()) => return,
        }
        self.take_notices().await;
    }

    pub(super) async fn take_notices(&mut self) {
        let mut notices = std::mem::take(&mut self.notices);
        for notice in notices.drain(..) {
            match notice {
                Notice::Delivery(delivery) => self.deliveries.push(delivery),
                Notice::Cancelled(consumer) => {
                    self.deliver().await;
                    self.session.consumer_gone(consumer, &mut self.effects);
                }
                Notice::Blocked => self.session.disk_low(true, &mut self.effects),
                Notice::Unblocked => self.session.disk_low(false, &mut self.effects),
                Notice::Closing => self.session.shut_down(&mut self.effects),
                // Sessions are not opened here.
                Notice::TakenOver => {}
            }
        }
        self.notices = notices;
        self.deliver().await;
    }

    /// Writes the deliveries at hand.
    async fn deliver(&mut self) {
        let Some(Attached { client, .. }) = &self.attached else { return };
        if self.deliveries.iter().any(|delivery| delivery.record.is_none())
            && let Err(refusal) = client.resolve(&mut self.deliveries).await
        {
            self.deliveries.clear();
            return self.note_refusal(Err(refusal));
        }
        for delivery in self.deliveries.drain(..) {
            let out = &mut self.output.buffer;
            let unread = deliver::put_delivery(out, &mut self.session, &self.broker, &delivery);
            self.settlements.extend(unread);
        }
    }
}
