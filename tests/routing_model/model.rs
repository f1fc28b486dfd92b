//! The rules of ADDRESSING.md in their plainest form, over names that need no escape but
//! `%2E`.

use std::collections::{BTreeMap, BTreeSet};

pub(crate) type Words = Vec<String>;

pub(crate) fn words(text: &str, separator: char) -> Words {
    text.split(separator).map(str::to_owned).collect()
}

/// The words of a routing or binding key; an empty one has none.
pub(crate) fn key_words(key: &str) -> Words {
    if key.is_empty() { Words::new() } else { words(key, '.') }
}

/// What a record said when it came.
#[derive(Clone, Debug)]
pub(crate) enum Came {
    /// To an exchange, with a key.
    Exchange(String, String),
    /// At a path.
    Path(Words),
}

impl Came {
    pub(crate) fn amqp(exchange: &str, key: &str) -> Self {
        match key.strip_prefix("$topic.") {
            Some(key) if exchange.is_empty() => Self::Path(words(key, '.')),
            _ => Self::Exchange(exchange.to_owned(), key.to_owned()),
        }
    }

    /// MQTT and HTTP; `$queue/<name>` is a publish to the default exchange.
    pub(crate) fn topic(topic: &str) -> Self {
        match words(topic, '/').as_slice() {
            [first, name] if first == "$queue" => Self::Exchange(String::new(), name.clone()),
            path => Self::Path(path.to_vec()),
        }
    }

    pub(crate) fn rocketmq(topic: &str, tag: &str) -> Self {
        let tag = Some(tag.to_owned()).filter(|tag| !tag.is_empty());
        Self::Path([topic.to_owned()].into_iter().chain(tag).collect())
    }

    pub(crate) fn path(&self) -> Words {
        match self {
            Self::Path(path) => path.clone(),
            Self::Exchange(name, key) if name.is_empty() => vec!["$queue".to_owned(), key.clone()],
            Self::Exchange(name, key) => {
                let first = (name != "amq.topic").then(|| name.clone());
                first.into_iter().chain(key_words(key)).collect()
            }
        }
    }

    /// The queue a direct message names.
    pub(crate) fn direct(&self) -> Option<&str> {
        match self {
            Self::Exchange(name, key) if name.is_empty() => Some(key),
            Self::Exchange(..) | Self::Path(_) => None,
        }
    }
}

/// A topic exchange.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Exchange {
    /// `x-address = "none"`: its traffic is for AMQP only.
    pub(crate) hidden: bool,
}

/// Topic exchanges and the queues bound to them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Topology {
    pub(crate) exchanges: BTreeMap<String, Exchange>,
    /// Exchange, queue, key.
    binds: Vec<(String, String, Words)>,
}

impl Topology {
    pub(crate) fn bind(&mut self, exchange: &str, queue: &str, key: Words) {
        self.binds.push((exchange.to_owned(), queue.to_owned(), key));
    }

    /// Rules 2 and 3: the named queues a record reaches, each once.
    pub(crate) fn queues<'a>(&'a self, came: &'a Came) -> BTreeSet<&'a str> {
        let entries: Vec<(&str, Words)> = match came {
            Came::Exchange(name, _) if name.is_empty() => {
                return came.direct().into_iter().collect();
            }
            Came::Exchange(name, key) => vec![(name, key_words(key))],
            Came::Path(path) => {
                let first = path.first().map_or("", String::as_str);
                let rest = path.get(1..).unwrap_or_default();
                // Rendered as a key and read again: one empty word alone is no word.
                let key = |segments: &[String]| {
                    let escaped = segments.iter().map(|segment| segment.replace('.', "%2E"));
                    key_words(&escaped.collect::<Words>().join("."))
                };
                vec![("amq.topic", key(path)), (first, key(rest))]
            }
        };
        let entered = |exchange: &str, pattern: &Words| {
            entries.iter().any(|(name, key)| *name == exchange && is_match(pattern, key, false))
        };
        let reached = self.binds.iter().filter(|(exchange, _, key)| entered(exchange, key));
        reached.map(|(_, queue, _)| queue.as_str()).collect()
    }

    /// Rules 1 and 4: whether a filter over paths gets the record. `+` is one word, a last `#` any
    /// rest, and a leading wildcard does not see `$`. A direct message is its queue's alone.
    pub(crate) fn is_wanted(&self, came: &Came, filter: &[String]) -> bool {
        if came.direct().is_some() {
            return false;
        }
        if let Came::Exchange(name, _) = came
            && self.exchanges.get(name).is_some_and(|exchange| exchange.hidden)
        {
            return false;
        }
        let path = came.path();
        let hidden = path.first().is_some_and(|first| first.starts_with('$'));
        let leading = filter.first().is_some_and(|first| first == "+" || first == "#");
        !(hidden && leading) && is_match(filter, &path, true)
    }
}

/// `*` or `+` matches one word; `#` any number.
fn is_match(pattern: &[String], path: &[String], filter: bool) -> bool {
    let one = if filter { "+" } else { "*" };
    match (pattern.split_first(), path.split_first()) {
        (None, rest) => rest.is_none(),
        (Some((step, after)), _) if step == "#" => {
            let mut tails = (0..=path.len()).filter_map(|from| path.get(from..));
            tails.any(|tail| is_match(after, tail, filter))
        }
        (Some((step, after)), Some((word, tail))) => {
            (step == one || step == word) && is_match(after, tail, filter)
        }
        (Some(_), None) => false,
    }
}
