//! What a queue, and each cursor on it, does with records besides keeping them in order.
//!
//! What was declared is part of the definition: it is logged with the declaration and never changes
//! by itself. What the queue goes by is that together with what is asked by its name (`rules.rs`).
//! Times are milliseconds, lengths are records; sizes are bytes of bodies, and of whole log entries
//! for a queue that keeps everything.

use std::{
    cell::RefCell,
    sync::{Arc, LazyLock},
};

use bytes::{BufMut, Bytes};
use mainstem_schemas::wire::{Reader, Short, put_blob, put_varint};

/// What happens to a publish that finds a queue at its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Overflow {
    /// The oldest ready records make room.
    #[default]
    DropHead = 0,
    /// The publish is refused.
    Refuse = 1,
    /// The publish is refused, and what was refused is dead-lettered.
    RefuseDeadLetter = 2,
}

impl Overflow {
    /// Of the word that queues and policies ask with.
    #[must_use]
    pub fn from_word(word: &str) -> Self {
        match word {
            "reject-publish" => Self::Refuse,
            "reject-publish-dlx" => Self::RefuseDeadLetter,
            _ => Self::DropHead,
        }
    }
}

/// How often a record may be handed out that may come back so often: once more. A number below zero is
/// no limit.
#[must_use]
pub fn attempts_max(returns_max: i64) -> Option<u32> {
    let returns_max = u64::try_from(returns_max).ok()?;
    Some(u32::try_from(returns_max.saturating_add(1)).unwrap_or(u32::MAX))
}

/// Whether a queue keeps its dead until somebody takes them, by the strategy it is asked for: a quorum
/// queue that refuses when it is full. Others fall back to doing without, as RabbitMQ's do.
#[must_use]
pub fn keeps_dead(is_quorum: bool, overflow: Overflow, strategy: Option<&str>) -> bool {
    is_quorum && overflow == Overflow::Refuse && strategy == Some("at-least-once")
}

/// Where dead records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeadLetter {
    /// Published again to this exchange, under this key or else under the key it came by.
    Exchange { name: String, key: Option<Bytes> },
    /// Kept by the topic of this name, which is made when it is first needed, and by whoever reads
    /// what is published to it. Only what its consumers could not cope with: what expired or made
    /// room ends.
    Topic(String),
}

/// How the records of one cursor are handed out, and what ends them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryPolicy {
    /// Where records go that expire, are rejected, dropped for room or were handed out too often;
    /// `None` ends them for good.
    pub dead_letter: Option<DeadLetter>,
    /// A dead record that would go to no queue, or to one that refuses it, waits here until that
    /// changes. One that makes room for others does not.
    pub keeps_dead: bool,
    /// How often a record may be handed out; after that its next return ends it.
    pub attempts_max: Option<u32>,
    /// One consumer at a time, the one that came first; the others stand by.
    pub single_active: bool,
    /// Records of one group (their partition hash, or the topic below a topic) are handed out one after the other: the next
    /// only when the one before is settled. Groups do not wait for each other.
    pub ordered: bool,
    /// Records that were fetched together are settled, or come back, before more can be fetched.
    pub batched: bool,
    /// How long a returned record rests before it is handed out again, by attempt; the last one
    /// serves all further attempts. Empty for at once.
    pub backoff_ms: Vec<u64>,
}

/// The rules of a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// How long a record stays worth delivering here.
    pub ttl_ms: Option<u64>,
    /// The queue goes when nobody used it for so long.
    pub expires_ms: Option<u64>,
    /// Ready records at most.
    pub len_max: Option<u64>,
    /// Bytes of ready records at most.
    pub bytes_max: Option<u64>,
    pub overflow: Overflow,
    /// Records are handed out by priority, from this number down to 0; 0 for by age alone.
    pub priority_max: u8,
    /// For a queue that keeps everything: how long. Unset for the store's own setting.
    pub age_max_ms: Option<u64>,
    /// How long a delivery may stay unsettled; front-ends see to it. 0 for any time; unset for their
    /// own setting.
    pub settle_max_ms: Option<u64>,
    /// The queue's own cursor's rules.
    pub delivery: DeliveryPolicy,
}

