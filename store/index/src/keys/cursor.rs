//! The progress of one consuming party through one queue.

use bytes::{BufMut, Bytes};
use mainstem_schemas::{
    CursorId, Offset, QueueId,
    wire::{self, Reader, Short},
};

use super::{Entity, KeyKind, KeyReader};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CursorKey {
    pub queue: QueueId,
    pub cursor: CursorId,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorValue {
    pub name: CursorName,
    /// Everything below it is settled.
    pub floor: Offset,
    /// What is settled above the floor: half-open ranges, ascending, disjoint, none empty.
    pub settled: Vec<(Offset, Offset)>,
}

/// Whose progress a cursor is. Persisted: never renumber the tags below.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CursorName {
    /// The queue's own.
    Main,
    /// A session's, by its id.
    Session(String),
    /// A shared subscription's, by its group.
    Share(String),
    /// A consumer group's.
    Group(String),
}

const MAIN: u8 = 0;
const SESSION: u8 = 1;
const SHARE: u8 = 2;
const GROUP: u8 = 3;

impl CursorName {
    fn encode(&self, out: &mut Vec<u8>) {
        let (tag, text) = match self {
            Self::Main => return out.put_u8(MAIN),
            Self::Session(id) => (SESSION, id),
            Self::Share(group) => (SHARE, group),
            Self::Group(group) => (GROUP, group),
        };
        out.put_u8(tag);
        wire::put_blob(out, text.as_bytes());
    }

    fn decode(reader: &mut Reader) -> Result<Self, Short> {
        match reader.u8()? {
            MAIN => Ok(Self::Main),
            SESSION => Ok(Self::Session(reader.text()?)),
            SHARE => Ok(Self::Share(reader.text()?)),
            GROUP => Ok(Self::Group(reader.text()?)),
            _ => Err(Short),
        }
    }
}

impl Entity for CursorKey {
    const KIND: KeyKind = KeyKind::Cursor;
    type Value = CursorValue;

    fn ser_key(&self, out: &mut Vec<u8>) {
        out.put_u64(self.queue.0);
        out.put_u64(self.cursor.0);
    }

    fn deser_key(reader: &mut KeyReader) -> Result<Self, Short> {
        Ok(Self { queue: QueueId(reader.u64()?), cursor: CursorId(reader.u64()?) })
    }

    fn ser_value(value: &CursorValue, out: &mut Vec<u8>) {
        value.name.encode(out);
        wire::put_varint(out, value.floor.0);
        wire::put_varint(out, value.settled.len() as u64);
        let mut end = value.floor;
        for (from, to) in &value.settled {
            assert!(end <= *from && from < to, "settled ranges ascend and none is empty");
            wire::put_varint(out, from.0 - end.0);
            wire::put_varint(out, to.0 - from.0);
            end = *to;
        }
    }

    fn deser_value(bytes: Bytes) -> Result<CursorValue, Short> {
        let mut reader = Reader::new(bytes);
        let name = CursorName::decode(&mut reader)?;
        let floor = Offset(reader.varint()?);
        let count = reader.varint()?;
        let mut settled = Vec::new();
        let mut end = floor.0;
        for _ in 0..count {
            let from = end.checked_add(reader.varint()?).ok_or(Short)?;
            end = from.checked_add(reader.varint()?).ok_or(Short)?;
            if from == end {
                return Err(Short);
            }
            settled.push((Offset(from), Offset(end)));
        }
        if !reader.is_empty() {
            return Err(Short);
        }
        Ok(CursorValue { name, floor, settled })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::tests::{check, check_noise, check_order, noise, text};

    fn name() -> impl Strategy<Value = CursorName> {
        prop_oneof![
            Just(CursorName::Main),
            text().prop_map(CursorName::Session),
            text().prop_map(CursorName::Share),
            text().prop_map(CursorName::Group),
        ]
    }

    proptest! {
        #[test]
        fn reads_back(
            queue: u64, cursor: u64, name in name(), floor in 0..u64::MAX / 2,
            steps in prop::collection::vec((0..1_u64 << 40, 1..1_u64 << 40), 0..50),
        ) {
            let mut end = floor;
            let mut settled = Vec::new();
            for (gap, len) in steps {
                settled.push((Offset(end + gap), Offset(end + gap + len)));
                end += gap + len;
            }
            let key = CursorKey { queue: QueueId(queue), cursor: CursorId(cursor) };
            check(&key, &CursorValue { name, floor: Offset(floor), settled });
        }

        #[test]
        fn noise_never_panics(noise in noise()) {
            check_noise::<CursorKey>(&noise);
        }
    }

    #[test]
    fn an_empty_or_overflowing_range_is_damage() {
        let read = |bytes: &[u8]| CursorKey::deser_value(Bytes::copy_from_slice(bytes));
        assert!(read(&[MAIN, 5, 1, 2, 3]).is_ok());
        assert_eq!(read(&[MAIN, 5, 1, 2, 0]), Err(Short));
        let mut past_the_end = vec![MAIN, 5, 1];
        wire::put_varint(&mut past_the_end, u64::MAX);
        past_the_end.push(1);
        assert_eq!(read(&past_the_end), Err(Short));
    }

    #[test]
    fn key_order_is_by_queue_then_cursor() {
        let key = |queue, cursor| CursorKey { queue: QueueId(queue), cursor: CursorId(cursor) };
        check_order(&key(1, 1 << 40), &key(2, 0));
        check_order(&key(1, 255), &key(1, 256));
    }
}
