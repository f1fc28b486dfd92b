//! Reading and writing the little-endian fields and varints that stored things are made of.
//!
//! Everything here is bounded: a reader over arbitrary bytes returns [`Short`], never panics.

use bytes::{BufMut, Bytes};

/// The bytes ended before the value did, or a value was out of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored bytes end too early or hold a value out of range")]
pub struct Short;

/// A reader over stored bytes that hands out slices of them without copying.
#[derive(Clone, Debug)]
pub struct Reader {
    bytes: Bytes,
}

impl Reader {
    /// Reads `bytes` from their start.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes }
    }

    /// Bytes not read yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }

    /// Whether all bytes were read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<Bytes, Short> {
        if self.bytes.len() < len {
            return Err(Short);
        }
        Ok(self.bytes.split_to(len))
    }

    /// Everything that is left.
    #[must_use]
    pub fn rest(self) -> Bytes {
        self.bytes
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        self.take(N)?.as_ref().try_into().map_err(|_| Short)
    }

    pub fn u8(&mut self) -> Result<u8, Short> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub fn u16(&mut self) -> Result<u16, Short> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, Short> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, Short> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// An unsigned LEB128 varint of at most ten bytes.
    pub fn varint(&mut self) -> Result<u64, Short> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Short);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Short)
    }

    /// Bytes behind a varint length.
    pub fn blob(&mut self) -> Result<Bytes, Short> {
        let len = usize::try_from(self.varint()?).map_err(|_| Short)?;
        self.take(len)
    }

    /// UTF-8 text behind a varint length.
    pub fn text(&mut self) -> Result<String, Short> {
        String::from_utf8(self.blob()?.to_vec()).map_err(|_| Short)
    }
}

/// Appends an unsigned LEB128 varint.
pub fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8((value & 0x7f) as u8);
}

/// Appends bytes behind a varint length.
pub fn put_blob(out: &mut impl BufMut, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_varint_reads_back() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(Reader::new(out.into()).varint(), Ok(value));
        }
    }

    #[test]
    fn an_overlong_varint_is_short_not_a_panic() {
        assert_eq!(Reader::new(vec![0xff; 11].into()).varint(), Err(Short));
        assert_eq!(Reader::new(vec![0x80].into()).varint(), Err(Short));
    }
}
