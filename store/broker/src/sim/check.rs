//! What must be true of every delivery.

use mainstem_index::LANE_SHIFT;
use mainstem_schemas::{Entrance, Record, UnixMillis};

use super::{
    audit::{is_settled, number_of},
    model::{Done, Hold, Kind, Model},
};
use crate::inbox::Delivery;

/// How large a record's payload is.
pub(super) fn payload(number: u64, len: usize) -> Vec<u8> {
    let mut payload = number.to_le_bytes().to_vec();
    payload.extend((0..len).map(|at| u8::try_from((number + at as u64) % 251).unwrap()));
    payload
}

/// Takes a delivery to a reader into account, which was sent to it at `since` or later. Returns
/// the record's number.
pub(super) fn delivered(
    model: &mut Model,
    at: usize,
    client: u64,
    delivery: &Delivery,
    record: &Record,
    since: UnixMillis,
    now: UnixMillis,
) -> u64 {
    let number = number_of(record);
    let sent = model.sent.get(&number).unwrap_or_else(|| panic!("nobody sent {number}")).clone();
    let reader = &mut model.readers[at];
    let whom = format!("{number} to {:?} ({:?}): {sent:?}", reader.kind, delivery.id);
    assert_eq!(record.data(), payload(number, sent.len), "{whom}");
    assert!(!reader.is_gone, "delivered to one who is gone: {whom}");
    match sent.hold {
        Hold::No | Hold::Decided(true) => {}
        Hold::Due(due) => assert!(due <= now, "too early at {now:?}: {whom}"),
        Hold::Undecided | Hold::Decided(false) => panic!("undecided: {whom}"),
    }
    let is_dead = delivery.passage.is_some();
    // What is bound to an exchange changes while commands are on their way.
    let by_exchange =
        matches!(sent.address.entrance(), Entrance::Exchange { name, .. } if !name.is_empty());
    // A new group begins with what its topic has kept so far.
    let is_older = sent.at <= reader.made && matches!(reader.kind, Kind::Group(..));
    let is_followed = !is_older && (!by_exchange || !matches!(reader.kind, Kind::Queue(_)));
    if !reader.is_loose && !is_dead && sent.hold == Hold::No && is_followed {
        assert!(reader.owed.contains_key(&number), "not for this one: {whom}");
    }
    if !is_dead && sent.hold == Hold::No {
        assert!(!reader.ends(&sent).reached(since), "its time was over: {whom}");
    }
    assert!(delivery.id.offset.0 >= reader.begins, "before its beginning: {whom}");
    let known = *reader.numbers.entry(delivery.id.offset.0).or_insert(number);
    assert_eq!(known, number, "another record stood at this offset: {whom}");
    if reader.done.get(&number) == Some(&Done::Maybe) {
        reader.done.remove(&number);
        reader.rejected.remove(&number);
    }
    let offset = delivery.id.offset.0;
    let is_ended = reader.ended.contains(&offset) || is_settled(&reader.over, offset);
    assert!(!is_ended, "it was settled: {whom}");
    let delivering = &reader.policy.delivery;
    if let Some(max) = delivering.attempts_max {
        assert!(delivery.attempt <= max, "attempt {} of {max}: {whom}", delivery.attempt);
    }
    if let Some(rests) = reader.rests.get(&delivery.id.offset.0) {
        assert!(*rests <= now, "it rests until {rests:?}, it is {now:?}: {whom}");
    }
    assert!(reader.out.insert(delivery.id.offset.0), "it is out already: {whom}");
    // What is settled as it is handed out is never out.
    let is_out = delivery.needs_settle || delivery.settles_when_read;
    if is_out && delivering.ordered && record.partition() != 0 {
        let same = |offset: &u64| {
            let other = reader.numbers.get(offset).copied();
            *offset != delivery.id.offset.0
                && other.is_some_and(|other| other % 5 == number % 5)
                && model
                    .sent
                    .get(&other.unwrap_or_default())
                    .is_some_and(|sent| sent.priority == record.priority())
        };
        // The number says the group, so that one look at what is out is enough.
        if let Some(other) = reader.out.iter().find(|offset| same(offset)) {
            panic!("{other} of the same group is out: {whom}");
        }
    }
    let is_first = reader.seen.insert(delivery.id.offset.0) && delivery.attempt == 1;
    let is_got = matches!(reader.kind, Kind::Queue(_)) && delivery.consumer.0 == 0;
    if is_first && delivering.backoff_ms.is_empty() && !is_got && !reader.is_order_off {
        let lane = delivery.id.offset.0 >> LANE_SHIFT;
        let group = if delivering.ordered { record.partition() } else { 0 };
        let key = (client, delivery.consumer.0, lane, group);
        let last = reader.last.insert(key, delivery.id.offset.0);
        let is_after = last.is_none_or(|last| last < delivery.id.offset.0);
        assert!(is_after, "it comes after {last:?}: {whom}");
    }
    number
}

/// A delivery is over.
pub(super) fn over(model: &mut Model, at: usize, offset: u64) {
    model.readers[at].out.remove(&offset);
}

/// It is settled for good; `Acked` once that was promised.
pub(super) fn settled(model: &mut Model, at: usize, number: u64, done: Done) {
    let known = model.readers[at].done.entry(number).or_insert(done);
    if done == Done::Acked {
        *known = done;
    }
}
