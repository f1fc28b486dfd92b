//! Field tables of every type, small and at the edges.

use fastrand::Rng;

use crate::{
    chance::{edge, once_in, one_of},
    wire::Wire,
};

const TAGS: &[u8; 19] = b"VtbBsUuIilLfdDTSxAF";
const LEVELS: usize = 4;

/// A table, with its length.
pub fn table(random: &mut Rng, entries: Vec<(&str, Wire)>) -> Wire {
    let mut entries = entries;
    if once_in(random, 6) {
        let any = value(random, LEVELS);
        entries.push((one_of(random, &["x-any", "", "a", "x-match", "CC"]), any));
    }
    let content = entries.into_iter().fold(Wire::default(), |content, (name, value)| {
        content.short(name.as_bytes()).raw(&value.0)
    });
    Wire::default().long(&content.0)
}

/// A text, as a value with its tag.
pub fn text(text: &str) -> Wire {
    Wire::default().u8(b'S').long(text.as_bytes())
}

pub fn boolean(value: bool) -> Wire {
    Wire::default().u8(b't').u8(u8::from(value))
}

/// A number in one of the types that hold it.
pub fn number(random: &mut Rng, value: u64) -> Wire {
    let tag = Wire::default();
    match (u8::try_from(value), u32::try_from(value)) {
        (Ok(value), _) if random.bool() => tag.u8(b'B').u8(value),
        (_, Ok(value)) if random.bool() => tag.u8(b'I').u32(value),
        _ => tag.u8(b'l').u64(value),
    }
}

/// Anything.
pub fn value(random: &mut Rng, levels: usize) -> Wire {
    let tag = one_of(random, TAGS);
    let value = Wire::default().u8(tag);
    let number = edge(random).to_be_bytes();
    match tag {
        b'V' => value,
        b't' | b'b' | b'B' => value.raw(&number[7..]),
        b's' | b'U' | b'u' => value.raw(&number[6..]),
        b'I' | b'i' | b'f' => value.raw(&number[4..]),
        b'D' => value.raw(&number[3..]),
        b'S' | b'x' => {
            let length = random.usize(..40);
            let bytes: Vec<u8> = (0..length).map(|_| random.u8(b' '..)).collect();
            value.long(&bytes)
        }
        b'A' | b'F' => {
            let mut content = Wire::default();
            for _ in 0..if levels == 0 { 0 } else { random.usize(..4) } {
                if tag == b'F' {
                    content = content.short(one_of(random, &[b"k".as_slice(), b"", b"long name"]));
                }
                content = content.raw(&self::value(random, levels - 1).0);
            }
            value.long(&content.0)
        }
        _ => value.raw(&number),
    }
}
