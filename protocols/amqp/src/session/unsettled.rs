//! The deliveries of one channel that the client has not settled, by delivery tag.

use std::collections::VecDeque;

use mainstem_schemas::{DeliveryId, UnixMillis};

use super::{Effects, Fault, Phase, Session};

/// A delivery that waits to be settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) id: DeliveryId,
    /// When its channel has waited too long; unset for never.
    pub(crate) deadline: UnixMillis,
    /// How long that is.
    pub(crate) timeout_ms: u64,
}

impl Held {
    /// A delivery handed out now. A timeout of 0 is none.
    pub(crate) fn new(id: DeliveryId, now: UnixMillis, timeout_ms: u64) -> Self {
        let deadline = if timeout_ms == 0 { UnixMillis::NONE } else { now.plus(timeout_ms) };
        Self { id, deadline, timeout_ms }
    }
}

impl Session {
    /// Looks for consumers that have left a delivery unsettled for too long: they may never settle
    /// it, and their channel ends so that others get it.
    pub fn look_at_unsettled(&mut self, now: UnixMillis, effects: &mut Effects) {
        if self.phase != Phase::Running {
            return;
        }
        let open = self.channels.iter().filter(|(_, open)| !open.closing);
        let overdue = open.filter_map(|(channel, open)| {
            open.unsettled.overdue(now).map(|timeout_ms| (*channel, timeout_ms))
        });
        for (channel, timeout_ms) in overdue.collect::<Vec<_>>() {
            self.fail(channel, &Fault::unsettled_for_long(channel, timeout_ms), (0, 0), effects);
        }
    }

    /// The shortest time that deliveries may stay unsettled, of all that were asked for so far; 0 for
    /// any time.
    #[must_use]
    pub fn shortest_timeout_ms(&self) -> u64 {
        self.shortest_timeout_ms
    }

    /// Somebody's deliveries may stay unsettled for so long; 0 for any time.
    pub(super) fn note_timeout(&mut self, timeout_ms: u64) {
        let both = [self.shortest_timeout_ms, timeout_ms];
        self.shortest_timeout_ms = both.into_iter().filter(|ms| *ms > 0).min().unwrap_or(0);
    }
}

/// Tags rise, so the oldest stand in front. A delivery settled out of order leaves a hole, which
/// goes when everything before it is gone or when holes outnumber deliveries.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    entries: VecDeque<(u64, Option<Held>)>,
    live: usize,
}

impl Unsettled {
    /// Adds the newest delivery.
    pub(crate) fn push(&mut self, tag: u64, held: Held) {
        debug_assert!(self.entries.back().is_none_or(|(last, _)| *last < tag));
        self.entries.push_back((tag, Some(held)));
        self.live += 1;
    }

    pub(crate) fn len(&self) -> usize {
        self.live
    }

    /// Takes the delivery with this tag.
    pub(crate) fn take(&mut self, tag: u64) -> Option<Held> {
        let at = self.entries.partition_point(|(other, _)| *other < tag);
        let (found, slot) = self.entries.get_mut(at)?;
        if *found != tag {
            return None;
        }
        let held = slot.take()?;
        self.live -= 1;
        self.trim();
        Some(held)
    }

    /// Takes the delivery with this tag; with `multiple` also all before it, and with tag 0 all
    /// there are. Oldest first; `None` when there is no delivery with this tag.
    pub(crate) fn take_tagged(&mut self, tag: u64, multiple: bool) -> Option<Vec<(u64, Held)>> {
        if !multiple {
            return self.take(tag).map(|held| vec![(tag, held)]);
        }
        let end = if tag == 0 {
            self.entries.len()
        } else {
            let at = self.entries.partition_point(|(other, _)| *other < tag);
            let (found, slot) = self.entries.get(at)?;
            if *found != tag || slot.is_none() {
                return None;
            }
            at + 1
        };
        let waiting = self.entries.drain(..end);
        let taken: Vec<_> = waiting.filter_map(|(tag, held)| Some((tag, held?))).collect();
        self.live -= taken.len();
        self.trim();
        Some(taken)
    }

    /// Takes all of them, oldest first.
    pub(crate) fn take_all(&mut self) -> Vec<DeliveryId> {
        self.live = 0;
        self.entries.drain(..).filter_map(|(_, held)| Some(held?.id)).collect()
    }

