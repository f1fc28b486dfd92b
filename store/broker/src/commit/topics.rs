//! Topics, which keep records for a time, and the groups that read them.

use std::sync::Arc;

use mainstem_index::{CursorName, QueueName};
use mainstem_schemas::{CursorId, Offset, QueueId, Table};

use super::{Commit, clean::cursor_entries};
use crate::{
    command::{ClientId, ExchangeDef, ExchangeKind, GroupRef, Retention},
    entry::{DeclaredQueue, Entry},
    error::Refusal,
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
        if let Some(id) = self.state.namespace(&namespace).topics.get(topic) {
            return Ok(*id);
        }
        if !create {
            return Err(Refusal::NoTopic(topic.to_owned()));
        }
        Ok(self.make_topic(&namespace, topic))
    }

    /// The topic's queue, made if there is none.
    pub(super) fn make_topic(&mut self, namespace: &Arc<str>, topic: &str) -> QueueId {
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
            policy: Policy::default(),
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
        let is_young = queue.first() == 0;
        let start = Offset(if is_young { 0 } else { queue.next() });
        let position = self.log(Entry::OpenCursor { queue: queue_id, name, start, policy });
        Ok(GroupRef { queue: queue_id, cursor: CursorId(position.0) })
    }
}
