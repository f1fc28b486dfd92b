//! How a connection ends: DISCONNECT, the session put to sleep, the will.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use mainstem_broker::{Client, Inbox, Notice};
use mainstem_schemas::{Settlement, Verdict};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::OwnedSemaphorePermit,
    time::Instant,
};

use super::{
    Counted, Server,
    connection::{Connection, End},
    peers::Holder,
    wills::{self, Fate},
};
use crate::{
    codec::{Reason, Reply},
    normalize::testament::{Safe, Testament},
};

/// How long a peer that broke the rules or is sent away may go on talking, so that it reads why before the
/// connection is reset under it.
pub(super) const LINGER: Duration = Duration::from_millis(250);

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<R, W> {
    /// Ends the connection: first the socket, then the session, then the will.
    pub(super) async fn end(mut self, end: End, place: (OwnedSemaphorePermit, Counted)) {
        self.log(&end);
        // An assigned identifier is never seen again.
        let is_own = matches!(end, End::Left { .. } | End::Lost | End::Fault(_));
        if is_own && !self.identity.is_assigned {
            self.server.flapping.note(self.identity.key(), &self.server.limits, Instant::now());
        }
        if let Some(pace) = self.pace.take().filter(|_| !self.identity.is_assigned) {
            self.server.paces.leave(self.identity.key(), *pace, Instant::now());
        }
        self.say_goodbye(&end).await;
        let goodbye = Duration::from_millis(self.server.limits.goodbye_ms);
        // A store that does not answer in time is shutting down: the next start knows nothing of
        // this connection anyway.
        let _in_time = tokio::time::timeout(goodbye, self.take_receipts()).await;
        let new_expiry_s = match end {
            End::Left { session_expiry_s, .. } => session_expiry_s,
            End::Lost | End::Fault(_) | End::TakenOver { .. } | End::Forced(_) | End::Closing => {
                None
            }
        };
        let new_expiry_s =
            new_expiry_s.map(|seconds| seconds.min(self.server.limits.session_expiry_max_s));
        let expiry_s = new_expiry_s.unwrap_or(self.session_expiry_s);
        let (will, safe) = self.will.take().map(|kept| *kept).unzip();
        let (will, safe) = (will.filter(|_| publishes_will(&end)), safe.flatten());
        if let (None, Some(safe)) = (&will, &safe) {
            // Before the socket is closed: who saw that is not declared lost by a crash.
            let _in_time = tokio::time::timeout(goodbye, wills::forget(&self.client, safe)).await;
        }
        let testament = will.map(|will| Testament {
            version: self.ears.version,
            client_id: self.identity.client_id.clone(),
            user: wills::author(&self.client),
            session_expiry_s: expiry_s,
            will,
        });
        let remains = self.close_session(new_expiry_s, expiry_s > 0).await;
        // Only now is nothing handed out to it any more.
        drop(place);
        if let Some(testament) = testament {
            remains.see_to_will(testament, safe.as_ref(), &end).await;
        }
        remains.client.close().await;
        drop(remains.holder);
    }

    fn log(&self, end: &End) {
        let (client, peer) = (&self.identity.client_id, self.line.peer);
        match end {
            End::Fault(fault) => {
                tracing::info!(client, %peer, reason = ?fault.reason, text = fault.text, "an mqtt client broke the rules");
            }
            End::Forced(reason) => {
                tracing::info!(client, %peer, reason, "an operator ended an mqtt connection");
            }
            End::Left { .. } | End::Lost | End::TakenOver { .. } | End::Closing => {
                tracing::debug!(client, %peer, ?end, "an mqtt connection ended");
            }
        }
    }

    async fn say_goodbye(&mut self, end: &End) {
        let (reason, text) = match end {
            End::Left { .. } | End::Lost => return,
            End::Fault(fault) => (fault.reason, fault.text),
            End::TakenOver { .. } => {
                (Reason::TAKEN_OVER, "another connection uses this client identifier")
            }
            End::Forced(reason) => (Reason::ADMINISTRATIVE_ACTION, &**reason),
            End::Closing => (Reason::SHUTTING_DOWN, "the server shuts down"),
        };
        self.send(&Reply::Disconnect { reason, text: Some(text.to_owned()) });
        let goodbye = Duration::from_millis(self.server.limits.goodbye_ms);
        // A peer that does not take its farewell is gone, which is what we wanted.
        let written = tokio::time::timeout(goodbye, async {
            self.writer.write_all(&self.output).await?;
            self.writer.shutdown().await
        })
        .await;
        if matches!((end, written), (End::Fault(_) | End::Forced(_), Ok(Ok(())))) {
            let drain = async {
                let mut scratch = BytesMut::with_capacity(4096);
                while self.reader.read_buf(&mut scratch).await.is_ok_and(|bytes| bytes > 0) {
                    scratch.clear();
                }
            };
            let _drained = tokio::time::timeout(LINGER, drain).await;
        }
    }

    /// Learns what became of the publishes under way, so that the session remembers which QoS 2
    /// messages it has.
    async fn take_receipts(&mut self) {
        while let Some((receipt, _)) = self.receipts.front_mut() {
            let outcome = receipt.await;
            if self.on_receipt(outcome).is_err() {
                return;
            }
        }
    }

    /// Puts the session to sleep with what is under way; what was never sent goes back.
    async fn close_session(mut self, new_expiry_s: Option<u32>, keeps: bool) -> Remains {
        let notices = std::mem::take(&mut self.notices);
        let mut settlements = std::mem::take(&mut self.settlements);
        let (parked, unsent) = self.session.park();
        let unread = |id| Settlement { id, verdict: Verdict::Unread };
        settlements.extend(unsent.into_iter().flat_map(|copy| copy.deliveries).map(unread));
        settlements.extend(unread_deliveries(&notices));
        let parcel = keeps.then(|| {
            let max = self.server.limits.parked_bytes_max;
            let (parcel, back) = self.server.parking.park(parked, max);
            let verdict = Verdict::Release;
            settlements.extend(back.into_iter().map(|id| Settlement { id, verdict }));
            parcel
        });
        let mut inbox = self.inbox;
        settlements.extend(drain(&self.client, &mut inbox).await);
        // Every call below fails only when the store has closed; then there is no session.
        if !settlements.is_empty() {
            let _settled = self.client.settle(settlements).await;
        }
        let _closed = self.client.close_session(new_expiry_s, parcel).await;
        let late = drain(&self.client, &mut inbox).await;
        if !late.is_empty() {
            let _settled = self.client.settle(late).await;
        }
        Remains { server: self.server, client: self.client, holder: self.holder }
    }
}

