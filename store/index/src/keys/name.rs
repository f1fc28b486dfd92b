//! The durable queue of a declared name.

use bytes::{BufMut, Bytes};
use mainstem_schemas::{
    QueueId,
    wire::{self, Reader, Short},
};

use super::{Entity, KeyKind, KeyReader, field};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameKey {
    pub namespace: String,
    pub name: String,
}

impl Entity for NameKey {
    const KIND: KeyKind = KeyKind::Name;
    type Value = QueueId;

    fn ser_key(&self, out: &mut Vec<u8>) {
        field::put_blob(out, self.namespace.as_bytes());
        out.put_slice(self.name.as_bytes());
    }

    fn deser_key(reader: &mut KeyReader) -> Result<Self, Short> {
        Ok(Self { namespace: reader.text()?, name: reader.last_text()? })
    }

    fn ser_value(value: &QueueId, out: &mut Vec<u8>) {
        wire::put_varint(out, value.0);
    }

    fn deser_value(bytes: Bytes) -> Result<QueueId, Short> {
        let mut reader = Reader::new(bytes);
        let queue = QueueId(reader.varint()?);
        if reader.is_empty() { Ok(queue) } else { Err(Short) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::tests::{check, check_noise, noise, text};

    proptest! {
        #[test]
        fn reads_back(namespace in text(), name in text(), queue: u64) {
            check(&NameKey { namespace, name }, &QueueId(queue));
        }

        #[test]
        fn noise_never_panics(noise in noise()) {
            check_noise::<NameKey>(&noise);
        }
    }
}
