//! Everything the log's entries add up to, and `apply`, which adds them.
//!
//! `apply` is a pure function of the state and the entry: no clock, no randomness, no hash-map
//! order, no I/O. What it changes is also noted for the index: definitions at once in the open
//! batch, queues and cursors at the next checkpoint. Transient queues use the same verbs and are
//! never noted.

use std::sync::Arc;

use mainstem_index::{
    BLOCK_ENTRIES, Batch, BindingKey as StoredBinding, BlockKey, CursorKey, CursorValue,
    Entry as Place, ExchangeKey, ExchangeValue, Index, IndexError, QueueKey, QueueName,
    QueueStateKey, QueueStateValue, QueueValue, RetainedKey, RetainedValue, SessionKey,
    SessionValue, SubscriptionKey as StoredSubscription, SubscriptionValue,
};
use mainstem_schemas::{CursorId, Offset, Position, QueueId, Record, UnixMillis};
use rustc_hash::FxHashMap;

use crate::{
    command::{Bind, ExchangeDef, QueueDef, Retention},
    cursor::Cursor,
    entry::{DeclaredQueue, Entry, Subscribed},
    exchange::{BindingKey, Destination, Exchange},
    namespace::{Namespace, Retained, Session, Subscription, SubscriptionKey},
    queue::Queue,
    ranges::Ranges,
};

pub(crate) struct State {
    pub(crate) index: Index,
    pub(crate) namespaces: FxHashMap<Arc<str>, Namespace>,
    pub(crate) queues: FxHashMap<QueueId, Queue>,
    /// Definitions that changed since the last checkpoint.
    batch: Batch,
    /// Queues to be written at the next checkpoint.
    dirty: Vec<QueueId>,
}

/// Flag of a queue's entry: nobody may see the record before it is as durable as it gets.
/// Persisted: never renumber.
pub(crate) const DURABLE: u8 = 1;

/// What changed up to a position of the log, ready to be written down.
pub(crate) struct Checkpoint {
    batch: Batch,
    pub(crate) applied: Position,
    queues: Vec<QueueId>,
}

impl State {
    pub(crate) fn new(index: Index) -> Self {
        let batch = index.batch();
        Self {
            index,
            namespaces: FxHashMap::default(),
            queues: FxHashMap::default(),
            batch,
            dirty: Vec::new(),
        }
    }

    /// The namespace of that name; it exists as soon as somebody works in it.
    pub(crate) fn namespace(&mut self, name: &str) -> &mut Namespace {
        if !self.namespaces.contains_key(name) {
            let name: Arc<str> = name.into();
            self.namespaces.insert(name.clone(), Namespace::new(name));
        }
        self.namespaces.get_mut(name).expect("it was inserted just above")
    }

    /// Applies an entry that is not a publish. `position` is where it stands in the log.
    pub(crate) fn apply(&mut self, position: Position, entry: Entry) {
        match entry {
            Entry::Settle(all) => {
                for settled in all {
                    for (from, to) in settled.ranges {
                        self.settle(settled.queue, settled.cursor, from, to);
                    }
                }
            }
            Entry::DeclareExchange { namespace, def } => self.declare_exchange(&namespace, def),
            Entry::DeleteExchange { namespace, name } => self.delete_exchange(&namespace, &name),
            Entry::DeclareQueue(declared) => {
                self.declare_queue(QueueId(position.0), declared);
            }
            Entry::DeleteQueue { queue } => self.delete_queue(queue),
            Entry::Bind { namespace, bind } => self.bind(&namespace, &bind),
            Entry::Unbind { namespace, bind } => self.unbind(&namespace, &bind),
            Entry::Trim { queue, below } => {
                if let Some(found) = self.queues.get_mut(&queue) {
                    found.trim(below.0);
                    self.note_dirty(queue);
                }
            }
            Entry::OpenCursor { queue, name, start } => {
                self.open_cursor(queue, CursorId(position.0), name, start.0);
            }
            Entry::CloseCursor { queue, cursor } => self.close_cursor(queue, cursor),
            Entry::Session { namespace, id, expiry_s, detached } => {
                let key = SessionKey { namespace: namespace.clone(), id: id.clone() };
                self.batch.put(&key, &SessionValue { expiry_s, detached });
                let session = self.namespace(&namespace).sessions.entry(id).or_default();
                session.expiry_s = expiry_s;
                session.detached = detached;
                session.is_durable = true;
            }
            Entry::EndSession { namespace, id } => self.end_session(&namespace, &id),
            Entry::Subscribe(subscribed) => self.subscribe(subscribed),
            Entry::Unsubscribe { namespace, session, share, filter } => {
                self.unsubscribe(&namespace, &session, &SubscriptionKey { share, filter });
            }
        }
    }

