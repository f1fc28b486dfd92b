//! Where a queue's lanes begin and end, what it holds, and how far its own cursor is.
//!
//! ```text
//! state:   marks: u8 | count | count x lane
//!          | LIVE: live, else 0 | BYTES: bytes, else 0
//!          | SEGMENTS: count | count x segment, else none
//!          | MAIN: progress (drawn in `keys/progress.rs`), else none
//! lane:    lane: u8 | n of first | next - first
//! segment: number: zigzag from the one before | refs | bytes
//! ```
//!
//! All numbers are varints. An empty queue so takes ten bytes or so.

use bytes::{BufMut, Bytes};
use mainstem_schemas::{
    Offset, QueueId,
    wire::{self, Reader, Short},
};

use super::{
    Entity, KeyKind, KeyReader, Progress,
    field::{unzigzag, zigzag},
    lane,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueStateKey {
    pub queue: QueueId,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueStateValue {
    pub lanes: Vec<LaneState>,
    /// Records that are kept.
    pub live: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Where in the log they are.
    pub segments: Vec<SegmentUse>,
    /// The progress of the cursor that trims; `None` if nothing is trimmed by being settled.
    pub main: Option<Progress>,
}

/// Where one lane begins and ends; which one is in the offsets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneState {
    /// The trim floor: nothing below it is kept.
    pub first: Offset,
    /// The offset of the next record.
    pub next: Offset,
}

/// What a queue keeps in one segment of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentUse {
    pub number: u64,
    /// Entries whose records are there.
    pub refs: u64,
    /// The bytes of those.
    pub bytes: u64,
}

const LIVE: u8 = 1;
const BYTES: u8 = 2;
const SEGMENTS: u8 = 4;
const MAIN: u8 = 8;
const KNOWN: u8 = LIVE | BYTES | SEGMENTS | MAIN;

impl LaneState {
    fn encode(self, out: &mut Vec<u8>) {
        let one_lane = lane::lane(self.first) == lane::lane(self.next);
        assert!(one_lane && self.first <= self.next, "a lane ends behind its start");
        lane::put_offset(out, self.first);
        wire::put_varint(out, self.next.0 - self.first.0);
    }

    fn decode(reader: &mut Reader) -> Result<Self, Short> {
        let first = lane::read_offset(reader)?;
        let next = Offset(first.0.checked_add(reader.varint()?).ok_or(Short)?);
        if lane::lane(first) != lane::lane(next) {
            return Err(Short);
        }
        Ok(Self { first, next })
    }
}

impl QueueStateValue {
    fn marks(&self) -> u8 {
        let mut marks = 0;
        if self.live != 0 {
            marks |= LIVE;
        }
        if self.bytes != 0 {
            marks |= BYTES;
        }
        if !self.segments.is_empty() {
            marks |= SEGMENTS;
        }
        if self.main.is_some() {
            marks |= MAIN;
        }
        marks
    }
}

fn encode_segments(segments: &[SegmentUse], out: &mut Vec<u8>) {
    wire::put_varint(out, segments.len() as u64);
    let mut before = 0;
    for segment in segments {
        wire::put_varint(out, zigzag(before, segment.number));
        wire::put_varint(out, segment.refs);
        wire::put_varint(out, segment.bytes);
        before = segment.number;
    }
}

fn decode_segments(reader: &mut Reader) -> Result<Vec<SegmentUse>, Short> {
    let mut segments = Vec::new();
    let mut before = 0;
    for _ in 0..reader.varint()? {
        let number = unzigzag(before, reader.varint()?);
        segments.push(SegmentUse { number, refs: reader.varint()?, bytes: reader.varint()? });
        before = number;
    }
    Ok(segments)
}

impl Entity for QueueStateKey {
    const KIND: KeyKind = KeyKind::QueueState;
    type Value = QueueStateValue;

    fn ser_key(&self, out: &mut Vec<u8>) {
        out.put_u64(self.queue.0);
    }

    fn deser_key(reader: &mut KeyReader) -> Result<Self, Short> {
        Ok(Self { queue: QueueId(reader.u64()?) })
    }

