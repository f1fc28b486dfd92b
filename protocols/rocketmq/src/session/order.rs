//! In which order the members of a group may read one topic.
//!
//! A topic whose records have message groups is read one batch at a time: the next batch is given
//! out when every delivery of the last one has ended. That is the reference's lock of a queue, and
//! it makes what members see the topic's own order. A topic without message groups is read by all
//! at once.
//!
//! ```text
//! plain --(a record with a message group is seen)--> ordered, free
//! ordered, free --enter--> taken --leave, nothing given out--> free
//!                          taken --leave, deliveries given out--> held
//! held --(all settled, expired, or their holder gone)--> free
//! held --enter with the holder's attempt id--> taken, and the batch is handed out again
//! ```

use std::{collections::BTreeMap, sync::Weak};

use mainstem_schemas::{DeliveryId, Offset, UnixMillis};

/// How much later than a lease the order counts it as ended, in milliseconds: the store must have
/// put the record back before the records behind it are given out.
const LEASE_SLACK_MS: u64 = 500;

/// How one group reads one topic.
#[derive(Debug, Default)]
pub struct Order {
    ordered: bool,
    /// Fetches in progress that began before the topic was known to be ordered.
    plain: usize,
    /// A fetch in progress that has the order to itself.
    taken: bool,
    held: BTreeMap<Offset, Held>,
    /// The attempt that got what is held.
    attempt: Option<String>,
}

/// A delivery given out in order.
#[derive(Clone, Debug)]
pub struct Held {
    pub id: DeliveryId,
    /// When its lease ends.
    pub until: UnixMillis,
    /// Gone when the member that has it is gone.
    pub holder: Weak<()>,
}

/// What a fetch may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Fetch along with others.
    Plain,
    /// Fetch alone, after putting these deliveries of the same attempt back.
    Alone(Vec<DeliveryId>),
    /// Not yet; look again when something changed.
    Wait,
}

impl Order {
    /// An order that is ordered from the start, or when the first message group is seen.
    #[must_use]
    pub fn new(ordered: bool) -> Self {
        Self { ordered, ..Self::default() }
    }

    #[must_use]
    pub fn is_ordered(&self) -> bool {
        self.ordered
    }

    /// Asks for a turn. `attempt` is the request's attempt id, empty for none.
    pub fn enter(&mut self, attempt: &str, now: UnixMillis) -> Turn {
        if !self.ordered {
            self.plain += 1;
            return Turn::Plain;
        }
        self.forget_ended(now);
        if self.taken || self.plain > 0 {
            return Turn::Wait;
        }
        let again = !attempt.is_empty() && self.attempt.as_deref() == Some(attempt);
        if !self.held.is_empty() && !again {
            return Turn::Wait;
        }
        self.taken = true;
        Turn::Alone(std::mem::take(&mut self.held).into_values().map(|held| held.id).collect())
    }

    fn forget_ended(&mut self, now: UnixMillis) {
        self.held.retain(|_, held| {
            !held.until.plus(LEASE_SLACK_MS).reached(now) && held.holder.strong_count() > 0
        });
    }

    /// Whether nothing goes on in it, and nothing is held.
    pub fn is_idle(&mut self, now: UnixMillis) -> bool {
        self.forget_ended(now);
        self.plain == 0 && !self.taken && self.held.is_empty()
    }

    /// Ends a plain turn; with `ordered` because it saw a message group.
    pub fn leave_plain(&mut self, ordered: bool) {
        self.plain = self.plain.saturating_sub(1);
        self.ordered |= ordered;
    }

    /// Ends a turn that was alone, with what it gave out.
    pub fn leave_alone(&mut self, attempt: &str, given: impl IntoIterator<Item = Held>) {
        self.taken = false;
        self.held.extend(given.into_iter().map(|held| (held.id.offset, held)));
        self.attempt = (!attempt.is_empty()).then(|| attempt.to_owned());
    }

