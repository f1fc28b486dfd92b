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
    /// Where the body stood first: its name for as long as it is held.
    pub origin: Position,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldValue {
    /// Where the body stands now.
    pub position: Position,
    /// Bytes of its entry.
    pub size: u32,
    /// Whose it is.
    pub namespace: String,
}

impl Entity for HeldKey {
    const KIND: KeyKind = KeyKind::Held;
    type Value = HeldValue;

    fn ser_key(&self, out: &mut Vec<u8>) {
        out.put_u64(self.due.0);
        out.put_u64(self.origin.0);
    }

    fn deser_key(reader: &mut KeyReader) -> Result<Self, Short> {
        Ok(Self { due: UnixMillis(reader.u64()?), origin: Position(reader.u64()?) })
    }

    fn ser_value(value: &HeldValue, out: &mut Vec<u8>) {
        wire::put_varint(out, value.position.0);
        wire::put_varint(out, u64::from(value.size));
        wire::put_blob(out, value.namespace.as_bytes());
    }

    fn deser_value(bytes: Bytes) -> Result<HeldValue, Short> {
        let mut reader = Reader::new(bytes);
        let position = Position(reader.varint()?);
        let size = u32::try_from(reader.varint()?).map_err(|_| Short)?;
        let namespace = reader.text()?;
        if reader.is_empty() { Ok(HeldValue { position, size, namespace }) } else { Err(Short) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::tests::{check, check_noise, check_order, noise};

    proptest! {
        #[test]
        fn reads_back(due: u64, origin: u64, position: u64, size: u32, namespace: String) {
            let key = HeldKey { due: UnixMillis(due), origin: Position(origin) };
            check(&key, &HeldValue { position: Position(position), size, namespace });
        }

        #[test]
        fn noise_never_panics(noise in noise()) {
            check_noise::<HeldKey>(&noise);
        }
    }

    #[test]
    fn key_order_is_by_time_then_position() {
        let key = |due, origin| HeldKey { due: UnixMillis(due), origin: Position(origin) };
        check_order(&key(255, 9), &key(256, 1));
        check_order(&key(1, 255), &key(1, 256));
    }
}
