//! An entry of a queue, found by the hash of a key or an id.

use bytes::{BufMut, Bytes};
use mainstem_schemas::{Offset, QueueId, wire::Short};

use super::{Entity, KeyKind, KeyReader};

/// Two keys may have one hash: what is found is compared with the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LookupKey {
    pub queue: QueueId,
    /// Grows with time, so that old lookups are deleted by the range; its meaning is the broker's.
    pub bucket: u64,
    pub hash: u64,
    pub offset: Offset,
}

impl Entity for LookupKey {
    const KIND: KeyKind = KeyKind::Lookup;
    type Value = ();

    fn ser_key(&self, out: &mut Vec<u8>) {
        out.put_u64(self.queue.0);
        out.put_u64(self.bucket);
        out.put_u64(self.hash);
        out.put_u64(self.offset.0);
    }

    fn deser_key(reader: &mut KeyReader) -> Result<Self, Short> {
        Ok(Self {
            queue: QueueId(reader.u64()?),
            bucket: reader.u64()?,
            hash: reader.u64()?,
            offset: Offset(reader.u64()?),
        })
    }

    fn ser_value((): &(), _out: &mut Vec<u8>) {}

    fn deser_value(bytes: Bytes) -> Result<(), Short> {
        if bytes.is_empty() { Ok(()) } else { Err(Short) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::tests::{check, check_noise, check_order, noise};

    proptest! {
        #[test]
        fn reads_back(queue: u64, bucket: u64, hash: u64, offset: u64) {
            let (queue, offset) = (QueueId(queue), Offset(offset));
            check(&LookupKey { queue, bucket, hash, offset }, &());
        }

        #[test]
        fn noise_never_panics(noise in noise()) {
            check_noise::<LookupKey>(&noise);
        }
    }

    #[test]
    fn key_order_is_by_queue_bucket_hash_then_offset() {
        let key = |queue, bucket, hash, offset| LookupKey {
            queue: QueueId(queue),
            bucket,
            hash,
            offset: Offset(offset),
        };
        check_order(&key(255, 9, 9, 9), &key(256, 1, 1, 1));
        check_order(&key(1, 255, 9, 9), &key(1, 256, 1, 1));
        check_order(&key(1, 1, 255, 9), &key(1, 1, 256, 1));
        check_order(&key(1, 1, 1, 1 << 56), &key(1, 1, 1, 2 << 56));
    }
}