static PLAIN: LazyLock<Arc<Policy>> = LazyLock::new(Arc::default);
static PLAIN_DELIVERY: LazyLock<Arc<DeliveryPolicy>> = LazyLock::new(Arc::default);

thread_local! {
    /// The one that was not plain and came last: of those there may be as many, all the same.
    static LAST: RefCell<Arc<Policy>> = RefCell::default();
}

/// The policy, to be kept with a queue. All plain ones are the same, since there are millions.
pub(crate) fn shared(policy: Policy) -> Arc<Policy> {
    if policy == **PLAIN {
        return PLAIN.clone();
    }
    LAST.with_borrow_mut(|last| {
        if **last != policy {
            *last = Arc::new(policy);
        }
        last.clone()
    })
}

/// The same for a cursor.
pub(crate) fn shared_delivery(policy: &DeliveryPolicy) -> Arc<DeliveryPolicy> {
    if *policy == **PLAIN_DELIVERY { PLAIN_DELIVERY.clone() } else { Arc::new(policy.clone()) }
}

const TTL: u64 = 1;
const EXPIRES: u64 = 1 << 1;
const LEN: u64 = 1 << 2;
const BYTES: u64 = 1 << 3;
const AGE: u64 = 1 << 4;
const SETTLE: u64 = 1 << 5;

const SINGLE_ACTIVE: u64 = 1;
const ORDERED: u64 = 1 << 1;
const ATTEMPTS: u64 = 1 << 2;
const DEAD_EXCHANGE: u64 = 1 << 3;
const DEAD_KEY: u64 = 1 << 4;
const DEAD_TOPIC: u64 = 1 << 5;
const KEEPS_DEAD: u64 = 1 << 6;
const BATCHED: u64 = 1 << 7;

impl DeliveryPolicy {
    /// `varint marks | ATTEMPTS: varint | DEAD_EXCHANGE: text, DEAD_KEY: blob | DEAD_TOPIC: text |
    /// varint n | n * varint`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut marks = 0;
        let mut tail = Vec::new();
        if self.single_active {
            marks |= SINGLE_ACTIVE;
        }
        if self.ordered {
            marks |= ORDERED;
        }
        if self.keeps_dead {
            marks |= KEEPS_DEAD;
        }
        if self.batched {
            marks |= BATCHED;
        }
        if let Some(attempts) = self.attempts_max {
            marks |= ATTEMPTS;
            put_varint(&mut tail, u64::from(attempts));
        }
        match &self.dead_letter {
            None => {}
            Some(DeadLetter::Exchange { name, key }) => {
                marks |= DEAD_EXCHANGE;
                put_blob(&mut tail, name.as_bytes());
                if let Some(key) = key {
                    marks |= DEAD_KEY;
                    put_blob(&mut tail, key);
                }
            }
            Some(DeadLetter::Topic(topic)) => {
                marks |= DEAD_TOPIC;
                put_blob(&mut tail, topic.as_bytes());
            }
        }
        put_varint(&mut tail, self.backoff_ms.len() as u64);
        for ms in &self.backoff_ms {
            put_varint(&mut tail, *ms);
        }
        put_varint(out, marks);
        out.put_slice(&tail);
    }

    pub(crate) fn decode(r: &mut Reader) -> Result<Self, Short> {
        let marks = r.varint()?;
        let attempts_max = if marks & ATTEMPTS != 0 {
            Some(u32::try_from(r.varint()?).map_err(|_| Short)?)
        } else {
            None
        };
        let dead_letter = if marks & DEAD_EXCHANGE != 0 {
            let name = r.text()?;
            let key = if marks & DEAD_KEY != 0 { Some(r.blob()?) } else { None };
            Some(DeadLetter::Exchange { name, key })
        } else if marks & DEAD_TOPIC != 0 {
            Some(DeadLetter::Topic(r.text()?))
        } else {
            None
        };
        let mut backoff_ms = Vec::new();
        for _ in 0..r.varint()? {
            backoff_ms.push(r.varint()?);
        }
        Ok(Self {
            dead_letter,
            keeps_dead: marks & KEEPS_DEAD != 0,
            attempts_max,
            single_active: marks & SINGLE_ACTIVE != 0,
            ordered: marks & ORDERED != 0,
            batched: marks & BATCHED != 0,
            backoff_ms,
        })
    }

    /// How long a record rests that came back for the `attempts`th time.
    pub(crate) fn rest_ms(&self, attempts: u32) -> u64 {
        let at = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
        self.backoff_ms.get(at).or_else(|| self.backoff_ms.last()).copied().unwrap_or_default()
    }
}

