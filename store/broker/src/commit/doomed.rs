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
/// After so many that nobody takes, the other ones of a cursor wait for its next round: whoever is
/// missing is likely missing to them, too. Of many, a part, so that all were tried in a few rounds.
const REFUSED_PER_ROUND: usize = 16;
const REFUSED_PART: usize = 16;

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

/// A cursor's dead records are tried again, each once.
#[derive(Debug)]
pub(super) struct Round {
    at: (QueueId, CursorId),
    /// How many of them are still to be tried.
    left: usize,
    /// How many more of them may find nobody.
    refusals_left: usize,
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
        at.hand_out(
            offset,
            InHand { client: ClientId::NOBODY, consumer: None, epoch, deadline, ..hand },
        );
        let is_first = !self.doomed.contains_key(&(queue, cursor));
        let waiting = self.doomed.entry((queue, cursor)).or_default();
        waiting.push(Dead { offset, epoch, body: hand.body, died });
        if is_first {
            self.set_timer(self.now.plus(BURIED_AGAIN_MS), Timer::Bury { queue, cursor });
        }
    }

    /// The time has come to try a cursor's dead records again.
    pub(super) fn bury_again(&mut self, at: (QueueId, CursorId)) {
        let left = self.doomed.get(&at).map_or(0, |waiting| waiting.records.len());
        let refusals_left = REFUSED_PER_ROUND.max(left / REFUSED_PART);
        self.chores.rounds.push_back(Round { at, left, refusals_left });
    }

    /// Goes on with the rounds, one after the other, as far as one turn does.
    pub(super) fn go_on_burying(&mut self) {
        while !self.chores.burials.is_spent()
            && let Some(round) = self.chores.rounds.pop_front()
        {
            self.go_on_with_round(round);
        }
    }

    fn go_on_with_round(&mut self, mut round: Round) {
        let (queue, cursor) = round.at;
        while round.left > 0 && round.refusals_left > 0 {
            if self.chores.burials.is_spent() {
                return self.chores.rounds.push_back(round);
            }
            let Some(dead) = self.doomed.get_mut(&round.at).and_then(Doomed::pop) else { break };
            self.chores.burials.spend(dead.body);
            round.left -= 1;
            let Dead { offset, epoch, died, .. } = dead;
            let found = self.state.queues.get(queue).and_then(|found| found.cursor(cursor));
            let Some(found) = found else {
                self.doomed.remove(&round.at);
                return;
            };
            let hand = found.in_hand.get(offset).copied();
            let Some(hand) = hand.filter(|hand| hand.epoch == epoch) else { continue };
            if self.bury(queue, cursor, offset, died) {
                let found = self.state.queues.get(queue);
                if let Some(found) = found.and_then(|found| found.cursor_mut(cursor)) {
                    found.drop_hand(offset);
                }
                self.note_settled(queue, cursor, offset, hand.group);
            } else {
                round.refusals_left -= 1;
                self.doomed.entry(round.at).or_default().push(dead);
            }
        }
        let is_over = self.doomed.get(&round.at).is_none_or(|waiting| waiting.records.is_empty());
        if is_over {
            self.doomed.remove(&round.at);
        } else {
            self.set_timer(self.now.plus(BURIED_AGAIN_MS), Timer::Bury { queue, cursor });
        }
    }

    #[cfg(test)]
    pub(crate) fn doomed_len(&self) -> usize {
        self.doomed.values().map(|waiting| waiting.records.len()).sum()
    }

    #[cfg(test)]
    pub(crate) fn doomed_is_empty(&self) -> bool {
        self.doomed.is_empty()
    }
}
