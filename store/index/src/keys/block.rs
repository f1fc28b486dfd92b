//! Up to 128 entries of one lane of a queue, packed: where its records are, not what they say.
//!
//! ```text
//! block: first: varint | count: u8 | count x entry
//! entry: marks: u8 | position: varint, distance from the entry before (backwards with BACK)
//!        | SIZE: size, varint          else as the entry before
//!        | APPENDED: zigzag varint from the entry before, else as it
//!        | EXPIRY: zigzag varint from appended, else not set
//!        | FLAGS: u8                   else 0
//!        | GROUP: varint               else 0
//!        | BODY: varint                else as much less than the size as in the entry before
//! hole:  HOLE: u8
//! ```
//!
//! "The entry before" of the first entry is all zeros. Records that came in one batch with bodies
//! of one size so take two or three bytes each. A hole is not "the entry before" of what follows.

use bytes::{BufMut, Bytes};
use mainstem_schemas::{
    Offset, Position, QueueId, UnixMillis,
    wire::{self, Short},
};

use super::{
    Entity, KeyKind, KeyReader,
    field::{unzigzag, zigzag},
};

/// Offsets per block: block number is offset / 128, so a block is of one lane. Persisted: never
/// change.
pub const BLOCK_ENTRIES: u64 = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockKey {
    pub queue: QueueId,
    /// The offsets of its entries divided by [`BLOCK_ENTRIES`].
    pub number: u64,
}

impl BlockKey {
    /// The block that `offset` is in.
    #[must_use]
    pub fn of(queue: QueueId, offset: Offset) -> Self {
        Self { queue, number: offset.0 / BLOCK_ENTRIES }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockValue {
    /// The offset of the first entry; the others follow one by one.
    pub first: Offset,
    pub entries: Vec<Entry>,
}

/// One record of a queue, or the place of one that is gone: a hole is all zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub position: Position,
    /// Bytes of the record at that position.
    pub size: u32,
    pub expiry: UnixMillis,
    pub appended: UnixMillis,
    /// The broker's own.
    pub flags: u8,
    /// The broker's number for the ordered group it belongs to; 0 for none.
    pub group: u32,
    /// Bytes of the record's body.
    pub body: u32,
}

impl BlockValue {
    /// The entry at `offset`, if it is in this block; it may be a hole.
    #[must_use]
    pub fn get(&self, offset: Offset) -> Option<&Entry> {
        let index = offset.0.checked_sub(self.first.0)?;
        self.entries.get(usize::try_from(index).ok()?)
    }

    /// Whether all its entries belong in the block with this number.
    pub(crate) fn fits(&self, number: u64) -> bool {
        self.first.0 / BLOCK_ENTRIES == number && fit(self.first, self.entries.len())
    }
}

/// The position lies before that of the entry before: an older body was put in the queue again.
const BACK: u8 = 1;
const SIZE: u8 = 2;
const APPENDED: u8 = 4;
const EXPIRY: u8 = 8;
const FLAGS: u8 = 16;
const GROUP: u8 = 32;
/// Alone in its entry, and the only way a hole is written.
const HOLE: u8 = 64;
const BODY: u8 = 128;
const KNOWN: u8 = BACK | SIZE | APPENDED | EXPIRY | FLAGS | GROUP | BODY;

impl Entry {
    /// The entry of an offset whose record is gone.
    pub const HOLE: Self = Self {
        position: Position(0),
        size: 0,
        expiry: UnixMillis::NONE,
        appended: UnixMillis::NONE,
        flags: 0,
        group: 0,
        body: 0,
    };

    #[must_use]
    #[inline]
    pub fn is_hole(&self) -> bool {
        *self == Self::HOLE
    }

    /// The body, if as much is around it as in the entry before.
    #[inline]
    fn likely_body(&self, before: &Self) -> u32 {
        before.body.wrapping_add(self.size).wrapping_sub(before.size)
    }

