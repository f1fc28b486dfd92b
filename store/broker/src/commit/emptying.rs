//! Taking a namespace away: everything in it ends, a piece in each turn.

use std::sync::Arc;

use mainstem_schemas::{Address, Path, QueueId, RecordDraft, RecordId, flags};

use super::Commit;
use crate::{
    command::{Publish, Published},
    entry::Entry,
    exchange::is_predeclared,
    usage::USER_LIMITS,
};

/// Things that end in one turn.
const PER_TURN: usize = 256;

impl Commit {
    /// Ends some of what is in a namespace; tells whether nothing is left. What waits for its time, or for
    /// a decision, is not found here: when that comes, nobody wants it.
    pub(super) fn empty_some(&mut self, namespace: &str) -> bool {
        let name = self.state.queues.intern(namespace);
        let sessions: Vec<String> =
            self.state.namespace(namespace).sessions.keys().take(PER_TURN).cloned().collect();
        for id in &sessions {
            self.end_session(&name, id);
        }
        let queues = self.some_queues(namespace);
        for id in &queues {
            self.remove_queue(*id);
        }
        if !sessions.is_empty() || !queues.is_empty() {
            return false;
        }
        let exchanges = self.state.namespace(namespace).exchanges.iter();
        let named: Vec<String> = exchanges
            .map(|exchange| exchange.def.name.clone())
            .filter(|name| !name.is_empty() && !is_predeclared(name))
            .take(PER_TURN)
            .collect();
        for exchange in &named {
            self.remove_exchange(namespace, exchange);
        }
        let settings = self.state.parameters.keys().filter(|key| key.namespace == namespace);
        let settings: Vec<_> =
            settings.filter(|key| key.component != USER_LIMITS).take(PER_TURN).cloned().collect();
        for key in &settings {
            self.log(Entry::DeleteParameter { key: key.clone() });
        }
        let forgot_some = self.forget_retained(&name);
        named.is_empty() && settings.is_empty() && !forgot_some
    }

    /// Queues of all kinds.
    fn some_queues(&mut self, namespace: &str) -> Vec<QueueId> {
        let index = self.state.index.clone();
        let space = self.state.namespace(namespace);
        let unnamed = space.filters.values().chain(space.topics.values());
        let known = space.named.values().flatten();
        let mut some: Vec<QueueId> =
            unnamed.chain(space.branches.values()).chain(known).take(PER_TURN).copied().collect();
        // A hash map's order is not to be seen.
        some.sort_unstable();
        let room = PER_TURN.saturating_sub(some.len());
        let is_unknown = |name: &str| !space.named.contains_key(name.as_bytes());
        let stored = index.names(namespace, None).map_while(Result::ok);
        let stored = stored.filter(|(key, _)| is_unknown(&key.name)).take(room);
        some.extend(stored.map(|(_, id)| id));
        some
    }

    /// What is retained goes as it does for anybody: by an empty record.
    fn forget_retained(&mut self, namespace: &Arc<str>) -> bool {
        let space = self.state.namespace(namespace);
        let paths: Vec<Path> = space.retained.keys().take(PER_TURN).cloned().collect();
        let before = space.retained.len();
        for path in paths {
            let address = Address::of_path(&path);
            let mut draft = RecordDraft::new(&address, namespace, b"", b"");
            draft.flags = flags::RETAIN | flags::DURABLE;
            draft.now = self.now;
            draft.id = RecordId::new(self.now, u128::from(self.planner.end().0));
            let Ok(record) = draft.encode() else { continue };
            if let Published::Refused(refusal) =
                self.publish_one(namespace, Publish::new(record), true)
            {
                tracing::warn!(%namespace, %refusal, "a retained record stays behind");
            }
        }
        self.state.namespace(namespace).retained.len() < before
    }
}
