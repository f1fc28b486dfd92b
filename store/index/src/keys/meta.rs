//! How far the log is applied to this index, and the version of its layout.

use bytes::{BufMut, Bytes};
use mainstem_schemas::{
    Position,
    wire::{Reader, Short},
};

use super::{Entity, KeyKind, KeyReader};

/// The only key of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaKey;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaValue {
    /// The log is applied up to here.
    pub applied: Position,
    /// The version of the layout; an index of another version is built again from the log.
    pub version: u16,
}

impl Entity for MetaKey {
    const KIND: KeyKind = KeyKind::Meta;
    type Value = MetaValue;

    fn ser_key(&self, _out: &mut Vec<u8>) {}

    fn deser_key(_reader: &mut KeyReader) -> Result<Self, Short> {
        Ok(Self)
    }

    fn ser_value(value: &MetaValue, out: &mut Vec<u8>) {
        out.put_u64_le(value.applied.0);
        out.put_u16_le(value.version);
    }

    fn deser_value(bytes: Bytes) -> Result<MetaValue, Short> {
        let mut reader = Reader::new(bytes);
        let value = MetaValue { applied: Position(reader.u64()?), version: reader.u16()? };
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
        fn reads_back(applied: u64, version: u16) {
            check(&MetaKey, &MetaValue { applied: Position(applied), version });
        }

        #[test]
        fn noise_never_panics(noise in noise()) {
            check_noise::<MetaKey>(&noise);
        }
    }
}
