//! Where a queue begins and ends.

use bytes::{BufMut, Bytes};
use mainstem_schemas::{
    Offset, QueueId,
    wire::{self, Reader, Short},
};

use super::{Entity, KeyKind, KeyReader};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueStateKey {
    pub queue: QueueId,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStateValue {
    /// The trim floor: nothing below it is kept.
    pub first: Offset,
    /// The offset of the next record.
    pub next: Offset,
    /// Spare.
    pub cursors_next: u64,
}

impl Entity for QueueStateKey {
    const KIND: KeyKind = KeyKind::QueueState;
    type Value = QueueStateValue;

    fn ser_key(&self, out: &mut Vec<u8>) {
        out.put_u64(self.queue.0);
    }

    fn deser_key(reader: &mut KeyReader) -> Result<Self, Short> {
        Ok(Self { queue: QueueId(reader.u64()?) })
    }

    fn ser_value(value: &QueueStateValue, out: &mut Vec<u8>) {
        wire::put_varint(out, value.first.0);
        wire::put_varint(out, value.next.0);
        wire::put_varint(out, value.cursors_next);
    }

    fn deser_value(bytes: Bytes) -> Result<QueueStateValue, Short> {
        let mut reader = Reader::new(bytes);
        let value = QueueStateValue {
            first: Offset(reader.varint()?),
            next: Offset(reader.varint()?),
            cursors_next: reader.varint()?,
        };
        if reader.is_empty() { Ok(value) } else { Err(Short) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::tests::{check, check_noise, noise};

    proptest! {
        #[test]
        fn reads_back(queue: u64, first: u64, next: u64, cursors_next: u64) {
            let (first, next) = (Offset(first), Offset(next));
            let value = QueueStateValue { first, next, cursors_next };
            check(&QueueStateKey { queue: QueueId(queue) }, &value);
        }

        #[test]
        fn noise_never_panics(noise in noise()) {
            check_noise::<QueueStateKey>(&noise);
        }
    }
}
