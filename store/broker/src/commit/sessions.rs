//! Sessions: subscriptions with cursors that wait for their holder to come back.

use std::{collections::BTreeSet, ops::Bound, sync::Arc};

use mainstem_index::{CursorKey, CursorName, IndexError, QueueName};
use mainstem_schemas::{CursorId, Filter, Offset, Position, QueueId, Table, UnixMillis};
use rustc_hash::FxHashSet;

use super::Commit;
use crate::{
    command::{
        ClientId, OpenSession, Retention, SessionOpened, Subscribe, Subscribed,
        Subscription as Opened, session_writer,
    },
    entry::{self, DeclaredQueue, Entry},
    error::Refusal,
    inbox::Notice,
    member::Consumer,
    namespace::{Reader, Session, Subscription, SubscriptionKey},
    parcel::Parcel,
    policy::{DeliveryPolicy, Policy},
};

/// Sessions that one tick looks at: about a millisecond.
const SESSIONS_PER_TICK: usize = 16_384;

/// Subscriptions share the limit of this pool.
const SESSION_POOL: u16 = 0;

impl Commit {
    pub(super) fn open_session(
        &mut self,
        client: ClientId,
        open: OpenSession,
    ) -> Result<SessionOpened, Refusal> {
        let namespace = self.namespace_of(client).ok_or(Refusal::Closed)?;
        let holder = self.session(&namespace, &open.id).and_then(|session| session.holder);
        if let Some(holder) = holder {
            self.notify(holder, Notice::TakenOver);
            self.let_go(holder, &namespace, &open.id, None);
        }
        let now = self.now;
        if self.session(&namespace, &open.id).is_some_and(|s| s.ends().reached(now)) || open.clean {
            self.end_session(&namespace, &open.id);
        }
        let found = self.session(&namespace, &open.id);
        let present = found.is_some();
        if found.is_some_and(|session| session.is_durable) || open.expiry_s > 0 {
            self.log(Entry::Session {
                namespace: (*namespace).to_owned(),
                id: open.id.clone(),
                expiry_s: open.expiry_s,
                detached: UnixMillis::NONE,
            });
        }
        let sessions = &mut self.state.namespace(&namespace).sessions;
        let session: &mut Session = sessions.entry(open.id.clone()).or_default();
        session.expiry_s = open.expiry_s;
        session.holder = Some(client);
        let parcel = session.parcel.take();
        let held: Vec<(SubscriptionKey, Subscription)> =
            session.subscriptions.iter().map(|(key, held)| (key.clone(), *held)).collect();
        if let Some(member) = self.members.get_mut(&client) {
            member.session = Some(open.id);
            member.pools.entry(SESSION_POOL).or_default().limit = open.limit;
        }
        for (key, held) in &held {
            self.take_up(client, held, parcel.is_some());
            if holder.is_none() && !held.live {
                self.keep_away_bounds(held.queue, held.cursor);
            }
            self.attach(client, &namespace, key, held);
        }
        let subscriptions = held
            .into_iter()
            .map(|(SubscriptionKey { share, filter }, held)| Opened {
                subscribe: Subscribe { filter, share, options: held.options, live: held.live },
                consumer: held.consumer,
            })
            .collect();
        Ok(SessionOpened { present, subscriptions, parcel })
    }

    fn session(&mut self, namespace: &str, id: &str) -> Option<&mut Session> {
        self.state.namespace(namespace).sessions.get_mut(id)
    }

    /// What the last holder had in hand of a subscription becomes the new one's, if it knows of
    /// it by the parcel; else it is put back.
    fn take_up(&mut self, client: ClientId, held: &Subscription, has_parcel: bool) {
        let queue = self.state.queues.get(held.queue);
        let Some(cursor) = queue.and_then(|queue| queue.cursor_mut(held.cursor)) else {
            return;
        };
        if !matches!(*cursor.name, CursorName::Session(_)) || cursor.in_hand.is_empty() {
            return;
        }
        if has_parcel {
            let mut count = 0;
            for hand in cursor.in_hand.values_mut() {
                hand.client = client;
                hand.consumer = Some(held.consumer);
                hand.pool = SESSION_POOL;
                count += 1;
            }
            if let Some(member) = self.members.get_mut(&client) {
                member.pools.entry(SESSION_POOL).or_default().in_hand += count;
            }
            return;
        }
        let hands = cursor.in_hand.take_all();
        cursor.in_hand_bytes = 0;
        for (offset, hand) in hands {
            self.put_back(held.queue, held.cursor, offset, &hand, true);
        }
    }

