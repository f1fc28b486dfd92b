//! Applying definitions: exchanges, bindings, queues, sessions, subscriptions.
//!
//! Each remembers its home, the newest entry that states it in full. A definition that is stated
//! again changes nothing but that.

use bytes::Bytes;
use mainstem_index::{
    BindingKey as StoredBinding, BindingValue, ExchangeKey, ExchangeValue, NameKey, Progress,
    QueueKey, QueueName, QueueValue, ReaderKey, SessionKey, SessionValue,
    SubscriptionKey as StoredSubscription, SubscriptionValue,
};
use mainstem_schemas::{CursorId, Position, QueueId, UnixMillis};

use super::{State, queues::show};
use crate::{
    command::{Bind, ExchangeDef, QueueDef},
    cursor::Cursor,
    entry::{DeclaredQueue, Entry, Subscribed},
    exchange::{BindingKey, Destination, Exchange},
    namespace::{Subscription, SubscriptionKey},
    policy::{shared, shared_delivery},
    queue::{Found, Queue},
};

impl State {
    pub(super) fn define(&mut self, position: Position, entry: Entry) {
        match entry {
            Entry::DeclareExchange { namespace, def } => {
                self.declare_exchange(&namespace, def, position);
            }
            Entry::DeleteExchange { namespace, name } => self.delete_exchange(&namespace, &name),
            Entry::DeclareQueue(declared) => {
                self.declare_queue(QueueId(position.0), declared, position);
            }
            Entry::DeleteQueue { queue } => self.delete_queue(queue),
            Entry::Bind { namespace, bind } => self.bind(&namespace, &bind, position),
            Entry::Unbind { namespace, bind } => self.unbind(&namespace, &bind),
            Entry::Session { namespace, id, expiry_s, detached } => {
                self.keep_session(&namespace, id, expiry_s, detached, position);
            }
            Entry::EndSession { namespace, id } => self.end_session(&namespace, &id),
            Entry::Subscribe(subscribed) => self.subscribe(subscribed, position),
            Entry::Unsubscribe { namespace, session, share, filter } => {
                self.unsubscribe(&namespace, &session, &SubscriptionKey { share, filter });
            }
            Entry::SetParameter { key, value } => self.set_parameter(key, value, position),
            Entry::DeleteParameter { key } => self.delete_parameter(&key),
            Entry::QueueImage { queue, lanes, declared } => {
                self.restate_queue(queue, &lanes, declared, position);
            }
            Entry::CursorImage { queue, cursor, name, floors, policy } => {
                let Some(found) = self.queues.change(queue) else { return };
                let policy = if cursor == CursorId::MAIN && !found.is_provisional {
                    found.def.policy.delivery.clone()
                } else {
                    policy
                };
                if let Some(known) = found.cursor_mut(cursor) {
                    known.dirty = true;
                    known.policy = shared_delivery(&policy);
                }
                if found.cursor(cursor).is_none() || self.queues.is_rebuilding {
                    let progress = Progress { floors, ..Progress::default() };
                    let mut fresh = Cursor::restore(name, shared_delivery(&policy), &progress);
                    fresh.dirty = true;
                    if let Some(found) = self.queues.change(queue) {
                        found.replace_cursor(cursor, fresh);
                    }
                }
            }
            _ => unreachable!("`apply` keeps every other entry"),
        }
    }

    pub(crate) fn declare_exchange(&mut self, namespace: &str, def: ExchangeDef, home: Position) {
        if def.durable {
            let key = ExchangeKey { namespace: namespace.to_owned(), name: def.name.clone() };
            let value = ExchangeValue {
                kind: def.kind as u8,
                auto_delete: def.auto_delete,
                internal: def.internal,
                arguments: def.arguments.clone(),
                home,
            };
            self.batch.put(&key, &value);
            self.move_in(home);
        }
        if let Some(known) = self.namespace(namespace).exchanges.get_mut(&def.name) {
            let before = std::mem::replace(&mut known.home, home);
            if known.def.durable == def.durable {
                self.leave_home(before);
                return;
            }
        }
        let mut exchange = Exchange::new(def);
        exchange.home = home;
        exchange.govern(&self.namespace(namespace).rules);
        self.namespace(namespace).exchanges.insert(exchange);
    }

