//! Messages to the client: packet identifiers, the client's receive maximum, and what was sent
//! and not acknowledged.
//!
//! ```text
//! QoS 1:  Published --PUBACK--> done
//! QoS 2:  Published --PUBREC--> Released --PUBCOMP--> done
//!             '--PUBREC >= 0x80--> done
//! ```

use std::collections::VecDeque;

use mainstem_schemas::{DeliveryId, Record};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::codec::{Qos, Reason};

/// The deliveries one packet stands for: several when subscriptions overlap.
pub type DeliveryIds = SmallVec<[DeliveryId; 1]>;
/// The subscription identifiers one packet carries.
pub type SubscriptionIds = SmallVec<[u32; 2]>;

/// One message for the client.
#[derive(Clone, Debug)]
pub struct Copy {
    pub record: Record,
    pub qos: Qos,
    pub retain: bool,
    pub subscription_ids: SubscriptionIds,
    /// What to settle when it is done; empty for a live or a retained copy.
    pub deliveries: DeliveryIds,
    /// Whether the broker gives it to somebody else when this connection ends: shared
    /// subscriptions and queues.
    pub competing: bool,
}

/// How far a message got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// PUBLISH was sent.
    Published,
    /// PUBREL was sent.
    Released,
}

/// A message under way.
#[derive(Clone, Debug)]
pub struct InFlight {
    pub packet_id: u16,
    pub stage: Stage,
    pub copy: Copy,
    order: u64,
    /// Whether it takes a place of this connection's receive maximum.
    counted: bool,
}

/// What the acknowledgement of a message meant.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// The message is done: settle these.
    Done(DeliveryIds),
    /// Send PUBREL.
    Release,
    /// Nothing under this identifier is under way on this connection.
    Unknown,
    /// The message under this identifier waits for another packet ([MQTT-4.3.2-3],
    /// [MQTT-4.3.3-3], [MQTT-4.3.3-5]).
    Wrong,
}

/// The sending half of a session.
#[derive(Debug)]
pub struct Outbound {
    flights: FxHashMap<u16, InFlight>,
    /// Messages of the last connection to be sent again before anything new, in their first order
    /// ([MQTT-4.6.0-1]).
    again: VecDeque<u16>,
    /// Messages above QoS 0 that wait for a place.
    waiting: VecDeque<Copy>,
    quota: u16,
    last_id: u16,
    sent: u64,
}

impl Outbound {
    #[must_use]
    pub fn new(receive_max: u16) -> Self {
        Self {
            flights: FxHashMap::default(),
            again: VecDeque::new(),
            waiting: VecDeque::new(),
            quota: receive_max,
            last_id: 0,
            sent: 0,
        }
    }

    /// Goes on with what the session's last connection had under way, in its order.
    pub fn resume(&mut self, flights: Vec<InFlight>) {
        for mut flight in flights {
            flight.order = self.sent;
            flight.counted = false;
            self.sent += 1;
            self.last_id = flight.packet_id;
            self.again.push_back(flight.packet_id);
            self.flights.insert(flight.packet_id, flight);
        }
    }

    /// Ends the connection's half: what stays with the session, in order, and what was never sent.
    #[must_use]
    pub fn park(self) -> (Vec<InFlight>, Vec<Copy>) {
        let mut flights: Vec<_> =
            self.flights.into_values().filter(|flight| !flight.copy.competing).collect();
        flights.sort_by_key(|flight| flight.order);
        (flights, self.waiting.into())
    }

    /// Takes a message above QoS 0; it comes out of [`Outbound::next_to_send`] when it may be sent.
    pub fn push(&mut self, copy: Copy) {
        debug_assert!(copy.qos != Qos::AtMostOnce);
        self.waiting.push_back(copy);
    }

