//! Dead records that nobody takes yet, of cursors that keep them until somebody does.
//!
//! Only that they are not settled is in the log. After a restart they are handed out again, or
//! expire again.

use mainstem_schemas::{CursorId, QueueId, UnixMillis};

use super::{Commit, Timer};
use crate::{command::ClientId, cursor::InHand, passage::Reason};

/// How long a dead record waits before it is tried again.
const BURIED_AGAIN_MS: u64 = if cfg!(test) { 50 } else { 1000 };
/// Records of one cursor that are tried again at once.
const BURIALS_AT_ONCE: usize = if cfg!(test) { 8 } else { 512 };
/// Who has them in hand: nobody.
const NOBODY: ClientId = ClientId(0);

#[derive(Clone, Copy, Debug)]
pub(super) struct Doomed {
    offset: u64,
    /// As it is in hand under this one, it is still waiting.
    epoch: u32,
    /// Of what, and when.
    died: (Reason, UnixMillis),
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
        let is_first = waiting.is_empty();
        waiting.push_back(Doomed { offset, epoch, died });
        if is_first {
            self.set_timer(self.now.plus(BURIED_AGAIN_MS), Timer::Bury { queue, cursor });
        }
    }

    /// Tries some of a cursor's dead records again that wait.
    pub(super) fn bury_again(&mut self, (queue, cursor): (QueueId, CursorId)) {
        let Some(mut waiting) = self.doomed.remove(&(queue, cursor)) else { return };
        for _ in 0..waiting.len().min(BURIALS_AT_ONCE) {
            let Some(doomed) = waiting.pop_front() else { break };
            let Doomed { offset, epoch, died } = doomed;
            let hand = |commit: &mut Self| {
                let found = commit.state.queues.get(queue)?.cursor_mut(cursor)?;
                found.in_hand.get(offset).copied().filter(|hand| hand.epoch == epoch)
            };
            let Some(hand) = hand(self) else { continue };
            if !self.bury(queue, cursor, offset, died) {
                waiting.push_back(doomed);
                continue;
            }
            let found = self.state.queues.get(queue);
            if let Some(found) = found.and_then(|found| found.cursor_mut(cursor)) {
                found.drop_hand(offset);
            }
            self.note_settled(queue, cursor, offset, hand.group);
        }
        if !waiting.is_empty() {
            self.doomed.insert((queue, cursor), waiting);
            self.set_timer(self.now.plus(BURIED_AGAIN_MS), Timer::Bury { queue, cursor });
        }
    }

    #[cfg(test)]
    pub(crate) fn doomed_is_empty(&self) -> bool {
        self.doomed.is_empty()
    }
}
