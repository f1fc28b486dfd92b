//! A setting that is kept with the data: a policy, a limit.

use bytes::{BufMut, Bytes};
use mainstem_schemas::{
    Position, Table,
    value::{decode_table, encode_table},
    wire::{self, Reader, Short},
};

use super::{Entity, KeyKind, KeyReader, field};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParameterKey {
    /// Empty for one of no namespace.
    pub namespace: String,
    /// What kind of setting it is; its meaning is the broker's.
    pub component: String,
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParameterValue {
    /// The log entry that says so.
    pub home: Position,
    pub value: Table,
}

impl Entity for ParameterKey {
    const KIND: KeyKind = KeyKind::Parameter;
    type Value = ParameterValue;

    fn ser_key(&self, out: &mut Vec<u8>) {
        field::put_blob(out, self.namespace.as_bytes());
        field::put_blob(out, self.component.as_bytes());
        out.put_slice(self.name.as_bytes());
    }

    fn deser_key(reader: &mut KeyReader) -> Result<Self, Short> {
        let (namespace, component) = (reader.text()?, reader.text()?);
        Ok(Self { namespace, component, name: reader.last_text()? })
    }

    fn ser_value(value: &ParameterValue, out: &mut Vec<u8>) {
        wire::put_varint(out, value.home.0);
        encode_table(&value.value, out);
    }

    fn deser_value(bytes: Bytes) -> Result<ParameterValue, Short> {
        let mut reader = Reader::new(bytes);
        let home = Position(reader.varint()?);
        Ok(ParameterValue { home, value: decode_table(reader.rest())? })
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
            namespace in text(), component in text(), name in text(), home: u64, value in table(),
        ) {
            let key = ParameterKey { namespace, component, name };
            check(&key, &ParameterValue { home: Position(home), value });
        }

        #[test]
        fn noise_never_panics(noise in noise()) {
            check_noise::<ParameterKey>(&noise);
        }
    }
}
