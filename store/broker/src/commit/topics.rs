//! Topics, which keep records for a time, the groups that read them, and readers by place.

mod terms;

use std::sync::Arc;

use mainstem_index::{CursorName, LANE_SHIFT, QueueName};
use mainstem_schemas::{CursorId, Offset, QueueId, Table};

use super::{Commit, Timer, clean::cursor_entries, send};
use crate::{
    command::{
        Claim, ClientId, ExchangeDef, ExchangeKind, GroupRef, Moved, Pull, Reply, Retention,
        Sought, Start, TopicCommand,
    },
    cursor::Fetcher,
    entry::{DeclaredQueue, Entry, Settled},
    error::Refusal,
    inbox::Delivery,
    namespace::branch,
    policy::{DeliveryPolicy, Policy},
};

impl Commit {
    pub(super) fn open_topic(
        &mut self,
        client: ClientId,
        topic: &str,
        create: bool,
    ) -> Result<QueueId, Refusal> {
        let namespace = self.namespace_of(client).ok_or(Refusal::Closed)?;
        if let Some(id) = self.state.namespace(&namespace).topic(topic) {
            return Ok(id);
        }
        if !create || branch(topic).is_some() {
            return Err(Refusal::NoTopic(topic.to_owned()));
        }
        Ok(self.make_topic(&namespace, topic, Policy::default()))
    }

    /// The topic's queue, made if there is none.
    pub(super) fn make_topic(
        &mut self,
        namespace: &Arc<str>,
        topic: &str,
        policy: Policy,
    ) -> QueueId {
        let space = self.state.namespace(namespace);
        if let Some(id) = space.topics.get(topic) {
            return *id;
        }
        if space.exchanges.get(topic).is_none() {
            let def = ExchangeDef {
                name: topic.to_owned(),
                kind: ExchangeKind::Topic,
                durable: true,
                auto_delete: false,
                internal: false,
                arguments: Table::new(),
            };
            self.log(Entry::DeclareExchange { namespace: (**namespace).to_owned(), def });
        }
        let declared = DeclaredQueue {
            namespace: (**namespace).to_owned(),
            name: QueueName::Topic(topic.to_owned()),
            auto_delete: false,
            retention: Retention::Time,
            policy,
            arguments: Table::new(),
        };
        self.make_queue(declared, true)
    }

    pub(super) fn open_group(
        &mut self,
        client: ClientId,
        topic: &str,
        group: String,
        policy: DeliveryPolicy,
    ) -> Result<GroupRef, Refusal> {
        let queue_id = self.open_topic(client, topic, false)?;
        let missing = || Refusal::NoTopic(topic.to_owned());
        let queue = self.state.queues.get(queue_id).ok_or_else(missing)?;
        let name = CursorName::Group(group);
        let found = queue.cursors().find(|(_, cursor)| *cursor.name == name).map(|(id, _)| id);
        if let Some(cursor) = found {
            // The newest member of a group says how it is served.
            let known = queue.cursor(cursor).filter(|known| *known.policy != policy);
            let entries = known.map(|known| cursor_entries(queue_id, cursor, known, &policy));
            for entry in entries.into_iter().flatten() {
                self.log(entry);
            }
            return Ok(GroupRef { queue: queue_id, cursor });
        }
        let is_young = queue.bounds().iter().all(|(first, _)| first << (64 - LANE_SHIFT) == 0);
        let to = if is_young { Start::First } else { Start::Next };
        self.open_group_at(queue_id, name, to, policy).map(|(group, _)| group).ok_or_else(missing)
    }

