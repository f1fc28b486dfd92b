//! The groups that read, each with its order and a bell that rings when the order changes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use mainstem_broker::GroupRef;
use mainstem_schemas::DeliveryId;
use tokio::sync::Notify;

use crate::session::order::{Held, Order, Turn};

/// One group's reading of one topic.
#[derive(Debug)]
pub(super) struct Lane {
    order: Mutex<Order>,
    pub(super) changed: Notify,
}

/// All of them. A lane lives for as long as the process: it is small, and there is one for each
/// cursor that the store keeps for a group.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: Mutex<HashMap<GroupRef, Arc<Lane>>>,
}

impl Lanes {
    /// The lane of a group, made with `ordered` when it is new.
    pub(super) fn open(&self, group: GroupRef, ordered: bool) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().expect("no holder of this lock panics");
        let lane = lanes.entry(group).or_insert_with(|| {
            let order = Mutex::new(Order::new(ordered));
            Arc::new(Lane { order, changed: Notify::new() })
        });
        lane.clone()
    }

    pub(super) fn find(&self, group: GroupRef) -> Option<Arc<Lane>> {
        let lanes = self.lanes.lock().expect("no holder of this lock panics");
        lanes.get(&group).cloned()
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
