//! The exchange graph of one namespace: which queues an exchange and a key lead to.

use std::{cell::Cell, collections::BTreeMap, ops::Deref, sync::Arc};

use bytes::Bytes;
use mainstem_schemas::{
    Position, QueueId, Record, Routing, Table, UnixMillis, Value,
    address::ROOT_EXCHANGE,
    value::{encode_table, find},
};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use crate::{
    command::{ExchangeDef, ExchangeKind},
    error::Refusal,
    meter::{Count, Meter},
    rules::Rules,
    trie::{Trie, key_pattern, key_words},
};

/// Queues found for one publish. One may stand there more than once; the caller sorts that out once
/// at the end, which stays cheap for wide fan-outs.
pub(crate) type Targets = SmallVec<[QueueId; 8]>;

mod choice;
mod history;

use choice::{Choice, check_hashed, check_weight};
pub(crate) use history::History;
use history::check_history;

impl ExchangeKind {
    pub(crate) fn from_u8(value: u8) -> Option<Self> {
        let all = [
            Self::Direct,
            Self::Fanout,
            Self::Topic,
            Self::Headers,
            Self::ConsistentHash,
            Self::Random,
            Self::RecentHistory,
            Self::ModulusHash,
            Self::LocalRandom,
        ];
        all.into_iter().find(|kind| *kind as u8 == value)
    }
}

/// Where a binding leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Destination {
    Queue(QueueId),
    Exchange(String),
}

/// What makes a binding of one exchange the same binding (RabbitMQ: source, destination, key and
/// arguments).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BindingKey {
    pub(crate) destination: Destination,
    pub(crate) key: Bytes,
    /// The arguments' stored form.
    pub(crate) arguments: Bytes,
}

impl BindingKey {
    /// The key is copied: it is kept for long, and what was read together with it should not be.
    pub(crate) fn new(destination: Destination, key: &[u8], arguments: &Table) -> Self {
        let mut encoded = Vec::new();
        encode_table(arguments, &mut encoded);
        Self { destination, key: Bytes::copy_from_slice(key), arguments: encoded.into() }
    }
}

/// How a headers binding compares.
#[derive(Clone, Debug, PartialEq)]
struct HeadersRule {
    any: bool,
    wanted: Table,
}

#[derive(Debug)]
enum Rule {
    Direct(FxHashMap<Bytes, Vec<Destination>>),
    Fanout(Vec<Destination>),
    Topic(Trie<Destination>),
    Headers(Vec<(HeadersRule, Destination)>),
    One(Choice),
}

/// An exchange and what is bound to it.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) def: Arc<ExchangeDef>,
    /// The exchange for what nothing here wanted.
    pub(crate) alternate: Option<String>,
    /// Its traffic is hidden from address filters.
    pub(crate) private: bool,
    pub(crate) bindings: BTreeMap<BindingKey, Bound>,
    /// The log entry that states it; 0 if it is not durable.
    pub(crate) home: Position,
    rule: Rule,
    pub(crate) history: Option<History>,
    /// What its senders brought to it, and went on to queues.
    meter: Cell<Meter<2>>,
}

/// What a record is routed by.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'a> {
    pub(crate) key: &'a [u8],
    /// Further ones that its sender gave it.
    pub(crate) further: &'a [Bytes],
    pub(crate) said: &'a Said<'a>,
}

/// What exchanges may look at in a record. Most look at nothing, so it is read when the first one does.
pub(crate) type Said<'a> = dyn Deref<Target = Routing> + 'a;

impl<'a> Keys<'a> {
    fn all(self) -> impl Iterator<Item = &'a [u8]> {
        std::iter::once(self.key).chain(self.further.iter().map(|key| &**key))
    }
}

/// Where a record is led.
#[derive(Default)]
pub(crate) struct Led {
    pub(crate) queues: Targets,
    /// Exchanges it came through that remember what they saw.
    pub(crate) histories: Vec<String>,
}

/// Names of exchanges that a record came through: mostly one or two.
#[derive(Default)]
struct Names<'a> {
    few: SmallVec<[&'a str; NAMES_FEW]>,
    more: FxHashSet<&'a str>,
}

/// Names that are looked through one by one.
const NAMES_FEW: usize = 8;

