//! Messages from the client: topic aliases, the receive maximum, and the QoS 2 exchanges whose
//! packet identifiers must not be stored twice ([MQTT-4.3.3-10]).

use rustc_hash::FxHashMap;

use crate::codec::{Fault, Publish, Qos, Reason, Text};

/// Where a QoS 2 message from the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Handed to the store, which has not answered yet.
    Storing,
    /// Stored; PUBREC was sent.
    Stored,
}

/// What to do with a PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Store it.
    New,
    /// It is stored already: say so again.
    Repeated,
    /// It is being stored: the answer will come.
    Pending,
}

/// The receiving half of a session.
#[derive(Debug)]
pub struct Inbound {
    aliases: Vec<Text>,
    alias_max: u16,
    exchanges: FxHashMap<u16, Received>,
    /// Messages above QoS 0 that this connection sent and we have not finished. Of a client that
    /// counts them itself a stored message of QoS 2 is unfinished until it is released; of another
    /// no longer, for to slow it then would be to never read its release.
    unfinished: u16,
    receive_max: u16,
    /// Whether exceeding the receive maximum is a fault; before MQTT 5 nobody told the client.
    enforces: bool,
}

impl Inbound {
    #[must_use]
    pub fn new(alias_max: u16, receive_max: u16, enforces: bool) -> Self {
        let exchanges = FxHashMap::default();
        Self { aliases: Vec::new(), alias_max, exchanges, unfinished: 0, receive_max, enforces }
    }

    /// Goes on with the exchanges of the session's last connection.
    pub fn resume(&mut self, stored: impl IntoIterator<Item = u16>) {
        self.exchanges.extend(stored.into_iter().map(|id| (id, Received::Stored)));
    }

    /// The exchanges that outlive the connection.
    #[must_use]
    pub fn park(&self) -> Vec<u16> {
        let stored = self.exchanges.iter().filter(|(_, at)| **at == Received::Stored);
        stored.map(|(id, _)| *id).collect()
    }

    /// Whether as many messages are unfinished as may be, so that no more should be read.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.unfinished >= self.receive_max
    }

    /// Puts the topic in the place of its alias, or remembers the alias ([MQTT-3.3.2-9]).
    pub fn expand_alias(&mut self, publish: &mut Publish) -> Result<(), Fault> {
        let Some(alias) = publish.properties.topic_alias.take() else { return Ok(()) };
        if alias > self.alias_max {
            let text = "[MQTT-3.3.2-9] a topic alias is over the maximum";
            return Err(Fault::new(Reason::TOPIC_ALIAS_INVALID, text));
        }
        let place = usize::from(alias).saturating_sub(1);
        if !publish.topic.is_empty() {
            if self.aliases.len() <= place {
                self.aliases.resize(place + 1, Text::default());
            }
            if let Some(known) = self.aliases.get_mut(place) {
                // A copy, because a slice would keep the whole read buffer alive.
                let bytes = bytes::Bytes::copy_from_slice(publish.topic.as_bytes());
                *known = Text::check(bytes)?;
            }
            return Ok(());
        }
        match self.aliases.get(place) {
            Some(topic) if !topic.is_empty() => {
                publish.topic = topic.clone();
                Ok(())
            }
            _ => Err(Fault::protocol("a topic alias was not set on this connection")),
        }
    }

    /// Counts a PUBLISH and says what to do with it. DUP is not asked: an identifier that is not
    /// in an exchange is new whatever the flag says.
    pub fn admit(&mut self, publish: &Publish) -> Result<Admission, Fault> {
        if publish.qos == Qos::AtMostOnce {
            return Ok(Admission::New);
        }
        if publish.qos == Qos::ExactlyOnce {
            match self.exchanges.get(&publish.packet_id) {
                Some(Received::Stored) => return Ok(Admission::Repeated),
                Some(Received::Storing) => return Ok(Admission::Pending),
                None => {}
            }
        }
        if self.is_full() && self.enforces {
            let text = "[MQTT-3.3.4-7] more messages in flight than the receive maximum";
            return Err(Fault::new(Reason::RECEIVE_MAX_EXCEEDED, text));
        }
        // As many as one connection may send and another one before it may have left. Without that,
        // there are as many as there are identifiers.
        if self.enforces
            && publish.qos == Qos::ExactlyOnce
            && self.exchanges.len() >= 2 * usize::from(self.receive_max)
        {
            let text = "too many messages of QoS 2 are not released";
            return Err(Fault::new(Reason::QUOTA_EXCEEDED, text));
        }
        self.unfinished = self.unfinished.saturating_add(1);
        if publish.qos == Qos::ExactlyOnce {
            self.exchanges.insert(publish.packet_id, Received::Storing);
        }
        Ok(Admission::New)
    }

    /// The store answered for a message.
    pub fn stored(&mut self, qos: Qos, packet_id: u16, reason: Reason) {
        match qos {
            Qos::AtMostOnce => {}
            Qos::ExactlyOnce if !reason.is_failure() => {
                self.exchanges.insert(packet_id, Received::Stored);
                self.unfinished = self.unfinished.saturating_sub(u16::from(!self.enforces));
            }
            Qos::ExactlyOnce => {
                self.exchanges.remove(&packet_id);
                self.unfinished = self.unfinished.saturating_sub(1);
            }
            Qos::AtLeastOnce => self.unfinished = self.unfinished.saturating_sub(1),
        }
    }

    /// The client released an exchange; tells whether there was one.
    pub fn release(&mut self, packet_id: u16) -> bool {
        if self.exchanges.get(&packet_id) != Some(&Received::Stored) {
            return false;
        }
        self.exchanges.remove(&packet_id);
        self.unfinished = self.unfinished.saturating_sub(u16::from(self.enforces));
        true
    }
}
