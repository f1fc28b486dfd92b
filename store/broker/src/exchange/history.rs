//! What an exchange saw last, for queues that are bound later.

use std::collections::VecDeque;

use mainstem_schemas::{Record, Routing, Table, Value, flags, value::find};

use crate::error::Refusal;

/// In memory only, as RabbitMQ's is.
#[derive(Debug)]
pub(crate) struct History {
    len_max: usize,
    bytes: usize,
    records: VecDeque<Record>,
}

/// Bytes of records that one exchange remembers.
const BYTES_MAX: usize = 16 << 20;
/// What those of a namespace share when they are many: each remembers its part only.
const NAMESPACE_BYTES_MAX: usize = 64 << 20;
/// What is remembered if nobody says how much (rabbitmq_recent_history_exchange, KEEP_NB).
const LEN: usize = 20;
const LEN_ARGUMENT: &str = "x-recent-history-length";
const NO_STORE: &str = "x-recent-history-no-store";

impl History {
    pub(super) fn new(arguments: &Table) -> Self {
        let found = find(arguments, LEN_ARGUMENT);
        let len_max = found.and_then(|value| usize::try_from(value.as_int()?).ok());
        Self { len_max: len_max.unwrap_or(LEN), bytes: 0, records: VecDeque::new() }
    }

    /// Remembers a record, unless it says that it does not want to be. So many exchanges share the
    /// memory.
    pub(super) fn push(&mut self, record: &Record, said: &Routing, sharers: usize) {
        if find(&said.headers, NO_STORE) == Some(&Value::Bool(true)) {
            return;
        }
        self.bytes += record.bytes().len();
        // Handed out again, it is not the last one of its address again.
        self.records.push_back(record.without(flags::RETAIN));
        self.trim(sharers);
    }

    /// Forgets the oldest until it has no more than its share.
    pub(super) fn trim(&mut self, sharers: usize) {
        let bytes_max = BYTES_MAX.min(NAMESPACE_BYTES_MAX / sharers);
        while self.records.len() > self.len_max || self.bytes > bytes_max {
            let Some(oldest) = self.records.pop_front() else { break };
            self.bytes -= oldest.bytes().len();
        }
    }

    /// The oldest first.
    pub(crate) fn records(&self) -> Vec<Record> {
        self.records.iter().cloned().collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

/// Whether the arguments of an exchange that remembers make sense.
pub(super) fn check_history(arguments: &Table) -> Result<(), Refusal> {
    let shown = match find(arguments, LEN_ARGUMENT) {
        None | Some(Value::Int(1..)) => return Ok(()),
        Some(Value::Int(len)) => len.to_string(),
        Some(Value::Text(text)) => format!("<<\"{text}\">>"),
        Some(other) => format!("{other:?}"),
    };
    Err(Refusal::BadArguments(format!(
        "Invalid argument {shown}, 'x-recent-history-length' must be a positive integer"
    )))
}

#[cfg(test)]
mod tests {
    use mainstem_schemas::{Address, RecordDraft};

    use super::*;
    use crate::{
        command::{ExchangeDef, ExchangeKind},
        exchange::{Exchange, Exchanges},
    };

    #[test]
    fn exchanges_that_remember_share_the_memory_for_it() {
        let address = Address::http("a".into());
        let record = RecordDraft::new(&address, "/", b"", &[0; 1 << 20]).encode().unwrap();
        let mut exchanges = Exchanges::default();
        for count in 1..=70_usize {
            let name = format!("exchange {count}");
            exchanges.insert(Exchange::new(ExchangeDef {
                name: name.clone(),
                kind: ExchangeKind::RecentHistory,
                durable: true,
                auto_delete: false,
                internal: false,
                arguments: vec![(LEN_ARGUMENT.to_owned(), Value::Int(1_000_000))],
            }));
            for _ in 0..20 {
                exchanges.remember(&name, &record, &Routing::default());
            }
            let all = exchanges.iter().filter_map(|exchange| exchange.history.as_ref());
            let records: usize = all.map(|history| history.records().len()).sum();
            let parts = count.next_power_of_two();
            let share = (NAMESPACE_BYTES_MAX / parts).min(BYTES_MAX) / record.bytes().len();
            assert_eq!(records, count * share, "of {count} exchanges");
        }
    }

    #[test]
    fn an_exchange_more_is_seldom_news_to_the_others() {
        let new = |count: usize| {
            Exchange::new(ExchangeDef {
                name: format!("exchange {count}"),
                kind: ExchangeKind::RecentHistory,
                durable: true,
                auto_delete: false,
                internal: false,
                arguments: Vec::new(),
            })
        };
        let mut exchanges = Exchanges::default();
        let trims = (1..=1000).filter(|count| exchanges.insert(new(*count)));
        assert_eq!(trims.count(), 11);
        // Declared again, it is the same one.
        assert!(!exchanges.insert(new(7)));
    }
}
