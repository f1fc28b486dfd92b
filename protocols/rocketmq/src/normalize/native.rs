//! The native block of a RocketMQ record: what its sender said about it, as a protobuf message.

use std::collections::BTreeMap;

use mainstem_schemas::Record;
use prost::Message as _;

use crate::codec::proto::SystemProperties;

/// The sender's properties. Persisted: never renumber the tags. Field 1 is the protocol's own
/// message without what belongs to a delivery, and with the digest that the server made.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Native {
    #[prost(message, optional, tag = "1")]
    pub system: Option<SystemProperties>,
    /// In the order of their names, so that equal messages have equal bytes.
    #[prost(btree_map = "string, string", tag = "2")]
    pub properties: BTreeMap<String, String>,
}

impl Native {
    /// The native block of a record; empty when its bytes are none.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        Self::decode(record.native()).unwrap_or_default()
    }
}
