//! Sessions with their subscriptions, of which there may be a million.

use std::collections::BTreeMap;

use mainstem_index::{
    Index, IndexError, SessionKey, SessionValue, SubscriptionKey as Stored, SubscriptionValue,
};
use mainstem_schemas::{CursorId, QueueId};

use crate::namespace::{Namespace, Session, Subscription, SubscriptionKey};

/// What the index has of the sessions of a namespace.
#[derive(Default)]
pub(super) struct Sleepers {
    sessions: BTreeMap<String, Session>,
    /// The shared ones among their subscriptions.
    shared: Vec<(SubscriptionKey, QueueId, CursorId)>,
}

impl Sleepers {
    /// Reads all sessions, by namespace. A subscription of none of them is nobody's.
    pub(super) fn read(index: &Index) -> Result<BTreeMap<String, Self>, IndexError> {
        let mut all: BTreeMap<String, Self> = BTreeMap::new();
        let mut sessions = Vec::new();
        let mut scan = index.scan::<SessionKey>().peekable();
        while let Some(found) = scan.next() {
            let (SessionKey { namespace, id }, SessionValue { expiry_s, detached, home }) = found?;
            let session =
                Session { expiry_s, detached, home, is_durable: true, ..Session::default() };
            sessions.push((id, session));
            let goes_on = |next: &Result<(SessionKey, _), _>| {
                next.as_ref().is_ok_and(|(next, _)| next.namespace == namespace)
            };
            if !scan.peek().is_some_and(goes_on) {
                // In order already, so that nothing is searched for.
                let sessions = std::mem::take(&mut sessions).into_iter().collect();
                all.insert(namespace, Self { sessions, shared: Vec::new() });
            }
        }
        let mut scan = index.scan::<Stored>().peekable();
        while let Some(found) = scan.next() {
            let (key, value) = found?;
            let Some(sleepers) = all.get_mut(&key.namespace) else { continue };
            let Some(session) = sleepers.sessions.get_mut(&key.session) else { continue };
            let (namespace, id) = (key.namespace.clone(), key.session.clone());
            add(session, &mut sleepers.shared, key, value);
            let is_its = |next: &Result<(Stored, _), _>| {
                next.as_ref()
                    .is_ok_and(|(next, _)| next.session == id && next.namespace == namespace)
            };
            while let Some(Ok((key, value))) = scan.next_if(is_its) {
                add(session, &mut sleepers.shared, key, value);
            }
        }
        Ok(all)
    }

    pub(super) fn settle_in(self, namespace: &mut Namespace) {
        namespace.sessions = self.sessions;
        for (key, queue, cursor) in self.shared {
            namespace.join_share(&key, queue, cursor);
        }
    }
}

fn add(
    session: &mut Session,
    shared: &mut Vec<(SubscriptionKey, QueueId, CursorId)>,
    stored: Stored,
    value: SubscriptionValue,
) {
    let SubscriptionValue { options, live, queue, cursor, home } = value;
    let key = SubscriptionKey { share: stored.share, filter: stored.filter };
    if key.share.is_some() {
        shared.push((key.clone(), queue, cursor));
    }
    let consumer = session.next_consumer();
    let subscription = Subscription { options, live, queue, cursor, consumer, home };
    session.subscriptions.insert(key, subscription);
}
