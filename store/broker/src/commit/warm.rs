//! Looking ahead: what the next steps need is brought near before they begin.

use std::hint::black_box;

use mainstem_schemas::{QueueId, Settlement};

use super::Commit;
use crate::{
    command::{Command, Publish},
    cursor::Cursor,
    state::warm::{AHEAD, Ahead},
};

impl Commit {
    /// Looks ahead at the queues of the next commands that name one each.
    pub(super) fn warm_commands(&self, commands: &[Command]) {
        if commands.len() < 2 || !self.state.queues.are_many() {
            return;
        }
        let mut ids = Ahead::new();
        for command in commands.iter().take(AHEAD) {
            match command {
                Command::Publish { client, batch, .. } if batch.len() == 1 => {
                    if let Some(member) = self.members.get(client) {
                        ids.extend(self.state.named(&member.namespace, batch));
                    }
                }
                Command::Settle { batch, .. } if batch.len() == 1 => {
                    ids.extend(batch.iter().map(|one| one.id.queue));
                }
                _ => {}
            }
        }
        self.warm_consumers(ids.into_iter());
    }

    /// Looks ahead at the queues of the next records, if there are more than one.
    pub(super) fn warm_named(&self, namespace: &str, batch: &[Publish]) {
        if batch.len() > 1 && self.state.queues.are_many() {
            let some = batch.get(..AHEAD).unwrap_or(batch);
            let ids = self.state.named(namespace, some);
            self.state.queues.warm(ids.into_iter());
        }
    }

    /// Looks ahead at the queues of the next settlements, and answers those behind.
    pub(super) fn warm_settled<'a>(&self, batch: &'a [Settlement]) -> &'a [Settlement] {
        let (some, behind) = batch.split_at_checked(AHEAD).unwrap_or((batch, &[]));
        self.warm_consumers(some.iter().map(|one| one.id.queue));
        behind
    }

    /// Looks ahead at queues and their first consumers.
    pub(super) fn warm_consumers(&self, ids: impl Iterator<Item = QueueId>) {
        let found = self.state.queues.warm(ids);
        let hands = found.iter().filter_map(|queue| queue.main()).map(Cursor::farther);
        black_box(hands.fold(0, u64::wrapping_add));
        let seats = found.iter().filter_map(|queue| queue.main()?.seats.first());
        let consumers = seats.filter_map(|seat| self.consumers.get(&(seat.client, seat.consumer)));
        black_box(consumers.map(|consumer| consumer.in_hand).fold(0, u32::wrapping_add));
    }
}
