//! How far a writer that numbers its records has come.

use bytes::{BufMut, Bytes};
use mainstem_schemas::{
    Position, UnixMillis,
    wire::{self, Reader, Short},
};

use super::{Entity, KeyKind, KeyReader, field};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriterKey {
    pub namespace: String,
    pub writer: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriterValue {
    /// The number of its last record.
    pub sequence: u64,
    /// When that came.
    pub seen: UnixMillis,
    /// The log entry that says so.
    pub home: Position,
}

impl Entity for WriterKey {
    const KIND: KeyKind = KeyKind::Writer;
    type Value = WriterValue;

    fn ser_key(&self, out: &mut Vec<u8>) {
        field::put_blob(out, self.namespace.as_bytes());
        out.put_slice(self.writer.as_bytes());
    }

    fn deser_key(reader: &mut KeyReader) -> Result<Self, Short> {
        Ok(Self { namespace: reader.text()?, writer: reader.last_text()? })
    }

    fn ser_value(value: &WriterValue, out: &mut Vec<u8>) {
        wire::put_varint(out, value.sequence);
        wire::put_varint(out, value.seen.0);
        wire::put_varint(out, value.home.0);
    }

    fn deser_value(bytes: Bytes) -> Result<WriterValue, Short> {
        let mut reader = Reader::new(bytes);
        let value = WriterValue {
            sequence: reader.varint()?,
            seen: UnixMillis(reader.varint()?),
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
        fn reads_back(
            namespace in text(), writer in text(), sequence: u64, seen: u64, home: u64,
        ) {
            let (seen, home) = (UnixMillis(seen), Position(home));
            check(&WriterKey { namespace, writer }, &WriterValue { sequence, seen, home });
        }

        #[test]
        fn noise_never_panics(noise in noise()) {
            check_noise::<WriterKey>(&noise);
        }
    }
}
