//! The entries that carry a record: `u32 head_bytes | head | record`.
//!
//! The head is `u8 marks`, then what the marks say, in this order: ONCE `text writer, varint
//! sequence`; KEYS `varint n, n * u64`; HELD `varint due, varint origin`; FROM `varint position`, and last
//! `(varint queue, varint offset)*` to the end.

use bytes::{BufMut, Bytes};
use mainstem_schemas::{
    Position, QueueId, Record, UnixMillis,
    wire::{Reader, put_blob, put_varint},
};

use super::EntryError;

/// A record was published, and got these places.
pub(crate) const KIND_PUBLISH: u8 = 1;
/// A record was published that no queue gets yet: it waits for its time, or for a decision.
pub(crate) const KIND_HOLD: u8 = 17;
/// A record that was published before the log's new beginning stands here from now on.
pub(crate) const KIND_MOVE: u8 = 19;

const ONCE: u8 = 1;
const KEYS: u8 = 1 << 1;
const HELD: u8 = 1 << 2;
const FROM: u8 = 1 << 3;
const SEEN: u8 = 1 << 4;
const RETAINED: u8 = 1 << 5;
const KNOWN: u8 = ONCE | KEYS | HELD | FROM | SEEN | RETAINED;

/// A writer's own number for a record, by which a second copy is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Once {
    pub(crate) writer: String,
    pub(crate) sequence: u64,
}

/// What an entry says of the record it carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) once: Option<Once>,
    /// Hashes of the keys it can be looked up by.
    pub(crate) keys: Vec<u64>,
    /// When what is held is due; [`crate::state::UNDECIDED`] for what waits for one, unset for what is
    /// not held.
    pub(crate) held: UnixMillis,
    /// Where what is held stood first; 0 where it is held for the first time.
    pub(crate) origin: Position,
    /// Where a moved record stood before; 0 if it was not moved.
    pub(crate) from: Position,
    /// Earlier runs of the process may have handed it out.
    pub(crate) seen: bool,
    /// It was the last retained record of its address when it was moved. Others that asked to be
    /// retained once may be moved too, for the queues that have them.
    pub(crate) retained: bool,
}

/// A record with what the log says of it.
#[derive(Clone, Debug)]
pub(crate) struct Carried {
    pub(crate) head: Head,
    pub(crate) targets: Vec<(QueueId, u64)>,
    pub(crate) record: Record,
}

/// Whether entries of this kind carry a record.
pub(crate) fn carries_record(kind: u8) -> bool {
    matches!(kind, KIND_PUBLISH | KIND_HOLD | KIND_MOVE)
}

/// The head of such an entry's body, to be followed by the record's bytes.
pub(crate) fn encode_head(head: &Head, targets: &[(QueueId, u64)], out: &mut Vec<u8>) {
    out.clear();
    out.put_u32_le(0);
    let mut marks = 0;
    for (mark, is_set) in [
        (ONCE, head.once.is_some()),
        (KEYS, !head.keys.is_empty()),
        (HELD, head.held.is_set()),
        (FROM, head.from.0 != 0),
        (SEEN, head.seen),
        (RETAINED, head.retained),
    ] {
        if is_set {
            marks |= mark;
        }
    }
    out.put_u8(marks);
    if let Some(once) = &head.once {
        put_blob(out, once.writer.as_bytes());
        put_varint(out, once.sequence);
    }
    if !head.keys.is_empty() {
        put_varint(out, head.keys.len() as u64);
        for key in &head.keys {
            out.put_u64_le(*key);
        }
    }
    if head.held.is_set() {
        put_varint(out, head.held.0);
        put_varint(out, head.origin.0);
    }
    if head.from.0 != 0 {
        put_varint(out, head.from.0);
    }
    for (queue, offset) in targets {
        put_varint(out, queue.0);
        put_varint(out, *offset);
    }
    let len = u32::try_from(out.len().saturating_sub(4)).unwrap_or(u32::MAX);
    if let Some(head) = out.first_chunk_mut::<4>() {
        *head = len.to_le_bytes();
    }
}

/// The record of such an entry, without a look at its head.
pub(crate) fn decode_record(body: Bytes) -> Result<Record, EntryError> {
    let mut reader = Reader::new(body);
    let head = reader.u32()?;
    reader.take(head as usize)?;
    Ok(Record::decode(reader.rest())?)
}

/// Whether such an entry says something of its writer, besides its record.
pub(crate) fn names_writer(body: &[u8]) -> bool {
    // Behind the head's length; a cut one is decoded to find out what is wrong with it.
    body.get(4).is_none_or(|marks| marks & ONCE != 0)
}

/// All of such an entry.
pub(crate) fn decode_carried(body: Bytes) -> Result<Carried, EntryError> {
    let mut reader = Reader::new(body);
    let len = reader.u32()?;
    let mut r = Reader::new(reader.take(len as usize)?);
    let marks = r.u8()?;
    if marks & !KNOWN != 0 {
        return Err(EntryError::Short);
    }
    let mut head =
        Head { seen: marks & SEEN != 0, retained: marks & RETAINED != 0, ..Head::default() };
    if marks & ONCE != 0 {
        head.once = Some(Once { writer: r.text()?, sequence: r.varint()? });
    }
    if marks & KEYS != 0 {
        for _ in 0..r.varint()? {
            head.keys.push(r.u64()?);
        }
    }
    if marks & HELD != 0 {
        head.held = UnixMillis(r.varint()?);
        head.origin = Position(r.varint()?);
    }
    if marks & FROM != 0 {
        head.from = Position(r.varint()?);
    }
    let mut targets = Vec::new();
    while !r.is_empty() {
        targets.push((QueueId(r.varint()?), r.varint()?));
    }
    Ok(Carried { head, targets, record: Record::decode(reader.rest())? })
}

impl From<UnixMillis> for Head {
    /// The head of a record that is held until `due`.
    fn from(due: UnixMillis) -> Self {
        Self { held: due, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use mainstem_schemas::{Address, RecordDraft};

    use super::*;

    #[test]
    fn heads_read_back_and_cut_ones_are_errors() {
        let address = Address::http("a/b".into());
        let record = RecordDraft::new(&address, "/", b"native", b"data").encode().unwrap();
        for marks in 0..64_u8 {
            let head = Head {
                once: (marks & 1 != 0).then(|| Once { writer: "w".into(), sequence: 300 }),
                keys: if marks & 2 != 0 { vec![1, u64::MAX] } else { Vec::new() },
                held: UnixMillis(if marks & 4 != 0 { u64::MAX } else { 0 }),
                origin: Position(if marks & 4 != 0 { 5 } else { 0 }),
                from: Position(if marks & 8 != 0 { 77 } else { 0 }),
                seen: marks & 16 != 0,
                retained: marks & 32 != 0,
            };
            let targets = [(QueueId(9), 1 << 57), (QueueId(10), 0)];
            let mut out = Vec::new();
            encode_head(&head, &targets, &mut out);
            out.extend_from_slice(record.bytes());
            let read = decode_carried(out.clone().into()).unwrap();
            assert_eq!((&read.head, read.targets.as_slice()), (&head, targets.as_slice()));
            assert_eq!(read.record, record);
            assert_eq!(decode_record(out.clone().into()).unwrap(), record);
            for len in 0..out.len() {
                assert!(decode_carried(Bytes::copy_from_slice(&out[..len])).is_err());
            }
        }
    }
}