    /// A new cursor at a place. Where there are priorities, that is a place for each of them.
    fn open_group_at(
        &mut self,
        queue: QueueId,
        name: CursorName,
        to: Start,
        policy: DeliveryPolicy,
    ) -> Option<(GroupRef, Offset)> {
        let starts = self.find_starts(queue, to)?;
        let (start, ..) = *starts.first()?;
        let opened = self.log(Entry::OpenCursor { queue, name, start: Offset(start), policy });
        let cursor = CursorId(opened.0);
        for (at, first, _) in starts.into_iter().skip(1).filter(|(at, first, _)| at > first) {
            let ranges = [(first, at)].into_iter().collect();
            self.log(Entry::Settle(vec![Settled { queue, cursor, ranges }]));
        }
        Some((GroupRef { queue, cursor }, Offset(start)))
    }

    pub(super) fn handle_topic(&mut self, client: ClientId, ask: TopicCommand) {
        match ask {
            TopicCommand::Declare { topic, terms, reply } => {
                let declared = self.declare_topic(client, &topic, terms);
                self.answer_durably(Some(reply), declared);
            }
            TopicCommand::Delete { topic, reply } => {
                let deleted = self.delete_topic(client, &topic);
                self.answer_durably(Some(reply), deleted);
            }
            TopicCommand::DeleteGroup { topic, group, reply } => {
                let deleted = self.delete_group(client, &topic, group);
                self.answer_durably(Some(reply), deleted);
            }
            TopicCommand::Seek { topic, to, reply } => {
                let sought = self.seek(client, &topic, to);
                self.answer_durably(Some(reply), sought);
            }
            TopicCommand::Pull { pull, reply } => self.pull(client, pull, reply),
            TopicCommand::OpenBranch { name, terms, reply } => {
                let opened = self.open_branch(client, name, &terms);
                self.answer_durably(Some(reply), opened);
            }
            TopicCommand::Branches { topic, after, max, reply } => {
                send(reply, self.list_branches(client, &topic, after.as_deref(), max));
            }
            TopicCommand::FindGroup { topic, group, reply } => {
                let found = self.find_group(client, &topic, group);
                self.answer_durably(Some(reply), found);
            }
            TopicCommand::MoveGroup { topic, group, to, policy, reply } => {
                let moved = self.move_group(client, &topic, group, to, policy);
                self.answer_durably(Some(reply), moved);
            }
        }
    }

    fn seek(&mut self, client: ClientId, topic: &str, to: Start) -> Result<Sought, Refusal> {
        let queue = self.unranked_topic(client, topic)?;
        let (at, first, next) =
            self.find_start(queue, to).ok_or_else(|| Refusal::NoTopic(topic.to_owned()))?;
        Ok(Sought { queue, at: Offset(at), first: Offset(first), next: Offset(next) })
    }

    /// A topic with offsets in the order of time.
    fn unranked_topic(&mut self, client: ClientId, topic: &str) -> Result<QueueId, Refusal> {
        let id = self.open_topic(client, topic, false)?;
        match self.state.queues.get(id).is_some_and(|queue| queue.is_ranked()) {
            true => Err(Refusal::Ranked(topic.to_owned())),
            false => Ok(id),
        }
    }

    /// Reads by a cursor that lasts as long as the wait for it.
    fn pull(&mut self, client: ClientId, pull: Pull, reply: Reply<Vec<Delivery>>) {
        let Pull { queue, from, max, wait_ms } = pull;
        let cursor = self.open_stream(queue, Start::Offset(from));
        let (id, deadline) = (self.next_id(), self.now.plus(wait_ms.max(1)));
        let found = self.state.queues.get(queue);
        let Some(at) = found.and_then(|queue| queue.cursor_mut(cursor)) else {
            // The topic went away; whoever asks finds that out when it looks for it.
            return send(reply, Vec::new());
        };
        let (max, claim) = (max.max(1), Claim::Client);
        at.fetchers.push_back(Fetcher { id, client, max, claim, deadline, reply });
        if let Some(found) = self.state.queues.get(queue) {
            found.note_wanted(cursor);
        }
        self.set_timer(deadline, Timer::Fetch { queue, cursor, id });
        self.touch_cursor(queue, cursor);
        self.end_left_pulls();
        self.pulls.push_back((queue, cursor));
    }