    pub(crate) fn delete_exchange(&mut self, namespace: &str, name: &str) {
        let doomed = Destination::Exchange(name.to_owned());
        let mut stored = Vec::new();
        for exchange in self.namespace(namespace).exchanges.iter() {
            for (binding, bound) in &exchange.bindings {
                if exchange.def.name == name || binding.destination == doomed {
                    stored.push((exchange.def.name.clone(), binding.clone(), bound.home));
                }
            }
        }
        for (source, binding, home) in stored {
            self.note_unbound(namespace, &source, &binding, home);
        }
        let key = ExchangeKey { namespace: namespace.to_owned(), name: name.to_owned() };
        self.batch.delete(&key);
        if let Some(exchange) = self.namespace(namespace).exchanges.remove(name) {
            self.leave_home(exchange.home);
        }
    }

    /// Forgets a binding in the index and at its queue.
    fn note_unbound(
        &mut self,
        namespace: &str,
        source: &str,
        binding: &BindingKey,
        home: Position,
    ) {
        self.leave_home(home);
        let (to_exchange, destination) = match &binding.destination {
            Destination::Exchange(name) => (true, name.clone()),
            Destination::Queue(id) => {
                if let Some(bound) = self.bound.get_mut(id) {
                    bound.retain(|(from, known)| from != source || known != binding);
                    if bound.is_empty() {
                        self.bound.remove(id);
                    }
                }
                let Some(queue) = self.queues.get(*id) else { return };
                (false, queue.def.name.clone())
            }
        };
        self.batch.delete(&StoredBinding {
            namespace: namespace.to_owned(),
            source: source.to_owned(),
            to_exchange,
            destination,
            key: binding.key.clone(),
            arguments: binding.arguments.clone(),
        });
    }

    /// Makes a queue; a transient id makes one that is never written down.
    pub(crate) fn declare_queue(&mut self, id: QueueId, declared: DeclaredQueue, home: Position) {
        if !id.is_transient() {
            if self.queues.get(id).is_some_and(|known| !known.is_provisional) {
                return;
            }
            self.store_definition(id, &declared, home);
        }
        let DeclaredQueue { namespace, name, auto_delete, retention, policy, arguments } = declared;
        let (found, shown) = show(&name);
        let def = QueueDef {
            id,
            name: shown,
            durable: !id.is_transient(),
            exclusive: false,
            auto_delete,
            retention,
            policy: shared(policy),
            arguments,
        };
        let space = self.namespace(&namespace);
        space.add_queue(id, &found, &def.name);
        let mut queue = Queue::new(space.name.clone(), found, def, home);
        queue.follow(&space.rules);
        queue.note_due_unknown(&mut self.due_unknown);
        self.queues.insert(id, queue);
        self.note_renamed(id);
    }

    fn store_definition(&mut self, id: QueueId, declared: &DeclaredQueue, home: Position) {
        let mut policy = Vec::new();
        declared.policy.encode(&mut policy);
        let value = QueueValue {
            namespace: declared.namespace.clone(),
            name: declared.name.clone(),
            auto_delete: declared.auto_delete,
            retention: declared.retention as u8,
            policy: policy.into(),
            arguments: declared.arguments.clone(),
            home,
        };
        self.batch.put(&QueueKey { queue: id }, &value);
        self.move_in(home);
        match &declared.name {
            QueueName::Named(name) => {
                let (namespace, name) = (declared.namespace.clone(), name.clone());
                self.batch.put(&NameKey { namespace, name }, &id);
            }
            QueueName::Filter(_) | QueueName::Topic(_) => {
                self.batch.put(&ReaderKey { queue: id }, &());
            }
        }
    }

    fn note_renamed(&mut self, id: QueueId) {
        if let Some(queue) = self.queues.peek(id).filter(|queue| queue.found == Found::ByName) {
            let name = Bytes::copy_from_slice(queue.def.name.as_bytes());
            let namespace = queue.namespace.clone();
            self.renamed.open.insert((namespace, name));
        }
    }

    /// A queue is stated again. Where the log's beginning is missing, this is the first time it is
    /// stated, and entries that are already here find their lanes.
    fn restate_queue(
        &mut self,
        id: QueueId,
        lanes: &[mainstem_index::LaneState],
        declared: DeclaredQueue,
        home: Position,
    ) {
        let known = self.queues.change(id).map(|queue| (queue.is_provisional, queue.home));
        if let Some((false, before)) = known {
            self.store_definition(id, &declared, home);
            self.leave_home(before);
            if let Some(queue) = self.queues.change(id) {
                queue.home = home;
                if queue.redeclare(declared.policy) {
                    queue.note_due_unknown(&mut self.due_unknown);
                }
            }
            return;
        }
        let orphan = self.queues.remove(id);
        self.declare_queue(id, declared, home);
        let Some(queue) = self.queues.change(id) else { return };
        queue.restore_lanes(lanes);
        queue.begin_at_lanes();
        let Some(orphan) = orphan else { return };
        for (offset, place) in orphan.places() {
            let segment = self.segments.number(place.position);
            self.segments.release(segment, place.size);
            // The cursors are stated next.
            self.put_unread(id, offset, place);
        }
    }

