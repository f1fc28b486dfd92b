//! Bytes as a client of AMQP or MQTT writes them: big-endian numbers, strings behind their length.

/// Bytes being written.
#[derive(Clone, Debug, Default)]
pub struct Wire(pub Vec<u8>);

impl Wire {
    #[must_use]
    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    #[must_use]
    pub fn u16(self, value: u16) -> Self {
        self.raw(&value.to_be_bytes())
    }

    #[must_use]
    pub fn u32(self, value: u32) -> Self {
        self.raw(&value.to_be_bytes())
    }

    #[must_use]
    pub fn u64(self, value: u64) -> Self {
        self.raw(&value.to_be_bytes())
    }

    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Behind a length of one byte; cut where that ends.
    #[must_use]
    pub fn short(self, text: &[u8]) -> Self {
        let text = &text[..text.len().min(255)];
        self.u8(u8::try_from(text.len()).unwrap()).raw(text)
    }

    /// Behind a length of two bytes.
    #[must_use]
    pub fn text(self, text: &[u8]) -> Self {
        self.u16(u16::try_from(text.len()).unwrap()).raw(text)
    }

    /// Behind a length of four bytes.
    #[must_use]
    pub fn long(self, text: &[u8]) -> Self {
        self.u32(u32::try_from(text.len()).unwrap()).raw(text)
    }
}
