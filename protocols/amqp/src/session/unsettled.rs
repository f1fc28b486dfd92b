//! The deliveries of one channel that the client has not settled, by delivery tag.

use std::collections::VecDeque;

use mainstem_schemas::DeliveryId;

/// Tags rise, so the oldest stand in front. A delivery settled out of order leaves a hole, which
/// goes when everything before it is gone or when holes outnumber deliveries.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    entries: VecDeque<(u64, Option<DeliveryId>)>,
    live: usize,
}

impl Unsettled {
    /// Adds the newest delivery.
    pub(crate) fn push(&mut self, tag: u64, id: DeliveryId) {
        debug_assert!(self.entries.back().is_none_or(|(last, _)| *last < tag));
        self.entries.push_back((tag, Some(id)));
        self.live += 1;
    }

    /// Takes the delivery with this tag.
    pub(crate) fn take(&mut self, tag: u64) -> Option<DeliveryId> {
        let at = self.entries.partition_point(|(other, _)| *other < tag);
        let (found, slot) = self.entries.get_mut(at)?;
        if *found != tag {
            return None;
        }
        let id = slot.take()?;
        self.live -= 1;
        self.trim();
        Some(id)
    }

    /// Takes the delivery with this tag; with `multiple` also all before it, and with tag 0 all
    /// there are. Oldest first; `None` when there is no delivery with this tag.
    pub(crate) fn take_tagged(
        &mut self,
        tag: u64,
        multiple: bool,
    ) -> Option<Vec<(u64, DeliveryId)>> {
        if !multiple {
            return self.take(tag).map(|id| vec![(tag, id)]);
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
        let taken: Vec<_> = waiting.filter_map(|(tag, id)| id.map(|id| (tag, id))).collect();
        self.live -= taken.len();
        self.trim();
        Some(taken)
    }

    /// Takes all of them, oldest first.
    pub(crate) fn take_all(&mut self) -> Vec<DeliveryId> {
        self.live = 0;
        self.entries.drain(..).filter_map(|(_, id)| id).collect()
    }

    /// Puts deliveries back that a rollback un-settled. (A transaction's acks end with it.)
    pub(crate) fn put_back(&mut self, mut tagged: Vec<(u64, DeliveryId)>) {
        self.live += tagged.len();
        let waiting = self.entries.drain(..).filter_map(|(tag, id)| id.map(|id| (tag, id)));
        tagged.extend(waiting);
        tagged.sort_unstable_by_key(|(tag, _)| *tag);
        self.entries = tagged.into_iter().map(|(tag, id)| (tag, Some(id))).collect();
    }

    fn trim(&mut self) {
        while self.entries.front().is_some_and(|(_, id)| id.is_none()) {
            self.entries.pop_front();
        }
        if self.entries.len() > 2 * self.live + 64 {
            self.entries.retain(|(_, id)| id.is_some());
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

    fn of(tags: impl IntoIterator<Item = u64>) -> Unsettled {
        let mut unsettled = Unsettled::default();
        tags.into_iter().for_each(|tag| unsettled.push(tag, id(tag)));
        unsettled
    }

    #[test]
    fn a_tag_is_taken_once() {
        let mut unsettled = of([1, 2, 3]);
        assert_eq!(unsettled.take(2), Some(id(2)));
        assert_eq!(unsettled.take(2), None);
        assert_eq!(unsettled.take(9), None);
        assert_eq!(unsettled.take_all(), [id(1), id(3)]);
    }

    #[test]
    fn multiple_takes_up_to_the_tag_and_wants_it_unsettled() {
        let mut unsettled = of([1, 2, 4]);
        assert_eq!(unsettled.take_tagged(3, true), None);
        assert_eq!(unsettled.take_tagged(2, true), Some(vec![(1, id(1)), (2, id(2))]));
        assert_eq!(unsettled.take_tagged(2, true), None);
        assert_eq!(unsettled.take_tagged(0, true), Some(vec![(4, id(4))]));
        assert_eq!(unsettled.take_tagged(0, true), Some(vec![]));
    }

    #[test]
    fn holes_do_not_pile_up_behind_an_old_delivery() {
        let mut unsettled = of(1..=1000);
        for tag in 2..=1000 {
            assert!(unsettled.take(tag).is_some());
        }
        assert!(unsettled.entries.len() < 100);
        assert_eq!(unsettled.take(1), Some(id(1)));
    }

    #[test]
    fn a_rollback_puts_deliveries_back_in_order() {
        let mut unsettled = of([1, 2, 3]);
        let second = unsettled.take(2).unwrap();
        let first = unsettled.take(1).unwrap();
        unsettled.put_back(vec![(2, second), (1, first)]);
        assert_eq!(unsettled.take_all(), [id(1), id(2), id(3)]);
    }
}
