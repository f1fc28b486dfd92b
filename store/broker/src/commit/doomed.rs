//! Dead records that nobody takes yet, of cursors that keep them until somebody does.
//!
//! Only that they are not settled is in the log. After a restart they are handed out again, or
//! expire again.

use std::collections::VecDeque;

use mainstem_schemas::{CursorId, QueueId, UnixMillis};

use super::{Commit, Timer};
use crate::{command::ClientId, cursor::InHand, passage::Reason};

/// How long a dead record waits before it is tried again.
const BURIED_AGAIN_MS: u64 = if cfg!(test) { 50 } else { 1000 };
/// Records of one cursor that are tried again at once.
const BURIALS_AT_ONCE: usize = if cfg!(test) { 8 } else { 512 };
/// Who has them in hand: nobody.
const NOBODY: ClientId = ClientId(0);

/// Those of one cursor. They are in nobody's reach and count as what its queue holds, or a queue
/// whose dead nobody takes would grow without bound.
#[derive(Debug, Default)]
pub(super) struct Doomed {
    records: VecDeque<Dead>,
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Dead {
    offset: u64,
    /// As it is in hand under this one, it is still waiting.
    epoch: u32,
    /// Bytes of its body.
    body: u32,
    /// Of what, and when.
    died: (Reason, UnixMillis),
}

impl Doomed {
    /// How many there are, and their bytes.
    pub(super) fn size(&self) -> (u64, u64) {
        (self.records.len() as u64, self.bytes)
    }

    fn push(&mut self, dead: Dead) {
        self.bytes += u64::from(dead.body);
        self.records.push_back(dead);
    }

    fn pop(&mut self) -> Option<Dead> {
        let dead = self.records.pop_front()?;
        self.bytes -= u64::from(dead.body);
        Some(dead)
    }
}

impl Commit {
    /// A cursor is done with a record for a reason other than success. It was in nobody's hand, or
    /// is so no longer.
    pub(super) fn end_record(
        &mut self,
        (queue, cursor): (QueueId, CursorId),
        offset: u64,
        reason: Reason,
        hand: InHand,
    ) {
        self.counts.died(reason);
        let died = (reason, self.now);
        if self.bury(queue, cursor, offset, died) {
            self.note_settled(queue, cursor, offset, hand.group);
            return;
        }
        let found = self.state.queues.get(queue);
        let Some(at) = found.and_then(|found| found.cursor_mut(cursor)) else { return };
        let epoch = at.next_epoch();
        let deadline = UnixMillis::NONE;
        at.hand_out(offset, InHand { client: NOBODY, consumer: None, epoch, deadline, ..hand });
        let waiting = self.doomed.entry((queue, cursor)).or_default();
        let is_first = waiting.records.is_empty();
        waiting.push(Dead { offset, epoch, body: hand.body, died });
        if is_first {
            self.set_timer(self.now.plus(BURIED_AGAIN_MS), Timer::Bury { queue, cursor });
        }
    }

    /// Tries some of a cursor's dead records again that wait.
    pub(super) fn bury_again(&mut self, (queue, cursor): (QueueId, CursorId)) {
        let Some(mut waiting) = self.doomed.remove(&(queue, cursor)) else { return };
        for _ in 0..waiting.records.len().min(BURIALS_AT_ONCE) {
            let Some(dead) = waiting.pop() else { break };
            let Dead { offset, epoch, died, .. } = dead;
            let hand = |commit: &mut Self| {
                let found = commit.state.queues.get(queue)?.cursor_mut(cursor)?;
                found.in_hand.get(offset).copied().filter(|hand| hand.epoch == epoch)
            };
            let Some(hand) = hand(self) else { continue };
            if !self.bury(queue, cursor, offset, died) {
                waiting.push(dead);
                continue;
            }
            let found = self.state.queues.get(queue);
            if let Some(found) = found.and_then(|found| found.cursor_mut(cursor)) {
                found.drop_hand(offset);
            }
            self.note_settled(queue, cursor, offset, hand.group);
        }
        if !waiting.records.is_empty() {
            self.doomed.insert((queue, cursor), waiting);
            self.set_timer(self.now.plus(BURIED_AGAIN_MS), Timer::Bury { queue, cursor });
        }
    }

    #[cfg(test)]
    pub(crate) fn doomed_is_empty(&self) -> bool {
        self.doomed.is_empty()
    }
}
