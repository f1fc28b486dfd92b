//! Field tables: names with typed values, in RabbitMQ's reading of the type tags.
//!
//! ```text
//! table:  ( name: short string | value )*          behind a u32 length
//! value:  tag:u8 | content
//! tags:   t bool   b i8  B u8  s,U i16  u u16  I i32  i u32  l,L i64  f f32  d f64
//!         D scale:u8 + i32   T u64 seconds   S long string   x bytes   V void   A array   F table
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use mainstem_schemas::{Table, Value, value::DEPTH_MAX};

use super::cursor::{Cursor, Malformed};

/// Whether these are a table's entries, well-formed to the last level and nested no deeper than
/// [`DEPTH_MAX`]. Walks with a fixed stack, so depth costs nothing.
pub fn check(entries: &[u8]) -> Result<(), Malformed> {
    // What is left of the outer levels, and whether each holds names.
    let mut outer: [(&[u8], bool); DEPTH_MAX] = [(&[], false); DEPTH_MAX];
    let mut depth = 0;
    let mut cursor = Cursor::new(entries);
    let mut named = true;
    loop {
        if cursor.is_empty() {
            if depth == 0 {
                return Ok(());
            }
            depth -= 1;
            let (rest, was_named) = *outer.get(depth).ok_or(Malformed)?;
            cursor = Cursor::new(rest);
            named = was_named;
            continue;
        }
        if named {
            cursor.short_string()?;
        }
        let tag = cursor.u8()?;
        let content = skip(tag, &mut cursor)?;
        if matches!(tag, b'A' | b'F') {
            // The level of the entries themselves counts as one.
            if depth + 1 >= DEPTH_MAX {
                return Err(Malformed);
            }
            *outer.get_mut(depth).ok_or(Malformed)? = (cursor.rest(), named);
            depth += 1;
            cursor = Cursor::new(content);
            named = tag == b'F';
        }
    }
}

/// Takes a value's content, without looking into it.
fn skip<'a>(tag: u8, cursor: &mut Cursor<'a>) -> Result<&'a [u8], Malformed> {
    match tag {
        b'V' => Ok(&[]),
        b't' | b'b' | b'B' => cursor.take(1),
        b's' | b'U' | b'u' => cursor.take(2),
        b'I' | b'i' | b'f' => cursor.take(4),
        b'l' | b'L' | b'd' | b'T' => cursor.take(8),
        b'D' => cursor.take(5),
        b'S' | b'x' | b'A' | b'F' => cursor.long_string(),
        _ => Err(Malformed),
    }
}

/// The top-level entries, unread: name, the whole entry's bytes, tag and content. Ends at the
/// first entry that is not well-formed.
pub fn entries(table: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    let mut cursor = Cursor::new(table);
    std::iter::from_fn(move || {
        let before = cursor.rest();
        let name = cursor.short_string().ok()?;
        let tag = cursor.u8().ok()?;
        let content = skip(tag, &mut cursor).ok()?;
        let raw = before.get(..before.len() - cursor.rest().len())?;
        Some(Entry { name, raw, tag, content })
    })
}

/// One entry of a table, unread.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    pub name: &'a [u8],
    /// Name, tag and content as they came.
    pub raw: &'a [u8],
    pub tag: u8,
    /// Without the length in front, where the tag has one.
    pub content: &'a [u8],
}

impl Entry<'_> {
    /// The value. Errors: it nests too deep.
    pub fn value(&self) -> Result<Value, Malformed> {
        value_of(self.tag, self.content, DEPTH_MAX)
    }
}

/// The long strings of an array's content; others are passed over, as RabbitMQ does for CC.
pub fn long_strings(array: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut cursor = Cursor::new(array);
    std::iter::from_fn(move || {
        loop {
            let tag = cursor.u8().ok()?;
            let content = skip(tag, &mut cursor).ok()?;
            if tag == b'S' {
                return Some(content);
            }
        }
    })
}

/// Reads a table's entries, in order, names kept as often as they come. Errors: malformed, or
/// nested deeper than [`DEPTH_MAX`].
pub fn parse(table: &Bytes) -> Result<Table, Malformed> {
    parse_entries(table, DEPTH_MAX)
}

fn parse_entries(table: &[u8], depth: usize) -> Result<Table, Malformed> {
    let mut cursor = Cursor::new(table);
    let mut out = Table::new();
    while !cursor.is_empty() {
        let name = String::from_utf8_lossy(cursor.short_string()?).into_owned();
        let tag = cursor.u8()?;
        let content = skip(tag, &mut cursor)?;
        out.push((name, value_of(tag, content, depth)?));
    }
    Ok(out)
}

