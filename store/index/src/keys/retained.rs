//! The record retained for an address.

use bytes::{BufMut, Bytes};
use mainstem_schemas::{
    Path, Position, UnixMillis,
    wire::{self, Reader, Short},
};

use super::{Entity, KeyKind, KeyReader, field};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RetainedKey {
    pub namespace: String,
    pub path: Path,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedValue {
    pub position: Position,
    /// Bytes of the record at that position.
    pub size: u32,
    /// When it stops being retained; not set for never.
    pub expiry: UnixMillis,
}

impl Entity for RetainedKey {
    const KIND: KeyKind = KeyKind::Retained;
    type Value = RetainedValue;

    fn ser_key(&self, out: &mut Vec<u8>) {
        field::put_blob(out, self.namespace.as_bytes());
        out.put_slice(self.path.raw());
    }

    fn deser_key(reader: &mut KeyReader) -> Result<Self, Short> {
        let namespace = reader.text()?;
        let path = Path::from_raw(reader.last_blob());
        // A path is not checked where it is made; one that its segments do not fill is damaged.
        let filled: usize = path.segments().map(|segment| 2 + segment.len()).sum();
        if filled != path.raw().len() {
            return Err(Short);
        }
        Ok(Self { namespace, path })
    }

    fn ser_value(value: &RetainedValue, out: &mut Vec<u8>) {
        wire::put_varint(out, value.position.0);
        wire::put_varint(out, u64::from(value.size));
        wire::put_varint(out, value.expiry.0);
    }

    fn deser_value(bytes: Bytes) -> Result<RetainedValue, Short> {
        let mut reader = Reader::new(bytes);
        let value = RetainedValue {
            position: Position(reader.varint()?),
            size: u32::try_from(reader.varint()?).map_err(|_| Short)?,
            expiry: UnixMillis(reader.varint()?),
        };
        if reader.is_empty() { Ok(value) } else { Err(Short) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::tests::{check, check_noise, noise, text};

    proptest! {
        #[test]
        fn reads_back(
            namespace in text(), segments in prop::collection::vec(noise(), 0..5),
            position: u64, size: u32, expiry: u64,
        ) {
            let (position, expiry) = (Position(position), UnixMillis(expiry));
            let value = RetainedValue { position, size, expiry };
            check(&RetainedKey { namespace, path: Path::of(segments) }, &value);
        }

        #[test]
        fn noise_never_panics(noise in noise()) {
            check_noise::<RetainedKey>(&noise);
        }
    }
}
