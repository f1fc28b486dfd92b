//! What is asked of queues and exchanges by their names, and how that meets what they were declared
//! with (RabbitMQ: policies and operator policies).
//!
//! Of each authority one rule holds for a name: that of the highest priority whose pattern matches
//! and whose every key the queue's type knows. Of two numbers the smaller one holds; else the
//! operator's word over the user's, and what was declared over both.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use fancy_regex::{Regex, RegexBuilder};
use mainstem_schemas::{Table, Value, value::find};

use crate::{
    command::{ExchangeDef, QueueDef, Retention, Ruled},
    error::Refusal,
    policy::{DeadLetter, Overflow, Policy, attempts_max, keeps_dead, shared},
};

mod definition;

pub use definition::age_ms;
use definition::{check_definition, unknown_to};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    User,
    /// Bounds what users may ask.
    Operator,
}

/// What a rule is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ApplyTo {
    #[default]
    All,
    Queues,
    ClassicQueues,
    QuorumQueues,
    Streams,
    Exchanges,
}

/// A rule for all queues or exchanges of certain names.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub name: String,
    /// A regular expression, found anywhere in a name.
    pub pattern: String,
    pub apply_to: ApplyTo,
    /// The highest holds.
    pub priority: i64,
    /// What it asks, in RabbitMQ's keys.
    pub definition: Table,
}

/// The kinds of queue that RabbitMQ tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QueueType {
    Classic,
    Quorum,
    Stream,
}

/// Steps that one match may take back. A pattern that needs more does not match.
const BACKTRACKS_MAX: usize = 10_000;

impl Authority {
    /// The component its rules are kept under.
    pub(crate) fn component(self) -> &'static str {
        match self {
            Self::User => "policy",
            Self::Operator => "operator_policy",
        }
    }

    pub(crate) fn of_component(component: &str) -> Option<Self> {
        [Self::User, Self::Operator].into_iter().find(|one| one.component() == component)
    }
}

impl ApplyTo {
    const ALL: [Self; 6] = [
        Self::All,
        Self::Queues,
        Self::ClassicQueues,
        Self::QuorumQueues,
        Self::Streams,
        Self::Exchanges,
    ];

    /// RabbitMQ's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Queues => "queues",
            Self::ClassicQueues => "classic_queues",
            Self::QuorumQueues => "quorum_queues",
            Self::Streams => "streams",
            Self::Exchanges => "exchanges",
        }
    }

    /// Reads [`ApplyTo::word`] back.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.word() == word)
    }

    fn is_for(self, kind: QueueType) -> bool {
        match self {
            Self::All | Self::Queues => true,
            Self::ClassicQueues => kind == QueueType::Classic,
            Self::QuorumQueues => kind == QueueType::Quorum,
            Self::Streams => kind == QueueType::Stream,
            Self::Exchanges => false,
        }
    }
}

impl Rule {
    /// Errors: the pattern is no regular expression, or the definition asks what nobody knows, or in
    /// a wrong way; in RabbitMQ's words.
    pub fn check(&self, authority: Authority) -> Result<(), Refusal> {
        regex(&self.pattern)
            .and_then(|_| check_definition(authority, &self.definition))
            .map_err(Refusal::BadArguments)
    }

    /// Whether it may give queues something to do by themselves: at a time, or to keep a bound.
    pub(crate) fn makes_queues_act(&self) -> bool {
        let acts = |key: &str| {
            matches!(key, "message-ttl" | "expires" | "max-length" | "max-length-bytes" | "max-age")
        };
        self.apply_to != ApplyTo::Exchanges && self.definition.iter().any(|(key, _)| acts(key))
    }

    /// As it is kept.
    pub(crate) fn to_table(&self) -> Table {
        vec![
            ("pattern".to_owned(), Value::Text(self.pattern.clone())),
            ("apply-to".to_owned(), Value::Text(self.apply_to.word().to_owned())),
            ("priority".to_owned(), Value::Int(self.priority)),
            ("definition".to_owned(), Value::Table(self.definition.clone())),
        ]
    }