    fn encode(&self, before: &Self, out: &mut Vec<u8>) {
        let mut marks = 0;
        if self.position < before.position {
            marks |= BACK;
        }
        if self.size != before.size {
            marks |= SIZE;
        }
        if self.appended != before.appended {
            marks |= APPENDED;
        }
        if self.expiry.is_set() {
            marks |= EXPIRY;
        }
        if self.flags != 0 {
            marks |= FLAGS;
        }
        if self.group != 0 {
            marks |= GROUP;
        }
        if self.body != self.likely_body(before) {
            marks |= BODY;
        }
        out.put_u8(marks);
        wire::put_varint(out, self.position.0.abs_diff(before.position.0));
        if marks & SIZE != 0 {
            wire::put_varint(out, u64::from(self.size));
        }
        if marks & APPENDED != 0 {
            wire::put_varint(out, zigzag(before.appended.0, self.appended.0));
        }
        if marks & EXPIRY != 0 {
            wire::put_varint(out, zigzag(self.appended.0, self.expiry.0));
        }
        if marks & FLAGS != 0 {
            out.put_u8(self.flags);
        }
        if marks & GROUP != 0 {
            wire::put_varint(out, u64::from(self.group));
        }
        if marks & BODY != 0 {
            wire::put_varint(out, u64::from(self.body));
        }
    }

    #[inline]
    fn decode(marks: u8, before: &Self, rest: &mut &[u8]) -> Result<Self, Short> {
        if marks & !KNOWN != 0 {
            return Err(Short);
        }
        let distance = varint(rest)?;
        let position = if marks & BACK == 0 {
            before.position.0.checked_add(distance)
        } else {
            before.position.0.checked_sub(distance)
        };
        let mut entry = Self {
            position: Position(position.ok_or(Short)?),
            expiry: UnixMillis::NONE,
            flags: 0,
            group: 0,
            ..*before
        };
        if marks & SIZE != 0 {
            entry.size = u32::try_from(varint(rest)?).map_err(|_| Short)?;
        }
        if marks & APPENDED != 0 {
            entry.appended = UnixMillis(unzigzag(before.appended.0, varint(rest)?));
        }
        if marks & EXPIRY != 0 {
            entry.expiry = UnixMillis(unzigzag(entry.appended.0, varint(rest)?));
        }
        if marks & FLAGS != 0 {
            entry.flags = byte(rest)?;
        }
        if marks & GROUP != 0 {
            entry.group = u32::try_from(varint(rest)?).map_err(|_| Short)?;
        }
        entry.body = if marks & BODY == 0 {
            entry.likely_body(before)
        } else {
            u32::try_from(varint(rest)?).map_err(|_| Short)?
        };
        if entry.is_hole() { Err(Short) } else { Ok(entry) }
    }
}

#[inline]
fn byte(rest: &mut &[u8]) -> Result<u8, Short> {
    let (first, tail) = rest.split_first().ok_or(Short)?;
    *rest = tail;
    Ok(*first)
}

/// As `wire::Reader::varint`, on a plain slice: the reader counts references for every byte, which
/// costs more than all the rest of an entry.
#[inline]
fn varint(rest: &mut &[u8]) -> Result<u64, Short> {
    let first = byte(rest)?;
    if first & 0x80 == 0 {
        return Ok(u64::from(first));
    }
    let mut value = u64::from(first & 0x7f);
    for shift in (7..64).step_by(7) {
        let next = byte(rest)?;
        let bits = u64::from(next & 0x7f);
        if shift == 63 && bits > 1 {
            return Err(Short);
        }
        value |= bits << shift;
        if next & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Short)
}

/// Whether this many entries from `first` on stay in one block.
fn fit(first: Offset, count: usize) -> bool {
    first.0 % BLOCK_ENTRIES + count as u64 <= BLOCK_ENTRIES
}

/// The stored form of a block that begins with `first`.
pub(crate) fn ser_block(first: Offset, entries: &[Entry], out: &mut Vec<u8>) {
    assert!(fit(first, entries.len()), "entries of one block stay in its range of offsets");
    let count = u8::try_from(entries.len()).expect("a block has at most 128 entries");
    wire::put_varint(out, first.0);
    out.put_u8(count);
    let mut before = &Entry::HOLE;
    for entry in entries {
        if entry.is_hole() {
            out.put_u8(HOLE);
        } else {
            entry.encode(before, out);
            before = entry;
        }
    }
}

impl Entity for BlockKey {
    const KIND: KeyKind = KeyKind::Block;
    type Value = BlockValue;

