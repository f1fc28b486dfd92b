//! Writing MQTT's data types (MQTT 5 §1.5).

use bytes::{BufMut, BytesMut};

/// The largest variable byte integer, and so the longest packet body.
pub const VARINT_MAX: usize = 268_435_455;

/// Bytes that [`put_varint`] writes for `value`.
#[must_use]
pub fn varint_len(value: usize) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

/// Appends a variable byte integer. The caller keeps `value` within [`VARINT_MAX`].
pub fn put_varint(out: &mut BytesMut, mut value: usize) {
    debug_assert!(value <= VARINT_MAX);
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            return out.put_u8(low & 0x7f);
        }
        out.put_u8(low | 0x80);
    }
}

/// Appends bytes behind their length. What is over 65,535 bytes is cut; callers that may have
/// more check before.
pub fn put_binary(out: &mut BytesMut, bytes: &[u8]) {
    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.put_u16(len);
    out.put_slice(bytes.get(..usize::from(len)).unwrap_or(bytes));
}
