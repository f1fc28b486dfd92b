//! Reading back what a checkpoint wrote. Queues are read when they are first used.

use mainstem_index::{
    BindingKey as StoredBinding, ExchangeKey, ExchangeValue, HeldKey, HeldValue, IndexError,
    ParameterKey, QueueKey, ReaderKey, RetainedKey, RetainedValue, SegmentKey, SessionKey,
    SessionValue, SubscriptionKey as StoredSubscription, SubscriptionValue, WriterKey,
};
use mainstem_schemas::{Position, UnixMillis};

use super::{HeldBody, State, UNDECIDED, queues::definition};
use crate::{
    command::{Bind, ExchangeDef, ExchangeKind},
    entry::Subscribed,
    exchange::{BindingKey, Destination, Exchange},
    namespace::{Retained, Session},
};

impl State {
    /// Reads everything that must be in memory. Call once, on a fresh state.
    pub(crate) fn restore(&mut self) -> Result<(), IndexError> {
        let index = self.index.clone();
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
        for found in index.scan::<ReaderKey>() {
            let (key, ()) = found?;
            let Some(value) = index.get(&QueueKey { queue: key.queue })? else { continue };
            let Some((namespace, found, def, _)) = definition(key.queue, value) else { continue };
            self.namespace(&namespace).add_queue(key.queue, &found, &def.name);
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
        for found in index.scan::<SessionKey>() {
            let (key, SessionValue { expiry_s, detached, home }) = found?;
            let session =
                Session { expiry_s, detached, home, is_durable: true, ..Session::default() };
            self.namespace(&key.namespace).sessions.insert(key.id, session);
        }
        for found in index.scan::<StoredSubscription>() {
            let (key, value) = found?;
            let SubscriptionValue { options, live, queue, cursor, home } = value;
            let StoredSubscription { namespace, session, share, filter } = key;
            let stored =
                Subscribed { namespace, session, share, filter, options, live, queue, cursor };
            self.insert_subscription(stored, home);
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
