//! Looking things up on behalf of a client, with its rights.

use std::sync::Arc;

use mainstem_schemas::{CursorId, DeliveryId, Offset, Position, QueueId};

use super::Commit;
use crate::{
    client::Unsettled,
    command::{ClientId, Declared, ExchangeDef, GroupRef, QueueDef, QueueStats},
    error::Refusal,
};

impl Commit {
    /// The named queue, if it exists and is not another connection's own.
    pub(super) fn usable_queue(
        &mut self,
        client: ClientId,
        name: &str,
    ) -> Result<QueueId, Refusal> {
        let missing = || Refusal::NoQueue(name.to_owned());
        let namespace = self.namespace_of(client).ok_or(Refusal::Closed)?;
        let id = self.state.find_named(&namespace, name.as_bytes()).ok_or_else(missing)?;
        let now = self.now;
        let queue = self.state.queues.get(id).ok_or_else(missing)?;
        queue.used = now;
        if [ClientId::NOBODY, client].contains(&queue.owner) {
            Ok(id)
        } else {
            Err(Refusal::Locked(name.to_owned()))
        }
    }

    pub(super) fn find_queue(
        &mut self,
        client: ClientId,
        name: &str,
    ) -> Result<Declared<QueueDef>, Refusal> {
        let id = self.usable_queue(client, name)?;
        self.found_queue(id).ok_or_else(|| Refusal::NoQueue(name.to_owned()))
    }

    pub(super) fn found_queue(&mut self, id: QueueId) -> Option<Declared<QueueDef>> {
        let def = self.state.queues.get(id)?.def.clone();
        Some(Declared { created: false, def, stats: self.stats(id) })
    }

    /// Where the record of a delivery stands now.
    pub(super) fn locate(&mut self, id: DeliveryId) -> Option<(Position, u32)> {
        let place = self.state.queues.get(id.queue)?.get(id.offset.0, &self.state.index);
        self.state.sound(place).map(|place| (place.position, place.size))
    }

    pub(super) fn unsettled(
        &mut self,
        GroupRef { queue, cursor }: GroupRef,
        (from, below): (Offset, Offset),
    ) -> Unsettled {
        self.flush_settled();
        let Some(queue) = self.state.queues.get(queue) else {
            return Unsettled { ranges: Vec::new(), next: below };
        };
        let (first, next) = queue.bounds_at(from);
        let Some(cursor) = queue.cursor(cursor) else {
            return Unsettled { ranges: Vec::new(), next: below };
        };
        let ranges = cursor.unsettled_in(from.max(first).0, below.min(next).0);
        let ranges = ranges.into_iter().map(|(from, to)| (Offset(from), Offset(to)));
        Unsettled { ranges: ranges.collect(), next }
    }

    pub(super) fn find_exchange(&self, client: ClientId, name: &str) -> Option<Arc<ExchangeDef>> {
        let namespace = self.namespace_of(client)?;
        let space = self.state.namespaces.get(&namespace)?;
        space.exchanges.get(name).map(|exchange| exchange.def.clone())
    }

    /// Counts of a queue: those of its own cursor, or of all its records if it keeps them.
    pub(super) fn stats(&mut self, id: QueueId) -> QueueStats {
        let Some(queue) = self.state.queues.get(id) else { return QueueStats::default() };
        // Settled in this turn: out of every hand, and still in the queue.
        let settled = self.settled.get(&(id, CursorId::MAIN)).into_iter().flatten();
        let settled: u64 = settled.map(|(from, below)| below - from).sum();
        let consumers = u32::try_from(queue.consumers()).unwrap_or(u32::MAX);
        let unsettled = queue.main().map_or(0, |main| main.in_hand.len() as u64);
        QueueStats { ready: queue.ready().0.saturating_sub(settled), unsettled, consumers }
    }
}
