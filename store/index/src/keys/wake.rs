//! When to look at a queue though nobody touches it.

use bytes::{BufMut, Bytes};
use mainstem_schemas::{QueueId, UnixMillis, wire::Short};

use super::{Entity, KeyKind, KeyReader};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WakeKey {
    pub at: UnixMillis,
    pub queue: QueueId,
}

impl Entity for WakeKey {
    const KIND: KeyKind = KeyKind::Wake;
    type Value = ();

    fn ser_key(&self, out: &mut Vec<u8>) {
        out.put_u64(self.at.0);
        out.put_u64(self.queue.0);
    }

    fn deser_key(reader: &mut KeyReader) -> Result<Self, Short> {
        Ok(Self { at: UnixMillis(reader.u64()?), queue: QueueId(reader.u64()?) })
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
        fn reads_back(at: u64, queue: u64) {
            check(&WakeKey { at: UnixMillis(at), queue: QueueId(queue) }, &());
        }

        #[test]
        fn noise_never_panics(noise in noise()) {
            check_noise::<WakeKey>(&noise);
        }
    }

    #[test]
    fn key_order_is_by_time_then_queue() {
        let key = |at, queue| WakeKey { at: UnixMillis(at), queue: QueueId(queue) };
        check_order(&key(255, 9), &key(256, 1));
        check_order(&key(1, 255), &key(1, 256));
    }
}
