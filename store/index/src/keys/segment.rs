//! What is still wanted of a segment of the log.

use bytes::{BufMut, Bytes};
use mainstem_schemas::wire::{self, Reader, Short};

use super::{Entity, KeyKind, KeyReader};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentKey {
    pub number: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentValue {
    /// How often something in it is referred to.
    pub refs: u64,
    /// Bytes that are referred to.
    pub bytes: u64,
}

impl Entity for SegmentKey {
    const KIND: KeyKind = KeyKind::Segment;
    type Value = SegmentValue;

    fn ser_key(&self, out: &mut Vec<u8>) {
        out.put_u64(self.number);
    }

    fn deser_key(reader: &mut KeyReader) -> Result<Self, Short> {
        Ok(Self { number: reader.u64()? })
    }

    fn ser_value(value: &SegmentValue, out: &mut Vec<u8>) {
        wire::put_varint(out, value.refs);
        wire::put_varint(out, value.bytes);
    }

    fn deser_value(bytes: Bytes) -> Result<SegmentValue, Short> {
        let mut reader = Reader::new(bytes);
        let value = SegmentValue { refs: reader.varint()?, bytes: reader.varint()? };
        if reader.is_empty() { Ok(value) } else { Err(Short) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::tests::{check, check_noise, check_order, noise};

    proptest! {
        #[test]
        fn reads_back(number: u64, refs: u64, bytes: u64) {
            check(&SegmentKey { number }, &SegmentValue { refs, bytes });
        }

        #[test]
        fn noise_never_panics(noise in noise()) {
            check_noise::<SegmentKey>(&noise);
        }
    }

    #[test]
    fn key_order_is_numeric() {
        check_order(&SegmentKey { number: 255 }, &SegmentKey { number: 256 });
    }
}
