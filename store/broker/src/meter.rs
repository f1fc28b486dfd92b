//! What happens to messages, counted: how often, and how fast of late.
//!
//! A count belongs to who does the thing, on its own thread and in plain integers. What nothing happens
//! to has none, and costs nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use mainstem_schemas::UnixMillis;

/// Rates are of the last whole slot of time that is this long, in milliseconds.
pub const SLOT_MS: u64 = 5000;

/// What happens to messages, in the words of RabbitMQ's statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Did {
    /// One came: from a publisher, or into a queue.
    Publish,
    /// One was handed to a consumer that is to settle it, or
    Deliver,
    /// one that is not.
    DeliverNoAck,
    /// One was asked for and is to be settled, or
    Get,
    /// is not.
    GetNoAck,
    /// One was asked for, and there was none.
    GetEmpty,
    /// One of those that were handed out may have been so before.
    Redeliver,
    /// One was settled as done.
    Ack,
    /// One came to one queue.
    Route,
    /// One came whose publisher wants to be told, and
    AwaitConfirm,
    /// was told.
    Confirm,
    /// One that nobody wanted went back to its publisher, or
    Return,
    /// did not.
    Drop,
    /// A queue was asked for, made, or ended.
    DeclareQueue,
    CreateQueue,
    DeleteQueue,
    OpenChannel,
    CloseChannel,
    /// Somebody showed who they are, or failed to.
    LogIn,
    FailLogin,
}

impl Did {
    /// Everything that is counted, by number.
    pub const ALL: [Self; KINDS] = [
        Self::Publish,
        Self::Deliver,
        Self::DeliverNoAck,
        Self::Get,
        Self::GetNoAck,
        Self::GetEmpty,
        Self::Redeliver,
        Self::Ack,
        Self::Route,
        Self::AwaitConfirm,
        Self::Confirm,
        Self::Return,
        Self::Drop,
        Self::DeclareQueue,
        Self::CreateQueue,
        Self::DeleteQueue,
        Self::OpenChannel,
        Self::CloseChannel,
        Self::LogIn,
        Self::FailLogin,
    ];
}

/// How many kinds there are.
pub const KINDS: usize = Did::FailLogin as usize + 1;
/// Those that come first are counted for each queue.
pub(crate) const KINDS_OF_QUEUES: usize = Did::Ack as usize + 1;
/// And these for each channel.
pub const KINDS_OF_CHANNELS: usize = Did::Drop as usize + 1;

/// A count, as it is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub total: u64,
    /// What came to it in the last whole slot. Of a level, how much it rose.
    pub lately: i64,
}

impl Count {
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "rates are floating point")]
    pub fn per_second(self) -> f64 {
        self.lately as f64 * 1000.0 / SLOT_MS as f64
    }
}

/// Counts that go together.
#[derive(Clone, Copy, Debug)]
pub struct Meter<const N: usize> {
    totals: [u64; N],
    /// The low halves of the totals when the slot before the last one began, and when that began.
    before: [u32; N],
    begun: [u32; N],
    /// When the slot ends in which something was counted last, in Unix milliseconds.
    ends: u64,
}

impl<const N: usize> Default for Meter<N> {
    fn default() -> Self {
        Self { totals: [0; N], before: [0; N], begun: [0; N], ends: 0 }
    }
}

impl<const N: usize> Meter<N> {
    pub fn add(&mut self, now: UnixMillis, kind: usize, count: u64) {
        if self.is_behind(now) {
            self.turn(now);
        }
        if let Some(total) = self.totals.get_mut(kind) {
            *total += count;
        }
    }

    /// Whether this is the first in its slot.
    pub(crate) fn is_behind(&self, now: UnixMillis) -> bool {
        now.0 >= self.ends
    }

    /// Sets a count that may fall as well.
    pub(crate) fn set(&mut self, kind: usize, level: u64) {
        if let Some(total) = self.totals.get_mut(kind) {
            *total = level;
        }
    }

    /// Begins another slot.
    #[cold]
    pub(crate) fn turn(&mut self, now: UnixMillis) {
        let low = self.totals.map(low);
        let follows = now.0 < self.ends + SLOT_MS;
        self.before = if follows { self.begun } else { low };
        self.begun = low;
        self.ends = (now.0 / SLOT_MS + 1) * SLOT_MS;
    }