    pub(crate) fn delete_queue(&mut self, id: QueueId) {
        let Some(queue) = self.queues.change(id) else { return };
        let namespace = queue.namespace.clone();
        let home = queue.home;
        for (source, binding) in self.bound.get(&id).cloned().unwrap_or_default() {
            let exchange = self.namespace(&namespace).exchanges.get_mut(&source);
            let home = exchange.and_then(|exchange| exchange.unbind(&binding));
            self.note_unbound(&namespace, &source, &binding, home.unwrap_or_default());
        }
        self.note_renamed(id);
        let Some(mut queue) = self.queues.remove(id) else { return };
        let used = queue.clear();
        super::release_all(&mut self.segments, id, &used);
        if queue.is_provisional {
            return;
        }
        self.namespace(&namespace).remove_queue(id, &queue.found, &queue.def.name);
        if !id.is_transient() {
            self.leave_home(home);
            self.batch.delete_queue(id);
            if queue.found == Found::ByName {
                let (namespace, name) = ((*namespace).to_owned(), queue.def.name.clone());
                self.batch.delete(&NameKey { namespace, name });
            }
        }
    }

    /// The queue of that name. It may have to be looked up in the index.
    pub(crate) fn find_named(&mut self, namespace: &str, name: &[u8]) -> Option<QueueId> {
        if let Some(known) = self.namespaces.get(namespace)?.named.get(name) {
            return *known;
        }
        let text = std::str::from_utf8(name).ok()?;
        let key = NameKey { namespace: namespace.to_owned(), name: text.to_owned() };
        let stored = self.index.get(&key);
        let found = self.sound(stored)?;
        self.namespace(namespace).named.insert(name.into(), Some(found));
        // In memory, so that it leaves together with its name.
        self.queues.get(found)?;
        Some(found)
    }

    /// What a binding's destination is called here. `None` when there is no such queue.
    pub(crate) fn destination(&mut self, namespace: &str, bind: &Bind) -> Option<Destination> {
        if bind.to_exchange {
            return Some(Destination::Exchange(bind.destination.clone()));
        }
        self.find_named(namespace, bind.destination.as_bytes()).map(Destination::Queue)
    }

    pub(crate) fn is_bound(&mut self, namespace: &str, bind: &Bind) -> bool {
        let Some(destination) = self.destination(namespace, bind) else { return false };
        let binding = BindingKey::new(destination, &bind.key, &bind.arguments);
        let exchange = self.namespace(namespace).exchanges.get(&bind.source);
        exchange.is_some_and(|exchange| exchange.bindings.contains_key(&binding))
    }

    pub(crate) fn bind(&mut self, namespace: &str, bind: &Bind, home: Position) {
        let Some(destination) = self.destination(namespace, bind) else { return };
        let binding = BindingKey::new(destination, &bind.key, &bind.arguments);
        let Some(exchange) = self.namespace(namespace).exchanges.get_mut(&bind.source) else {
            return;
        };
        let mut durable = exchange.def.durable;
        let before =
            exchange.bind(binding.clone(), &bind.destination, bind.arguments.clone(), home);
        let mut queue = QueueId::default();
        match &binding.destination {
            Destination::Queue(id) => {
                if before.is_none() {
                    let bound = self.bound.entry(*id).or_default();
                    bound.push((bind.source.clone(), binding.clone()));
                }
                durable &= !id.is_transient();
                queue = *id;
            }
            Destination::Exchange(name) => {
                let target = self.namespace(namespace).exchanges.get(name);
                durable &= target.is_some_and(|exchange| exchange.def.durable);
            }
        }
        if durable && home.0 != 0 {
            let key = StoredBinding {
                namespace: namespace.to_owned(),
                source: bind.source.clone(),
                to_exchange: bind.to_exchange,
                destination: bind.destination.clone(),
                key: binding.key,
                arguments: binding.arguments,
            };
            self.batch.put(&key, &BindingValue { home, queue });
            self.move_in(home);
            self.leave_home(before.unwrap_or_default());
        }
    }

