//! A durable queue as declared.

use bytes::{BufMut, Bytes};
use mainstem_schemas::{
    Filter, Position, QueueId, Table,
    value::{decode_table, encode_table},
    wire::{self, Reader, Short},
};

use super::{Entity, KeyKind, KeyReader, field};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueKey {
    pub queue: QueueId,
}

#[derive(Clone, Debug, PartialEq)]
pub struct QueueValue {
    pub namespace: String,
    pub name: QueueName,
    pub auto_delete: bool,
    /// The retention rule's number; its meaning is the broker's.
    pub retention: u8,
    /// The log entry that declared it as it is now.
    pub home: Position,
    /// The rules it keeps to; their meaning is the broker's.
    pub policy: Bytes,
    pub arguments: Table,
}

/// What a queue is found by. Persisted: never renumber the tags below.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum QueueName {
    /// A name that was declared.
    Named(String),
    /// What the durable subscribers of one filter share.
    Filter(Filter),
    /// What a topic keeps.
    Topic(String),
}

const NAMED: u8 = 0;
const FILTER: u8 = 1;
const TOPIC: u8 = 2;

impl QueueName {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Named(name) => {
                out.put_u8(NAMED);
                wire::put_blob(out, name.as_bytes());
            }
            Self::Filter(filter) => {
                out.put_u8(FILTER);
                filter.encode(out);
            }
            Self::Topic(topic) => {
                out.put_u8(TOPIC);
                wire::put_blob(out, topic.as_bytes());
            }
        }
    }

    fn decode(reader: &mut Reader) -> Result<Self, Short> {
        match reader.u8()? {
            NAMED => Ok(Self::Named(reader.text()?)),
            FILTER => Ok(Self::Filter(Filter::decode(reader)?)),
            TOPIC => Ok(Self::Topic(reader.text()?)),
            _ => Err(Short),
        }
    }
}

impl Entity for QueueKey {
    const KIND: KeyKind = KeyKind::Queue;
    type Value = QueueValue;

    fn ser_key(&self, out: &mut Vec<u8>) {
        out.put_u64(self.queue.0);
    }

    fn deser_key(reader: &mut KeyReader) -> Result<Self, Short> {
        Ok(Self { queue: QueueId(reader.u64()?) })
    }

    fn ser_value(value: &QueueValue, out: &mut Vec<u8>) {
        wire::put_blob(out, value.namespace.as_bytes());
        value.name.encode(out);
        field::put_bool(out, value.auto_delete);
        out.put_u8(value.retention);
        wire::put_varint(out, value.home.0);
        wire::put_blob(out, &value.policy);
        encode_table(&value.arguments, out);
    }

    fn deser_value(bytes: Bytes) -> Result<QueueValue, Short> {
        let mut reader = Reader::new(bytes);
        Ok(QueueValue {
            namespace: reader.text()?,
            name: QueueName::decode(&mut reader)?,
            auto_delete: field::read_bool(&mut reader)?,
            retention: reader.u8()?,
            home: Position(reader.varint()?),
            policy: reader.blob()?,
            arguments: decode_table(reader.rest())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::tests::{check, check_noise, check_order, filter, noise, table, text};

    fn name() -> impl Strategy<Value = QueueName> {
        prop_oneof![
            text().prop_map(QueueName::Named),
            filter().prop_map(QueueName::Filter),
            text().prop_map(QueueName::Topic),
        ]
    }

    proptest! {
        #[test]
        fn reads_back(
            queue: u64, namespace in text(), name in name(),
            auto_delete: bool, retention: u8, home: u64, policy in noise(),
            arguments in table(),
        ) {
            let (home, policy) = (Position(home), policy.into());
            let value =
                QueueValue { namespace, name, auto_delete, retention, home, policy, arguments };
            check(&QueueKey { queue: QueueId(queue) }, &value);
        }

        #[test]
        fn noise_never_panics(noise in noise()) {
            check_noise::<QueueKey>(&noise);
        }
    }

    #[test]
    fn key_order_is_numeric() {
        check_order(&QueueKey { queue: QueueId(255) }, &QueueKey { queue: QueueId(256) });
    }
}
