//! Declaring, binding and deleting exchanges and queues.

use std::sync::Arc;

use mainstem_index::QueueName;
use mainstem_schemas::{Position, QueueId};

use super::Commit;
use crate::{
    command::{
        Bind, ClientId, DeclareExchange, DeclareQueue, Declared, ExchangeDef, QueueDef, QueueStats,
    },
    entry::{DeclaredQueue, Entry},
    error::Refusal,
    exchange::{check_binding, check_exchange, is_predeclared},
    meter::Did,
    queue::Found,
    usage::Bounded,
};

impl Commit {
    pub(super) fn declare_exchange(
        &mut self,
        client: ClientId,
        request: DeclareExchange,
    ) -> Result<Declared<ExchangeDef>, Refusal> {
        let def = request.def;
        if def.name.is_empty() {
            return Err(Refusal::DefaultExchange);
        }
        let stats = QueueStats::default();
        if let Some(found) = self.find_exchange(client, &def.name) {
            return Ok(Declared { created: false, def: found, stats });
        }
        check_exchange(&def)?;
        let namespace = self.namespace_of(client).ok_or(Refusal::Closed)?;
        let shown = Arc::new(def.clone());
        if def.durable {
            self.log(Entry::DeclareExchange { namespace: (*namespace).to_owned(), def });
        } else {
            self.state.declare_exchange(&namespace, def, Position(0));
        }
        Ok(Declared { created: true, def: shown, stats })
    }

    pub(super) fn delete_exchange(
        &mut self,
        client: ClientId,
        name: &str,
        if_unused: bool,
    ) -> Result<(), Refusal> {
        if name.is_empty() {
            return Err(Refusal::DefaultExchange);
        }
        if is_predeclared(name) {
            return Err(Refusal::Predeclared(name.to_owned()));
        }
        let namespace = self.namespace_of(client).ok_or(Refusal::Closed)?;
        let Some(exchange) = self.state.namespace(&namespace).exchanges.get(name) else {
            return Ok(());
        };
        if if_unused && !exchange.bindings.is_empty() {
            return Err(Refusal::InUse(name.to_owned()));
        }
        self.remove_exchange(&namespace, name);
        Ok(())
    }

    /// Deletes an exchange, and the auto-delete exchanges that led only to it.
    pub(super) fn remove_exchange(&mut self, namespace: &str, name: &str) {
        let mut doomed = vec![name.to_owned()];
        while let Some(name) = doomed.pop() {
            let exchanges = &self.state.namespace(namespace).exchanges;
            let Some(exchange) = exchanges.get(&name) else { continue };
            let durable = exchange.def.durable;
            let feeders: Vec<String> = exchanges
                .iter()
                .filter(|other| {
                    other.def.auto_delete
                        && !other.bindings.is_empty()
                        && other.bindings.keys().all(|binding| {
                            binding.destination
                                == crate::exchange::Destination::Exchange(name.clone())
                        })
                })
                .map(|other| other.def.name.clone())
                .collect();
            if durable {
                let namespace = namespace.to_owned();
                self.log(Entry::DeleteExchange { namespace, name });
            } else {
                self.state.delete_exchange(namespace, &name);
            }
            doomed.extend(feeders);
        }
    }

    /// An auto-delete exchange goes when its last binding has gone.
    fn note_unbound(&mut self, namespace: &str, source: &str) {
        let exchange = self.state.namespace(namespace).exchanges.get(source);
        if exchange.is_some_and(|found| found.def.auto_delete && found.bindings.is_empty()) {
            self.remove_exchange(namespace, source);
        }
    }

    pub(super) fn declare_queue(
        &mut self,
        client: ClientId,
        request: DeclareQueue,
    ) -> Result<Declared<QueueDef>, Refusal> {
        let def = request.def;
        self.counts.note(Did::DeclareQueue, 1);
        match self.usable_queue(client, &def.name) {
            Ok(id) => return self.found_queue(id).ok_or(Refusal::NoQueue(def.name)),
            Err(Refusal::NoQueue(_)) => {}
            Err(other) => return Err(other),
        }
        let namespace = self.namespace_of(client).ok_or(Refusal::Closed)?;
        if let Some(max) = self.state.queues_max(&namespace)
            && self.state.queues_count(&namespace) >= max
        {
            return Err(Refusal::Limit { name: Bounded::Queues.word(), max });
        }
        let declared = DeclaredQueue {
            namespace: (*namespace).to_owned(),
            name: QueueName::Named(def.name.clone()),
            auto_delete: def.auto_delete,
            retention: def.retention,
            policy: (*def.policy).clone(),
            arguments: def.arguments,
        };
        let id = self.make_queue(declared, def.durable && !def.exclusive);
        self.counts.note(Did::CreateQueue, 1);
        if def.exclusive {
            if let Some(queue) = self.state.queues.get(id) {
                queue.owner = client;
                Arc::make_mut(&mut queue.def).exclusive = true;
            }
            if let Some(member) = self.members.get_mut(&client) {
                member.exclusive.push(id);
            }
        }
        let now = self.now;
        if let Some(queue) = self.state.queues.get(id) {
            queue.used = now;
        }
        self.note_due_unknown(id);
        let found = self.found_queue(id).ok_or(Refusal::NoQueue(def.name))?;
        Ok(Declared { created: true, ..found })
    }

