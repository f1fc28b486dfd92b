//! A hash of stored bytes that is the same on every machine and in every version of Rust.

/// Takes byte strings one after another; their borders count.
#[derive(Debug)]
pub(crate) struct StateHash(u64);

impl StateHash {
    /// Starts away from zero, where zero words would leave no trace.
    pub(crate) fn new() -> Self {
        Self(0x2545_f491_4f6c_dd1d)
    }

    /// A byte string, eight bytes at a time, behind its length.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        let (chunks, rest) = bytes.as_chunks::<8>();
        for chunk in chunks {
            self.word(u64::from_le_bytes(*chunk));
        }
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        self.word(u64::from_le_bytes(last));
    }

    /// The multiplier is 2^64 divided by the golden ratio, made odd.
    fn word(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// The hash, with its high bits spread over the low ones.
    pub(crate) fn finish(self) -> u64 {
        let folded = (self.0 ^ (self.0 >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        folded ^ (folded >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(strings: &[&[u8]]) -> u64 {
        let mut hash = StateHash::new();
        for bytes in strings {
            hash.add(bytes);
        }
        hash.finish()
    }

    #[test]
    fn content_order_and_borders_count() {
        let hashes = [
            hash(&[]),
            hash(&[b""]),
            hash(&[b"a"]),
            hash(&[b"a\0"]),
            hash(&[b"ab", b"c"]),
            hash(&[b"a", b"bc"]),
            hash(&[b"c", b"ab"]),
            hash(&[b"twelve bytes"]),
            hash(&[b"twelve byteS"]),
        ];
        for (index, one) in hashes.iter().enumerate() {
            assert!(!hashes[..index].contains(one), "{index}");
        }
    }
}
