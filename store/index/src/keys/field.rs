//! The fields that keys are made of, big-endian numbers and blobs behind their length, and the
//! signed steps between the numbers of values.

use bytes::{Buf, BufMut, Bytes};
use mainstem_schemas::wire::{Reader, Short};

/// Reads a key's fields first to last.
#[derive(Debug)]
pub struct KeyReader {
    rest: Bytes,
}

impl KeyReader {
    pub(crate) fn new(fields: Bytes) -> Self {
        Self { rest: fields }
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Short> {
        self.rest.try_get_u64().map_err(|_| Short)
    }

    pub(crate) fn bool(&mut self) -> Result<bool, Short> {
        match self.rest.try_get_u8() {
            Ok(0) => Ok(false),
            Ok(1) => Ok(true),
            Ok(_) | Err(_) => Err(Short),
        }
    }

    pub(crate) fn blob(&mut self) -> Result<Bytes, Short> {
        let len = self.rest.try_get_u32().map_err(|_| Short)?;
        let len = usize::try_from(len).map_err(|_| Short)?;
        if self.rest.len() < len {
            return Err(Short);
        }
        Ok(self.rest.split_to(len))
    }

    pub(crate) fn text(&mut self) -> Result<String, Short> {
        into_text(&self.blob()?)
    }

    /// The last field of a key: everything that is left.
    pub(crate) fn last_blob(&mut self) -> Bytes {
        std::mem::take(&mut self.rest)
    }

    pub(crate) fn last_text(&mut self) -> Result<String, Short> {
        into_text(&self.last_blob())
    }

    /// An error if anything is left.
    pub(crate) fn finish(self) -> Result<(), Short> {
        if self.rest.is_empty() { Ok(()) } else { Err(Short) }
    }
}

fn into_text(bytes: &[u8]) -> Result<String, Short> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Short)
}

pub(crate) fn put_bool(out: &mut Vec<u8>, value: bool) {
    out.put_u8(u8::from(value));
}

/// Appends a blob that is not the last field. The length takes four bytes, so that no name that
/// fits in memory can be too long for a key and none has to be cut or refused here.
pub(crate) fn put_blob(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("a name is shorter than the 4 GiB of any message");
    out.put_u32(len);
    out.put_slice(bytes);
}

/// A boolean of a value; anything but 0 and 1 is damage.
pub(crate) fn read_bool(reader: &mut Reader) -> Result<bool, Short> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Short),
    }
}

/// The signed way from one number to another, small in either direction.
pub(crate) fn zigzag(from: u64, to: u64) -> u64 {
    let way = to.wrapping_sub(from).cast_signed();
    ((way << 1) ^ (way >> 63)).cast_unsigned()
}

pub(crate) fn unzigzag(from: u64, way: u64) -> u64 {
    from.wrapping_add((way >> 1) ^ (way & 1).wrapping_neg())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn zigzag_reads_back(from: u64, to: u64) {
            prop_assert_eq!(unzigzag(from, zigzag(from, to)), to);
        }
    }
}