/// What is left of a connection whose socket and session are closed: enough to publish its will.
struct Remains {
    server: Arc<Server>,
    client: Client,
    holder: Holder,
}

impl Remains {
    /// Publishes the will, now or when its delay is over, unless the session goes on before.
    async fn see_to_will(&self, testament: Testament, safe: Option<&Safe>, end: &End) {
        // A will is due when the session ends, if that comes before its delay is over.
        let delay_s = testament.will.properties.will_delay_s.min(testament.session_expiry_s);
        let fate = match end {
            _ if delay_s == 0 => Fate::Published,
            End::TakenOver { clean } => wills::goes_on(!clean),
            End::Closing => Fate::Left,
            End::Left { .. } | End::Lost | End::Fault(_) | End::Forced(_) => {
                wills::outwait(&self.server, &self.holder, delay_s).await
            }
        };
        wills::carry_out(&self.server, &self.client, testament, safe, fate).await;
    }
}

/// [MQTT-3.1.2-8], [MQTT-3.14.4-3]: everything but a normal DISCONNECT.
fn publishes_will(end: &End) -> bool {
    match end {
        End::Left { publishes_will, .. } => *publishes_will,
        End::Lost | End::Fault(_) | End::TakenOver { .. } | End::Forced(_) | End::Closing => true,
    }
}

/// What is in the inbox now, to be given back.
async fn drain(client: &Client, inbox: &mut Inbox) -> Vec<Settlement> {
    let mut notices = Vec::new();
    // Nothing there is what we hope for.
    let _empty = tokio::time::timeout(Duration::ZERO, client.recv(inbox, &mut notices)).await;
    unread_deliveries(&notices).collect()
}

fn unread_deliveries(notices: &[Notice]) -> impl Iterator<Item = Settlement> {
    notices.iter().filter_map(|notice| match notice {
        Notice::Delivery(delivery) if delivery.needs_settle => {
            Some(Settlement { id: delivery.id, verdict: Verdict::Unread })
        }
        Notice::Delivery(_)
        | Notice::Cancelled(_)
        | Notice::TakenOver
        | Notice::Blocked
        | Notice::Unblocked
        | Notice::Closing => None,
    })
}
