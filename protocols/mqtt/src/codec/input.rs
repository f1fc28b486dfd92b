//! Reading MQTT's data types from the bytes of one packet (MQTT 5 §1.5), without copying.

use bytes::Bytes;

use super::Fault;

/// UTF-8 text without U+0000, as every string on the wire must be ([MQTT-1.5.4-1],
/// [MQTT-1.5.4-2]). A byte order mark stays where it is ([MQTT-1.5.4-3]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Text(Bytes);

impl Text {
    /// Checks bytes to be such text.
    pub fn check(bytes: Bytes) -> Result<Self, Fault> {
        if std::str::from_utf8(&bytes).is_err() {
            return Err(Fault::malformed("[MQTT-1.5.4-1] a string is not UTF-8"));
        }
        if bytes.contains(&0) {
            return Err(Fault::malformed("[MQTT-1.5.4-2] a string holds U+0000"));
        }
        Ok(Self(bytes))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("the constructor admits only UTF-8")
    }

    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&'static str> for Text {
    fn from(text: &'static str) -> Self {
        Self(Bytes::from_static(text.as_bytes()))
    }
}

const SHORT: Fault = Fault::malformed("a packet ends before its fields do");

/// What is left of a packet.
#[derive(Clone, Debug)]
pub struct Input {
    bytes: Bytes,
}

impl Input {
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes not read yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Everything that is left.
    #[must_use]
    pub fn rest(self) -> Bytes {
        self.bytes
    }

    /// Errors unless everything was read.
    pub fn end(&self) -> Result<(), Fault> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        Err(Fault::malformed("a packet goes on after its last field"))
    }

    pub fn take(&mut self, len: usize) -> Result<Bytes, Fault> {
        if self.bytes.len() < len {
            return Err(SHORT);
        }
        Ok(self.bytes.split_to(len))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let array = *self.bytes.first_chunk::<N>().ok_or(SHORT)?;
        bytes::Buf::advance(&mut self.bytes, N);
        Ok(array)
    }

    pub fn u8(&mut self) -> Result<u8, Fault> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub fn u16(&mut self) -> Result<u16, Fault> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, Fault> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// A variable byte integer.
    pub fn varint(&mut self) -> Result<u32, Fault> {
        match varint(&self.bytes)? {
            Some((value, len)) => {
                bytes::Buf::advance(&mut self.bytes, len);
                Ok(value)
            }
            None => Err(SHORT),
        }
    }

    pub fn binary(&mut self) -> Result<Bytes, Fault> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    pub fn text(&mut self) -> Result<Text, Fault> {
        Text::check(self.binary()?)
    }

    /// A packet identifier, which is never zero ([MQTT-2.2.1-3]).
    pub fn packet_id(&mut self) -> Result<u16, Fault> {
        match self.u16()? {
            0 => Err(Fault::malformed("[MQTT-2.2.1-3] a packet identifier is zero")),
            id => Ok(id),
        }
    }
}

/// The variable byte integer at the start of `bytes`, and how many bytes it takes; `None` when
/// more bytes are needed.
pub fn varint(bytes: &[u8]) -> Result<Option<(u32, usize)>, Fault> {
    let mut value = 0_u32;
    for (index, byte) in bytes.iter().copied().enumerate().take(4) {
        value |= u32::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            if byte == 0 && index > 0 {
                return Err(Fault::malformed("[MQTT-1.5.5-1] a length is longer than it must be"));
            }
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() >= 4 {
        return Err(Fault::malformed("a length has more than four bytes"));
    }
    Ok(None)
}
