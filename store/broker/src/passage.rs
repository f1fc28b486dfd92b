//! How a record came to a queue other than by being published: its deaths in earlier queues.

use bytes::{BufMut, Bytes};
use mainstem_schemas::{
    Address, Origin, Position, UnixMillis,
    wire::{Reader, Short, put_blob, put_varint},
};

use crate::entry::Placed;

/// Why a queue was done with a record. Persisted: never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// A consumer refused it for good.
    Rejected = 0,
    /// Its time was over.
    Expired = 1,
    /// The queue was at its limit.
    Overflow = 2,
    /// It was handed out too often.
    Attempts = 3,
}

/// All the deaths of a record in one queue for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    pub queue: String,
    pub reason: Reason,
    /// Where it had been published when it came to that queue.
    pub address: Address,
    /// How often.
    pub count: u64,
    /// The first time.
    pub time: UnixMillis,
    /// The record had a time of its own to expire at, which has no effect any more.
    pub had_expiry: bool,
}

/// What stands between a record's publishing and this place of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// Where it was published the last time.
    pub address: Address,
    /// The latest first.
    pub deaths: Vec<Death>,
    /// Where the body is, and the bytes of its entry.
    pub(crate) body: (Position, u32),
}

impl Reason {
    pub(crate) const ALL: [Self; 4] =
        [Self::Rejected, Self::Expired, Self::Overflow, Self::Attempts];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Overflow => "overflow",
            Self::Attempts => "attempts",
        }
    }

    fn from_u8(value: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == value)
    }
}

fn encode_address(address: &Address, out: &mut Vec<u8>) {
    out.put_u8(address.origin as u8);
    out.put_u8(u8::from(address.lite));
    put_blob(out, &address.first);
    put_blob(out, &address.second);
}

fn decode_address(r: &mut Reader) -> Result<Address, Short> {
    let origin = Origin::from_u8(r.u8()?).ok_or(Short)?;
    let lite = r.u8()? != 0;
    Ok(Address { origin, first: r.blob()?, second: r.blob()?, lite })
}

impl Passage {
    /// `address | varint n | n * (text queue | u8 reason | address | varint count | varint time |
    /// u8 had_expiry)`, an address being `u8 origin | u8 lite | blob | blob`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        encode_address(&self.address, out);
        put_varint(out, self.deaths.len() as u64);
        for death in &self.deaths {
            put_blob(out, death.queue.as_bytes());
            out.put_u8(death.reason as u8);
            encode_address(&death.address, out);
            put_varint(out, death.count);
            put_varint(out, death.time.0);
            out.put_u8(u8::from(death.had_expiry));
        }
    }

    /// The passage that a placing tells of.
    pub(crate) fn of(placed: &Placed) -> Result<Self, Short> {
        Self::decode(placed.passage.clone(), (placed.source, placed.size))
    }

    fn decode(bytes: Bytes, body: (Position, u32)) -> Result<Self, Short> {
        let mut r = Reader::new(bytes);
        let address = decode_address(&mut r)?;
        let mut deaths = Vec::new();
        for _ in 0..r.varint()? {
            deaths.push(Death {
                queue: r.text()?,
                reason: Reason::from_u8(r.u8()?).ok_or(Short)?,
                address: decode_address(&mut r)?,
                count: r.varint()?,
                time: UnixMillis(r.varint()?),
                had_expiry: r.u8()? != 0,
            });
        }
        if r.is_empty() { Ok(Self { address, deaths, body }) } else { Err(Short) }
    }

    /// Adds a death: one more of those in the same queue for the same reason, or a new one. It
    /// becomes the latest.
    pub(crate) fn die(&mut self, death: Death) {
        let same = |known: &Death| known.queue == death.queue && known.reason == death.reason;
        let at = self.deaths.iter().position(same);
        let known = at.map(|at| self.deaths.remove(at));
        let latest = match known {
            Some(known) => Death { count: known.count + 1, ..known },
            None => death,
        };
        self.deaths.insert(0, latest);
    }

    /// Whether going to `queue` would close a circle that nobody's refusal is part of: then it
    /// would go round for ever.
    pub(crate) fn closes_circle(&self, queue: &str) -> bool {
        let Some(at) = self.deaths.iter().position(|death| death.queue == queue) else {
            return false;
        };
        self.deaths.iter().take(at + 1).all(|death| death.reason != Reason::Rejected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: (Position, u32) = (Position(7), 9);

    fn death(queue: &str, reason: Reason) -> Death {
        let address = Address::exchange("x".into(), "k".into());
        let (count, time) = (1, UnixMillis(7));
        Death { queue: queue.to_owned(), reason, address, count, time, had_expiry: true }
    }

    #[test]
    fn deaths_are_counted_by_queue_and_reason_and_read_back() {
        let mut passage =
            Passage { address: Address::http("a/b".into()), deaths: Vec::new(), body: BODY };
        passage.die(death("q", Reason::Expired));
        passage.die(death("q", Reason::Rejected));
        passage.die(death("q", Reason::Expired));
        let counts: Vec<_> = passage.deaths.iter().map(|d| (d.reason, d.count)).collect();
        assert_eq!(counts, [(Reason::Expired, 2), (Reason::Rejected, 1)]);
        let mut out = Vec::new();
        passage.encode(&mut out);
        assert_eq!(Passage::decode(out.clone().into(), BODY).as_ref(), Ok(&passage));
        for len in 0..out.len() {
            assert!(Passage::decode(Bytes::copy_from_slice(&out[..len]), BODY).is_err());
        }
    }

    #[test]
    fn a_circle_without_a_refusal_is_seen() {
        let mut passage =
            Passage { address: Address::http("a".into()), deaths: Vec::new(), body: BODY };
        passage.die(death("work", Reason::Rejected));
        passage.die(death("wait", Reason::Expired));
        assert!(!passage.closes_circle("work"), "a consumer took part");
        assert!(passage.closes_circle("wait"));
        assert!(!passage.closes_circle("other"));
    }
}