    /// Applies a publish: its place goes to the end of each target queue. Offsets are written in
    /// the entry so that a difference between log and state shows itself.
    pub(crate) fn apply_publish(
        &mut self,
        position: Position,
        size: u32,
        targets: &[(QueueId, u64)],
        record: &Record,
    ) {
        let flags = if record.is_durable() { DURABLE } else { 0 };
        let (expiry, appended) = (record.expiry(), record.appended());
        let place = Place { position, size, expiry, appended, flags };
        for (id, offset) in targets {
            let Some(queue) = self.queues.get_mut(id) else { continue };
            let got = queue.push(place);
            assert_eq!(got, *offset, "the log and queue {} disagree on its end", id.0);
            self.note_dirty(*id);
        }
        if record.is_retain() {
            self.retain(position, size, record);
        }
    }

    fn retain(&mut self, position: Position, size: u32, record: &Record) {
        let path = record.address().path();
        let namespace = record.namespace();
        let key = RetainedKey { namespace: namespace.to_owned(), path: path.clone() };
        if record.data_len() == 0 {
            self.batch.delete(&key);
            self.namespace(namespace).retained.remove(&path);
        } else {
            let expiry = record.expiry();
            self.batch.put(&key, &RetainedValue { position, size, expiry });
            let retained = Retained { position, size, expiry };
            self.namespace(namespace).retained.insert(path, retained);
        }
    }

    pub(crate) fn declare_exchange(&mut self, namespace: &str, def: ExchangeDef) {
        if def.durable {
            let key = ExchangeKey { namespace: namespace.to_owned(), name: def.name.clone() };
            let value = ExchangeValue {
                kind: def.kind as u8,
                auto_delete: def.auto_delete,
                internal: def.internal,
                arguments: def.arguments.clone(),
            };
            self.batch.put(&key, &value);
        }
        self.namespace(namespace).exchanges.insert(Exchange::new(def));
    }

    pub(crate) fn delete_exchange(&mut self, namespace: &str, name: &str) {
        let doomed = Destination::Exchange(name.to_owned());
        let mut stored = Vec::new();
        for exchange in self.namespace(namespace).exchanges.iter() {
            for binding in exchange.bindings.keys() {
                if exchange.def.name == name || binding.destination == doomed {
                    stored.push((exchange.def.name.clone(), binding.clone()));
                }
            }
        }
        for (source, binding) in stored {
            self.note_unbound(namespace, &source, &binding);
        }
        let key = ExchangeKey { namespace: namespace.to_owned(), name: name.to_owned() };
        self.batch.delete(&key);
        self.namespace(namespace).exchanges.remove(name);
    }