    /// Looks at the two pulls that were not looked at for the longest time, and ends those that
    /// nobody waits for any more: no more than half of all wait in vain.
    fn end_left_pulls(&mut self) {
        for _ in 0..2 {
            let Some((queue, cursor)) = self.pulls.pop_front() else { return };
            let found = self.state.queues.peek(queue).and_then(|queue| queue.cursor(cursor));
            let Some(fetcher) = found.and_then(|found| found.fetchers.front()) else { continue };
            if fetcher.reply.is_closed() {
                self.drop_fetcher(queue, cursor, 0);
            } else {
                self.pulls.push_back((queue, cursor));
            }
        }
    }

    /// Readers by place that wait, as far as the store knows.
    #[cfg(test)]
    pub(crate) fn waiting_pulls(&self, queue: QueueId) -> usize {
        self.state.queues.peek(queue).map_or(0, |queue| queue.wanted.len())
    }

    /// A pull has its answer: nothing of it is in hand.
    pub(super) fn end_pull(&mut self, client: ClientId, queue: QueueId, cursor: CursorId) {
        if let Some(member) = self.members.get_mut(&client) {
            member.hands.remove(&(queue, cursor));
        }
        self.state.close_cursor(queue, cursor);
    }

    /// The cursors of a group. There is more than one if the power went while it was moved: the
    /// first one is the group's.
    fn group_cursors(&mut self, queue: QueueId, name: &CursorName) -> Vec<CursorId> {
        let Some(queue) = self.state.queues.get(queue) else { return Vec::new() };
        let found = queue.cursors().filter(|(_, cursor)| *cursor.name == *name);
        found.map(|(id, _)| id).collect()
    }

    fn find_group(
        &mut self,
        client: ClientId,
        topic: &str,
        group: String,
    ) -> Result<Option<Offset>, Refusal> {
        let id = self.unranked_topic(client, topic)?;
        // What was settled in this turn counts.
        self.flush_settled();
        let found = self.group_cursors(id, &CursorName::Group(group)).first().copied();
        let Some(queue) = self.state.queues.get(id) else { return Ok(None) };
        let first = queue.first();
        let cursor = found.and_then(|found| queue.cursor(found));
        Ok(cursor.map(|cursor| Offset(cursor.floor_at(first).max(first))))
    }

    /// Gives a group a new cursor, so that nothing of what it did before can be mistaken for what it
    /// does from now on.
    fn move_group(
        &mut self,
        client: ClientId,
        topic: &str,
        group: String,
        to: Start,
        policy: DeliveryPolicy,
    ) -> Result<Moved, Refusal> {
        let queue = match to {
            Start::Offset(_) => self.unranked_topic(client, topic)?,
            Start::First | Start::Last | Start::Next | Start::Time(_) => {
                self.open_topic(client, topic, false)?
            }
        };
        self.flush_settled();
        let name = CursorName::Group(group);
        let before = self.group_cursors(queue, &name);
        let known = self.state.queues.get(queue).and_then(|found| found.cursor(*before.first()?));
        let policy = known.map_or(policy, |known| (*known.policy).clone());
        // The new one first: a log that ends between the two has a place for the group.
        let opened = self.open_group_at(queue, name, to, policy);
        let (group, at) = opened.ok_or_else(|| Refusal::NoTopic(topic.to_owned()))?;
        for cursor in before {
            self.dismiss_fetchers(queue, cursor);
            self.log(Entry::CloseCursor { queue, cursor });
        }
        Ok(Moved { group, at })
    }

    /// Those who wait at a cursor that goes get nothing, and look for their group anew.
    fn dismiss_fetchers(&mut self, queue: QueueId, cursor: CursorId) {
        while let Some(fetcher) = self.drop_fetcher(queue, cursor, 0) {
            send(fetcher.reply, Vec::new());
        }
    }
}