    pub(crate) fn from_table(name: &str, table: &Table) -> Option<Self> {
        let find = |name| find(table, name);
        let Some(Value::Table(definition)) = find("definition") else { return None };
        Some(Self {
            name: name.to_owned(),
            pattern: find("pattern")?.as_text()?.to_owned(),
            apply_to: ApplyTo::from_word(find("apply-to")?.as_text()?)?,
            priority: find("priority")?.as_int()?,
            definition: definition.clone(),
        })
    }
}

fn regex(pattern: &str) -> Result<Regex, String> {
    let mut builder = RegexBuilder::new(pattern);
    let built = builder.backtrack_limit(BACKTRACKS_MAX).build();
    built.map_err(|error| format!("pattern should be regular expression but is invalid: {error}"))
}

#[derive(Debug)]
struct Compiled {
    rule: Rule,
    regex: Regex,
}

impl Compiled {
    fn matches(&self, name: &str) -> bool {
        self.regex.is_match(name).unwrap_or(false)
    }

    fn is_for_queue(&self, def: &QueueDef, kind: QueueType) -> bool {
        let mut keys = self.rule.definition.iter().map(|(key, _)| key);
        self.rule.apply_to.is_for(kind)
            && keys.all(|key| !unknown_to(kind, key))
            && self.matches(&def.name)
    }

    fn is_for_exchange(&self, def: &ExchangeDef) -> bool {
        matches!(self.rule.apply_to, ApplyTo::All | ApplyTo::Exchanges) && self.matches(&def.name)
    }
}

/// All rules of a namespace.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    users: Vec<Compiled>,
    operators: Vec<Compiled>,
}

/// What is asked of an exchange by its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) alternate: Option<String>,
    pub(crate) address: Option<String>,
}

impl Rules {
    pub(crate) fn new(rules: impl Iterator<Item = (Authority, Rule)>) -> Self {
        let mut all = Self::default();
        for (authority, rule) in rules {
            // It was checked when it came.
            let Ok(regex) = regex(&rule.pattern) else { continue };
            let list = match authority {
                Authority::User => &mut all.users,
                Authority::Operator => &mut all.operators,
            };
            list.push(Compiled { rule, regex });
        }
        // Among equals by name.
        all.users.sort_by_key(|one| std::cmp::Reverse(one.rule.priority));
        all.operators.sort_by_key(|one| std::cmp::Reverse(one.rule.priority));
        all
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.operators.is_empty()
    }

    /// Whether some rule's pattern matches.
    pub(crate) fn matches_any(&self, name: &str) -> bool {
        self.users.iter().chain(&self.operators).any(|one| one.matches(name))
    }

    /// What is asked of all that match, by key.
    fn asked(&self, matches: impl Fn(&Compiled) -> bool) -> BTreeMap<&str, Value> {
        let mut asked = BTreeMap::new();
        for list in [&self.users, &self.operators] {
            let Some(found) = list.iter().find(|one| matches(one)) else { continue };
            for (key, value) in &found.rule.definition {
                let merged = match (asked.get(key.as_str()), value) {
                    (Some(Value::Int(user)), Value::Int(operator)) => {
                        Value::Int(smaller(key, *user, *operator))
                    }
                    _ => value.clone(),
                };
                asked.insert(key.as_str(), merged);
            }
        }
        asked
    }

    /// What a queue goes by that was declared with `declared`.
    pub(crate) fn of_queue(&self, def: &QueueDef, declared: &Arc<Policy>) -> Arc<Policy> {
        if self.is_empty() {
            return declared.clone();
        }
        let kind = queue_type(def);
        let asked = self.asked(|one| one.is_for_queue(def, kind));
        if asked.is_empty() {
            return declared.clone();
        }
        shared(merge(def, kind, declared, &asked))
    }

    /// What is asked of an exchange.
    pub(crate) fn of_exchange(&self, def: &ExchangeDef) -> Asked {
        let asked = self.asked(|one| one.is_for_exchange(def));
        let text = |key| asked.get(key).and_then(Value::as_text).map(str::to_owned);
        Asked { alternate: text("alternate-exchange"), address: text("address") }
    }

