//! How far one consuming party has come through a queue, lane by lane.
//!
//! ```text
//! progress: count | count x floor | count | count x range | count | count x held back
//! floor:    lane: u8 | n
//! range:    gap << 1 | 1 if it is the first of its lane | lane: u8 if so | length
//! held back: offset: zigzag from the one before | attempts | until: zigzag from the one before
//! ```
//!
//! All numbers are varints. A gap is the way from the end of the range before in the same lane,
//! for the first one from the lane's floor, or from the lane's start if it has none. "The one
//! before" of the first record held back is the first floor, and no time.

use bytes::BufMut;
use mainstem_schemas::{
    Offset, UnixMillis,
    wire::{self, Reader, Short},
};

use super::{
    field::{unzigzag, zigzag},
    lane,
};

/// What is settled, and what waits for its next attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Everything of a lane below its floor is settled. Ascending, at most one for each lane; a
    /// lane without one has its floor at its start.
    pub floors: Vec<Offset>,
    /// What is settled above the floors: half-open ranges, ascending, disjoint, none empty and none
    /// across lanes.
    pub settled: Vec<(Offset, Offset)>,
    /// In any order.
    pub held: Vec<HeldBack>,
}

/// A record that was tried and is not settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldBack {
    pub offset: Offset,
    /// How often it was delivered.
    pub attempts: u32,
    /// Not delivered before then; not set for at once.
    pub until: UnixMillis,
}

