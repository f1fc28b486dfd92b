//! What a topic goes by, and how topics and their groups end.

use std::ops::Bound;

use mainstem_index::CursorName;
use mainstem_schemas::{Path, QueueId};

use crate::{
    command::{ClientId, ExchangeKind, TopicTerms},
    commit::Commit,
    entry::Entry,
    error::Refusal,
    exchange::is_predeclared,
    namespace::branch,
    policy::Policy,
};

/// Topics below a topic that end in one turn.
const PER_TURN: usize = 256;

impl Commit {
    pub(super) fn declare_topic(
        &mut self,
        client: ClientId,
        topic: &str,
        terms: TopicTerms,
    ) -> Result<bool, Refusal> {
        let namespace = self.namespace_of(client).ok_or(Refusal::Closed)?;
        if branch(topic).is_some() {
            return Err(Refusal::NoTopic(topic.to_owned()));
        }
        let found = self.state.namespace(&namespace).topic(topic);
        let known = found.and_then(|id| self.state.queues.get(id));
        let mut policy = known.map_or_else(Policy::default, |queue| (*queue.declared).clone());
        policy.priority_max = policy.priority_max.max(terms.priority_max);
        if let Some(keeps) = terms.keeps {
            (policy.age_max_ms, policy.bytes_max) = (keeps.age_max_ms, keeps.bytes_max);
        }
        let Some(id) = found else {
            self.make_topic(&namespace, topic, policy);
            return Ok(true);
        };
        self.flush_settled();
        if self.state.queues.get(id).is_some_and(|queue| *queue.declared != policy) {
            self.state_queue(id, policy);
            self.open.needs_sync = true;
        }
        Ok(false)
    }

    /// With a topic goes the exchange of its name, unless something is bound to that.
    pub(super) fn delete_topic(&mut self, client: ClientId, topic: &str) -> Result<bool, Refusal> {
        let namespace = self.namespace_of(client).ok_or(Refusal::Closed)?;
        let space = self.state.namespace(&namespace);
        if let Some(id) = space.topic(topic) {
            let exchange = space.exchanges.get(topic).filter(|exchange| {
                exchange.def.kind == ExchangeKind::Topic && exchange.bindings.is_empty()
            });
            let goes_along = exchange.is_some() && !is_predeclared(topic);
            self.end_topic(id);
            if goes_along {
                self.remove_exchange(&namespace, topic);
            }
            return Ok(true);
        }
        let above = Path::of([topic]);
        let raw = above.raw().as_ref();
        let from = (Bound::Excluded(Box::<[u8]>::from(raw)), Bound::Unbounded);
        let below = space.branches.range(from).take_while(|(path, _)| path.starts_with(raw));
        let some: Vec<QueueId> = below.map(|(_, id)| *id).take(PER_TURN).collect();
        for id in &some {
            self.end_topic(*id);
        }
        Ok(!some.is_empty())
    }

    fn end_topic(&mut self, id: QueueId) {
        let waiting: Vec<_> = self
            .state
            .queues
            .get(id)
            .map(|queue| queue.wanted.iter().collect())
            .unwrap_or_default();
        for cursor in waiting {
            self.dismiss_fetchers(id, cursor);
        }
        self.remove_queue(id);
    }

    pub(super) fn delete_group(
        &mut self,
        client: ClientId,
        topic: &str,
        group: String,
    ) -> Result<bool, Refusal> {
        let queue = self.open_topic(client, topic, false)?;
        self.flush_settled();
        let cursors = self.group_cursors(queue, &CursorName::Group(group));
        for cursor in &cursors {
            self.dismiss_fetchers(queue, *cursor);
            self.log(Entry::CloseCursor { queue, cursor: *cursor });
        }
        Ok(!cursors.is_empty())
    }
}
