//! What the sessions of a round said to the kept queue, and what they were promised for it, against
//! what is there.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fastrand::Rng;
use lapin::{Channel, options::BasicGetOptions};

/// What the bodies of a session begin with: who published it, the how manieth it is, and what no
/// damage makes of another's.
pub struct Bodies {
    number: usize,
    said: u32,
    tag: u32,
}

impl Bodies {
    pub fn new(number: usize, random: &mut Rng) -> Self {
        Self { number, said: 0, tag: random.u32(..) }
    }

    pub fn next(&mut self) -> String {
        self.said += 1;
        format!("{}:{}:{:08x}:", self.number, self.said, self.tag)
    }
}

/// What one session is owed.
#[derive(Debug, Default)]
pub struct Promises {
    /// Every body it said whole, and how often that may be there.
    pub said: BTreeMap<Bytes, usize>,
    /// Those that must be there.
    pub owed: BTreeSet<Bytes>,
    /// Those that must not be there.
    pub withdrawn: Vec<Bytes>,
    /// Bodies that lie in this order, those that are there.
    pub orders: Vec<Vec<Bytes>>,
}

impl Promises {
    pub fn say(&mut self, body: Bytes) {
        *self.said.entry(body).or_default() += 1;
    }

    /// Whether it was said exactly once.
    pub fn is_single(&self, body: &Bytes) -> bool {
        self.said.get(body) == Some(&1)
    }
}

/// The bodies of a queue, which is empty then, with their places.
pub struct Kept(BTreeMap<Bytes, Vec<usize>>);

impl Kept {
    pub async fn take(channel: &Channel, queue: &str) -> Self {
        let mut all = BTreeMap::<Bytes, Vec<usize>>::new();
        for place in 0.. {
            let no_ack = BasicGetOptions { no_ack: true };
            let Some(got) = channel.basic_get(queue.into(), no_ack).await.unwrap() else { break };
            all.entry(got.delivery.data.into()).or_default().push(place);
        }
        Self(all)
    }

    /// Nothing is missing, nothing is there too often or in the wrong order, and nothing came from
    /// nowhere.
    pub fn check(&self, all: &[&Promises]) -> Result<(), String> {
        let said = |body: &Bytes| all.iter().any(|promises| promises.said.contains_key(body));
        if let Some(body) = self.0.keys().find(|body| !said(body)) {
            return Err(format!("nobody published {}", shown(body)));
        }
        all.iter().try_for_each(|promises| self.check_one(promises))
    }

    fn check_one(&self, promises: &Promises) -> Result<(), String> {
        let Promises { said, owed, withdrawn, orders } = promises;
        if let Some(lost) = owed.iter().find(|body| !self.0.contains_key(*body)) {
            return Err(format!("{} was confirmed, and is not there", shown(lost)));
        }
        if let Some(body) = withdrawn.iter().find(|body| self.0.contains_key(*body)) {
            return Err(format!("{} was not committed, and is there", shown(body)));
        }
        for (body, said) in said {
            let places = self.0.get(body).map_or(0, Vec::len);
            if places > *said {
                return Err(format!("{} is there {places} times", shown(body)));
            }
        }
        for order in orders {
            let places: Vec<_> =
                order.iter().filter_map(|body| self.0.get(body)).flatten().collect();
            if !places.is_sorted() {
                return Err(format!("what was published in one order lies at {places:?}"));
            }
        }
        Ok(())
    }
}

/// A body begins with who published it; the rest fills it up.
fn shown(body: &Bytes) -> String {
    let end = body.iter().position(|byte| *byte == b'k').unwrap_or(body.len());
    String::from_utf8_lossy(&body[..end.min(100)]).into_owned()
}