impl<'a> Names<'a> {
    /// Tells whether it is new.
    fn insert(&mut self, name: &'a str) -> bool {
        if self.few.contains(&name) {
            return false;
        }
        if self.few.len() == NAMES_FEW {
            return self.more.insert(name);
        }
        self.few.push(name);
        true
    }
}

/// What a binding is besides its identity.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    pub(crate) arguments: Table,
    /// The log entry that states it; 0 if it is not durable.
    pub(crate) home: Position,
}

/// Whether a binding's key and arguments make sense for an exchange of this kind.
pub(crate) fn check_binding(
    kind: ExchangeKind,
    key: &[u8],
    arguments: &Table,
) -> Result<(), Refusal> {
    match kind {
        ExchangeKind::Headers => headers_rule(arguments).map(|_| ()),
        ExchangeKind::ConsistentHash => check_weight(key),
        _ => Ok(()),
    }
}

/// Whether an exchange's arguments make sense for its kind.
pub(crate) fn check_exchange(def: &ExchangeDef) -> Result<(), Refusal> {
    match def.kind {
        ExchangeKind::ConsistentHash => check_hashed(&def.arguments),
        ExchangeKind::RecentHistory => check_history(&def.arguments),
        _ => Ok(()),
    }
}

fn headers_rule(arguments: &Table) -> Result<HeadersRule, Refusal> {
    let (any, with_x) = match find(arguments, "x-match") {
        None => (false, false),
        Some(Value::Text(mode)) => match mode.as_str() {
            "all" => (false, false),
            "any" => (true, false),
            "all-with-x" => (false, true),
            "any-with-x" => (true, true),
            other => {
                return Err(Refusal::BadArguments(format!(
                    "Invalid x-match field value \"{other}\"; expected all or any"
                )));
            }
        },
        Some(_) => {
            let text = "Invalid x-match field type; expected longstr";
            return Err(Refusal::BadArguments(text.to_owned()));
        }
    };
    let wanted = arguments
        .iter()
        .filter(|(name, _)| name != "x-match" && (with_x || !name.starts_with("x-")))
        .cloned()
        .collect();
    Ok(HeadersRule { any, wanted })
}

impl HeadersRule {
    /// A wanted `Void` is satisfied by the header being there (RabbitMQ, headers exchange).
    fn wants(&self, headers: &[(String, Value)]) -> bool {
        let holds = |(name, wanted): &(String, Value)| {
            headers
                .iter()
                .any(|(have, value)| have == name && (*wanted == Value::Void || wanted == value))
        };
        if self.any { self.wanted.iter().any(holds) } else { self.wanted.iter().all(holds) }
    }
}

impl Exchange {
    pub(crate) fn new(def: ExchangeDef) -> Self {
        let rule = match def.kind {
            ExchangeKind::Direct => Rule::Direct(FxHashMap::default()),
            ExchangeKind::Fanout | ExchangeKind::RecentHistory => Rule::Fanout(Vec::new()),
            ExchangeKind::ConsistentHash => Rule::One(Choice::by_hash(&def.arguments)),
            ExchangeKind::ModulusHash => Rule::One(Choice::by_modulus()),
            ExchangeKind::Random | ExchangeKind::LocalRandom => Rule::One(Choice::by_chance()),
            ExchangeKind::Topic => Rule::Topic(Trie::default()),
            ExchangeKind::Headers => Rule::Headers(Vec::new()),
        };
        let bindings = BTreeMap::new();
        let home = Position::default();
        let history =
            (def.kind == ExchangeKind::RecentHistory).then(|| History::new(&def.arguments));
        let (alternate, private, def) = (None, false, Arc::new(def));
        let meter = Cell::default();
        let mut exchange = Self { def, alternate, private, bindings, home, rule, history, meter };
        exchange.govern(&Rules::default());
        exchange
    }

    /// A sender brought a record to it, which went on to this many queues.
    pub(crate) fn note(&self, now: UnixMillis, queues: usize) {
        let mut meter = self.meter.take();
        meter.add(now, 0, 1);
        meter.add(now, 1, queues as u64);
        self.meter.set(meter);
    }

    /// See [`crate::ExchangeShown::counts`].
    pub(crate) fn counts(&self, now: UnixMillis) -> [Count; 2] {
        self.meter.get().read(now)
    }

