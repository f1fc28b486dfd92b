//! Exchanges that lead each record to one of their destinations only.
//!
//! By hash, each destination draws a number from the record's hash and its own name, and the best
//! draw for its weight wins (weighted rendezvous). So the same record goes to the same destination
//! after a restart and after the same bindings in another order, and a destination that comes or
//! goes moves only its own share.

use mainstem_schemas::{
    Table, Value,
    value::{encode_table, find},
};

use super::{BindingKey, Destination, Said};
use crate::error::Refusal;

/// What of a record is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Hashed {
    Keys,
    Header(String),
    Id,
    Correlation,
    Time,
}

/// How the one is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
enum By {
    Chance,
    /// All alike, by the routing keys.
    Modulus,
    Hash(Hashed),
}

/// One way out.
#[derive(Clone, Debug, PartialEq)]
struct Way {
    /// Of the destination's name, so that one made anew takes the place of the one before.
    seed: u64,
    weight: u64,
    destination: Destination,
}

#[derive(Debug)]
pub(super) struct Choice {
    by: By,
    /// By seed.
    ways: Vec<Way>,
}

impl Choice {
    pub(super) fn by_chance() -> Self {
        Self { by: By::Chance, ways: Vec::new() }
    }

    pub(super) fn by_modulus() -> Self {
        Self { by: By::Modulus, ways: Vec::new() }
    }

    /// By hash, of what the exchange's arguments say.
    pub(super) fn by_hash(arguments: &Table) -> Self {
        Self { by: By::Hash(hashed(arguments).unwrap_or(Hashed::Keys)), ways: Vec::new() }
    }

    pub(super) fn add(&mut self, binding: &BindingKey, name: &str) {
        let is_exchange = matches!(binding.destination, Destination::Exchange(_));
        let seed = hash([name.as_bytes(), &[u8::from(is_exchange)]]);
        let weight = self.weight_of(binding);
        let at = self.ways.partition_point(|way| way.seed <= seed);
        self.ways.insert(at, Way { seed, weight, destination: binding.destination.clone() });
    }

    pub(super) fn remove(&mut self, binding: &BindingKey) {
        let (weight, destination) = (self.weight_of(binding), &binding.destination);
        let is_it = |way: &Way| way.destination == *destination && way.weight == weight;
        if let Some(at) = self.ways.iter().position(is_it) {
            self.ways.remove(at);
        }
    }

    fn weight_of(&self, binding: &BindingKey) -> u64 {
        match self.by {
            By::Hash(_) => weight(&binding.key).unwrap_or(1),
            By::Chance | By::Modulus => 1,
        }
    }

    /// The destination of a record with these keys.
    pub(super) fn choose<'a>(
        &self,
        keys: impl Iterator<Item = &'a [u8]>,
        said: &Said<'_>,
    ) -> Option<&Destination> {
        let count = self.ways.len();
        let at = match &self.by {
            _ if count <= 1 => 0,
            By::Chance => fastrand::usize(..count),
            By::Modulus => usize::try_from(hash(keys) % count as u64).unwrap_or_default(),
            By::Hash(what) => self.best(value(what, keys, said)),
        };
        self.ways.get(at).map(|way| &way.destination)
    }

    fn best(&self, hash: u64) -> usize {
        let draws = self.ways.iter().map(|way| way.draw(hash)).enumerate();
        draws.max_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(at, _)| at)
    }
}

