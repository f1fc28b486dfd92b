//! The lanes of a queue: an offset's top byte is its lane, the rest counts within the lane.
//!
//! A value holds an offset as `lane: u8 | n: varint`, since a varint of the whole would take nine
//! bytes wherever the lane is not 0.

use bytes::BufMut;
use mainstem_schemas::{
    Offset,
    wire::{self, Reader, Short},
};

/// An offset is `lane << LANE_SHIFT | n`. Persisted: never change.
pub const LANE_SHIFT: u32 = 56;

const WITHIN: u64 = (1 << LANE_SHIFT) - 1;

pub(crate) fn lane(offset: Offset) -> u8 {
    let [lane, ..] = offset.0.to_be_bytes();
    lane
}

/// Where a lane begins.
pub(crate) fn start(lane: u8) -> Offset {
    Offset(u64::from(lane) << LANE_SHIFT)
}

pub(crate) fn put_offset(out: &mut Vec<u8>, offset: Offset) {
    out.put_u8(lane(offset));
    wire::put_varint(out, offset.0 & WITHIN);
}

pub(crate) fn read_offset(reader: &mut Reader) -> Result<Offset, Short> {
    let start = start(reader.u8()?);
    let within = reader.varint()?;
    if within > WITHIN {
        return Err(Short);
    }
    Ok(Offset(start.0 | within))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_offset_reads_back(offset: u64) {
            let mut out = Vec::new();
            put_offset(&mut out, Offset(offset));
            let mut reader = Reader::new(out.into());
            prop_assert_eq!(read_offset(&mut reader), Ok(Offset(offset)));
            prop_assert!(reader.is_empty());
            prop_assert!(start(lane(Offset(offset))).0 <= offset);
        }
    }

    #[test]
    fn an_offset_past_its_lane_is_damage() {
        let mut out = vec![3];
        wire::put_varint(&mut out, WITHIN + 1);
        assert_eq!(read_offset(&mut Reader::new(out.into())), Err(Short));
    }

    #[test]
    fn an_offset_near_its_lanes_start_is_short_in_every_lane() {
        let mut out = Vec::new();
        put_offset(&mut out, Offset(200 << LANE_SHIFT | 9));
        assert_eq!(out, [200, 9]);
    }
}
