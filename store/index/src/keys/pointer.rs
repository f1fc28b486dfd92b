//! A frame of the log that points to an older body, found from the body.

use bytes::{BufMut, Bytes};
use mainstem_schemas::{
    Position,
    wire::{self, Reader, Short},
};

use super::{Entity, KeyKind, KeyReader};

/// Its value is the size of the frame in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PointerKey {
    pub body: Position,
    pub frame: Position,
}

impl Entity for PointerKey {
    const KIND: KeyKind = KeyKind::Pointer;
    type Value = u32;

    fn ser_key(&self, out: &mut Vec<u8>) {
        out.put_u64(self.body.0);
        out.put_u64(self.frame.0);
    }

    fn deser_key(reader: &mut KeyReader) -> Result<Self, Short> {
        Ok(Self { body: Position(reader.u64()?), frame: Position(reader.u64()?) })
    }

    fn ser_value(value: &u32, out: &mut Vec<u8>) {
        wire::put_varint(out, u64::from(*value));
    }

    fn deser_value(bytes: Bytes) -> Result<u32, Short> {
        let mut reader = Reader::new(bytes);
        let size = u32::try_from(reader.varint()?).map_err(|_| Short)?;
        if reader.is_empty() { Ok(size) } else { Err(Short) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::tests::{check, check_noise, check_order, noise};

    proptest! {
        #[test]
        fn reads_back(body: u64, frame: u64, size: u32) {
            check(&PointerKey { body: Position(body), frame: Position(frame) }, &size);
        }

        #[test]
        fn noise_never_panics(noise in noise()) {
            check_noise::<PointerKey>(&noise);
        }
    }

    #[test]
    fn key_order_is_by_body_then_frame() {
        let key = |body, frame| PointerKey { body: Position(body), frame: Position(frame) };
        check_order(&key(255, 900), &key(256, 300));
        check_order(&key(1, 255), &key(1, 256));
    }
}
