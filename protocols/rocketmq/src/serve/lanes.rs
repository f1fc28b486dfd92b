//! The groups that read, each with its order and a bell that rings when the order changes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use mainstem_broker::GroupRef;
use mainstem_schemas::{DeliveryId, UnixMillis};
use tokio::sync::Notify;

use crate::session::order::{Held, Order, Turn};

/// One group's reading of one topic.
#[derive(Debug)]
pub(super) struct Lane {
    order: Mutex<Order>,
    pub(super) changed: Notify,
}

/// Lanes that are kept whether somebody reads by them or not.
const IDLE_MIN: usize = 1024;

/// All of them. One that nobody reads by, and of which nothing is in hand, may be made anew: a group
/// that is moved leaves one behind.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    by_group: HashMap<GroupRef, Arc<Lane>>,
    /// How many were left when those without use went last.
    swept: usize,
}

impl Lanes {
    /// The lane of a group, made with `ordered` when it is new.
    pub(super) fn open(&self, group: GroupRef, ordered: bool, now: UnixMillis) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().expect("no holder of this lock panics");
        let All { by_group, swept } = &mut *lanes;
        if by_group.len() >= 2 * *swept + IDLE_MIN {
            by_group.retain(|_, lane| Arc::strong_count(lane) > 1 || !lane.order().is_idle(now));
            *swept = by_group.len();
        }
        let lane = by_group.entry(group).or_insert_with(|| {
            let order = Mutex::new(Order::new(ordered));
            Arc::new(Lane { order, changed: Notify::new() })
        });
        lane.clone()
    }

    pub(super) fn find(&self, group: GroupRef) -> Option<Arc<Lane>> {
        let lanes = self.lanes.lock().expect("no holder of this lock panics");
        lanes.by_group.get(&group).cloned()
    }
}

impl Lane {
    /// The order, for a moment.
    pub(super) fn order(&self) -> MutexGuard<'_, Order> {
        self.order.lock().expect("no holder of this lock panics")
    }

    /// A delivery ended.
    pub(super) fn settled(&self, id: DeliveryId) {
        if self.order().settled(id) {
            self.changed.notify_waiters();
        }
    }
}

/// A turn in progress. A call that is cancelled gives its turn back.
pub(super) struct Going<'a> {
    lane: &'a Lane,
    turn: Turn,
    attempt: &'a str,
    pub(super) given: Vec<Held>,
    pub(super) saw_group: bool,
}

impl<'a> Going<'a> {
    pub(super) fn new(lane: &'a Lane, turn: Turn, attempt: &'a str) -> Self {
        Self { lane, turn, attempt, given: Vec::new(), saw_group: false }
    }

    pub(super) fn is_alone(&self) -> bool {
        matches!(self.turn, Turn::Alone(_))
    }
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        let mut order = self.lane.order();
        match self.turn {
            Turn::Plain => {
                order.leave_plain(self.saw_group);
                if !order.is_ordered() {
                    return;
                }
            }
            Turn::Alone(_) => order.leave_alone(self.attempt, self.given.drain(..)),
            Turn::Wait => return,
        }
        drop(order);
        self.lane.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use mainstem_schemas::{CursorId, Offset, QueueId};

    use super::*;

    #[test]
    fn lanes_without_use_go_and_those_in_use_stay() {
        let (lanes, now) = (Lanes::default(), UnixMillis(1_000_000));
        let group = |cursor| GroupRef { queue: QueueId(1), cursor: CursorId(cursor) };
        let read = lanes.open(group(1), true, now);
        let held = lanes.open(group(2), true, now);
        let life = Arc::new(());
        let (queue, cursor, offset) = (QueueId(1), CursorId(2), Offset(0));
        let id = DeliveryId { queue, cursor, offset, epoch: 1 };
        let holder = Arc::downgrade(&life);
        held.order().leave_alone("", [Held { id, until: now.plus(60_000), holder }]);
        drop(held);
        for cursor in 3..10_000 {
            lanes.open(group(cursor), true, now);
        }
        let left = lanes.lanes.lock().unwrap().by_group.len();
        assert!(left <= IDLE_MIN + 4, "{left}");
        assert!(Arc::ptr_eq(&read, &lanes.find(group(1)).unwrap()));
        assert!(lanes.find(group(2)).is_some());
    }
}