    fn ser_key(&self, out: &mut Vec<u8>) {
        out.put_u64(self.queue.0);
        out.put_u64(self.number);
    }

    fn deser_key(reader: &mut KeyReader) -> Result<Self, Short> {
        Ok(Self { queue: QueueId(reader.u64()?), number: reader.u64()? })
    }

    fn ser_value(value: &BlockValue, out: &mut Vec<u8>) {
        ser_block(value.first, &value.entries, out);
    }

    fn deser_value(bytes: Bytes) -> Result<BlockValue, Short> {
        let mut rest: &[u8] = &bytes;
        let first = varint(&mut rest)?;
        let count = byte(&mut rest)?;
        if first % BLOCK_ENTRIES + u64::from(count) > BLOCK_ENTRIES {
            return Err(Short);
        }
        let mut entries = Vec::with_capacity(usize::from(count));
        let mut before = Entry::HOLE;
        for _ in 0..count {
            match byte(&mut rest)? {
                HOLE => entries.push(Entry::HOLE),
                marks => {
                    before = Entry::decode(marks, &before, &mut rest)?;
                    entries.push(before);
                }
            }
        }
        if rest.is_empty() { Ok(BlockValue { first: Offset(first), entries }) } else { Err(Short) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::tests::{check, check_noise, check_order, noise};

    /// Small and near numbers as queues have them, and any numbers.
    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![4 => 0..300_u64, 1 => any::<u64>()]
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let size = prop_oneof![4 => Just(100), 1 => any::<u32>()];
        let flags = prop_oneof![4 => Just(0), 1 => any::<u8>()];
        let group = prop_oneof![4 => Just(0), 1 => any::<u32>()];
        let body = prop_oneof![4 => Just(70), 1 => any::<u32>()];
        let entry = (number(), size, number(), number(), flags, group, body).prop_map(
            |(position, size, expiry, appended, flags, group, body)| Entry {
                position: Position(position),
                size,
                expiry: UnixMillis(expiry),
                appended: UnixMillis(appended),
                flags,
                group,
                body,
            },
        );
        prop_oneof![3 => entry, 1 => Just(Entry::HOLE)]
    }

    proptest! {
        #[test]
        fn reads_back(
            queue: u64, number in 0..=u64::MAX / BLOCK_ENTRIES, skipped in 0..BLOCK_ENTRIES,
            mut entries in prop::collection::vec(entry(), 0..=128),
        ) {
            entries.truncate(usize::try_from(BLOCK_ENTRIES - skipped).unwrap());
            let first = Offset(number * BLOCK_ENTRIES + skipped);
            let key = BlockKey { queue: QueueId(queue), number };
            check(&key, &BlockValue { first, entries });
        }

        #[test]
        fn noise_never_panics(noise in noise()) {
            check_noise::<BlockKey>(&noise);
        }
    }

    #[test]
    fn key_order_is_by_queue_then_number() {
        let key = |queue, number| BlockKey { queue: QueueId(queue), number };
        check_order(&key(1, 1 << 40), &key(2, 0));
        check_order(&key(1, 255), &key(1, 256));
    }

    #[test]
    fn wrong_marks_counts_and_distances_are_damage() {
        let read = |bytes: &[u8]| BlockKey::deser_value(Bytes::copy_from_slice(bytes));
        assert!(read(&[0, 1, SIZE, 9, 100]).is_ok());
        assert_eq!(read(&[0, 1, 128, 9]), Err(Short), "unknown mark");
        assert_eq!(read(&[0, 1, HOLE | SIZE, 9, 100]), Err(Short), "a hole that says something");
        assert_eq!(read(&[0, 1, 0, 0]), Err(Short), "a hole without its mark");
        assert_eq!(read(&[0, 1, BACK, 9]), Err(Short), "before the start of the log");
        assert_eq!(read(&[127, 2, 0, 9, 0, 9]), Err(Short), "two entries from the last offset on");
        assert_eq!(read(&[0, 129]), Err(Short), "more than a block");
        assert_eq!(read(&[0, 1, 0, 9, 0]), Err(Short), "bytes left over");
        let mut wide = vec![0, 1, SIZE, 9];
        wire::put_varint(&mut wide, 1 << 32);
        assert_eq!(read(&wide), Err(Short), "a size over 32 bits");
    }

    #[test]
    fn an_entry_is_found_by_its_offset() {
        let entry = |position| Entry { position: Position(position), ..Entry::default() };
        let block = BlockValue { first: Offset(130), entries: vec![entry(7), entry(9)] };
        assert_eq!(block.get(Offset(129)), None);
        assert_eq!(block.get(Offset(131)), Some(&entry(9)));
        assert_eq!(block.get(Offset(132)), None);
        assert_eq!(BlockKey::of(QueueId(1), Offset(130)).number, 1);
        assert!(block.fits(1) && !block.fits(0));
    }

    #[test]
    fn a_full_block_of_a_steady_queue_takes_under_five_bytes_an_entry() {
        let entries = (0..BLOCK_ENTRIES)
            .map(|n| Entry {
                position: Position((1 << 40) + n * 320),
                size: 280,
                body: 180,
                appended: UnixMillis(1_700_000_000_000 + n / 10),
                ..Entry::default()
            })
            .collect();
        let mut out = Vec::new();
        BlockKey::ser_value(&BlockValue { first: Offset(0), entries }, &mut out);
        assert!(out.len() < 5 * 128, "{} bytes", out.len());
    }

    /// The bound is a tenth of what one idle core does, so that only a wrong algorithm fails.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "measures; decides nothing but this test")]
    fn blocks_decode_at_millions_of_entries_a_second() {
        let block = |number: u64| {
            let first = number * BLOCK_ENTRIES;
            let entries = (first..first + BLOCK_ENTRIES).map(|n| Entry {
                position: Position(n * 320 + n % 7),
                size: if n % 5 == 0 { 1024 } else { 256 },
                body: if n % 5 == 0 { 900 } else { 132 },
                appended: UnixMillis(1_700_000_000_000 + n / 10),
                expiry: UnixMillis(if n % 3 == 0 { 1_700_000_060_000 } else { 0 }),
                flags: 0,
                group: 0,
            });
            BlockValue { first: Offset(first), entries: entries.collect() }
        };
        let stored: Vec<Bytes> = (0..2_000)
            .map(|number| {
                let mut out = Vec::new();
                BlockKey::ser_value(&block(number), &mut out);
                out.into()
            })
            .collect();
        let mut best = std::time::Duration::MAX;
        for _ in 0..10 {
            let start = std::time::Instant::now();
            for (number, bytes) in (0..).zip(&stored) {
                let read = BlockKey::deser_value(bytes.clone()).unwrap();
                assert_eq!(read.first.0, number * BLOCK_ENTRIES);
                assert_eq!(std::hint::black_box(read).entries.len(), 128);
            }
            best = best.min(start.elapsed());
        }
        let entries_per_s = 2_000.0 * 128.0 / best.as_secs_f64();
        println!("{:.1} M entries/s", entries_per_s / 1e6);
        assert!(entries_per_s > 20e6, "{entries_per_s:.0} entries/s");
    }
}