    /// All counts. With a total that passed [`u32::MAX`] in one slot, its rate is too low.
    #[must_use]
    pub fn read(&self, now: UnixMillis) -> [Count; N] {
        let ends = self.totals.map(low);
        let (from, to) = if now.0 < self.ends {
            (&self.before, &self.begun)
        } else if now.0 < self.ends + SLOT_MS {
            (&self.begun, &ends)
        } else {
            (&ends, &ends)
        };
        let mut counts = [Count::default(); N];
        let both = from.iter().zip(to);
        for ((count, total), (from, to)) in counts.iter_mut().zip(self.totals).zip(both) {
            let lately = i64::from(to.wrapping_sub(*from).cast_signed());
            *count = Count { total, lately };
        }
        counts
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
fn low(total: u64) -> u32 {
    total as u32
}

/// Counts that take memory once there is something to be counted.
#[derive(Debug)]
pub struct Lazy<const N: usize>(Option<Box<Meter<N>>>);

impl<const N: usize> Default for Lazy<N> {
    fn default() -> Self {
        Self(None)
    }
}

impl<const N: usize> Lazy<N> {
    pub fn add(&mut self, now: UnixMillis, did: Did, count: u64) {
        self.meter().add(now, did as usize, count);
    }

    pub(crate) fn meter(&mut self) -> &mut Meter<N> {
        self.0.get_or_insert_with(Box::default)
    }

    /// All counts, if there is one.
    #[must_use]
    pub fn read(&self, now: UnixMillis) -> Option<[Count; N]> {
        self.0.as_ref().map(|meter| meter.read(now))
    }

    pub(crate) fn get(&self) -> Option<&Meter<N>> {
        self.0.as_deref()
    }
}

/// Counts of everything since the start, from wherever it is counted.
#[derive(Debug, Default)]
pub struct Totals([AtomicU64; KINDS]);

impl Totals {
    pub fn add(&self, did: Did, count: u64) {
        if let Some(total) = self.0.get(did as usize).filter(|_| count > 0) {
            total.fetch_add(count, Ordering::Relaxed);
        }
    }

    pub(crate) fn add_all(&self, counts: &[u64; KINDS]) {
        for (total, count) in self.0.iter().zip(counts) {
            total.fetch_add(*count, Ordering::Relaxed);
        }
    }

    #[must_use]
    pub fn get(&self, did: Did) -> u64 {
        self.0.get(did as usize).map_or(0, |total| total.load(Ordering::Relaxed))
    }
}

/// The upper bounds of the sizes by which published records are told apart, in bytes (RabbitMQ's).
pub const SIZES: [u64; 8] =
    [100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 50_000_000, 100_000_000];

/// What came and went by one protocol.
#[derive(Debug, Default)]
pub struct Spoken {
    pub(crate) opened: AtomicU64,
    pub(crate) closed: AtomicU64,
    pub(crate) publishers: AtomicU64,
    pub(crate) records_in: AtomicU64,
    sizes: [AtomicU64; SIZES.len()],
    pub(crate) bytes_in: AtomicU64,
    pub(crate) records_out: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
}

/// The same, as it is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections that were let in, and of these those that have gone.
    pub opened: u64,
    pub closed: u64,
    /// Those that published something and have not gone.
    pub publishers: u64,
    /// Records that they published, and their bytes with all properties.
    pub records_in: u64,
    pub bytes_in: u64,
    /// How many of them were no larger than each of [`SIZES`] and larger than the one before.
    pub sizes: [u64; SIZES.len()],
    /// Records that were handed to them, and the bytes of their entries in the log.
    pub records_out: u64,
    pub bytes_out: u64,
}

impl Traffic {
    /// Counts another protocol's together with this one.
    pub fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.closed += other.closed;
        self.publishers += other.publishers;
        self.records_in += other.records_in;
        self.bytes_in += other.bytes_in;
        self.records_out += other.records_out;
        self.bytes_out += other.bytes_out;
        self.sizes.iter_mut().zip(other.sizes).for_each(|(all, one)| *all += one);
    }
}

