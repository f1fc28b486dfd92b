//! What a session remembers of a subscription, packed into the word the broker hands back with
//! every delivery. Stored with the session: never move a bit.
//!
//! ```text
//! bits 0-1 granted QoS | 2 no local | 3 retain as published | 4 shared | 5 queue |
//! 6 exclusive | 7 mark
//! bits 8-35 subscription identifier, 0 for none
//! ```

use crate::codec::Qos;

const NO_LOCAL: u64 = 1 << 2;
const RETAIN_AS_PUBLISHED: u64 = 1 << 3;
const SHARED: u64 = 1 << 4;
const QUEUE: u64 = 1 << 5;
const EXCLUSIVE: u64 = 1 << 6;
/// A note of ours that is kept as a subscription: what anybody publishes to it is for nobody.
pub const MARK: u64 = 1 << 7;
const SUBSCRIPTION_ID_SHIFT: u32 = 8;
const SUBSCRIPTION_ID_MASK: u64 = 0x0fff_ffff;

/// A subscription's options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub granted: Qos,
    pub no_local: bool,
    pub retain_as_published: bool,
    /// Its members compete, so a delivery is for this session alone and is never merged or parked.
    pub shared: bool,
    /// It consumes a named queue.
    pub queue: bool,
    /// Nobody else may have it at the same time.
    pub exclusive: bool,
    /// It is a note of ours, see [`MARK`].
    pub mark: bool,
    pub subscription_id: Option<u32>,
}

impl Options {
    #[must_use]
    pub fn pack(self) -> u64 {
        let flag = |set: bool, bit: u64| if set { bit } else { 0 };
        self.granted as u64
            | flag(self.no_local, NO_LOCAL)
            | flag(self.retain_as_published, RETAIN_AS_PUBLISHED)
            | flag(self.shared, SHARED)
            | flag(self.queue, QUEUE)
            | flag(self.exclusive, EXCLUSIVE)
            | flag(self.mark, MARK)
            | u64::from(self.subscription_id.unwrap_or(0)) << SUBSCRIPTION_ID_SHIFT
    }

    #[must_use]
    pub fn unpack(bits: u64) -> Self {
        let id = u32::try_from(bits >> SUBSCRIPTION_ID_SHIFT & SUBSCRIPTION_ID_MASK).unwrap_or(0);
        Self {
            granted: match bits & 0x03 {
                0 => Qos::AtMostOnce,
                1 => Qos::AtLeastOnce,
                _ => Qos::ExactlyOnce,
            },
            no_local: bits & NO_LOCAL != 0,
            retain_as_published: bits & RETAIN_AS_PUBLISHED != 0,
            shared: bits & SHARED != 0,
            queue: bits & QUEUE != 0,
            exclusive: bits & EXCLUSIVE != 0,
            mark: bits & MARK != 0,
            subscription_id: (id != 0).then_some(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_read_back() {
        let options = Options {
            granted: Qos::ExactlyOnce,
            no_local: true,
            retain_as_published: false,
            shared: true,
            queue: false,
            exclusive: true,
            mark: true,
            subscription_id: Some(268_435_455),
        };
        assert_eq!(Options::unpack(options.pack()), options);
        assert_eq!(Options::unpack(Options::default().pack()), Options::default());
    }
}