    /// Makes a queue, durable or in memory only, and answers its id.
    pub(super) fn make_queue(&mut self, declared: DeclaredQueue, durable: bool) -> QueueId {
        if durable {
            QueueId(self.log(Entry::DeclareQueue(declared)).0)
        } else {
            let id = QueueId(self.next_transient());
            self.state.declare_queue(id, declared, Position(0));
            id
        }
    }

    pub(super) fn delete_queue(
        &mut self,
        client: ClientId,
        name: &str,
        if_unused: bool,
        if_empty: bool,
    ) -> Result<u64, Refusal> {
        let id = match self.usable_queue(client, name) {
            Ok(id) => id,
            Err(Refusal::NoQueue(_)) => return Ok(0),
            Err(other) => return Err(other),
        };
        let stats = self.stats(id);
        if if_unused && stats.consumers > 0 {
            return Err(Refusal::InUse(name.to_owned()));
        }
        if if_empty && stats.ready > 0 {
            return Err(Refusal::NotEmpty(name.to_owned()));
        }
        self.remove_queue(id);
        Ok(stats.ready)
    }

    /// Deletes a queue: its consumers are told, its bindings go, and auto-delete exchanges that
    /// only led here.
    pub(super) fn remove_queue(&mut self, id: QueueId) {
        self.flush_settled();
        let Some(queue) = self.state.queues.get(id) else { return };
        self.counts.note(Did::DeleteQueue, u64::from(queue.found == Found::ByName));
        let namespace = queue.namespace.clone();
        let mut seats = Vec::new();
        let mut hands = Vec::new();
        for cursor in queue.cursors_mut() {
            seats.append(&mut cursor.seats);
            hands.extend(cursor.in_hand.take_all().into_iter().map(|(_, hand)| hand));
        }
        let bound = self.state.bound.get(&id);
        let sources: Vec<String> =
            bound.into_iter().flatten().map(|(source, _)| source.clone()).collect();
        for hand in hands {
            self.give_room(&hand);
        }
        for seat in seats {
            self.consumers.remove(&(seat.client, seat.consumer));
            if let Some(member) = self.members.get_mut(&seat.client) {
                member.consumers.retain(|consumer| *consumer != seat.consumer);
            }
            self.notify(seat.client, crate::inbox::Notice::Cancelled(seat.consumer));
        }
        if id.is_transient() {
            self.state.delete_queue(id);
        } else {
            self.log(Entry::DeleteQueue { queue: id });
        }
        for source in sources {
            self.note_unbound(&namespace, &source);
        }
    }

    pub(super) fn bind(&mut self, client: ClientId, bind: Bind) -> Result<(), Refusal> {
        let (namespace, durable) = self.check_bind(client, &bind)?;
        let exchange = self.state.namespace(&namespace).exchanges.get(&bind.source);
        if let Some(exchange) = exchange {
            check_binding(exchange.def.kind, &bind.key, &bind.arguments)?;
        }
        let is_new = !self.state.is_bound(&namespace, &bind);
        let replays = is_new && self.remembers(&namespace, &bind.source);
        if replays && (self.is_full || self.is_over) {
            // What the exchange remembers is written for whom it is bound to.
            return Err(Refusal::DiskFull);
        }
        let to = bind.clone();
        if durable {
            self.log(Entry::Bind { namespace: (*namespace).to_owned(), bind });
        } else {
            self.state.bind(&namespace, &bind, Position(0));
        }
        if replays {
            self.replay_history(&namespace, &to);
        }
        Ok(())
    }

    pub(super) fn unbind(&mut self, client: ClientId, bind: Bind) -> Result<(), Refusal> {
        let (namespace, durable) = match self.check_bind(client, &bind) {
            Ok(checked) => checked,
            Err(Refusal::NoExchange(_) | Refusal::NoQueue(_)) => return Ok(()),
            Err(other) => return Err(other),
        };
        let source = bind.source.clone();
        if durable {
            self.log(Entry::Unbind { namespace: (*namespace).to_owned(), bind });
        } else {
            self.state.unbind(&namespace, &bind);
        }
        self.note_unbound(&namespace, &source);
        Ok(())
    }

    /// Both ends of a binding exist and may be used; tells whether both are durable.
    fn check_bind(&mut self, client: ClientId, bind: &Bind) -> Result<(Arc<str>, bool), Refusal> {
        if bind.source.is_empty() || (bind.to_exchange && bind.destination.is_empty()) {
            return Err(Refusal::DefaultExchange);
        }
        let source = self
            .find_exchange(client, &bind.source)
            .ok_or_else(|| Refusal::NoExchange(bind.source.clone()))?;
        let durable = if bind.to_exchange {
            self.find_exchange(client, &bind.destination)
                .ok_or_else(|| Refusal::NoExchange(bind.destination.clone()))?
                .durable
        } else {
            !self.usable_queue(client, &bind.destination)?.is_transient()
        };
        let namespace = self.namespace_of(client).ok_or(Refusal::Closed)?;
        Ok((namespace, durable && source.durable))
    }
}
