//! What the commit thread sends to one client: deliveries and notices, in order.
//!
//! The commit thread never waits for a client. It stops handing deliveries to an inbox that is
//! over its bounds, and goes on when the client has taken what was there.

use std::{
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering, fence},
    },
};

use mainstem_schemas::{ConsumerId, DeliveryId, Position, Record};
use tokio::sync::Notify;

use crate::passage::Passage;

/// A record on its way to a consumer.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub id: DeliveryId,
    /// Which of the client's consumers it is for.
    pub consumer: ConsumerId,
    /// The consumer's own word (see [`crate::Consume::options`]), handed back.
    pub options: u64,
    /// Where the record is; equal for the copies of one record in several queues. Zero for a
    /// record that was never logged (a live copy for a reader that keeps nothing).
    pub position: Position,
    /// 1 for the first time this cursor hands it out.
    pub attempt: u32,
    /// Whether it may have been handed out before.
    pub redelivered: bool,
    /// Whether it must be settled. A live copy and a copy for a consumer that settles at once
    /// need not be.
    pub needs_settle: bool,
    /// The record, when it was still in memory; else [`crate::Client::resolve`] reads it.
    pub record: Option<Record>,
    /// How the record came to this queue, if it was not published to it: its deaths elsewhere, and
    /// the address it has now instead of its own. Known together with the record.
    pub passage: Option<Arc<Passage>>,
    /// Size of the record's log entry in bytes.
    pub size: u32,
    /// It ends by itself as soon as [`crate::Client::resolve`] has read its record.
    pub settles_when_read: bool,
}

impl Delivery {
    /// The id of a copy that has no place in a queue.
    pub(crate) const NO_ID: DeliveryId = DeliveryId {
        queue: mainstem_schemas::QueueId(0),
        cursor: mainstem_schemas::CursorId(0),
        offset: mainstem_schemas::Offset(0),
        epoch: 0,
    };
}

/// Something a client must know.
#[derive(Debug)]
pub enum Notice {
    /// A record for one of its consumers.
    Delivery(Delivery),
    /// The consumer is gone: its queue was deleted.
    Cancelled(ConsumerId),
    /// Another connection took over this client's session. Nothing more will come.
    TakenOver,
    /// The disk is low: publishes are refused until `Unblocked`.
    Blocked,
    Unblocked,
    /// The server shuts down. Nothing more will come.
    Closing,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Vec<Notice>>,
    wake: Notify,
    deliveries: AtomicUsize,
    bytes: AtomicUsize,
    /// The commit thread found it full, and wants a word when there is room.
    stalled: AtomicBool,
}

/// The client's end.
#[derive(Debug)]
pub struct Inbox {
    shared: Arc<Shared>,
}

/// The commit thread's end.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    shared: Arc<Shared>,
    deliveries_max: usize,
    bytes_max: usize,
}

/// A pair of ends with these bounds.
pub(crate) fn pair(deliveries_max: usize, bytes_max: usize) -> (Outbox, Inbox) {
    let shared = Arc::new(Shared::default());
    (Outbox { shared: shared.clone(), deliveries_max, bytes_max }, Inbox { shared })
}

impl Inbox {
    /// Waits until something is there, then moves all of it into `out`, in order. Returns whether
    /// the commit thread must be told that there is room again; [`crate::Client::recv`] does both.
    /// Cancel-safe: nothing is taken before it returns.
    pub(crate) async fn take_all(&mut self, out: &mut Vec<Notice>) -> bool {
        loop {
            let notified = self.shared.wake.notified();
            if self.take_ready(out) {
                // Pairs with the fence in `has_room`: one of the two sees the other.
                fence(Ordering::SeqCst);
                return self.shared.stalled.swap(false, Ordering::SeqCst);
            }
            notified.await;
        }
    }

    fn take_ready(&self, out: &mut Vec<Notice>) -> bool {
        let mut queue = self.shared.queue.lock().expect("no holder of this lock panics");
        if queue.is_empty() {
            return false;
        }
        if out.is_empty() {
            // The room goes round between the two ends: notices are large, and many.
            mem::swap(out, &mut queue);
        } else {
            out.append(&mut queue);
        }
        self.shared.deliveries.store(0, Ordering::Release);
        self.shared.bytes.store(0, Ordering::Release);
        true
    }
}

impl Outbox {
    /// Whether another delivery fits besides those of this turn. When not, the client's next take
    /// reports it.
    pub(crate) fn has_room(&self, deliveries: usize, bytes: usize) -> bool {
        let fits = || {
            self.shared.deliveries.load(Ordering::Acquire) + deliveries < self.deliveries_max
                && self.shared.bytes.load(Ordering::Acquire) + bytes < self.bytes_max
        };
        if fits() {
            return true;
        }
        self.shared.stalled.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        // The client may have taken everything between the two looks; then nobody would wake us.
        fits()
    }

    /// Appends a batch of notices, in which these deliveries of so many bytes are, and wakes the
    /// client once. The batch is empty then, and may have got the room of an earlier one.
    pub(crate) fn send(&self, notices: &mut Vec<Notice>, deliveries: usize, bytes: usize) {
        let mut queue = self.shared.queue.lock().expect("no holder of this lock panics");
        if queue.is_empty() {
            mem::swap(&mut *queue, notices);
        } else {
            queue.append(notices);
        }
        self.shared.deliveries.fetch_add(deliveries, Ordering::AcqRel);
        self.shared.bytes.fetch_add(bytes, Ordering::AcqRel);
        drop(queue);
        self.shared.wake.notify_one();
    }
}