    /// Goes by what these rules ask of its name from now on, and before that by what it was declared
    /// with.
    pub(crate) fn govern(&mut self, rules: &Rules) {
        let asked = rules.of_exchange(&self.def);
        let text = |name: &str, asked: Option<String>| {
            let found = find(&self.def.arguments, name);
            found.map_or(asked, |value| value.as_text().map(str::to_owned))
        };
        self.alternate = text("alternate-exchange", asked.alternate);
        self.private = text("x-address", asked.address).as_deref() == Some("none");
    }

    /// Adds a binding to what is called `name`, or gives one that is there another home; returns
    /// its home before.
    pub(crate) fn bind(
        &mut self,
        binding: BindingKey,
        name: &str,
        arguments: Table,
        home: Position,
    ) -> Option<Position> {
        if let Some(known) = self.bindings.get_mut(&binding) {
            return Some(std::mem::replace(&mut known.home, home));
        }
        let destination = binding.destination.clone();
        match &mut self.rule {
            Rule::Direct(keys) => keys.entry(binding.key.clone()).or_default().push(destination),
            Rule::Fanout(all) => all.push(destination),
            Rule::Topic(trie) => trie.insert(&key_pattern(&binding.key), destination),
            Rule::Headers(rules) => {
                if let Ok(rule) = headers_rule(&arguments) {
                    rules.push((rule, destination));
                }
            }
            Rule::One(choice) => choice.add(&binding, name),
        }
        self.bindings.insert(binding, Bound { arguments, home });
        None
    }

    /// Removes a binding; returns its home if it was there.
    pub(crate) fn unbind(&mut self, binding: &BindingKey) -> Option<Position> {
        let Bound { arguments, home } = self.bindings.remove(binding)?;
        let destination = &binding.destination;
        match &mut self.rule {
            Rule::Direct(keys) => {
                if let Some(all) = keys.get_mut(&binding.key) {
                    remove_one(all, |one| one == destination);
                    if all.is_empty() {
                        keys.remove(&binding.key);
                    }
                }
            }
            Rule::Fanout(all) => remove_one(all, |one| one == destination),
            Rule::Topic(trie) => {
                trie.remove(&key_pattern(&binding.key), |one| one == destination);
            }
            Rule::Headers(rules) => {
                if let Ok(rule) = headers_rule(&arguments) {
                    remove_one(rules, |one| one.0 == rule && one.1 == *destination);
                }
            }
            Rule::One(choice) => choice.remove(binding),
        }
        Some(home)
    }

    fn find(&self, keys: Keys<'_>, mut found: impl FnMut(&Destination)) {
        match &self.rule {
            Rule::Direct(by_key) => {
                for key in keys.all() {
                    by_key.get(key).into_iter().flatten().for_each(&mut found);
                }
            }
            Rule::Fanout(all) => all.iter().for_each(found),
            Rule::Topic(trie) => {
                for key in keys.all() {
                    trie.find(key_words(key), false, &mut found);
                }
            }
            Rule::Headers(rules) if rules.is_empty() => {}
            Rule::Headers(rules) => {
                let headers = &keys.said.headers;
                for (rule, destination) in rules {
                    if rule.wants(headers) {
                        found(destination);
                    }
                }
            }
            Rule::One(choice) => choice.choose(keys.all(), keys.said).into_iter().for_each(found),
        }
    }
}

fn remove_one<T>(all: &mut Vec<T>, is_it: impl Fn(&T) -> bool) {
    if let Some(index) = all.iter().position(is_it) {
        all.swap_remove(index);
    }
}

/// All exchanges of a namespace.
#[derive(Debug)]
pub(crate) struct Exchanges {
    by_name: FxHashMap<String, Exchange>,
    /// How many of them remember what they saw.
    histories: usize,
}

/// The exchanges every namespace has from the start (RabbitMQ's names).
const PREDECLARED: [(&str, ExchangeKind); 6] = [
    ("amq.direct", ExchangeKind::Direct),
    ("amq.fanout", ExchangeKind::Fanout),
    (ROOT_EXCHANGE, ExchangeKind::Topic),
    ("amq.headers", ExchangeKind::Headers),
    ("amq.match", ExchangeKind::Headers),
    ("amq.rabbitmq.trace", ExchangeKind::Topic),
];