    /// Lets a subscription's records flow to its holder.
    fn attach(
        &mut self,
        client: ClientId,
        namespace: &Arc<str>,
        key: &SubscriptionKey,
        held: &Subscription,
    ) {
        if held.live {
            let (consumer, options) = (held.consumer, held.options);
            let reader = Reader::Live { client, consumer, options };
            self.state.namespace(namespace).readers.insert(key.filter.steps(), reader);
            return;
        }
        let queue = self.state.queues.get(held.queue);
        let cursor = queue.and_then(|queue| queue.cursor(held.cursor));
        let in_hand = cursor.map_or(0, |cursor| {
            let its = cursor.in_hand.iter().filter(|(_, hand)| hand.client == client);
            u32::try_from(its.count()).unwrap_or(u32::MAX)
        });
        let consumer = Consumer {
            queue: held.queue,
            cursor: held.cursor,
            options: held.options,
            pool: SESSION_POOL,
            limit: 0,
            in_hand,
            priority: 0,
            settle_at_once: false,
            exclusive: false,
            owns_cursor: false,
        };
        self.seat(client, held.consumer, consumer);
    }

    /// Stops a subscription's records.
    fn unattach(
        &mut self,
        client: ClientId,
        namespace: &Arc<str>,
        key: &SubscriptionKey,
        held: &Subscription,
    ) {
        if held.live {
            let is_it = |reader: &Reader| {
                matches!(reader, Reader::Live { client: other, consumer, .. }
                    if *other == client && *consumer == held.consumer)
            };
            self.state.namespace(namespace).readers.remove(key.filter.steps(), is_it);
            return;
        }
        self.unseat(client, held.consumer);
        self.note_crowd(held.queue);
        self.state.queues.note_asleep(held.queue);
        if let Some(member) = self.members.get_mut(&client) {
            member.consumers.retain(|other| *other != held.consumer);
        }
    }

    pub(super) fn close_session(
        &mut self,
        client: ClientId,
        expiry_s: Option<u32>,
        parcel: Option<Parcel>,
    ) {
        let Some(namespace) = self.namespace_of(client) else { return };
        let id = self.members.get_mut(&client).and_then(|member| member.session.clone());
        let Some(id) = id else { return };
        if let (Some(expiry_s), Some(session)) = (expiry_s, self.session(&namespace, &id)) {
            session.expiry_s = expiry_s;
        }
        self.let_go(client, &namespace, &id, parcel);
    }

    /// The holder leaves its session. What it has in hand stays with its own cursors if it left a
    /// parcel that says so; from shared cursors it goes back to the others.
    fn let_go(&mut self, client: ClientId, namespace: &Arc<str>, id: &str, parcel: Option<Parcel>) {
        if let Some(member) = self.members.get_mut(&client) {
            member.session = None;
        }
        let now = self.now;
        let Some(session) = self.session(namespace, id) else { return };
        if session.holder != Some(client) {
            return;
        }
        session.holder = None;
        session.detached = now;
        let (expiry_s, is_durable) = (session.expiry_s, session.is_durable);
        let keeps_hands = parcel.is_some();
        session.parcel = parcel;
        let held: Vec<(SubscriptionKey, Subscription)> =
            session.subscriptions.iter().map(|(key, held)| (key.clone(), *held)).collect();
        for (key, held) in &held {
            self.unattach(client, namespace, key, held);
            if !held.live && (key.share.is_some() || !keeps_hands) {
                self.release_all(client, held.queue, held.cursor);
            } else if let Some(member) = self.members.get_mut(&client) {
                member.hands.remove(&(held.queue, held.cursor));
            }
        }
        if expiry_s == 0 {
            self.end_session(namespace, id);
        } else if is_durable {
            let (namespace, id) = ((**namespace).to_owned(), id.to_owned());
            self.log(Entry::Session { namespace, id, expiry_s, detached: now });
        }
    }

    /// Forgets a session, its cursors, and queues that nobody else reads.
    pub(super) fn end_session(&mut self, namespace: &Arc<str>, id: &str) {
        let Some(session) = self.session(namespace, id) else { return };
        let is_durable = session.is_durable;
        let held: Vec<(SubscriptionKey, Subscription)> =
            session.subscriptions.iter().map(|(key, held)| (key.clone(), *held)).collect();
        if is_durable {
            let (namespace, id) = ((**namespace).to_owned(), id.to_owned());
            self.log(Entry::EndSession { namespace, id });
        } else {
            self.state.end_session(namespace, id);
        }
        for (key, held) in held {
            self.end_cursor(namespace, &key, &held);
        }
        let first = (namespace.clone(), session_writer(id, ""));
        let writers = self.state.writers.range(first.clone()..).map(|(key, _)| key.clone());
        let its = writers.take_while(|(of, name)| *of == first.0 && name.starts_with(&first.1));
        self.chores.left_writers.extend(its);
    }

