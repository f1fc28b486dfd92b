//! The progress of one consuming party through one queue.

use bytes::{BufMut, Bytes};
use mainstem_schemas::{
    CursorId, QueueId,
    wire::{self, Reader, Short},
};

use super::{Entity, KeyKind, KeyReader, Progress};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CursorKey {
    pub queue: QueueId,
    pub cursor: CursorId,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CursorValue {
    pub name: CursorName,
    /// The rules it keeps to; their meaning is the broker's.
    pub policy: Bytes,
    pub progress: Progress,
}

/// Whose progress a cursor is. Persisted: never renumber the tags below.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CursorName {
    /// The queue's own.
    #[default]
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
        wire::put_blob(out, &value.policy);
        value.progress.encode(out);
    }

    fn deser_value(bytes: Bytes) -> Result<CursorValue, Short> {
        let mut reader = Reader::new(bytes);
        let name = CursorName::decode(&mut reader)?;
        let policy = reader.blob()?;
        let progress = Progress::decode(&mut reader)?;
        if reader.is_empty() { Ok(CursorValue { name, policy, progress }) } else { Err(Short) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::{
        progress::tests::progress,
        tests::{check, check_noise, check_order, noise, text},
    };

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
            queue: u64, cursor: u64, name in name(), policy in noise(), progress in progress(),
        ) {
            let key = CursorKey { queue: QueueId(queue), cursor: CursorId(cursor) };
            check(&key, &CursorValue { name, policy: policy.into(), progress });
        }

        #[test]
        fn noise_never_panics(noise in noise()) {
            check_noise::<CursorKey>(&noise);
        }
    }

    #[test]
    fn key_order_is_by_queue_then_cursor() {
        let key = |queue, cursor| CursorKey { queue: QueueId(queue), cursor: CursorId(cursor) };
        check_order(&key(1, 1 << 40), &key(2, 0));
        check_order(&key(1, 255), &key(1, 256));
    }
}