    /// The next message to send, and whether it is sent again. Resent PUBRELs come out here too,
    /// in stage [`Stage::Released`].
    pub fn next_to_send(&mut self) -> Option<(&InFlight, bool)> {
        if let Some(packet_id) = self.again.front().copied() {
            let flight = self.flights.get_mut(&packet_id)?;
            if flight.stage == Stage::Published {
                self.quota = self.quota.checked_sub(1)?;
                flight.counted = true;
            }
            self.again.pop_front();
            return Some((flight, true));
        }
        if self.waiting.is_empty() {
            return None;
        }
        let quota = self.quota.checked_sub(1)?;
        let packet_id = self.free_id()?;
        let copy = self.waiting.pop_front()?;
        self.quota = quota;
        let order = self.sent;
        self.sent += 1;
        let stage = Stage::Published;
        let flight = InFlight { packet_id, stage, copy, order, counted: true };
        Some((self.flights.entry(packet_id).insert_entry(flight).into_mut(), false))
    }

    /// Takes back a message that cannot be sent at all, as if it were acknowledged.
    pub fn abandon(&mut self, packet_id: u16) -> DeliveryIds {
        self.finish(packet_id).unwrap_or_default()
    }

    /// Messages that could be taken on and sent at once.
    #[must_use]
    pub fn room(&self) -> usize {
        let ahead = self.waiting.len() + self.again.len();
        usize::from(self.quota).saturating_sub(ahead)
    }

    /// Whether messages wait for a place.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty() || !self.again.is_empty()
    }

    pub fn puback(&mut self, packet_id: u16) -> Progress {
        match self.under_way(packet_id) {
            None => Progress::Unknown,
            Some((Qos::AtLeastOnce, _)) => self.done(packet_id),
            Some(_) => Progress::Wrong,
        }
    }

    pub fn pubrec(&mut self, packet_id: u16, reason: Reason) -> Progress {
        match self.under_way(packet_id) {
            // Its PUBLISH will come again, and be answered again.
            None if self.flights.contains_key(&packet_id) => Progress::Done(DeliveryIds::new()),
            None => Progress::Unknown,
            Some((Qos::ExactlyOnce, Stage::Published)) if reason.is_failure() => {
                self.done(packet_id)
            }
            Some((Qos::ExactlyOnce, Stage::Released)) if reason.is_failure() => Progress::Unknown,
            Some((Qos::ExactlyOnce, _)) => {
                if let Some(flight) = self.flights.get_mut(&packet_id) {
                    flight.stage = Stage::Released;
                }
                Progress::Release
            }
            Some(_) => Progress::Wrong,
        }
    }

    pub fn pubcomp(&mut self, packet_id: u16) -> Progress {
        // A PUBREL of the last connection may be answered before it was sent again.
        match self.flights.get(&packet_id).map(|flight| flight.stage) {
            Some(Stage::Released) => self.done(packet_id),
            Some(Stage::Published) if !self.is_owed(packet_id) => Progress::Wrong,
            _ => Progress::Unknown,
        }
    }

    /// The message that was sent under this identifier on this connection, and how far it got.
    fn under_way(&self, packet_id: u16) -> Option<(Qos, Stage)> {
        let flight = self.flights.get(&packet_id)?;
        (!self.is_owed(packet_id)).then_some((flight.copy.qos, flight.stage))
    }

    /// Whether the message was not sent on this connection yet.
    fn is_owed(&self, packet_id: u16) -> bool {
        !self.again.is_empty() && self.again.contains(&packet_id)
    }

    fn done(&mut self, packet_id: u16) -> Progress {
        self.finish(packet_id).map_or(Progress::Unknown, Progress::Done)
    }

    fn finish(&mut self, packet_id: u16) -> Option<DeliveryIds> {
        let flight = self.flights.remove(&packet_id)?;
        if flight.counted {
            self.quota = self.quota.saturating_add(1);
        }
        Some(flight.copy.deliveries)
    }

    /// The next identifier that is not in flight ([MQTT-2.2.1-4]).
    fn free_id(&mut self) -> Option<u16> {
        if self.flights.len() >= usize::from(u16::MAX) {
            return None;
        }
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.flights.contains_key(&self.last_id) {
                return Some(self.last_id);
            }
        }
    }
}
