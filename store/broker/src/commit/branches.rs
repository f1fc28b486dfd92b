//! Topics below a topic: made when they are first used, gone when they are not, and there may be a
//! million of them.

use std::ops::Bound;

use mainstem_index::{IndexError, QueueName};
use mainstem_schemas::{Dialect, Path, QueueId, Table, UnixMillis};

use super::Commit;
use crate::{
    command::{BranchTerms, ClientId, Retention},
    entry::DeclaredQueue,
    error::Refusal,
    namespace::{below, branch},
    policy::Policy,
    queue::Found,
};

/// Names that one answer lists.
const NAMES_MAX: usize = 1000;

impl Commit {
    pub(super) fn open_branch(
        &mut self,
        client: ClientId,
        name: String,
        terms: &BranchTerms,
    ) -> Result<QueueId, Refusal> {
        let namespace = self.namespace_of(client).ok_or(Refusal::Closed)?;
        let path = branch(&name).ok_or_else(|| Refusal::NoTopic(name.clone()))?;
        let space = self.state.namespace(&namespace);
        let count = space.branches.len();
        if let Some(id) = space.branches.get(path.raw().as_ref()).copied() {
            let now = self.now;
            if let Some(queue) = self.state.queues.get(id) {
                queue.used = now;
            }
            return Ok(id);
        }
        if count >= terms.max {
            return Err(Refusal::Limit { name: "branches_max", max: terms.max as u64 });
        }
        let declared = DeclaredQueue {
            namespace: (*namespace).to_owned(),
            name: QueueName::Topic(name),
            auto_delete: false,
            retention: Retention::Time,
            policy: Policy { expires_ms: terms.idle_ms, ..Policy::default() },
            arguments: Table::new(),
        };
        Ok(self.make_queue(declared, true))
    }

    pub(super) fn list_branches(
        &mut self,
        client: ClientId,
        topic: &str,
        after: Option<&str>,
        max: usize,
    ) -> Vec<String> {
        let Some(namespace) = self.namespace_of(client) else { return Vec::new() };
        let above = Path::of([topic]);
        let from = match after {
            Some(after) => Bound::Excluded(below(topic, after)),
            None => Bound::Excluded(above.clone()),
        };
        let from = from.map(|path| Box::<[u8]>::from(path.raw().as_ref()));
        let space = self.state.namespace(&namespace);
        let found = space.branches.range((from, Bound::Unbounded));
        let found = found.take_while(|(raw, _)| raw.starts_with(above.raw()));
        let name = |raw: &[u8]| {
            let path = Path::from_raw(raw.to_vec().into());
            let (_, rest) = path.split_first(Dialect::Mqtt)?;
            Some(String::from_utf8_lossy(&rest).into_owned())
        };
        found.filter_map(|(raw, _)| name(raw)).take(max.min(NAMES_MAX)).collect()
    }

    /// When a topic below a topic goes, if nothing comes meanwhile. `None` as long as somebody waits
    /// at it, or has not read all of it.
    pub(super) fn branch_end(&mut self, id: QueueId) -> Result<Option<UnixMillis>, IndexError> {
        let (now, index) = (self.now, &self.state.index);
        let Some(queue) = self.state.queues.get(id) else { return Ok(None) };
        let Some(idle_ms) = queue.def.policy.expires_ms else { return Ok(None) };
        let next = queue.next();
        let is_read = queue.cursors().all(|(_, cursor)| cursor.floor_at(0) >= next);
        if queue.found != Found::AsTopic || !queue.wanted.is_empty() || !is_read {
            return Ok(None);
        }
        let last = queue.get(next.saturating_sub(1), index)?;
        let written = last.map_or(UnixMillis::NONE, |place| place.appended);
        if !written.is_set() && !queue.used.is_set() {
            queue.used = now;
        }
        Ok(Some(written.max(queue.used).plus(idle_ms)))
    }
}
