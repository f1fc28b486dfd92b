//! A durable binding from an exchange to a queue or to another exchange.

use bytes::{BufMut, Bytes};
use mainstem_schemas::{
    Position, QueueId,
    wire::{self, Reader, Short},
};

use super::{Entity, KeyKind, KeyReader, field};

/// What a binding does; two bindings that differ in arguments alone are two.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BindingKey {
    pub namespace: String,
    pub source: String,
    pub to_exchange: bool,
    /// A queue's name, or with `to_exchange` an exchange's.
    pub destination: String,
    pub key: Bytes,
    /// The stored form of the argument table (`schemas::value::encode_table`).
    pub arguments: Bytes,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BindingValue {
    /// The log entry that declared it.
    pub home: Position,
    /// The queue it leads to; 0 when it leads to an exchange.
    pub queue: QueueId,
}

impl Entity for BindingKey {
    const KIND: KeyKind = KeyKind::Binding;
    type Value = BindingValue;

    fn ser_key(&self, out: &mut Vec<u8>) {
        field::put_blob(out, self.namespace.as_bytes());
        field::put_blob(out, self.source.as_bytes());
        field::put_bool(out, self.to_exchange);
        field::put_blob(out, self.destination.as_bytes());
        field::put_blob(out, &self.key);
        out.put_slice(&self.arguments);
    }

    fn deser_key(reader: &mut KeyReader) -> Result<Self, Short> {
        Ok(Self {
            namespace: reader.text()?,
            source: reader.text()?,
            to_exchange: reader.bool()?,
            destination: reader.text()?,
            key: reader.blob()?,
            arguments: reader.last_blob(),
        })
    }

    fn ser_value(value: &BindingValue, out: &mut Vec<u8>) {
        wire::put_varint(out, value.home.0);
        wire::put_varint(out, value.queue.0);
    }

    fn deser_value(bytes: Bytes) -> Result<BindingValue, Short> {
        let mut reader = Reader::new(bytes);
        let (home, queue) = (Position(reader.varint()?), QueueId(reader.varint()?));
        if reader.is_empty() { Ok(BindingValue { home, queue }) } else { Err(Short) }
    }
}

#[cfg(test)]
mod tests {
    use mainstem_schemas::value::encode_table;
    use proptest::prelude::*;

    use super::*;
    use crate::keys::tests::{check, check_noise, noise, table, text};

    proptest! {
        #[test]
        fn reads_back(
            namespace in text(), source in text(), to_exchange: bool, destination in text(),
            key in noise(), table in table(), home: u64, queue: u64,
        ) {
            let mut arguments = Vec::new();
            encode_table(&table, &mut arguments);
            let (key, arguments) = (key.into(), arguments.into());
            let key = BindingKey { namespace, source, to_exchange, destination, key, arguments };
            check(&key, &BindingValue { home: Position(home), queue: QueueId(queue) });
        }

        #[test]
        fn noise_never_panics(noise in noise()) {
            check_noise::<BindingKey>(&noise);
        }
    }
}
