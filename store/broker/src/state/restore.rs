//! Reading back what a checkpoint wrote. Queues are read when they are first used.

use std::{panic::resume_unwind, thread};

use mainstem_index::{
    BindingKey as StoredBinding, ExchangeKey, ExchangeValue, HeldKey, HeldValue, Index, IndexError,
    ParameterKey, QueueKey, ReaderKey, RetainedKey, RetainedValue, SegmentKey, WriterKey,
};
use mainstem_schemas::{Position, UnixMillis};

use super::{HeldBody, State, UNDECIDED, queues::found_by};
use crate::{
    command::{Bind, ExchangeDef, ExchangeKind},
    exchange::{BindingKey, Destination, Exchange},
    namespace::Retained,
};

mod sleepers;

use sleepers::Sleepers;

impl State {
    /// Reads everything that must be in memory. Call once, on a fresh state.
    pub(crate) fn restore(&mut self) -> Result<(), IndexError> {
        let index = self.index.clone();
        thread::scope(|scope| {
            // What may be many is read by two hands.
            let sleepers = scope.spawn(|| Sleepers::read(&index));
            self.restore_rest(&index)?;
            let all = sleepers.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            for (namespace, sleepers) in all {
                sleepers.settle_in(self.namespace(&namespace));
            }
            Ok(())
        })
    }

    /// All but the sessions.
    fn restore_rest(&mut self, index: &Index) -> Result<(), IndexError> {
        for found in index.scan::<SegmentKey>() {
            let (key, value) = found?;
            self.segments.restore(key.number, value);
        }
        for found in index.scan::<ParameterKey>() {
            let (key, value) = found?;
            self.parameters.insert(key, value);
        }
        let keys: Vec<ParameterKey> = self.parameters.keys().cloned().collect();
        for key in keys {
            self.follow_parameter(&key);
        }
        for found in index.scan::<ExchangeKey>() {
            let (key, value) = found?;
            let Some(kind) = ExchangeKind::from_u8(value.kind) else { continue };
            let ExchangeValue { auto_delete, internal, arguments, home, .. } = value;
            let name = key.name;
            let def = ExchangeDef { name, kind, durable: true, auto_delete, internal, arguments };
            let mut exchange = Exchange::new(def);
            exchange.home = home;
            exchange.govern(&self.namespace(&key.namespace).rules);
            self.namespace(&key.namespace).exchanges.insert(exchange);
        }
        // There may be a million, and few others between them.
        let mut queues = index.ascending::<QueueKey>();
        for found in index.scan::<ReaderKey>() {
            let (key, ()) = found?;
            let Some(value) = queues.get(&QueueKey { queue: key.queue })? else { continue };
            let (found, name) = found_by(&value.name);
            self.namespace(&value.namespace).add_queue(key.queue, &found, name);
        }
        self.restore_names()?;
        for found in index.held(UNDECIDED, UnixMillis(u64::MAX)) {
            let (HeldKey { origin, .. }, HeldValue { position, size, namespace }) = found?;
            let namespace = self.queues.intern(&namespace);
            self.undecided.insert(origin, (HeldBody { origin, position, size }, namespace));
        }
        Ok(())
    }

    fn restore_names(&mut self) -> Result<(), IndexError> {
        let index = self.index.clone();
        for found in index.scan::<StoredBinding>() {
            let (key, value) = found?;
            let arguments = mainstem_schemas::value::decode_table(key.arguments.clone());
            let destination = if key.to_exchange {
                Destination::Exchange(key.destination.clone())
            } else {
                Destination::Queue(value.queue)
            };
            let bind = Bind {
                source: key.source,
                destination: key.destination,
                to_exchange: key.to_exchange,
                key: key.key.clone(),
                arguments: arguments.unwrap_or_default(),
            };
            let arguments = key.arguments;
            let binding = BindingKey { destination, key: key.key, arguments };
            let exchange = self.namespace(&key.namespace).exchanges.get_mut(&bind.source);
            if let Some(exchange) = exchange {
                exchange.bind(binding.clone(), &bind.destination, bind.arguments, value.home);
            }
            if !key.to_exchange {
                self.bound.entry(value.queue).or_default().push((bind.source, binding));
            }
        }
        for found in index.scan::<RetainedKey>() {
            let (key, RetainedValue { position, size, expiry }) = found?;
            let retained = Retained { position, size, expiry };
            self.namespace(&key.namespace).retained.insert(key.path, retained);
        }
        for found in index.scan::<WriterKey>() {
            let (key, value) = found?;
            let namespace = self.queues.intern(&key.namespace);
            self.writers.insert((namespace, key.writer), value);
        }
        Ok(())
    }

    /// After the log's end was reached.
    pub(crate) fn finish_recovery(&mut self, now: UnixMillis, end: Position) {
        self.started_at = end;
        self.queues.is_rebuilding = false;
        let orphans: Vec<_> = self
            .queues
            .resident()
            .filter(|(_, queue)| queue.is_provisional)
            .map(|(id, _)| id)
            .collect();
        for id in orphans {
            tracing::warn!(event = "queue_unknown", queue = id.0, "entries of an unknown queue");
            self.delete_queue(id);
        }
        for namespace in self.namespaces.values_mut() {
            for session in namespace.sessions.values_mut() {
                if !session.detached.is_set() {
                    session.detached = now;
                }
            }
        }
    }
}
