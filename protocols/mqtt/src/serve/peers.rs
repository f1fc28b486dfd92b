//! Who holds which client id: one connection at a time. The next one asks it to leave and waits
//! until it has, so that the old connection's farewell never disturbs the new session.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

type Key = (Arc<str>, String);

/// The seats of all client ids. The mutex is std's: it is held for one look into the map.
#[derive(Debug, Default)]
pub(super) struct Peers {
    seats: Arc<Mutex<HashMap<Key, Arc<Seat>>>>,
}

/// A client id's holder, as the next one sees it.
#[derive(Debug, Default)]
struct Seat {
    wanted: CancellationToken,
    /// Whether the next one starts a new session.
    wanted_clean: AtomicBool,
    left: CancellationToken,
}

/// Held for as long as a connection, or the will it left, owns its client id.
#[derive(Debug)]
pub(super) struct Holder {
    seats: Arc<Mutex<HashMap<Key, Arc<Seat>>>>,
    key: Key,
    seat: Arc<Seat>,
}

impl Peers {
    /// Takes the seat, and waits until its holder has left, but not longer than `patience`.
    pub(super) async fn take(&self, key: Key, clean: bool, patience: Duration) -> Holder {
        let seat = Arc::new(Seat::default());
        let last = {
            let mut seats = self.seats.lock().expect("no holder of this lock panics");
            seats.insert(key.clone(), seat.clone())
        };
        let holder = Holder { seats: self.seats.clone(), key, seat };
        if let Some(last) = last {
            last.wanted_clean.store(clean, Ordering::Release);
            last.wanted.cancel();
            if tokio::time::timeout(patience, last.left.cancelled()).await.is_err() {
                tracing::warn!(
                    client = holder.key.1,
                    "an mqtt connection did not give way in time"
                );
            }
        }
        holder
    }
}

impl Holder {
    /// Returns when another connection wants the client id. Cancel-safe.
    pub(super) async fn wanted(&self) {
        self.seat.wanted.cancelled().await;
    }

    /// Whether the connection that wants it starts a new session.
    pub(super) fn is_wanted_clean(&self) -> bool {
        self.seat.wanted_clean.load(Ordering::Acquire)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let mut seats = self.seats.lock().expect("no holder of this lock panics");
        if seats.get(&self.key).is_some_and(|seat| Arc::ptr_eq(seat, &self.seat)) {
            seats.remove(&self.key);
        }
        drop(seats);
        self.seat.left.cancel();
    }
}