    pub(crate) fn unbind(&mut self, namespace: &str, bind: &Bind) {
        let Some(destination) = self.destination(namespace, bind) else { return };
        let binding = BindingKey::new(destination, &bind.key, &bind.arguments);
        let Some(exchange) = self.namespace(namespace).exchanges.get_mut(&bind.source) else {
            return;
        };
        if let Some(home) = exchange.unbind(&binding) {
            self.note_unbound(namespace, &bind.source, &binding, home);
        }
    }

    fn keep_session(
        &mut self,
        namespace: &str,
        id: String,
        expiry_s: u32,
        detached: UnixMillis,
        home: Position,
    ) {
        let key = SessionKey { namespace: namespace.to_owned(), id: id.clone() };
        self.batch.put(&key, &SessionValue { expiry_s, detached, home });
        self.move_in(home);
        let session = self.namespace(namespace).sessions.entry(id).or_default();
        session.expiry_s = expiry_s;
        session.detached = detached;
        session.is_durable = true;
        let before = std::mem::replace(&mut session.home, home);
        self.leave_home(before);
    }

    pub(crate) fn end_session(&mut self, namespace: &str, id: &str) {
        let space = self.namespace(namespace);
        let Some(session) = space.sessions.remove(id) else { return };
        for (key, _) in session.subscriptions.iter() {
            space.leave_share(key);
        }
        if !session.is_durable {
            return;
        }
        self.leave_home(session.home);
        for (key, subscription) in session.subscriptions.iter() {
            self.leave_home(subscription.home);
            self.batch.delete(&stored_subscription(namespace, id, key));
        }
        self.batch.delete(&SessionKey { namespace: namespace.to_owned(), id: id.to_owned() });
    }

    /// Puts a subscription into its session. A transient session's is not written down.
    pub(crate) fn subscribe(&mut self, subscribed: Subscribed, home: Position) {
        let Subscribed { options, live, queue, cursor, .. } = subscribed;
        let (namespace, session) = (subscribed.namespace.clone(), subscribed.session.clone());
        let (key, before) = self.insert_subscription(subscribed, home);
        if home.0 != 0 {
            let value = SubscriptionValue { options, live, queue, cursor, home };
            self.batch.put(&stored_subscription(&namespace, &session, &key), &value);
            self.move_in(home);
            self.leave_home(before);
        }
    }

    /// The same, in memory only. Returns the subscription's home before.
    pub(super) fn insert_subscription(
        &mut self,
        subscribed: Subscribed,
        home: Position,
    ) -> (SubscriptionKey, Position) {
        let Subscribed { namespace, session, share, filter, options, live, queue, cursor } =
            subscribed;
        let key = SubscriptionKey { share, filter };
        let space = self.namespace(&namespace);
        let found = space.sessions.entry(session).or_default();
        // Where the log's beginning is missing, a subscription may be stated before its session.
        found.is_durable |= home.0 != 0;
        let existing =
            found.subscriptions.get(&key).map(|existing| (existing.consumer, existing.home));
        let consumer = existing.map_or_else(|| found.next_consumer(), |(consumer, _)| consumer);
        let subscription = Subscription { options, live, queue, cursor, consumer, home };
        found.subscriptions.insert(key.clone(), subscription);
        if existing.is_none() {
            space.join_share(&key, queue, cursor);
        }
        (key, existing.map_or(Position(0), |(_, home)| home))
    }

    /// Takes a subscription out of its session.
    pub(crate) fn unsubscribe(&mut self, namespace: &str, session: &str, key: &SubscriptionKey) {
        let space = self.namespace(namespace);
        let Some(found) = space.sessions.get_mut(session) else { return };
        let is_durable = found.is_durable;
        let Some(removed) = found.subscriptions.remove(key) else { return };
        space.leave_share(key);
        if is_durable {
            self.leave_home(removed.home);
            self.batch.delete(&stored_subscription(namespace, session, key));
        }
    }
}

/// A subscription's place in the index.
fn stored_subscription(
    namespace: &str,
    session: &str,
    key: &SubscriptionKey,
) -> StoredSubscription {
    StoredSubscription {
        namespace: namespace.to_owned(),
        session: session.to_owned(),
        share: key.share.clone(),
        filter: key.filter.clone(),
    }
}