impl Progress {
    /// Appends the stored form.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.encode_floors(out);
        self.encode_settled(out);
        wire::put_varint(out, self.held.len() as u64);
        let mut before = self.before_held();
        for held in &self.held {
            wire::put_varint(out, zigzag(before.offset.0, held.offset.0));
            wire::put_varint(out, u64::from(held.attempts));
            wire::put_varint(out, zigzag(before.until.0, held.until.0));
            before = *held;
        }
    }

    fn encode_floors(&self, out: &mut Vec<u8>) {
        wire::put_varint(out, self.floors.len() as u64);
        let mut before = None;
        for floor in &self.floors {
            let lane = Some(lane::lane(*floor));
            assert!(before < lane, "floors ascend, at most one for each lane");
            lane::put_offset(out, *floor);
            before = lane;
        }
    }

    fn encode_settled(&self, out: &mut Vec<u8>) {
        wire::put_varint(out, self.settled.len() as u64);
        let mut end_before: Option<Offset> = None;
        for (from, to) in &self.settled {
            let lane = lane::lane(*from);
            assert!(from < to && lane == lane::lane(*to), "no range is empty or crosses lanes");
            let same_lane = end_before.filter(|end| lane::lane(*end) == lane);
            let base = same_lane.unwrap_or_else(|| self.floor(lane));
            assert!(end_before <= Some(*from) && base <= *from, "settled ranges ascend");
            wire::put_varint(out, (from.0 - base.0) << 1 | u64::from(same_lane.is_none()));
            if same_lane.is_none() {
                out.put_u8(lane);
            }
            wire::put_varint(out, to.0 - from.0);
            end_before = Some(*to);
        }
    }

    /// Reads a stored form; the caller checks that nothing is left over.
    pub(crate) fn decode(reader: &mut Reader) -> Result<Self, Short> {
        let mut progress = Self::default();
        progress.decode_floors(reader)?;
        progress.decode_settled(reader)?;
        let mut before = progress.before_held();
        for _ in 0..reader.varint()? {
            before = HeldBack {
                offset: Offset(unzigzag(before.offset.0, reader.varint()?)),
                attempts: u32::try_from(reader.varint()?).map_err(|_| Short)?,
                until: UnixMillis(unzigzag(before.until.0, reader.varint()?)),
            };
            progress.held.push(before);
        }
        Ok(progress)
    }

    fn decode_floors(&mut self, reader: &mut Reader) -> Result<(), Short> {
        let mut before = None;
        for _ in 0..reader.varint()? {
            let floor = lane::read_offset(reader)?;
            let lane = Some(lane::lane(floor));
            if lane <= before {
                return Err(Short);
            }
            self.floors.push(floor);
            before = lane;
        }
        Ok(())
    }

    fn decode_settled(&mut self, reader: &mut Reader) -> Result<(), Short> {
        let mut end_before: Option<Offset> = None;
        for _ in 0..reader.varint()? {
            let gap = reader.varint()?;
            let base = if gap & 1 == 0 {
                end_before.ok_or(Short)?
            } else {
                let lane = reader.u8()?;
                if end_before.is_some_and(|end| lane::lane(end) >= lane) {
                    return Err(Short);
                }
                self.floor(lane)
            };
            let from = Offset(base.0.checked_add(gap >> 1).ok_or(Short)?);
            let to = Offset(from.0.checked_add(reader.varint()?).ok_or(Short)?);
            if from == to || lane::lane(base) != lane::lane(to) {
                return Err(Short);
            }
            self.settled.push((from, to));
            end_before = Some(to);
        }
        Ok(())
    }

    /// There are as many floors as lanes, a handful at most.
    fn floor(&self, lane: u8) -> Offset {
        let floor = self.floors.iter().find(|floor| lane::lane(**floor) == lane);
        floor.copied().unwrap_or_else(|| lane::start(lane))
    }

    fn before_held(&self) -> HeldBack {
        HeldBack { offset: self.floors.first().copied().unwrap_or_default(), ..HeldBack::default() }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::keys::LANE_SHIFT;

    type Lane = (Option<u64>, Vec<(u64, u64)>);

    /// Lanes with or without a floor, each with some ranges above it.
    pub(crate) fn progress() -> impl Strategy<Value = Progress> {
        let step = prop_oneof![4 => 1..300_u64, 1 => 1..1_u64 << 44];
        let ranges = prop::collection::vec((0..1_u64 << 44, step), 0..20);
        let lane = (prop::option::of(0..1_u64 << 50), ranges);
        let held = prop::collection::vec((any::<u64>(), any::<u32>(), any::<u64>()), 0..10);
        (prop::collection::btree_map(any::<u8>(), lane, 0..5), held)
            .prop_map(|(lanes, held)| build(lanes, held))
    }

    fn build(lanes: BTreeMap<u8, Lane>, held: Vec<(u64, u32, u64)>) -> Progress {
        let mut progress = Progress::default();
        for (lane, (floor, ranges)) in lanes {
            let start = u64::from(lane) << LANE_SHIFT;
            let mut end = start + floor.unwrap_or(0);
            progress.floors.extend(floor.map(|_| Offset(end)));
            for (gap, len) in ranges {
                progress.settled.push((Offset(end + gap), Offset(end + gap + len)));
                end += gap + len;
            }
        }
        for (offset, attempts, until) in held {
            let (offset, until) = (Offset(offset), UnixMillis(until));
            progress.held.push(HeldBack { offset, attempts, until });
        }
        progress
    }

    fn read(bytes: &[u8]) -> Result<Progress, Short> {
        Progress::decode(&mut Reader::new(bytes.to_vec().into()))
    }

    #[test]
    fn a_range_of_a_lane_takes_two_bytes_wherever_the_lane_is() {
        let at = |n: u64| Offset(7 << LANE_SHIFT | n);
        let settled = (0..50).map(|n| (at(1000 + n * 4), at(1002 + n * 4))).collect();
        let progress = Progress { floors: vec![at(990)], settled, held: Vec::new() };
        let mut out = Vec::new();
        progress.encode(&mut out);
        assert_eq!(out.len(), 4 + 1 + 1 + 50 * 2 + 1);
        assert_eq!(read(&out), Ok(progress));
    }

    #[test]
    fn a_range_that_is_empty_or_crosses_lanes_is_damage() {
        let floor = [1, 0, 5];
        let of = |ranges: &[u8]| read(&[&floor, ranges, &[0]].concat());
        assert_eq!(of(&[1, 5, 0, 3]).unwrap().settled, [(Offset(7), Offset(10))]);
        assert_eq!(of(&[1, 5, 0, 0]), Err(Short), "empty");
        assert_eq!(of(&[1, 4, 3]), Err(Short), "the first without a lane");
        assert_eq!(of(&[2, 5, 1, 3, 5, 1, 3]), Err(Short), "a lane twice");
        assert_eq!(of(&[2, 5, 1, 3, 5, 0, 3]), Err(Short), "lanes descend");
        let mut wide = vec![1, 5, 0];
        wire::put_varint(&mut wide, 1 << LANE_SHIFT);
        assert_eq!(of(&wide), Err(Short), "into the next lane");
        let mut wide = vec![1, 5, 255];
        wire::put_varint(&mut wide, u64::MAX);
        assert_eq!(of(&wide), Err(Short), "past the last lane");
    }

    #[test]
    fn two_floors_of_one_lane_are_damage() {
        assert!(read(&[2, 0, 5, 1, 5, 0, 0]).is_ok());
        assert_eq!(read(&[2, 1, 5, 1, 6, 0, 0]), Err(Short));
        assert_eq!(read(&[2, 1, 5, 0, 6, 0, 0]), Err(Short));
    }
}