    fn ser_value(value: &QueueStateValue, out: &mut Vec<u8>) {
        let marks = value.marks();
        out.put_u8(marks);
        wire::put_varint(out, value.lanes.len() as u64);
        for lane in &value.lanes {
            lane.encode(out);
        }
        if marks & LIVE != 0 {
            wire::put_varint(out, value.live);
        }
        if marks & BYTES != 0 {
            wire::put_varint(out, value.bytes);
        }
        if marks & SEGMENTS != 0 {
            encode_segments(&value.segments, out);
        }
        if let Some(main) = &value.main {
            main.encode(out);
        }
    }

    fn deser_value(bytes: Bytes) -> Result<QueueStateValue, Short> {
        let mut reader = Reader::new(bytes);
        let marks = reader.u8()?;
        if marks & !KNOWN != 0 {
            return Err(Short);
        }
        let mut value = QueueStateValue::default();
        for _ in 0..reader.varint()? {
            value.lanes.push(LaneState::decode(&mut reader)?);
        }
        if marks & LIVE != 0 {
            value.live = reader.varint()?;
        }
        if marks & BYTES != 0 {
            value.bytes = reader.varint()?;
        }
        if marks & SEGMENTS != 0 {
            value.segments = decode_segments(&mut reader)?;
        }
        if marks & MAIN != 0 {
            value.main = Some(Progress::decode(&mut reader)?);
        }
        // A field that is marked and says what its absence says is not how it was written.
        if reader.is_empty() && value.marks() == marks { Ok(value) } else { Err(Short) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::{
        LANE_SHIFT,
        progress::tests::progress,
        tests::{check, check_noise, check_order, noise},
    };

    fn lane() -> impl Strategy<Value = LaneState> {
        (any::<u8>(), 0..1_u64 << 55, 0..1_u64 << 55).prop_map(|(lane, first, len)| {
            let first = u64::from(lane) << LANE_SHIFT | first;
            LaneState { first: Offset(first), next: Offset(first + len) }
        })
    }

    fn segment() -> impl Strategy<Value = SegmentUse> {
        (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(number, refs, bytes)| SegmentUse {
            number,
            refs,
            bytes,
        })
    }

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), any::<u64>()]
    }

    proptest! {
        #[test]
        fn reads_back(
            queue: u64, lanes in prop::collection::vec(lane(), 0..5), live in number(),
            bytes in number(), main in prop::option::of(progress()),
            segments in prop::collection::vec(segment(), 0..5),
        ) {
            let value = QueueStateValue { lanes, live, bytes, segments, main };
            check(&QueueStateKey { queue: QueueId(queue) }, &value);
        }

        #[test]
        fn noise_never_panics(noise in noise()) {
            check_noise::<QueueStateKey>(&noise);
        }
    }

    #[test]
    fn an_empty_queue_takes_ten_bytes() {
        let lanes = vec![LaneState { first: Offset(1), next: Offset(1) }];
        let main = Some(Progress { floors: vec![Offset(1)], ..Progress::default() });
        let mut out = Vec::new();
        QueueStateKey::ser_value(
            &QueueStateValue { lanes, main, ..QueueStateValue::default() },
            &mut out,
        );
        assert_eq!(out, [MAIN, 1, 0, 1, 0, 1, 0, 1, 0, 0]);
    }

    #[test]
    fn a_lane_that_ends_in_another_is_damage() {
        let mut out = vec![0, 1, 255, 5];
        wire::put_varint(&mut out, 9);
        assert!(QueueStateKey::deser_value(out.clone().into()).is_ok());
        for len in [(1 << LANE_SHIFT) - 5, u64::MAX] {
            for lane in [0, 255] {
                let mut out = vec![0, 1, lane, 5];
                wire::put_varint(&mut out, len);
                assert_eq!(QueueStateKey::deser_value(out.into()), Err(Short));
            }
        }
    }

    #[test]
    fn unknown_marks_and_marked_nothings_are_damage() {
        let read = |bytes: &[u8]| QueueStateKey::deser_value(Bytes::copy_from_slice(bytes));
        assert!(read(&[LIVE, 0, 1]).is_ok());
        assert_eq!(read(&[LIVE, 0, 0]), Err(Short));
        assert_eq!(read(&[SEGMENTS, 0, 0]), Err(Short));
        assert_eq!(read(&[32, 0]), Err(Short));
    }

    #[test]
    fn key_order_is_numeric() {
        let key = |queue| QueueStateKey { queue: QueueId(queue) };
        check_order(&key(255), &key(256));
    }
}