impl Way {
    /// Of two ways, the one of weight w1 draws higher with the chance w1 / (w1 + w2).
    #[expect(clippy::cast_precision_loss, reason = "a draw needs no more than 53 bits")]
    fn draw(&self, hash: u64) -> f64 {
        let unit = ((mix(hash ^ self.seed) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        self.weight as f64 / -unit.ln()
    }
}

/// Whether the arguments of an exchange that chooses by hash make sense
/// (rabbitmq_consistent_hash_exchange, validate/1).
pub(super) fn check_hashed(arguments: &Table) -> Result<(), Refusal> {
    hashed(arguments).map(|_| ())
}

/// Whether a binding's key is a weight (the same, validate_binding/2).
pub(super) fn check_weight(key: &[u8]) -> Result<(), Refusal> {
    weight(key).map(|_| ())
}

fn hashed(arguments: &Table) -> Result<Hashed, Refusal> {
    let text = |wanted: &str| match find(arguments, wanted) {
        None => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(Refusal::BadArguments(format!("{wanted} must be a string"))),
    };
    match (text("hash-header")?, text("hash-property")?) {
        (None, None) => Ok(Hashed::Keys),
        (Some(header), None) => Ok(Hashed::Header(header.to_owned())),
        (None, Some("message_id")) => Ok(Hashed::Id),
        (None, Some("correlation_id")) => Ok(Hashed::Correlation),
        (None, Some("timestamp")) => Ok(Hashed::Time),
        (None, Some(other)) => Err(Refusal::BadArguments(format!("Unsupported property: {other}"))),
        (Some(_), Some(_)) => {
            let text = "hash-header and hash-property are mutually exclusive";
            Err(Refusal::BadArguments(text.to_owned()))
        }
    }
}

fn weight(key: &[u8]) -> Result<u64, Refusal> {
    let shown = String::from_utf8_lossy(key);
    let (is_negative, digits) = match shown.strip_prefix(['-', '+']) {
        Some(digits) => (shown.starts_with('-'), digits),
        None => (false, shown.as_ref()),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let shown = if key.is_empty() { "<<>>".to_owned() } else { format!("<<\"{shown}\">>") };
        let text = format!("The binding key must be an integer: {shown}");
        return Err(Refusal::BadArguments(text));
    }
    // What has more digits than fit is as heavy as it gets.
    match digits.parse().unwrap_or(u64::MAX) {
        weight if weight > 0 && !is_negative => Ok(weight),
        _ => {
            let text = "The binding key must be greater than 0";
            Err(Refusal::BadArguments(text.to_owned()))
        }
    }
}

/// What a record without the header or property says is the same for all of them.
fn value<'a>(what: &Hashed, keys: impl Iterator<Item = &'a [u8]>, said: &Said<'_>) -> u64 {
    let of = |bytes: Option<&[u8]>| hash([bytes.unwrap_or_default()]);
    match what {
        Hashed::Keys => hash(keys),
        Hashed::Header(wanted) => {
            let headers = said.headers.iter().filter(|(name, _)| name == wanted);
            let headers: Table = headers.cloned().collect();
            let mut encoded = Vec::new();
            encode_table(&headers, &mut encoded);
            hash([encoded.as_slice()])
        }
        Hashed::Id => of(said.id.as_deref()),
        Hashed::Correlation => of(said.correlation.as_deref()),
        Hashed::Time => {
            let time = said.time_s.map(|time| time.to_string());
            of(time.as_deref().map(str::as_bytes))
        }
    }
}

/// FNV-1a, well mixed. Other releases must find the same, or records that belong together part.
fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        // Keys `ab`, `c` and `a`, `bc` are not the same.
        hash = (hash ^ 0x1ff).wrapping_mul(0x0100_0000_01b3);
    }
    mix(hash)
}

/// The finalizer of `SplitMix64`.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use mainstem_schemas::{QueueId, Routing};

    use super::*;

    fn add(choice: &mut Choice, id: u64, weight: &str) {
        let destination = Destination::Queue(QueueId(id));
        let binding = BindingKey::new(destination, weight.as_bytes(), &Table::new());
        choice.add(&binding, &format!("queue {id}"));
    }

    fn chosen(choice: &Choice, key: u32) -> u64 {
        let key = key.to_string();
        let said: Box<Routing> = Box::default();
        match choice.choose(std::iter::once(key.as_bytes()), &said) {
            Some(Destination::Queue(id)) => id.0,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn shares_follow_weights_and_only_the_share_of_what_leaves_moves() {
        let mut choice = Choice::by_hash(&Table::new());
        for (id, weight) in [(1, "1"), (2, "2"), (3, "5")] {
            add(&mut choice, id, weight);
        }
        let before: Vec<u64> = (0..8000).map(|key| chosen(&choice, key)).collect();
        for (id, expected) in [(1, 1000), (2, 2000), (3, 5000)] {
            let count = before.iter().filter(|chosen| **chosen == id).count();
            assert!(count.abs_diff(expected) < 150, "{id}: {count} for {expected}");
        }
        let binding = BindingKey::new(Destination::Queue(QueueId(2)), b"2", &Table::new());
        choice.remove(&binding);
        for (key, before) in (0..).zip(&before) {
            let now = chosen(&choice, key);
            assert!(now == *before || *before == 2, "{key} moved from {before} to {now}");
        }
        // Made anew, under another id.
        add(&mut choice, 2, "2");
        assert!((0..).zip(&before).all(|(key, before)| chosen(&choice, key) == *before));
    }

    #[test]
    fn a_modulus_is_fair_and_does_not_hang_on_the_order_of_bindings() {
        let (mut one, mut other) = (Choice::by_modulus(), Choice::by_modulus());
        for id in 1..=4 {
            add(&mut one, id, "");
            add(&mut other, 5 - id, "");
        }
        let mut counts = [0; 5];
        for key in 0..4000 {
            counts[usize::try_from(chosen(&one, key)).unwrap()] += 1;
            assert_eq!(chosen(&one, key), chosen(&other, key));
        }
        assert!(counts[1..].iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn weights_are_read_as_rabbitmq_reads_them() {
        assert_eq!(weight(b"007"), Ok(7));
        assert_eq!(weight(b"99999999999999999999"), Ok(u64::MAX));
        let why = |key: &[u8]| weight(key).unwrap_err().to_string();
        assert!(why(b"").ends_with("The binding key must be an integer: <<>>"));
        assert!(why(b"3 ").ends_with("The binding key must be an integer: <<\"3 \">>"));
        assert!(why(b"0").ends_with("must be greater than 0") && why(b"-2").ends_with("than 0"));
    }
}
