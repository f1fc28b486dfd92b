//! A log that is as large as it may be: the oldest records of queues that keep them for a time go
//! instead of being moved to the log's end.

use std::mem;

use mainstem_schemas::{Position, QueueId};

use super::Commit;
use crate::command::Retention;

/// How far below its bound the log refuses publishes, in segments: room for the next one.
const REFUSED_SEGMENTS: u64 = 1;
/// How far below its bound the log begins to drop: so many segments, or this part of the bound if
/// that is more.
const PRESSED_SEGMENTS: u64 = 4;
const PRESSED_PART: u64 = 8;

/// A round over the log that drops what it may. Without it, what must not be dropped would be moved
/// round and round.
#[derive(Default)]
pub(super) struct Pressure {
    /// Segments before this one are emptied; 0 for none.
    upto: u64,
    /// Bytes that went in this round.
    dropped: u64,
    /// No further round before the log has come to this segment.
    rests_until: u64,
    /// The segment that is being emptied is emptied so.
    pub(super) is_dropping: bool,
}

impl Pressure {
    /// Whether a segment is to be emptied though much of it is needed.
    pub(super) fn reaches(&self, number: u64) -> bool {
        number < self.upto
    }
}

impl Commit {
    /// Looks how large the log is, whose oldest segment and last one these are.
    pub(super) fn note_pressure(&mut self, oldest: u64, end: u64) {
        let max = self.config.log_bytes_max;
        if max == 0 {
            return;
        }
        let bytes = self.log_bytes();
        let segments = |count| self.config.segment_bytes.saturating_mul(count);
        let slack = segments(PRESSED_SEGMENTS).max(max / PRESSED_PART);
        // One more to be taken again, so that a segment that is moved does not make it flap.
        let room = segments(REFUSED_SEGMENTS + u64::from(self.is_over));
        let is_over = bytes.saturating_add(room) > max;
        // As many files as there are once all is trimmed that may go: with the one in use and the next.
        let is_pressed = segments((end + 2).saturating_sub(oldest)).saturating_add(slack) > max;
        if is_over != self.is_over {
            self.note_space(self.is_full, is_over);
        }
        let pressure = &mut self.clean.pressure;
        if !is_pressed {
            *pressure = Pressure::default();
        } else if pressure.upto == 0 {
            if end >= pressure.rests_until {
                pressure.upto = end;
            }
        } else if oldest >= pressure.upto {
            // All was looked at. What came meanwhile is worth another round if this one was.
            let was_worth_it = pressure.dropped >= self.config.segment_bytes;
            let rest = if was_worth_it { 0 } else { (end - oldest) / 4 + 1 };
            *pressure = Pressure { rests_until: end + rest, ..Pressure::default() };
        }
    }

    /// Those of an entry's targets that still point to it, but for those that go because the log is
    /// too large.
    pub(super) fn kept(
        &mut self,
        targets: &[(QueueId, u64)],
        position: Position,
    ) -> Vec<(QueueId, u64)> {
        let mut alive = self.alive(targets, position);
        if self.clean.pressure.is_dropping {
            let Self { state, clean, .. } = self;
            alive.retain(|(id, offset)| {
                let queue = state.queues.get(*id);
                let keeps = queue.is_none_or(|queue| queue.def.retention != Retention::Time);
                if !keeps {
                    let below = clean.outgrown.entry(*id).or_default();
                    *below = (*below).max(offset.saturating_add(1));
                }
                keeps
            });
        }
        alive
    }

    /// Records that were not kept are forgotten by their queues.
    pub(super) fn drop_outgrown(&mut self) {
        for (id, below) in mem::take(&mut self.clean.outgrown) {
            let size = |commit: &mut Self| {
                commit.state.queues.get(id).map_or((0, 0), |queue| (queue.live, queue.bytes))
            };
            let (count, bytes) = size(self);
            self.forget_before(id, below);
            let (count_left, bytes_left) = size(self);
            self.counts.outgrown += count.saturating_sub(count_left);
            self.clean.pressure.dropped += bytes.saturating_sub(bytes_left);
        }
    }
}