/// Whether a name is one of the predeclared exchanges.
pub(crate) fn is_predeclared(name: &str) -> bool {
    PREDECLARED.iter().any(|(predeclared, _)| *predeclared == name)
}

impl Default for Exchanges {
    fn default() -> Self {
        let mut by_name = FxHashMap::default();
        for (name, kind) in PREDECLARED {
            let def = ExchangeDef {
                name: name.to_owned(),
                kind,
                durable: true,
                auto_delete: false,
                internal: name == "amq.rabbitmq.trace",
                arguments: Table::new(),
            };
            by_name.insert(name.to_owned(), Exchange::new(def));
        }
        Self { by_name, histories: 0 }
    }
}

impl Exchanges {
    pub(crate) fn get(&self, name: &str) -> Option<&Exchange> {
        self.by_name.get(name)
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut Exchange> {
        self.by_name.get_mut(name)
    }

    /// An exchange remembers a record, if it remembers any.
    pub(crate) fn remember(&mut self, name: &str, record: &Record, said: &Routing) {
        let sharers = self.sharers();
        if let Some(Exchange { history: Some(history), .. }) = self.by_name.get_mut(name) {
            history.push(record, said, sharers);
        }
    }

    /// Among how many the memory for what was seen is divided: a power of two, so that few of many
    /// that come make each part smaller.
    fn sharers(&self) -> usize {
        self.histories.next_power_of_two()
    }

    /// Tells whether all that remember something have to do with less.
    pub(crate) fn insert(&mut self, exchange: Exchange) -> bool {
        let before = if self.histories == 0 { 0 } else { self.sharers() };
        self.histories += usize::from(exchange.history.is_some());
        let replaced = self.by_name.insert(exchange.def.name.clone(), exchange);
        self.histories -= usize::from(replaced.is_some_and(|one| one.history.is_some()));
        let sharers = self.sharers();
        let is_less = self.histories > 0 && sharers > before;
        if is_less {
            let histories = self.by_name.values_mut().filter_map(|one| one.history.as_mut());
            histories.for_each(|history| history.trim(sharers));
        }
        is_less
    }

    /// Removes an exchange, and every binding that leads to it.
    pub(crate) fn remove(&mut self, name: &str) -> Option<Exchange> {
        let removed = self.by_name.remove(name)?;
        self.histories -= usize::from(removed.history.is_some());
        let destination = Destination::Exchange(name.to_owned());
        for exchange in self.by_name.values_mut() {
            let to_it: Vec<BindingKey> = exchange
                .bindings
                .keys()
                .filter(|binding| binding.destination == destination)
                .cloned()
                .collect();
            for binding in to_it {
                exchange.unbind(&binding);
            }
        }
        Some(removed)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Exchange> {
        self.by_name.values_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Exchange> {
        self.by_name.values()
    }

    /// Adds the queues that `exchange` leads a record to. Exchanges may form cycles; each is
    /// entered once. An exchange that leads nowhere hands over to its alternate.
    pub(crate) fn route(&self, exchange: &Exchange, keys: Keys<'_>, led: &mut Led) {
        let mut entered = Names::default();
        let mut waiting: SmallVec<[&Exchange; 4]> = SmallVec::new();
        waiting.push(exchange);
        while let Some(exchange) = waiting.pop() {
            if !entered.insert(&exchange.def.name) {
                continue;
            }
            if exchange.history.is_some() {
                led.histories.push(exchange.def.name.clone());
            }
            let mut found_any = false;
            exchange.find(keys, |destination| {
                found_any = true;
                match destination {
                    Destination::Queue(queue) => led.queues.push(*queue),
                    Destination::Exchange(name) => waiting.extend(self.get(name)),
                }
            });
            if !found_any {
                let alternate = exchange.alternate.as_deref();
                waiting.extend(alternate.and_then(|name| self.get(name)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(name: &str, kind: ExchangeKind, arguments: Table) -> Exchange {
        let name = name.to_owned();
        let (durable, auto_delete, internal) = (true, false, false);
        Exchange::new(ExchangeDef { name, kind, durable, auto_delete, internal, arguments })
    }

    fn bind(exchanges: &mut Exchanges, source: &str, destination: Destination, key: &str) {
        let binding = BindingKey::new(destination, key.as_bytes(), &Table::new());
        exchanges.get_mut(source).unwrap().bind(binding, "", Table::new(), Position(0));
    }

    #[test]
    fn a_record_goes_through_many_exchanges_and_few_of_them_are_looked_through_one_by_one() {
        let mut exchanges = Exchanges::default();
        exchanges.insert(exchange("root", ExchangeKind::Fanout, Table::new()));
        let all: Vec<String> = (0..1000).map(|id| format!("exchange {id}")).collect();
        for (id, name) in (0..).zip(&all) {
            exchanges.insert(exchange(name, ExchangeKind::Fanout, Table::new()));
            bind(&mut exchanges, "root", Destination::Exchange(name.clone()), "");
            bind(&mut exchanges, name, Destination::Queue(QueueId(id)), "");
        }
        assert_eq!(route(&exchanges, "root", "").len(), all.len());
        let mut entered = Names::default();
        assert!(all.iter().all(|name| entered.insert(name)));
        assert!(!all.iter().any(|name| entered.insert(name)));
        assert_eq!((entered.few.len(), entered.more.len()), (NAMES_FEW, all.len() - NAMES_FEW));
    }

    fn route(exchanges: &Exchanges, name: &str, key: &str) -> Vec<u64> {
        let mut led = Led::default();
        let from = exchanges.get(name).unwrap();
        let keys = Keys { key: key.as_bytes(), further: &[], said: &Box::<Routing>::default() };
        exchanges.route(from, keys, &mut led);
        let mut ids: Vec<u64> = led.queues.iter().map(|queue| queue.0).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    #[test]
    fn a_queue_bound_twice_is_found_once_and_cycles_end() {
        let mut exchanges = Exchanges::default();
        exchanges.insert(exchange("a", ExchangeKind::Fanout, Table::new()));
        exchanges.insert(exchange("b", ExchangeKind::Topic, Table::new()));
        bind(&mut exchanges, "a", Destination::Exchange("b".to_owned()), "");
        bind(&mut exchanges, "b", Destination::Exchange("a".to_owned()), "#");
        bind(&mut exchanges, "a", Destination::Queue(QueueId(1)), "");
        bind(&mut exchanges, "b", Destination::Queue(QueueId(1)), "x.*");
        bind(&mut exchanges, "b", Destination::Queue(QueueId(2)), "x.y");
        assert_eq!(route(&exchanges, "a", "x.y"), [1, 2]);
        exchanges.remove("b");
        assert_eq!(route(&exchanges, "a", "x.y"), [1]);
    }

    #[test]
    fn an_alternate_takes_what_nothing_wanted() {
        let alternate = ("alternate-exchange".to_owned(), Value::Text("amq.fanout".to_owned()));
        let mut exchanges = Exchanges::default();
        exchanges.insert(exchange("main", ExchangeKind::Direct, vec![alternate]));
        bind(&mut exchanges, "main", Destination::Queue(QueueId(1)), "k");
        bind(&mut exchanges, "amq.fanout", Destination::Queue(QueueId(2)), "");
        assert_eq!(route(&exchanges, "main", "k"), [1]);
        assert_eq!(route(&exchanges, "main", "other"), [2]);
    }

    #[test]
    fn headers_match_all_any_and_ignore_x_headers() {
        let check = |mode: &str, headers: &[(&str, i64)]| {
            let text = |text: &str| Value::Text(text.to_owned());
            let rule = headers_rule(&vec![
                ("x-match".to_owned(), text(mode)),
                ("a".to_owned(), Value::Int(1)),
                ("x-b".to_owned(), Value::Int(2)),
            ])
            .unwrap();
            let headers: Table =
                headers.iter().map(|(name, int)| ((*name).to_owned(), Value::Int(*int))).collect();
            rule.wants(&headers)
        };
        assert!(check("all", &[("a", 1)]) && !check("all", &[("a", 2)]));
        assert!(!check("all-with-x", &[("a", 1)]) && check("all-with-x", &[("a", 1), ("x-b", 2)]));
        assert!(check("any-with-x", &[("x-b", 2)]) && !check("any", &[("x-b", 2)]));
        assert!(headers_rule(&vec![("x-match".to_owned(), Value::Int(1))]).is_err());
    }
}