    /// By which rules a queue goes.
    pub(crate) fn ruling_of_queue(&self, def: &QueueDef) -> Ruled {
        let kind = queue_type(def);
        self.ruling(|one| one.is_for_queue(def, kind))
    }

    /// By which rules an exchange goes.
    pub(crate) fn ruling_of_exchange(&self, def: &ExchangeDef) -> Ruled {
        self.ruling(|one| one.is_for_exchange(def))
    }

    fn ruling(&self, matches: impl Fn(&Compiled) -> bool) -> Ruled {
        let first = |list: &[Compiled]| {
            list.iter().find(|one| matches(one)).map(|one| one.rule.name.clone())
        };
        let (user, operator) = (first(&self.users), first(&self.operators));
        let asked = self.asked(matches).into_iter();
        let definition = asked.map(|(key, value)| (key.to_owned(), value)).collect();
        Ruled { user, operator, definition }
    }
}

/// The number that bounds more. -1 is no limit of deliveries, and 0 is any time to settle them.
fn smaller(key: &str, one: i64, other: i64) -> i64 {
    let is_none = |number: i64| match key {
        "delivery-limit" => number < 0,
        "consumer-timeout" => number == 0,
        _ => false,
    };
    if is_none(one) || is_none(other) { one.max(other) } else { one.min(other) }
}

fn queue_type(def: &QueueDef) -> QueueType {
    match find(&def.arguments, "x-queue-type").and_then(Value::as_text) {
        _ if def.retention == Retention::Time => QueueType::Stream,
        Some("quorum") => QueueType::Quorum,
        _ => QueueType::Classic,
    }
}

fn merge(
    def: &QueueDef,
    kind: QueueType,
    declared: &Policy,
    asked: &BTreeMap<&str, Value>,
) -> Policy {
    let number = |key| u64::try_from(asked.get(key)?.as_int()?).ok();
    let text = |key| asked.get(key).and_then(Value::as_text);
    let least = |declared: Option<u64>, asked: Option<u64>| declared.into_iter().chain(asked).min();
    let argument = |name| find(&def.arguments, name);
    let mut policy = declared.clone();
    policy.ttl_ms = least(policy.ttl_ms, number("message-ttl"));
    policy.expires_ms = least(policy.expires_ms, number("expires"));
    policy.len_max = least(policy.len_max, number("max-length"));
    policy.bytes_max = least(policy.bytes_max, number("max-length-bytes"));
    policy.age_max_ms = least(policy.age_max_ms, text("max-age").and_then(age_ms));
    policy.settle_max_ms = match (policy.settle_max_ms, number("consumer-timeout")) {
        // Any time.
        (Some(0), other) | (other, Some(0)) => other.or(Some(0)),
        (declared, asked) => least(declared, asked),
    };
    if argument("x-overflow").is_none()
        && let Some(word) = text("overflow")
    {
        policy.overflow = Overflow::from_word(word);
    }
    let strategy = argument("x-dead-letter-strategy").and_then(Value::as_text);
    let strategy = strategy.or_else(|| text("dead-letter-strategy"));
    policy.delivery.keeps_dead = keeps_dead(kind == QueueType::Quorum, policy.overflow, strategy);
    let key = text("dead-letter-routing-key").map(|key| Bytes::copy_from_slice(key.as_bytes()));
    let name = text("dead-letter-exchange").map(str::to_owned);
    policy.delivery.dead_letter = match (policy.delivery.dead_letter, name) {
        (None, None) => None,
        (None, Some(name)) => Some(DeadLetter::Exchange { name, key }),
        (Some(DeadLetter::Exchange { name, key: declared }), _) => {
            Some(DeadLetter::Exchange { name, key: declared.or(key) })
        }
        (Some(topic), _) => Some(topic),
    };
    if let (QueueType::Quorum, Some(Value::Int(asked))) = (kind, asked.get("delivery-limit")) {
        let declared = argument("x-delivery-limit").and_then(Value::as_int);
        let limit = declared.map_or(*asked, |limit| smaller("delivery-limit", limit, *asked));
        policy.delivery.attempts_max = attempts_max(limit);
    }
    policy
}

#[cfg(test)]
mod tests;