    /// Forgets a binding in the index and at its queue.
    fn note_unbound(&mut self, namespace: &str, source: &str, binding: &BindingKey) {
        let (to_exchange, destination) = match &binding.destination {
            Destination::Exchange(name) => (true, name.clone()),
            Destination::Queue(id) => {
                let Some(queue) = self.queues.get_mut(id) else { return };
                queue.bound.retain(|(from, bound)| from != source || bound != binding);
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
    pub(crate) fn declare_queue(&mut self, id: QueueId, declared: DeclaredQueue) -> &mut Queue {
        let DeclaredQueue { namespace, name, auto_delete, retention, arguments } = declared;
        if !id.is_transient() {
            let value = QueueValue {
                namespace: namespace.clone(),
                name: name.clone(),
                auto_delete,
                retention: retention as u8,
                arguments: arguments.clone(),
            };
            self.batch.put(&QueueKey { queue: id }, &value);
        }
        self.insert_queue(id, &namespace, name, auto_delete, retention, arguments);
        self.note_dirty(id);
        self.queues.get_mut(&id).expect("it was inserted just above")
    }

    fn insert_queue(
        &mut self,
        id: QueueId,
        namespace: &str,
        name: QueueName,
        auto_delete: bool,
        retention: Retention,
        arguments: mainstem_schemas::Table,
    ) {
        let shown = match &name {
            QueueName::Named(name) | QueueName::Topic(name) => name.clone(),
            QueueName::Filter(filter) => String::from_utf8_lossy(&filter.render()).into_owned(),
        };
        let durable = !id.is_transient();
        let def = QueueDef {
            id,
            name: shown,
            durable,
            exclusive: false,
            auto_delete,
            retention,
            arguments,
        };
        let space = self.namespace(namespace);
        space.add_queue(id, &name);
        let queue = Queue::new(space.name.clone(), name, def);
        self.queues.insert(id, queue);
    }

    pub(crate) fn delete_queue(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let namespace = queue.namespace.clone();
        let bound = queue.bound.clone();
        for (source, binding) in &bound {
            self.note_unbound(&namespace, source, binding);
            if let Some(exchange) = self.namespace(&namespace).exchanges.get_mut(source) {
                exchange.unbind(binding);
            }
        }
        if let Some(queue) = self.queues.remove(&id) {
            self.namespace(&namespace).remove_queue(id, &queue.name);
        }
        if !id.is_transient() {
            self.batch.delete_queue(id);
        }
    }

    /// What a binding's destination is called here. `None` when there is no such queue.
    pub(crate) fn destination(&mut self, namespace: &str, bind: &Bind) -> Option<Destination> {
        if bind.to_exchange {
            return Some(Destination::Exchange(bind.destination.clone()));
        }
        let queue = self.namespace(namespace).named.get(bind.destination.as_bytes())?;
        Some(Destination::Queue(*queue))
    }

    pub(crate) fn bind(&mut self, namespace: &str, bind: &Bind) {
        let Some(destination) = self.destination(namespace, bind) else { return };
        let binding = BindingKey::new(destination, bind.key.clone(), &bind.arguments);
        let Some(exchange) = self.namespace(namespace).exchanges.get_mut(&bind.source) else {
            return;
        };
        let mut durable = exchange.def.durable;
        if !exchange.bind(binding.clone(), bind.arguments.clone()) {
            return;
        }
        match &binding.destination {
            Destination::Queue(id) => {
                if let Some(queue) = self.queues.get_mut(id) {
                    queue.bound.push((bind.source.clone(), binding.clone()));
                    durable &= !id.is_transient();
                }
            }
            Destination::Exchange(name) => {
                let target = self.namespace(namespace).exchanges.get(name);
                durable &= target.is_some_and(|exchange| exchange.def.durable);
            }
        }
        if durable {
            let key = StoredBinding {
                namespace: namespace.to_owned(),
                source: bind.source.clone(),
                to_exchange: bind.to_exchange,
                destination: bind.destination.clone(),
                key: binding.key,
                arguments: binding.arguments,
            };
            self.batch.put(&key, &());
        }
    }

    pub(crate) fn unbind(&mut self, namespace: &str, bind: &Bind) {
        let Some(destination) = self.destination(namespace, bind) else { return };
        let binding = BindingKey::new(destination, bind.key.clone(), &bind.arguments);
        let Some(exchange) = self.namespace(namespace).exchanges.get_mut(&bind.source) else {
            return;
        };
        if exchange.unbind(&binding) {
            self.note_unbound(namespace, &bind.source, &binding);
        }
    }

    pub(crate) fn open_cursor(
        &mut self,
        queue: QueueId,
        id: CursorId,
        name: mainstem_index::CursorName,
        start: u64,
    ) {
        let Some(found) = self.queues.get_mut(&queue) else { return };
        let start = start.max(found.entries.first);
        found.cursors.insert(id, Cursor::new(name, start, Ranges::default(), start));
        self.note_dirty(queue);
    }

    pub(crate) fn close_cursor(&mut self, queue: QueueId, id: CursorId) {
        let Some(found) = self.queues.get_mut(&queue) else { return };
        found.cursors.remove(&id);
        found.note_wanted(id);
        found.trim_settled();
        if !queue.is_transient() && !id.is_transient() {
            self.batch.delete(&CursorKey { queue, cursor: id });
        }
        self.note_dirty(queue);
    }

    pub(crate) fn settle(&mut self, queue: QueueId, cursor: CursorId, from: u64, to: u64) {
        let Some(found) = self.queues.get_mut(&queue) else { return };
        let to = to.min(found.entries.next);
        let Some(at) = found.cursors.get_mut(&cursor) else { return };
        let floor = at.floor;
        at.settle(from, to);
        if at.floor > floor {
            found.trim_settled();
        }
        self.note_dirty(queue);
    }

    pub(crate) fn end_session(&mut self, namespace: &str, id: &str) {
        let space = self.namespace(namespace);
        let Some(session) = space.sessions.remove(id) else { return };
        for key in session.subscriptions.keys() {
            space.leave_share(key);
        }
        if !session.is_durable {
            return;
        }
        for key in session.subscriptions.keys() {
            self.batch.delete(&stored_subscription(namespace, id, key));
        }
        self.batch.delete(&SessionKey { namespace: namespace.to_owned(), id: id.to_owned() });
    }

    /// Puts a subscription into its session. A transient session's is not written down.
    pub(crate) fn subscribe(&mut self, subscribed: Subscribed) {
        let Subscribed { namespace, session, share, filter, options, live, queue, cursor } =
            subscribed;
        let key = SubscriptionKey { share, filter };
        let space = self.namespace(&namespace);
        let found = space.sessions.entry(session.clone()).or_default();
        let existing = found.subscriptions.get(&key).map(|existing| existing.consumer);
        let consumer = existing.unwrap_or_else(|| found.next_consumer());
        let subscription = Subscription { options, live, queue, cursor, consumer };
        let is_durable = found.is_durable;
        found.subscriptions.insert(key.clone(), subscription);
        if existing.is_none() {
            space.join_share(&key, queue, cursor);
        }
        if is_durable {
            let value = SubscriptionValue { options, live, queue, cursor };
            self.batch.put(&stored_subscription(&namespace, &session, &key), &value);
        }
    }

    /// Takes a subscription out of its session.
    pub(crate) fn unsubscribe(&mut self, namespace: &str, session: &str, key: &SubscriptionKey) {
        let space = self.namespace(namespace);
        let Some(found) = space.sessions.get_mut(session) else { return };
        let is_durable = found.is_durable;
        if found.subscriptions.remove(key).is_some() {
            space.leave_share(key);
        }
        if is_durable {
            self.batch.delete(&stored_subscription(namespace, session, key));
        }
    }

    pub(crate) fn note_dirty(&mut self, id: QueueId) {
        if id.is_transient() {
            return;
        }
        if let Some(queue) = self.queues.get_mut(&id)
            && !queue.is_dirty
        {
            queue.is_dirty = true;
            self.dirty.push(id);
        }
    }

    /// Gathers what changed since the last time, to be committed to the index once the log is
    /// durable up to here.
    pub(crate) fn prepare_checkpoint(&mut self, applied: Position) -> Checkpoint {
        let mut batch = std::mem::replace(&mut self.batch, self.index.batch());
        let queues = std::mem::take(&mut self.dirty);
        for id in &queues {
            let Some(queue) = self.queues.get_mut(id) else { continue };
            queue.is_dirty = false;
            let (first, next) = (Offset(queue.entries.first), Offset(queue.entries.next));
            let state = QueueStateValue { first, next, cursors_next: 0 };
            batch.put(&QueueStateKey { queue: *id }, &state);
            let write = |number, value| batch.put(&BlockKey { queue: *id, number }, &value);
            let (from, to) = queue.entries.write_blocks(write);
            batch.delete_blocks(*id, from, to);
            for (cursor, at) in &mut queue.cursors {
                if at.dirty && !cursor.is_transient() {
                    at.dirty = false;
                    batch.put(&CursorKey { queue: *id, cursor: *cursor }, &stored_cursor(at));
                }
            }
        }
        Checkpoint { batch, applied, queues }
    }

    /// Makes a checkpoint visible in the index, and lets go of what need not stay in memory.
    pub(crate) fn commit_checkpoint(&mut self, checkpoint: Checkpoint) -> Result<(), IndexError> {
        self.index.commit(checkpoint.batch, checkpoint.applied)?;
        for id in checkpoint.queues {
            if let Some(queue) = self.queues.get_mut(&id) {
                queue.entries.evict();
            }
        }
        Ok(())
    }

    /// Reads everything a checkpoint wrote. Call once, on a fresh state.
    pub(crate) fn restore(&mut self) -> Result<(), IndexError> {
        let index = self.index.clone();
        for found in index.scan::<ExchangeKey>() {
            let (key, value) = found?;
            let Some(kind) = crate::command::ExchangeKind::from_u8(value.kind) else { continue };
            let ExchangeValue { auto_delete, internal, arguments, .. } = value;
            let name = key.name;
            let def = ExchangeDef { name, kind, durable: true, auto_delete, internal, arguments };
            self.namespace(&key.namespace).exchanges.insert(Exchange::new(def));
        }
        for found in index.scan::<QueueKey>() {
            let (key, value) = found?;
            let Some(retention) = Retention::from_u8(value.retention) else { continue };
            let QueueValue { namespace, name, auto_delete, arguments, .. } = value;
            self.insert_queue(key.queue, &namespace, name, auto_delete, retention, arguments);
        }
        for found in index.scan::<QueueStateKey>() {
            let (key, value) = found?;
            let number = value.next.0 / BLOCK_ENTRIES;
            let tail = index.block(key.queue, number)?;
            if let Some(queue) = self.queues.get_mut(&key.queue) {
                queue.entries.restore(value.first, value.next, tail);
            }
        }
        for found in index.scan::<CursorKey>() {
            let (key, value) = found?;
            if let Some(queue) = self.queues.get_mut(&key.queue) {
                let ranges = value.settled.iter().map(|(from, to)| (from.0, to.0));
                let mut cursor = Cursor::new(value.name, value.floor.0, Ranges::of(ranges), 0);
                cursor.dirty = false;
                queue.cursors.insert(key.cursor, cursor);
            }
        }
        self.restore_names(&index)
    }

    fn restore_names(&mut self, index: &Index) -> Result<(), IndexError> {
        for found in index.scan::<StoredBinding>() {
            let (key, ()) = found?;
            let arguments = mainstem_schemas::value::decode_table(key.arguments.clone());
            let bind = Bind {
                source: key.source,
                destination: key.destination,
                to_exchange: key.to_exchange,
                key: key.key,
                arguments: arguments.unwrap_or_default(),
            };
            self.bind(&key.namespace, &bind);
        }
        for found in index.scan::<SessionKey>() {
            let (key, SessionValue { expiry_s, detached }) = found?;
            let session = Session { expiry_s, detached, is_durable: true, ..Session::default() };
            self.namespace(&key.namespace).sessions.insert(key.id, session);
        }
        for found in index.scan::<StoredSubscription>() {
            let (key, value) = found?;
            let SubscriptionValue { options, live, queue, cursor } = value;
            let StoredSubscription { namespace, session, share, filter } = key;
            let stored =
                Subscribed { namespace, session, share, filter, options, live, queue, cursor };
            self.subscribe(stored);
        }
        for found in index.scan::<RetainedKey>() {
            let (key, RetainedValue { position, size, expiry }) = found?;
            let retained = Retained { position, size, expiry };
            self.namespace(&key.namespace).retained.insert(key.path, retained);
        }
        // What was read back is in the index already.
        self.batch = index.batch();
        Ok(())
    }

    /// After the log's end was reached: everything handed out by an earlier run may be seen again.
    pub(crate) fn finish_recovery(&mut self, now: UnixMillis) {
        for queue in self.queues.values_mut() {
            let next = queue.entries.next;
            for cursor in queue.cursors.values_mut() {
                cursor.next = cursor.floor;
                cursor.seen_below = next;
            }
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

fn stored_cursor(cursor: &Cursor) -> CursorValue {
    CursorValue {
        name: cursor.name.clone(),
        floor: Offset(cursor.floor),
        settled: cursor.settled.iter().map(|(from, to)| (Offset(from), Offset(to))).collect(),
    }
}

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
