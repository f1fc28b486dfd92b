//! A body that waits for a time or a decision.

use bytes::{BufMut, Bytes};
use mainstem_schemas::{
    Position, UnixMillis,
    wire::{self, Reader, Short},
};

use super::{Entity, KeyKind, KeyReader};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeldKey {
    pub due: UnixMillis,
    pub position: Position,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldValue {
    /// Bytes of the record at that position.
    pub size: u32,
    /// What it waits for; the meaning is the broker's.
    pub kind: u8,
}

impl Entity for HeldKey {
    const KIND: KeyKind = KeyKind::Held;
    type Value = HeldValue;

    fn ser_key(&self, out: &mut Vec<u8>) {
        out.put_u64(self.due.0);
        out.put_u64(self.position.0);
    }

    fn deser_key(reader: &mut KeyReader) -> Result<Self, Short> {
        Ok(Self { due: UnixMillis(reader.u64()?), position: Position(reader.u64()?) })
    }

    fn ser_value(value: &HeldValue, out: &mut Vec<u8>) {
        out.put_u8(value.kind);
        wire::put_varint(out, u64::from(value.size));
    }

    fn deser_value(bytes: Bytes) -> Result<HeldValue, Short> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u8()?;
        let size = u32::try_from(reader.varint()?).map_err(|_| Short)?;
        if reader.is_empty() { Ok(HeldValue { size, kind }) } else { Err(Short) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::tests::{check, check_noise, check_order, noise};

    proptest! {
        #[test]
        fn reads_back(due: u64, position: u64, size: u32, kind: u8) {
            let key = HeldKey { due: UnixMillis(due), position: Position(position) };
            check(&key, &HeldValue { size, kind });
        }

        #[test]
        fn noise_never_panics(noise in noise()) {
            check_noise::<HeldKey>(&noise);
        }
    }

    #[test]
    fn key_order_is_by_time_then_position() {
        let key = |due, position| HeldKey { due: UnixMillis(due), position: Position(position) };
        check_order(&key(255, 9), &key(256, 1));
        check_order(&key(1, 255), &key(1, 256));
    }
}
