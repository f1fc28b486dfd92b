//! What a definition says, said again at the log's end.

use mainstem_index::QueueName;
use mainstem_schemas::{CursorId, Position, QueueId};

use crate::{
    command::Bind,
    commit::{Commit, settle::RANGES_MAX},
    cursor::{Cursor, Returned},
    entry::{DeclaredQueue, Entry, Settled, Subscribed},
    exchange::{BindingKey, Destination},
    namespace::SubscriptionKey,
    policy::{DeliveryPolicy, Policy},
    queue,
};

impl Commit {
    /// States all of a queue but its entries again, if `position` is where it is stated.
    pub(super) fn restate_queue(&mut self, id: QueueId, position: Position) {
        self.flush_settled();
        let Some(queue) = self.state.queues.get(id).filter(|queue| queue.home == position) else {
            return;
        };
        let policy = (*queue.declared).clone();
        self.state_queue(id, policy);
    }

    /// States all of a queue but its entries at the log's end, declared with this policy. What was settled
    /// has been flushed.
    pub(in crate::commit) fn state_queue(&mut self, id: QueueId, policy: Policy) {
        let Some(queue) = self.state.queues.get(id) else { return };
        let name = match &queue.found {
            queue::Found::ByName => QueueName::Named(queue.def.name.clone()),
            queue::Found::AsTopic => QueueName::Topic(queue.def.name.clone()),
            queue::Found::ByFilter(filter) => QueueName::Filter((**filter).clone()),
        };
        let declared = DeclaredQueue {
            namespace: (*queue.namespace).to_owned(),
            name,
            auto_delete: queue.def.auto_delete,
            retention: queue.def.retention,
            policy,
            arguments: queue.def.arguments.clone(),
        };
        let mut entries =
            vec![Entry::QueueImage { queue: id, lanes: queue.lane_states(), declared }];
        for (cursor, at) in queue.cursors().filter(|(cursor, _)| !cursor.is_transient()) {
            // The queue's own is served by what the queue goes by.
            let is_main = cursor == CursorId::MAIN;
            let policy = if is_main { &queue.declared.delivery } else { &*at.policy };
            entries.extend(cursor_entries(id, cursor, at, policy));
        }
        let (namespace, name) = (queue.namespace.clone(), queue.def.name.clone());
        for entry in entries {
            self.log_lazily(entry);
        }
        for (source, binding) in self.state.bound.get(&id).cloned().unwrap_or_default() {
            self.restate_bound(&namespace, &source, &binding, &name);
        }
    }

    /// A binding is understood only behind both of its ends, so it is stated again when they are.
    pub(super) fn restate_bindings_of_exchange(&mut self, namespace: &str, name: &str) {
        let here = Destination::Exchange(name.to_owned());
        let mut bindings: Vec<(String, BindingKey, String)> = Vec::new();
        for exchange in self.state.namespace(namespace).exchanges.iter() {
            let source = &exchange.def.name;
            for binding in exchange.bindings.keys() {
                if source == name || binding.destination == here {
                    let to = match &binding.destination {
                        Destination::Exchange(name) => name.clone(),
                        Destination::Queue(_) => String::new(),
                    };
                    bindings.push((source.clone(), binding.clone(), to));
                }
            }
        }
        // The exchanges are in a hash map's order, which the log is not to hang on.
        bindings.sort();
        for (source, binding, to) in bindings {
            let to = match binding.destination {
                Destination::Exchange(_) => Some(to),
                Destination::Queue(id) => {
                    self.state.queues.get(id).map(|queue| queue.def.name.clone())
                }
            };
            if let Some(to) = to {
                self.restate_bound(namespace, &source, &binding, &to);
            }
        }
    }

    pub(super) fn restate_bound(
        &mut self,
        namespace: &str,
        source: &str,
        binding: &BindingKey,
        to: &str,
    ) {
        let exchange = self.state.namespace(namespace).exchanges.get(source);
        let Some(bound) = exchange.and_then(|exchange| exchange.bindings.get(binding)) else {
            return;
        };
        if bound.home.0 == 0 {
            return;
        }
        let bind = Bind {
            source: source.to_owned(),
            destination: to.to_owned(),
            to_exchange: matches!(binding.destination, Destination::Exchange(_)),
            key: binding.key.clone(),
            arguments: bound.arguments.clone(),
        };
        self.log_lazily(Entry::Bind { namespace: namespace.to_owned(), bind });
    }

    pub(super) fn restate_binding(&mut self, namespace: String, bind: Bind, position: Position) {
        let Some(destination) = self.state.destination(&namespace, &bind) else { return };
        let binding = BindingKey::new(destination, &bind.key, &bind.arguments);
        let exchange = self.state.namespace(&namespace).exchanges.get(&bind.source);
        let bound = exchange.and_then(|exchange| exchange.bindings.get(&binding));
        if bound.is_some_and(|bound| bound.home == position) {
            self.log_lazily(Entry::Bind { namespace, bind });
        }
    }

    pub(super) fn restate_subscription(&mut self, subscribed: Subscribed, position: Position) {
        let key =
            SubscriptionKey { share: subscribed.share.clone(), filter: subscribed.filter.clone() };
        let space = self.state.namespace(&subscribed.namespace);
        let session = space.sessions.get(&subscribed.session);
        let found = session.and_then(|session| session.subscriptions.get(&key)).copied();
        if let Some(found) = found.filter(|found| found.home == position) {
            let (options, live) = (found.options, found.live);
            let (queue, cursor) = (found.queue, found.cursor);
            self.log_lazily(Entry::Subscribe(Subscribed {
                options,
                live,
                queue,
                cursor,
                ..subscribed
            }));
        }
    }

    pub(super) fn restate_writer(&mut self, namespace: String, writer: String, position: Position) {
        let interned = self.state.queues.intern(&namespace);
        let known = self.state.writers.get(&(interned, writer.clone())).copied();
        if let Some(known) = known.filter(|known| known.home == position) {
            let (sequence, seen) = (known.sequence, known.seen);
            self.log_lazily(Entry::Writer { namespace, writer, sequence, seen });
        }
    }
}

/// What states a cursor again, served by `policy` from there on.
pub(in crate::commit) fn cursor_entries(
    queue: QueueId,
    cursor: CursorId,
    at: &Cursor,
    policy: &DeliveryPolicy,
) -> Vec<Entry> {
    let (name, floors, policy) = ((*at.name).clone(), at.progress().floors, policy.clone());
    let mut entries = vec![Entry::CursorImage { queue, cursor, name, floors, policy }];
    let ranges: Vec<(u64, u64)> = at.settled.iter().collect();
    for part in ranges.chunks(RANGES_MAX) {
        entries.push(Entry::Settle(vec![Settled { queue, cursor, ranges: part.into() }]));
    }
    let returned: Vec<(u64, Returned)> =
        at.returned.iter().map(|(offset, returned)| (*offset, *returned)).collect();
    for part in returned.chunks(RANGES_MAX) {
        entries.push(Entry::Returned { queue, cursor, records: part.to_vec() });
    }
    entries
}