    /// A subscription is gone: its cursor goes, unless others share it, and the filter's queue
    /// with its last cursor.
    fn end_cursor(&mut self, namespace: &Arc<str>, key: &SubscriptionKey, held: &Subscription) {
        let is_shared = self.state.namespace(namespace).shares.contains_key(key);
        if held.live || is_shared {
            return;
        }
        self.settled.remove(&(held.queue, held.cursor));
        let (queue, cursor) = (held.queue, held.cursor);
        if queue.is_transient() || cursor.is_transient() {
            self.state.close_cursor(queue, cursor);
        } else {
            self.log(Entry::CloseCursor { queue, cursor });
        }
        if self.state.queues.get(queue).is_some_and(|queue| !queue.has_cursors()) {
            self.remove_queue(queue);
        }
    }

    pub(super) fn subscribe(
        &mut self,
        client: ClientId,
        subscribe: Subscribe,
    ) -> Result<Subscribed, Refusal> {
        let namespace = self.namespace_of(client).ok_or(Refusal::Closed)?;
        let id = self.members.get(&client).and_then(|member| member.session.clone());
        let id = id.ok_or(Refusal::Closed)?;
        let Subscribe { filter, share, options, live } = subscribe;
        // Members of a shared subscription compete on a cursor, so there is always one.
        let live = live && share.is_none();
        let key = SubscriptionKey { share, filter };
        let session = self.session(&namespace, &id).ok_or(Refusal::Closed)?;
        let is_durable = session.is_durable;
        let existing = session.subscriptions.get(&key).copied();
        if let Some(held) = existing {
            self.unattach(client, &namespace, &key, &held);
        }
        let (queue, cursor) = match existing {
            Some(held) if held.live == live => (held.queue, held.cursor),
            _ if live => (QueueId::default(), CursorId::default()),
            _ => self.make_cursor(&namespace, &id, &key, is_durable),
        };
        let subscribed = entry::Subscribed {
            namespace: (*namespace).to_owned(),
            session: id.clone(),
            share: key.share.clone(),
            filter: key.filter.clone(),
            options,
            live,
            queue,
            cursor,
        };
        if is_durable {
            self.log(Entry::Subscribe(subscribed));
        } else {
            self.state.subscribe(subscribed, Position(0));
        }
        if let Some(held) = existing.filter(|held| !held.live && live) {
            self.release_all(client, held.queue, held.cursor);
            self.end_cursor(&namespace, &key, &held);
        }
        let session = self.session(&namespace, &id).ok_or(Refusal::Closed)?;
        let held = session.subscriptions.get(&key).copied().ok_or(Refusal::Closed)?;
        self.attach(client, &namespace, &key, &held);
        Ok(Subscribed { existed: existing.is_some(), consumer: held.consumer })
    }

    /// A cursor at the end of the filter's queue, or the shared one that is there already.
    fn make_cursor(
        &mut self,
        namespace: &Arc<str>,
        session: &str,
        key: &SubscriptionKey,
        is_durable: bool,
    ) -> (QueueId, CursorId) {
        // Members of any kind may join a shared one later, so it is always durable.
        let is_durable = is_durable || key.share.is_some();
        let space = self.state.namespace(namespace);
        if let Some(share) = space.shares.get(key) {
            return (share.queue, share.cursor);
        }
        let found = space.filters.get(&(key.filter.clone(), !is_durable)).copied();
        let queue = found.unwrap_or_else(|| {
            let declared = DeclaredQueue {
                namespace: (**namespace).to_owned(),
                name: QueueName::Filter(key.filter.clone()),
                auto_delete: false,
                retention: Retention::Cursors,
                policy: Policy::default(),
                arguments: Table::new(),
            };
            self.make_queue(declared, is_durable)
        });
        let name = match &key.share {
            Some(group) => CursorName::Share(group.clone()),
            None => CursorName::Session(session.to_owned()),
        };
        let start = self.state.queues.get(queue).map_or(0, |queue| queue.next());
        let policy = DeliveryPolicy::default();
        let cursor = if is_durable {
            let start = Offset(start);
            CursorId(self.log(Entry::OpenCursor { queue, name, start, policy }).0)
        } else {
            let cursor = CursorId(self.next_transient());
            self.state.open_cursor(queue, cursor, name, start, policy);
            cursor
        };
        (queue, cursor)
    }

