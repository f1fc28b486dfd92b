//! What each packet means, given what was said before. Pure: packets and deliveries go in, a
//! closed set of [`Effect`]s comes out; time is an argument.

pub mod aliases;
pub mod inbound;
pub mod options;
pub mod outbound;
pub mod runs;
pub mod scram;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use aliases::Aliases;
pub use inbound::Inbound;
pub use options::Options;
pub use outbound::{
    Copy, DeliveryIds, InFlight, KeptAside, Note, Outbound, Stage, SubscriptionIds,
};
pub use runs::{Noted, Run};

use crate::codec::{Ack, Auth, Disconnect, Fault, Packet, Publish, Qos, Reason, Reply, Subscribe};
use crate::codec::{Unsubscribe, Version};
use inbound::Admission;
use outbound::Progress;

/// What a packet asks the connection to do, in this order.
#[derive(Debug)]
pub enum Effect {
    /// Hand it to the store, then call [`Session::stored`] with the answer.
    Store(Publish),
    Send(Reply),
    /// The client released a QoS 2 message: forget it, then answer PUBCOMP, which tells if neither
    /// this connection nor the store knew of it.
    Release {
        packet_id: u16,
        is_known: bool,
    },
    /// The client has a QoS 2 message: remember that, then send PUBREL.
    Received {
        packet_id: u16,
    },
    /// Tell the broker that these deliveries are done.
    Settle(DeliveryIds),
    Subscribe(Subscribe),
    Unsubscribe(Unsubscribe),
    /// The client goes on with proving who it is, or begins to once more.
    Prove(Auth),
    /// The client leaves in good order.
    Leave {
        publishes_will: bool,
        session_expiry_s: Option<u32>,
    },
}

/// What a session is made with.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub version: Version,
    /// The client's keep alive in seconds; 0 for none.
    pub keep_alive_s: u16,
    /// What the session's expiry was at CONNECT.
    pub session_expiry_s: u32,
    /// Messages above QoS 0 the client takes at a time.
    pub client_receive_max: u16,
    /// Messages above QoS 0 we take at a time.
    pub receive_max: u16,
    pub topic_alias_max: u16,
}

/// What a session leaves behind for its next connection.
#[derive(Debug)]
pub struct Parked {
    pub flights: Vec<InFlight>,
    pub kept: KeptAside,
    /// The packet identifier that was given last. The client may hold one of a message that went to
    /// somebody else since, so none is given again before its turn.
    pub last_id: u16,
    /// Packet identifiers of QoS 2 messages that were stored and not released.
    pub received: Vec<u16>,
}

/// The state of one connection's session.
#[derive(Debug)]
pub struct Session {
    terms: Terms,
    inbound: Inbound,
    pub outbound: Outbound,
    heard: Duration,
}

impl Session {
    /// A session that starts at `now`, a time since any fixed moment.
    #[must_use]
    pub fn new(terms: Terms, now: Duration) -> Self {
        let enforces = terms.version == Version::V5;
        Self {
            inbound: Inbound::new(terms.topic_alias_max, terms.receive_max, enforces),
            outbound: Outbound::new(terms.client_receive_max, terms.session_expiry_s > 0),
            terms,
            heard: now,
        }
    }

    /// Goes on where the session's last connection ended.
    pub fn resume(&mut self, parked: Parked) {
        self.inbound.resume(parked.received);
        self.outbound.resume(parked.flights, parked.kept, parked.last_id);
    }

    /// Ends the connection's part: what stays, and what was never sent.
    #[must_use]
    pub fn park(self) -> (Parked, Vec<Copy>) {
        let received = self.inbound.park();
        let last_id = self.outbound.last_id();
        let (flights, kept, unsent) = self.outbound.park();
        (Parked { flights, kept, last_id, received }, unsent)
    }

    /// Bytes came from the client. Any will do, so that a slow large packet does not count as
    /// silence.
    pub fn heard(&mut self, now: Duration) {
        self.heard = now;
    }

