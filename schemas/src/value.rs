//! A typed value, as headers and declaration arguments carry it, and its stored form.

use bytes::{BufMut, Bytes};

use crate::wire::{self, Reader, Short};

/// How deep arrays and tables may nest. Deeper ones are refused where they are read, so that no
/// peer can make us recurse without end.
pub const DEPTH_MAX: usize = 64;

/// A header's value. Two values are equal when type and content are.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Void,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// Digits after the point, and the unscaled value.
    Decimal(u8, u32),
    /// Seconds since the Unix epoch.
    Time(u64),
    Text(String),
    Bytes(Bytes),
    Array(Vec<Self>),
    Table(Table),
}

/// Names with values, in the sender's order.
pub type Table = Vec<(String, Value)>;

/// The value of this name; of two the first.
#[must_use]
pub fn find<'a>(table: &'a [(String, Value)], name: &str) -> Option<&'a Value> {
    table.iter().find(|(have, _)| have == name).map(|(_, value)| value)
}

impl Value {
    /// The text of a text value.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Void
            | Self::Bool(_)
            | Self::Int(_)
            | Self::Float(_)
            | Self::Decimal(..)
            | Self::Time(_)
            | Self::Bytes(_)
            | Self::Array(_)
            | Self::Table(_) => None,
        }
    }

    /// The number of an integer value.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        if let Self::Int(int) = self { Some(*int) } else { None }
    }

    /// The stored form: a tag byte, then the value. Persisted: never renumber the tags.
    pub fn encode(&self, out: &mut impl BufMut) {
        match self {
            Self::Void => out.put_u8(0),
            Self::Bool(value) => {
                out.put_u8(1);
                out.put_u8(u8::from(*value));
            }
            Self::Int(value) => {
                out.put_u8(2);
                out.put_i64_le(*value);
            }
            Self::Float(value) => {
                out.put_u8(3);
                out.put_u64_le(value.to_bits());
            }
            Self::Decimal(scale, value) => {
                out.put_u8(4);
                out.put_u8(*scale);
                out.put_u32_le(*value);
            }
            Self::Time(value) => {
                out.put_u8(5);
                out.put_u64_le(*value);
            }
            Self::Text(text) => {
                out.put_u8(6);
                wire::put_blob(out, text.as_bytes());
            }
            Self::Bytes(bytes) => {
                out.put_u8(7);
                wire::put_blob(out, bytes);
            }
            Self::Array(values) => {
                let mut inner = Vec::new();
                for value in values {
                    value.encode(&mut inner);
                }
                out.put_u8(8);
                wire::put_blob(out, &inner);
            }
            Self::Table(table) => {
                let mut inner = Vec::new();
                encode_table(table, &mut inner);
                out.put_u8(9);
                wire::put_blob(out, &inner);
            }
        }
    }

    /// Reads one stored value. Errors: the bytes are not one, or nest deeper than [`DEPTH_MAX`].
    pub fn decode(reader: &mut Reader) -> Result<Self, Short> {
        decode_value(reader, DEPTH_MAX)
    }
}

fn decode_value(reader: &mut Reader, depth: usize) -> Result<Value, Short> {
    let depth = depth.checked_sub(1).ok_or(Short)?;
    Ok(match reader.u8()? {
        0 => Value::Void,
        1 => Value::Bool(reader.u8()? != 0),
        2 => Value::Int(reader.u64()?.cast_signed()),
        3 => Value::Float(f64::from_bits(reader.u64()?)),
        4 => Value::Decimal(reader.u8()?, reader.u32()?),
        5 => Value::Time(reader.u64()?),
        6 => Value::Text(reader.text()?),
        7 => Value::Bytes(reader.blob()?),
        8 => {
            let mut inner = Reader::new(reader.blob()?);
            let mut values = Vec::new();
            while !inner.is_empty() {
                values.push(decode_value(&mut inner, depth)?);
            }
            Value::Array(values)
        }
        9 => Value::Table(decode_entries(Reader::new(reader.blob()?), depth)?),
        _ => return Err(Short),
    })
}

fn decode_entries(mut reader: Reader, depth: usize) -> Result<Table, Short> {
    let mut table = Table::new();
    while !reader.is_empty() {
        let name = reader.text()?;
        table.push((name, decode_value(&mut reader, depth)?));
    }
    Ok(table)
}

/// The stored form of a table: each name behind its length, then its value.
pub fn encode_table(table: &Table, out: &mut impl BufMut) {
    for (name, value) in table {
        wire::put_blob(out, name.as_bytes());
        value.encode(out);
    }
}

/// Reads a stored table that fills `bytes`.
pub fn decode_table(bytes: Bytes) -> Result<Table, Short> {
    decode_entries(Reader::new(bytes), DEPTH_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_every_type_reads_back() {
        let table = vec![
            ("void".to_owned(), Value::Void),
            ("bool".to_owned(), Value::Bool(true)),
            ("int".to_owned(), Value::Int(-5)),
            ("float".to_owned(), Value::Float(1.5)),
            ("decimal".to_owned(), Value::Decimal(2, 314)),
            ("time".to_owned(), Value::Time(1_700_000_000)),
            ("bytes".to_owned(), Value::Bytes(Bytes::from_static(&[0, 255]))),
            (
                "array".to_owned(),
                Value::Array(vec![Value::Text("a".to_owned()), Value::Table(Table::new())]),
            ),
        ];
        let mut out = Vec::new();
        encode_table(&table, &mut out);
        assert_eq!(decode_table(out.into()), Ok(table));
    }

    #[test]
    fn nesting_past_the_bound_is_refused() {
        let mut value = Value::Void;
        for _ in 0..DEPTH_MAX {
            value = Value::Array(vec![value]);
        }
        let mut out = Vec::new();
        value.encode(&mut out);
        assert_eq!(Value::decode(&mut Reader::new(out.into())), Err(Short));
    }
}
