//! What is kept in memory for sessions whose clients are away: messages under way, so that they go on
//! under their packet identifiers ([MQTT-4.4.0-1]), up to a bound over all sessions.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use mainstem_broker::Parcel;
use mainstem_schemas::{DeliveryId, Record};

use crate::session::{InFlight, Parked};

/// What a message takes besides its record, in bytes.
const FLIGHT_BYTES: usize = 256;

/// The bytes of all sessions.
#[derive(Debug, Default)]
pub(super) struct Parking {
    bytes: Arc<AtomicUsize>,
}

/// What one session left, as its parcel with the store.
#[derive(Debug)]
struct Left {
    parked: Parked,
    _room: Room,
}

/// Bytes that are given back when what takes them is gone.
#[derive(Debug)]
struct Room {
    all: Arc<AtomicUsize>,
    bytes: usize,
}

impl Room {
    /// Takes so many more, if all together are not more than `max` then.
    fn grow(&mut self, bytes: usize, max: usize) -> bool {
        let grown = |all: usize| all.checked_add(bytes).filter(|all| *all <= max);
        let fits = self.all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok();
        self.bytes += if fits { bytes } else { 0 };
        fits
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Parking {
    /// What there is room for, the oldest messages first, and the deliveries of the others: these come
    /// anew, as they would after a restart of the server. Copies of retained messages have none, and do
    /// not come again then.
    pub(super) fn park(&self, mut parked: Parked, max: usize) -> (Parcel, Vec<DeliveryId>) {
        let mut room = Room { all: self.bytes.clone(), bytes: 0 };
        let mut fits = true;
        let mut back = Vec::new();
        let flights = std::mem::take(&mut parked.flights);
        for mut flight in flights {
            fits = fits && room.grow(size(&flight), max);
            if fits {
                detach(&mut flight);
                parked.flights.push(flight);
            } else if let Some(copy) = flight.copy {
                back.extend(copy.deliveries);
            }
        }
        (Parcel(Box::new(Left { parked, _room: room })), back)
    }
}

/// What a parcel says.
pub(super) fn open(parcel: Parcel) -> Option<Parked> {
    parcel.0.downcast::<Left>().ok().map(|left| left.parked)
}

fn size(flight: &InFlight) -> usize {
    FLIGHT_BYTES + flight.copy.as_ref().map_or(0, |copy| copy.record.bytes().len())
}

/// Copies the record: it may be a slice of much more that was read with it.
fn detach(flight: &mut InFlight) {
    if let Some(copy) = &mut flight.copy
        && let Ok(record) = Record::decode(Bytes::copy_from_slice(copy.record.bytes()))
    {
        copy.record = record;
    }
}
