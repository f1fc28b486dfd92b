//! A kept session.

use bytes::{BufMut, Bytes};
use mainstem_schemas::{
    Position, UnixMillis,
    wire::{self, Reader, Short},
};

use super::{Entity, KeyKind, KeyReader, field};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey {
    pub namespace: String,
    pub id: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionValue {
    /// How long it is kept after its connection ended, in seconds; `u32::MAX` for ever.
    pub expiry_s: u32,
    /// When its connection ended; not set while it is attached.
    pub detached: UnixMillis,
    /// The log entry that says so.
    pub home: Position,
}

impl Entity for SessionKey {
    const KIND: KeyKind = KeyKind::Session;
    type Value = SessionValue;

    fn ser_key(&self, out: &mut Vec<u8>) {
        field::put_blob(out, self.namespace.as_bytes());
        out.put_slice(self.id.as_bytes());
    }

    fn deser_key(reader: &mut KeyReader) -> Result<Self, Short> {
        Ok(Self { namespace: reader.text()?, id: reader.last_text()? })
    }

    fn ser_value(value: &SessionValue, out: &mut Vec<u8>) {
        out.put_u32_le(value.expiry_s);
        out.put_u64_le(value.detached.0);
        wire::put_varint(out, value.home.0);
    }

    fn deser_value(bytes: Bytes) -> Result<SessionValue, Short> {
        let mut reader = Reader::new(bytes);
        let value = SessionValue {
            expiry_s: reader.u32()?,
            detached: UnixMillis(reader.u64()?),
            home: Position(reader.varint()?),
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
        fn reads_back(namespace in text(), id in text(), expiry_s: u32, detached: u64, home: u64) {
            let value = SessionValue { expiry_s, detached: UnixMillis(detached), home: Position(home) };
            check(&SessionKey { namespace, id }, &value);
        }

        #[test]
        fn noise_never_panics(noise in noise()) {
            check_noise::<SessionKey>(&noise);
        }
    }
}
