//! Topics, which keep records for a time, and the groups that read them.

use mainstem_index::{CursorName, IndexError, QueueName};
use mainstem_schemas::{CursorId, Offset, QueueId, Table};

use super::Commit;
use crate::{
    command::{ClientId, ExchangeDef, ExchangeKind, GroupRef, Retention},
    entry::{DeclaredQueue, Entry},
    error::Refusal,
};

impl Commit {
    pub(super) fn open_topic(
        &mut self,
        client: ClientId,
        topic: &str,
        create: bool,
    ) -> Result<QueueId, Refusal> {
        let namespace = self.namespace_of(client).ok_or(Refusal::Closed)?;
        let space = self.state.namespace(&namespace);
        if let Some(id) = space.topics.get(topic) {
            return Ok(*id);
        }
        if !create {
            return Err(Refusal::NoTopic(topic.to_owned()));
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
            self.log(Entry::DeclareExchange { namespace: (*namespace).to_owned(), def });
        }
        let declared = DeclaredQueue {
            namespace: (*namespace).to_owned(),
            name: QueueName::Topic(topic.to_owned()),
            auto_delete: false,
            retention: Retention::Time,
            arguments: Table::new(),
        };
        Ok(self.make_queue(declared, true))
    }

    pub(super) fn open_group(
        &mut self,
        client: ClientId,
        topic: &str,
        group: String,
    ) -> Result<GroupRef, Refusal> {
        let queue_id = self.open_topic(client, topic, false)?;
        let missing = || Refusal::NoTopic(topic.to_owned());
        let queue = self.state.queues.get(&queue_id).ok_or_else(missing)?;
        let name = CursorName::Group(group);
        let found = queue.cursors.iter().find(|(_, cursor)| cursor.name == name);
        if let Some((cursor, _)) = found {
            return Ok(GroupRef { queue: queue_id, cursor: *cursor });
        }
        let is_young = queue.entries.first == 0;
        let start = Offset(if is_young { 0 } else { queue.entries.next });
        let position = self.log(Entry::OpenCursor { queue: queue_id, name, start });
        Ok(GroupRef { queue: queue_id, cursor: CursorId(position.0) })
    }

    /// Forgets what topics have kept long enough.
    pub(super) fn trim_topics(&mut self) -> Result<(), IndexError> {
        let oldest = self.now.0.saturating_sub(self.config.topic_retention_ms);
        let mut trims = Vec::new();
        let index = &self.state.index;
        for (id, queue) in &mut self.state.queues {
            if queue.def.retention != Retention::Time || queue.entries.len() == 0 {
                continue;
            }
            let is_old = |entry: Option<mainstem_index::Entry>| {
                entry.is_some_and(|entry| entry.appended.0 < oldest)
            };
            if !is_old(queue.entries.get(queue.entries.first, index)?) {
                continue;
            }
            let (mut low, mut high) = (queue.entries.first, queue.entries.next);
            while low < high {
                let middle = low + (high - low) / 2;
                if is_old(queue.entries.get(middle, index)?) {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            trims.push((*id, low));
        }
        for (queue, below) in trims {
            if queue.is_transient() {
                if let Some(found) = self.state.queues.get_mut(&queue) {
                    found.trim(below);
                }
            } else {
                self.log_lazily(Entry::Trim { queue, below: Offset(below) });
            }
        }
        Ok(())
    }
}