    /// Puts deliveries back that a rollback un-settled. (A transaction's acks end with it.)
    pub(crate) fn put_back(&mut self, mut tagged: Vec<(u64, Held)>) {
        self.live += tagged.len();
        let waiting = self.entries.drain(..).filter_map(|(tag, held)| Some((tag, held?)));
        tagged.extend(waiting);
        tagged.sort_unstable_by_key(|(tag, _)| *tag);
        self.entries = tagged.into_iter().map(|(tag, held)| (tag, Some(held))).collect();
    }

    /// The timeout of the oldest delivery that has waited longer than its own.
    pub(crate) fn overdue(&self, now: UnixMillis) -> Option<u64> {
        let held = self.entries.iter().filter_map(|(_, held)| held.as_ref());
        held.filter(|held| held.deadline.reached(now)).map(|held| held.timeout_ms).next()
    }

    fn trim(&mut self) {
        while self.entries.front().is_some_and(|(_, held)| held.is_none()) {
            self.entries.pop_front();
        }
        if self.entries.len() > 2 * self.live + 64 {
            self.entries.retain(|(_, held)| held.is_some());
        }
    }
}

#[cfg(test)]
mod tests {
    use mainstem_schemas::{CursorId, Offset, QueueId};

    use super::*;

    fn id(offset: u64) -> DeliveryId {
        DeliveryId { queue: QueueId(1), cursor: CursorId::MAIN, offset: Offset(offset), epoch: 1 }
    }

    fn held(offset: u64) -> Held {
        Held::new(id(offset), UnixMillis(offset), 10)
    }

    fn of(tags: impl IntoIterator<Item = u64>) -> Unsettled {
        let mut unsettled = Unsettled::default();
        tags.into_iter().for_each(|tag| unsettled.push(tag, held(tag)));
        unsettled
    }

    #[test]
    fn a_tag_is_taken_once() {
        let mut unsettled = of([1, 2, 3]);
        assert_eq!(unsettled.take(2), Some(held(2)));
        assert_eq!(unsettled.take(2), None);
        assert_eq!(unsettled.take(9), None);
        assert_eq!(unsettled.take_all(), [id(1), id(3)]);
    }

    #[test]
    fn multiple_takes_up_to_the_tag_and_wants_it_unsettled() {
        let mut unsettled = of([1, 2, 4]);
        assert_eq!(unsettled.take_tagged(3, true), None);
        assert_eq!(unsettled.take_tagged(2, true), Some(vec![(1, held(1)), (2, held(2))]));
        assert_eq!(unsettled.take_tagged(2, true), None);
        assert_eq!(unsettled.take_tagged(0, true), Some(vec![(4, held(4))]));
        assert_eq!(unsettled.take_tagged(0, true), Some(vec![]));
    }

    #[test]
    fn holes_do_not_pile_up_behind_an_old_delivery() {
        let mut unsettled = of(1..=1000);
        for tag in 2..=1000 {
            assert!(unsettled.take(tag).is_some());
        }
        assert!(unsettled.entries.len() < 100);
        assert_eq!(unsettled.take(1), Some(held(1)));
    }

    #[test]
    fn a_rollback_puts_deliveries_back_in_order() {
        let mut unsettled = of([1, 2, 3]);
        let second = unsettled.take(2).unwrap();
        let first = unsettled.take(1).unwrap();
        unsettled.put_back(vec![(2, second), (1, first)]);
        assert_eq!(unsettled.take_all(), [id(1), id(2), id(3)]);
    }

    #[test]
    fn a_delivery_is_overdue_when_its_own_timeout_has_passed() {
        let mut unsettled = of([1, 2]);
        unsettled.push(3, Held::new(id(3), UnixMillis(1), 0));
        assert_eq!(unsettled.overdue(UnixMillis(10)), None);
        assert_eq!(unsettled.overdue(UnixMillis(11)), Some(10));
        assert!(unsettled.take(1).is_some());
        assert_eq!(unsettled.overdue(UnixMillis(11)), None);
        assert!(unsettled.take(2).is_some());
        assert_eq!(unsettled.overdue(UnixMillis(1 << 40)), None);
    }
}
