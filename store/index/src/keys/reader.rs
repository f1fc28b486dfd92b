//! A queue that is found by a filter or a topic, not by its name.

use bytes::{BufMut, Bytes};
use mainstem_schemas::{QueueId, wire::Short};

use super::{Entity, KeyKind, KeyReader};

/// All of them are loaded at start: a published record may be for any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReaderKey {
    pub queue: QueueId,
}

impl Entity for ReaderKey {
    const KIND: KeyKind = KeyKind::Reader;
    type Value = ();

    fn ser_key(&self, out: &mut Vec<u8>) {
        out.put_u64(self.queue.0);
    }

    fn deser_key(reader: &mut KeyReader) -> Result<Self, Short> {
        Ok(Self { queue: QueueId(reader.u64()?) })
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
        fn reads_back(queue: u64) {
            check(&ReaderKey { queue: QueueId(queue) }, &());
        }

        #[test]
        fn noise_never_panics(noise in noise()) {
            check_noise::<ReaderKey>(&noise);
        }
    }

    #[test]
    fn key_order_is_numeric() {
        check_order(&ReaderKey { queue: QueueId(255) }, &ReaderKey { queue: QueueId(256) });
    }
}