impl Policy {
    /// `varint marks | u8 overflow | u8 priority_max | for each mark in order: varint |
    /// delivery policy`. The default is no bytes at all.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        if *self == Self::default() {
            return;
        }
        let fields = [
            (TTL, self.ttl_ms),
            (EXPIRES, self.expires_ms),
            (LEN, self.len_max),
            (BYTES, self.bytes_max),
            (AGE, self.age_max_ms),
            (SETTLE, self.settle_max_ms),
        ];
        let set = fields.iter().filter(|(_, value)| value.is_some());
        put_varint(out, set.map(|(mark, _)| mark).sum());
        out.put_u8(self.overflow as u8);
        out.put_u8(self.priority_max);
        for value in fields.into_iter().filter_map(|(_, value)| value) {
            put_varint(out, value);
        }
        self.delivery.encode(out);
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<Self, Short> {
        let mut r = Reader::new(bytes);
        if r.is_empty() {
            return Ok(Self::default());
        }
        let marks = r.varint()?;
        let overflow = match r.u8()? {
            0 => Overflow::DropHead,
            1 => Overflow::Refuse,
            2 => Overflow::RefuseDeadLetter,
            _ => return Err(Short),
        };
        let priority_max = r.u8()?;
        let mut field = |mark| (marks & mark != 0).then(|| r.varint()).transpose();
        let (ttl_ms, expires_ms) = (field(TTL)?, field(EXPIRES)?);
        let (len_max, bytes_max, age_max_ms) = (field(LEN)?, field(BYTES)?, field(AGE)?);
        let settle_max_ms = field(SETTLE)?;
        let delivery = DeliveryPolicy::decode(&mut r)?;
        Ok(Self {
            ttl_ms,
            expires_ms,
            len_max,
            bytes_max,
            overflow,
            priority_max,
            age_max_ms,
            settle_max_ms,
            delivery,
        })
    }

    /// Whether the queue has a bound on what is ready.
    pub(crate) fn is_bounded(&self) -> bool {
        self.len_max.is_some() || self.bytes_max.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_read_back_and_the_default_takes_no_bytes() {
        let mut out = Vec::new();
        Policy::default().encode(&mut out);
        assert!(out.is_empty());
        for seed in 0..500 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut some = || rng.bool().then(|| rng.u64(..) >> rng.u32(..64));
            let (ttl_ms, expires_ms, len_max) = (some(), some(), some());
            let (bytes_max, age_max_ms, settle_max_ms) = (some(), some(), some());
            let dead_letter = match rng.u8(..4) {
                0 => None,
                1 => Some(DeadLetter::Exchange { name: String::new(), key: None }),
                2 => Some(DeadLetter::Exchange { name: "x".into(), key: Some("k".into()) }),
                _ => Some(DeadLetter::Topic("t".into())),
            };
            let policy = Policy {
                ttl_ms,
                expires_ms,
                len_max,
                bytes_max,
                age_max_ms,
                settle_max_ms,
                overflow: [Overflow::DropHead, Overflow::Refuse, Overflow::RefuseDeadLetter]
                    [rng.usize(..3)],
                priority_max: rng.u8(..),
                delivery: DeliveryPolicy {
                    dead_letter,
                    keeps_dead: rng.bool(),
                    attempts_max: rng.bool().then(|| rng.u32(..)),
                    single_active: rng.bool(),
                    ordered: rng.bool(),
                    batched: rng.bool(),
                    backoff_ms: (0..rng.usize(..4)).map(|_| rng.u64(..)).collect(),
                },
            };
            let mut out = Vec::new();
            policy.encode(&mut out);
            assert_eq!(Policy::decode(out.clone().into()).as_ref(), Ok(&policy), "seed {seed}");
            for len in 1..out.len() {
                let cut = Policy::decode(Bytes::copy_from_slice(&out[..len]));
                assert_ne!(cut.as_ref(), Ok(&policy), "seed {seed} cut at {len}");
            }
        }
    }
}