    /// A delivery was settled. Returns whether the order is free now.
    pub fn settled(&mut self, id: DeliveryId) -> bool {
        if self.held.get(&id.offset).is_some_and(|held| held.id == id) {
            self.held.remove(&id.offset);
        }
        self.ordered && self.held.is_empty()
    }

    /// A delivery got a new lease under a new id. It keeps its successors waiting.
    pub fn renewed(&mut self, old: DeliveryId, new: DeliveryId, until: UnixMillis) {
        if let Some(held) = self.held.get_mut(&old.offset).filter(|held| held.id == old) {
            held.id = new;
            held.until = until;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mainstem_schemas::{CursorId, QueueId};

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000_000);

    fn id(offset: u64, epoch: u32) -> DeliveryId {
        DeliveryId { queue: QueueId(1), cursor: CursorId(2), offset: Offset(offset), epoch }
    }

    fn held(holder: &Arc<()>, id: DeliveryId) -> Held {
        Held { id, until: NOW.plus(10_000), holder: Arc::downgrade(holder) }
    }

    #[test]
    fn an_unordered_topic_never_waits() {
        let mut order = Order::default();
        assert_eq!(order.enter("", NOW), Turn::Plain);
        assert_eq!(order.enter("", NOW), Turn::Plain);
    }

    #[test]
    fn the_first_message_group_waits_for_the_plain_turns() {
        let mut order = Order::default();
        assert_eq!(order.enter("", NOW), Turn::Plain);
        assert_eq!(order.enter("", NOW), Turn::Plain);
        order.leave_plain(true);
        assert_eq!(order.enter("", NOW), Turn::Wait);
        order.leave_plain(true);
        assert_eq!(order.enter("", NOW), Turn::Alone(vec![]));
        assert_eq!(order.enter("", NOW), Turn::Wait);
    }

    #[test]
    fn the_next_batch_waits_for_every_delivery_of_the_last() {
        let me = Arc::new(());
        let mut order = Order::new(true);
        assert_eq!(order.enter("", NOW), Turn::Alone(vec![]));
        order.leave_alone("", [held(&me, id(1, 1)), held(&me, id(2, 1))]);
        assert!(!order.settled(id(2, 1)));
        assert_eq!(order.enter("", NOW), Turn::Wait);
        assert!(!order.settled(id(1, 9)), "a stale id settles nothing");
        order.renewed(id(1, 1), id(1, 2), NOW.plus(20_000));
        assert_eq!(order.enter("", NOW.plus(15_000)), Turn::Wait);
        assert!(order.settled(id(1, 2)));
        assert_eq!(order.enter("", NOW), Turn::Alone(vec![]));
    }

    #[test]
    fn leases_end_a_little_after_the_store_ended_them() {
        let me = Arc::new(());
        let mut order = Order::new(true);
        order.enter("", NOW);
        order.leave_alone("", [held(&me, id(1, 1))]);
        assert_eq!(order.enter("", NOW.plus(10_000)), Turn::Wait);
        assert_eq!(order.enter("", NOW.plus(10_500)), Turn::Alone(vec![]));
    }

    #[test]
    fn a_holder_that_is_gone_holds_nothing() {
        let me = Arc::new(());
        let mut order = Order::new(true);
        order.enter("", NOW);
        order.leave_alone("", [held(&me, id(1, 1))]);
        drop(me);
        assert_eq!(order.enter("", NOW), Turn::Alone(vec![]));
    }

    #[test]
    fn the_same_attempt_gets_its_batch_again() {
        let me = Arc::new(());
        let mut order = Order::new(true);
        order.enter("a", NOW);
        order.leave_alone("a", [held(&me, id(1, 1))]);
        assert_eq!(order.enter("b", NOW), Turn::Wait);
        assert_eq!(order.enter("", NOW), Turn::Wait);
        assert_eq!(order.enter("a", NOW), Turn::Alone(vec![id(1, 1)]));
    }
}
