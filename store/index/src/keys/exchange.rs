//! A durable exchange as declared.

use bytes::{BufMut, Bytes};
use mainstem_schemas::{
    Position, Table,
    value::{decode_table, encode_table},
    wire::{self, Reader, Short},
};

use super::{Entity, KeyKind, KeyReader, field};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExchangeKey {
    pub namespace: String,
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExchangeValue {
    /// The routing rule's number; its meaning is the broker's.
    pub kind: u8,
    pub auto_delete: bool,
    pub internal: bool,
    /// The log entry that declared it.
    pub home: Position,
    pub arguments: Table,
}

const AUTO_DELETE: u8 = 1;
const INTERNAL: u8 = 2;

impl Entity for ExchangeKey {
    const KIND: KeyKind = KeyKind::Exchange;
    type Value = ExchangeValue;

    fn ser_key(&self, out: &mut Vec<u8>) {
        field::put_blob(out, self.namespace.as_bytes());
        out.put_slice(self.name.as_bytes());
    }

    fn deser_key(reader: &mut KeyReader) -> Result<Self, Short> {
        Ok(Self { namespace: reader.text()?, name: reader.last_text()? })
    }

    fn ser_value(value: &ExchangeValue, out: &mut Vec<u8>) {
        let mut flags = 0;
        if value.auto_delete {
            flags |= AUTO_DELETE;
        }
        if value.internal {
            flags |= INTERNAL;
        }
        out.put_u8(value.kind);
        out.put_u8(flags);
        wire::put_varint(out, value.home.0);
        encode_table(&value.arguments, out);
    }

    fn deser_value(bytes: Bytes) -> Result<ExchangeValue, Short> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u8()?;
        let flags = reader.u8()?;
        if flags & !(AUTO_DELETE | INTERNAL) != 0 {
            return Err(Short);
        }
        Ok(ExchangeValue {
            kind,
            auto_delete: flags & AUTO_DELETE != 0,
            internal: flags & INTERNAL != 0,
            home: Position(reader.varint()?),
            arguments: decode_table(reader.rest())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::tests::{check, check_noise, noise, table, text};

    proptest! {
        #[test]
        fn reads_back(
            namespace in text(), name in text(),
            kind: u8, auto_delete: bool, internal: bool, home: u64,
            arguments in table(),
        ) {
            let home = Position(home);
            let value = ExchangeValue { kind, auto_delete, internal, home, arguments };
            check(&ExchangeKey { namespace, name }, &value);
        }

        #[test]
        fn noise_never_panics(noise in noise()) {
            check_noise::<ExchangeKey>(&noise);
        }
    }
}