    /// When the client counts as lost: after one and a half times its keep alive
    /// ([MQTT-3.1.2-22]). `None` when it asked for no such thing.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let keep_alive = self.keep_alive();
        (!keep_alive.is_zero()).then(|| self.heard + keep_alive * 3 / 2)
    }

    /// How long the client may be silent; zero for any time.
    #[must_use]
    pub fn keep_alive(&self) -> Duration {
        Duration::from_secs(u64::from(self.terms.keep_alive_s))
    }

    /// Whether no more should be read until the store has answered.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.terms.version != Version::V5 && self.inbound.is_full()
    }

    /// What a packet means.
    pub fn receive(&mut self, packet: Packet, effects: &mut Vec<Effect>) -> Result<(), Fault> {
        match packet {
            Packet::Publish(publish) => self.publish(publish, effects)?,
            Packet::PubAck(ack) => progress(self.outbound.puback(ack.packet_id), ack, effects)?,
            Packet::PubRec(ack) => self.pubrec(ack, effects)?,
            Packet::PubRel(ack) => {
                let packet_id = ack.packet_id;
                let is_known = self.inbound.release(packet_id);
                effects.push(Effect::Release { packet_id, is_known });
            }
            Packet::PubComp(ack) => progress(self.outbound.pubcomp(ack.packet_id), ack, effects)?,
            Packet::Subscribe(subscribe) => effects.push(Effect::Subscribe(subscribe)),
            Packet::Unsubscribe(unsubscribe) => effects.push(Effect::Unsubscribe(unsubscribe)),
            Packet::Auth(auth) => effects.push(Effect::Prove(auth)),
            Packet::PingReq => effects.push(Effect::Send(Reply::PingResp)),
            Packet::Disconnect(farewell) => effects.push(self.disconnect(farewell)?),
        }
        Ok(())
    }

    fn publish(&mut self, mut publish: Publish, effects: &mut Vec<Effect>) -> Result<(), Fault> {
        self.inbound.expand_alias(&mut publish)?;
        match self.inbound.admit(&publish)? {
            Admission::New => effects.push(Effect::Store(publish)),
            Admission::Repeated => {
                let (packet_id, reason) = (publish.packet_id, Reason::SUCCESS);
                effects.push(Effect::Send(Reply::PubRec { packet_id, reason, text: None }));
            }
            Admission::Pending => {}
        }
        Ok(())
    }

    fn pubrec(&mut self, ack: Ack, effects: &mut Vec<Effect>) -> Result<(), Fault> {
        let step = self.outbound.pubrec(ack.packet_id, ack.reason);
        if step == Progress::Unknown && !ack.reason.is_failure() {
            let (packet_id, reason) = (ack.packet_id, Reason::PACKET_ID_NOT_FOUND);
            effects.push(Effect::Send(Reply::PubRel { packet_id, reason }));
            return Ok(());
        }
        progress(step, ack, effects)
    }

    fn disconnect(&self, farewell: Disconnect) -> Result<Effect, Fault> {
        if self.terms.session_expiry_s == 0 && farewell.session_expiry_s.is_some_and(|s| s > 0) {
            return Err(Fault::protocol("a session that ends with its connection cannot be kept"));
        }
        // [MQTT-3.14.4-3]: only a DISCONNECT with success discards the will.
        Ok(Effect::Leave {
            publishes_will: farewell.reason != Reason::SUCCESS,
            session_expiry_s: farewell.session_expiry_s,
        })
    }

    /// The store answered for a message: the acknowledgement to send, if its QoS has one.
    pub fn stored(
        &mut self,
        qos: Qos,
        packet_id: u16,
        reason: Reason,
        text: Option<String>,
    ) -> Option<Reply> {
        self.inbound.stored(qos, packet_id, reason);
        match qos {
            Qos::AtMostOnce => None,
            Qos::AtLeastOnce => Some(Reply::PubAck { packet_id, reason, text }),
            Qos::ExactlyOnce => Some(Reply::PubRec { packet_id, reason, text }),
        }
    }
}

fn progress(step: Progress, ack: Ack, effects: &mut Vec<Effect>) -> Result<(), Fault> {
    match step {
        Progress::Done(deliveries) if deliveries.is_empty() => {}
        Progress::Done(deliveries) => effects.push(Effect::Settle(deliveries)),
        Progress::Release(deliveries) => {
            if !deliveries.is_empty() {
                effects.push(Effect::Settle(deliveries));
            }
            effects.push(Effect::Received { packet_id: ack.packet_id });
        }
        Progress::Unknown => {}
        Progress::Wrong => {
            return Err(Fault::protocol("[MQTT-4.3.3-3] an acknowledgement is not its message's"));
        }
    }
    Ok(())
}