    pub(super) fn unsubscribe(
        &mut self,
        client: ClientId,
        filter: Filter,
        share: Option<String>,
    ) -> Result<bool, Refusal> {
        let namespace = self.namespace_of(client).ok_or(Refusal::Closed)?;
        let id = self.members.get(&client).and_then(|member| member.session.clone());
        let id = id.ok_or(Refusal::Closed)?;
        let key = SubscriptionKey { share, filter };
        let session = self.session(&namespace, &id).ok_or(Refusal::Closed)?;
        let is_durable = session.is_durable;
        let Some(held) = session.subscriptions.get(&key).copied() else { return Ok(false) };
        self.unattach(client, &namespace, &key, &held);
        self.release_all(client, held.queue, held.cursor);
        if is_durable {
            self.log(Entry::Unsubscribe {
                namespace: (*namespace).to_owned(),
                session: id,
                share: key.share.clone(),
                filter: key.filter.clone(),
            });
        } else {
            self.state.unsubscribe(&namespace, &id, &key);
        }
        self.end_cursor(&namespace, &key, &held);
        Ok(true)
    }

    /// Closes cursors of filters' queues that no subscription holds: those of sessions that ended
    /// with a crash.
    pub(crate) fn close_orphans(&mut self) -> Result<(), IndexError> {
        let sessions = self.state.namespaces.values().flat_map(|space| space.sessions.values());
        let held: FxHashSet<(QueueId, CursorId)> = sessions
            .flat_map(|session| session.subscriptions.iter().map(|(_, held)| held))
            .map(|held| (held.queue, held.cursor))
            .collect();
        let filters: FxHashSet<QueueId> = self
            .state
            .namespaces
            .values()
            .flat_map(|space| space.filters.values())
            .copied()
            .collect();
        let (mut read, mut orphans) = (FxHashSet::default(), Vec::new());
        let mut sort = |queue, cursor| match held.contains(&(queue, cursor)) {
            true => drop(read.insert(queue)),
            false => orphans.push((queue, cursor)),
        };
        for found in self.state.index.scan::<CursorKey>() {
            let (key, _) = found?;
            // What was replayed is newer than the index.
            if filters.contains(&key.queue) && self.state.queues.peek(key.queue).is_none() {
                sort(key.queue, key.cursor);
            }
        }
        for (id, queue) in self.state.queues.resident() {
            if filters.contains(&id) {
                queue.cursors().for_each(|(cursor, _)| sort(id, cursor));
            }
        }
        // A hash map's order is not to be seen.
        orphans.sort_unstable();
        for (queue, cursor) in orphans {
            if read.contains(&queue) {
                self.log_lazily(Entry::CloseCursor { queue, cursor });
            }
        }
        let unread: BTreeSet<QueueId> =
            filters.into_iter().filter(|queue| !read.contains(queue)).collect();
        for queue in unread {
            self.remove_queue(queue);
        }
        Ok(())
    }

    /// Ends sessions whose holder has been away for too long: those of the next so many, since there may
    /// be a million. One that is asked for by its client before its turn is found to have ended.
    pub(super) fn end_sessions(&mut self) {
        let now = self.now;
        let (mut left, mut ended) = (SESSIONS_PER_TICK, Vec::new());
        let from = self.looked_at.take();
        let behind = |name: &Arc<str>| from.as_ref().is_none_or(|(last, _)| *name >= *last);
        let mut spaces: Vec<_> = self
            .state
            .namespaces
            .iter()
            .filter(|(name, space)| behind(name) && !space.sessions.is_empty())
            .collect();
        spaces.sort_unstable_by_key(|(name, _)| *name);
        'all: for (name, namespace) in spaces {
            let from = from.as_ref().filter(|(last, _)| last == name);
            let from = from.map_or(Bound::Unbounded, |(_, id)| Bound::Excluded(&**id));
            for (id, session) in namespace.sessions.range::<str, _>((from, Bound::Unbounded)) {
                if session.ends().reached(now) {
                    ended.push((name.clone(), id.clone()));
                }
                left -= 1;
                if left == 0 {
                    self.looked_at = Some((name.clone(), id.clone()));
                    break 'all;
                }
            }
        }
        for (namespace, id) in ended {
            self.end_session(&namespace, &id);
        }
    }
}