impl Spoken {
    pub(crate) fn note_in(&self, sizes: impl Iterator<Item = usize>) {
        let (mut records, mut bytes) = (0, 0);
        // Those of one size mostly come together.
        let (mut class, mut alike) = (0, 0);
        for size in sizes {
            (records, bytes) = (records + 1, bytes + size as u64);
            let its = SIZES.iter().take_while(|max| **max < size as u64).count();
            if its != class {
                self.note_size(class, alike);
                (class, alike) = (its, 0);
            }
            alike += 1;
        }
        self.note_size(class, alike);
        self.records_in.fetch_add(records, Ordering::Relaxed);
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
    }

    fn note_size(&self, class: usize, records: u64) {
        if let Some(count) = self.sizes.get(class).filter(|_| records > 0) {
            count.fetch_add(records, Ordering::Relaxed);
        }
    }

    pub(crate) fn note_out(&self, sizes: impl Iterator<Item = u32>) {
        let (records, bytes) =
            sizes.fold((0, 0), |(records, bytes), size| (records + 1, bytes + u64::from(size)));
        if records > 0 {
            self.records_out.fetch_add(records, Ordering::Relaxed);
            self.bytes_out.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    pub(crate) fn read(&self) -> Traffic {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Traffic {
            opened: read(&self.opened),
            closed: read(&self.closed),
            publishers: read(&self.publishers),
            records_in: read(&self.records_in),
            bytes_in: read(&self.bytes_in),
            sizes: self.sizes.each_ref().map(read),
            records_out: read(&self.records_out),
            bytes_out: read(&self.bytes_out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(slot: u64) -> UnixMillis {
        UnixMillis(slot * SLOT_MS + 1)
    }

    #[test]
    fn a_rate_is_of_the_last_whole_slot() {
        let mut meter = Meter::<2>::default();
        meter.add(at(10), 0, 25);
        meter.add(at(10), 1, 5);
        let told = |meter: &Meter<2>, slot| meter.read(at(slot)).map(|it| (it.total, it.lately));
        assert_eq!(told(&meter, 10), [(25, 0), (5, 0)], "the slot is not whole yet");
        assert_eq!(told(&meter, 11), [(25, 25), (5, 5)]);
        meter.add(at(11), 0, 10);
        assert_eq!(told(&meter, 11), [(35, 25), (5, 5)]);
        assert_eq!(told(&meter, 12), [(35, 10), (5, 0)]);
        assert_eq!(told(&meter, 13), [(35, 0), (5, 0)]);
        meter.add(at(20), 0, 1);
        assert_eq!(told(&meter, 20), [(36, 0), (5, 0)], "nothing came in slot 19");
        let count = Count { total: 0, lately: 25 };
        assert!((count.per_second() - 5.0).abs() < f64::EPSILON);
    }

    #[test]
    fn records_are_told_apart_by_their_sizes() {
        let spoken = Spoken::default();
        spoken.note_in([1, 100, 101, 99, 200_000_000].into_iter());
        let Traffic { records_in, bytes_in, sizes, .. } = spoken.read();
        assert_eq!((records_in, bytes_in), (5, 200_000_301));
        assert_eq!(sizes, [3, 1, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn every_kind_stands_at_its_number() {
        let numbers: [usize; KINDS] = std::array::from_fn(|at| at);
        assert_eq!(Did::ALL.map(|did| did as usize), numbers);
    }

    #[test]
    fn a_level_may_fall_and_a_total_may_be_large() {
        let mut meter = Meter::<1>::default();
        meter.set(0, u64::from(u32::MAX) + 10);
        meter.turn(at(1));
        meter.set(0, u64::from(u32::MAX) + 7);
        assert_eq!(meter.read(at(2)), [Count { total: u64::from(u32::MAX) + 7, lately: -3 }]);
    }

    #[test]
    fn a_clock_that_goes_back_counts_in_the_slot_that_is() {
        let mut meter = Meter::<1>::default();
        meter.add(at(5), 0, 1);
        meter.add(at(3), 0, 1);
        assert_eq!(meter.read(at(6)), [Count { total: 2, lately: 2 }]);
    }
}