fn value_of(tag: u8, content: &[u8], depth: usize) -> Result<Value, Malformed> {
    let mut cursor = Cursor::new(content);
    Ok(match tag {
        b'V' => Value::Void,
        b't' => Value::Bool(cursor.u8()? != 0),
        b'b' => Value::Int(i64::from(cursor.u8()?.cast_signed())),
        b'B' => Value::Int(i64::from(cursor.u8()?)),
        b's' | b'U' => Value::Int(i64::from(cursor.u16()?.cast_signed())),
        b'u' => Value::Int(i64::from(cursor.u16()?)),
        b'I' => Value::Int(i64::from(cursor.u32()?.cast_signed())),
        b'i' => Value::Int(i64::from(cursor.u32()?)),
        b'l' | b'L' => Value::Int(cursor.u64()?.cast_signed()),
        b'f' => Value::Float(f64::from(f32::from_bits(cursor.u32()?))),
        b'd' => Value::Float(f64::from_bits(cursor.u64()?)),
        b'D' => Value::Decimal(cursor.u8()?, cursor.u32()?),
        b'T' => Value::Time(cursor.u64()?),
        b'S' => match std::str::from_utf8(content) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => Value::Bytes(Bytes::copy_from_slice(content)),
        },
        b'x' => Value::Bytes(Bytes::copy_from_slice(content)),
        b'A' => {
            let depth = deeper(depth)?;
            let mut values = Vec::new();
            while !cursor.is_empty() {
                let tag = cursor.u8()?;
                let content = skip(tag, &mut cursor)?;
                values.push(value_of(tag, content, depth)?);
            }
            Value::Array(values)
        }
        b'F' => Value::Table(parse_entries(content, deeper(depth)?)?),
        _ => return Err(Malformed),
    })
}

/// The depth left below one more level; the level of the entries themselves counts as one.
fn deeper(depth: usize) -> Result<usize, Malformed> {
    if depth <= 1 { Err(Malformed) } else { Ok(depth - 1) }
}

/// Writes a table with its length. Names over 255 bytes are cut there.
pub fn put(out: &mut BytesMut, table: &[(String, Value)]) {
    put_behind_length(out, |out| {
        for (name, value) in table {
            put_short_string(out, name.as_bytes());
            put_value(out, value);
        }
    });
}

/// Writes a tag and a value.
pub fn put_value(out: &mut BytesMut, value: &Value) {
    match value {
        Value::Void => out.put_u8(b'V'),
        Value::Bool(value) => {
            out.put_u8(b't');
            out.put_u8(u8::from(*value));
        }
        Value::Int(value) => {
            out.put_u8(b'l');
            out.put_i64(*value);
        }
        Value::Float(value) => {
            out.put_u8(b'd');
            out.put_f64(*value);
        }
        Value::Decimal(scale, value) => {
            out.put_u8(b'D');
            out.put_u8(*scale);
            out.put_u32(*value);
        }
        Value::Time(seconds) => {
            out.put_u8(b'T');
            out.put_u64(*seconds);
        }
        Value::Text(text) => {
            out.put_u8(b'S');
            put_long_string(out, text.as_bytes());
        }
        Value::Bytes(bytes) => {
            out.put_u8(b'x');
            put_long_string(out, bytes);
        }
        Value::Array(values) => {
            out.put_u8(b'A');
            put_behind_length(out, |out| values.iter().for_each(|value| put_value(out, value)));
        }
        Value::Table(table) => {
            out.put_u8(b'F');
            put(out, table);
        }
    }
}

/// Writes a short string, cut at 255 bytes.
pub fn put_short_string(out: &mut BytesMut, text: &[u8]) {
    let len = u8::try_from(text.len()).unwrap_or(u8::MAX);
    out.put_u8(len);
    out.put_slice(text.get(..usize::from(len)).unwrap_or(text));
}

/// Writes a long string.
pub fn put_long_string(out: &mut BytesMut, text: &[u8]) {
    put_behind_length(out, |out| out.put_slice(text));
}

/// Writes a `u32` length and what `content` writes.
pub fn put_behind_length(out: &mut BytesMut, content: impl FnOnce(&mut BytesMut)) {
    let len_at = out.len();
    out.put_u32(0);
    content(out);
    let len = u32::try_from(out.len() - len_at - 4).expect("what we write is far below 4 GiB");
    if let Some(slot) = out.get_mut(len_at..len_at + 4) {
        slot.copy_from_slice(&len.to_be_bytes());
    }
}
