//! Topic aliases towards the client: the first topics of a connection get one each, as many as the
//! client takes ([MQTT-3.1.2-26]).

use bytes::Bytes;
use rustc_hash::FxHashMap;

/// How a topic is named in a PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// In full.
    Full,
    /// In full, and under this alias from now on, if the packet is sent.
    First(u16),
    /// By this alias alone.
    Alias(u16),
}

/// The aliases of one connection.
#[derive(Debug, Default)]
pub struct Aliases {
    known: FxHashMap<Bytes, u16>,
    max: u16,
}

impl Aliases {
    /// Aliases up to `max`; none for 0.
    #[must_use]
    pub fn new(max: u16) -> Self {
        Self { known: FxHashMap::default(), max }
    }

    /// How to name `topic` in the next packet.
    #[must_use]
    pub fn name(&self, topic: &[u8]) -> Naming {
        if self.max == 0 {
            return Naming::Full;
        }
        if let Some(alias) = self.known.get(topic) {
            return Naming::Alias(*alias);
        }
        let next = u16::try_from(self.known.len() + 1).ok().filter(|next| *next <= self.max);
        next.map_or(Naming::Full, Naming::First)
    }

    /// The packet that named `topic` so is on its way.
    pub fn sent(&mut self, topic: &[u8], naming: Naming) {
        if let Naming::First(alias) = naming {
            self.known.insert(Bytes::copy_from_slice(topic), alias);
        }
    }
}
